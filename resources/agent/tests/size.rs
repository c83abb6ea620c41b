//! What the agent costs a guest: a place in its image, and memory.

#![cfg(test)]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Most bytes of the program.
const SIZE: u64 = 2 * 1024 * 1024;

/// Most memory that is resident, in KiB.
const RESIDENT: u64 = 3 * 1024;

/// The program as a guest gets it.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--offline",
            "--package=hotvisor-agent",
            "--profile=agent",
        ])
        .args(["--bin=hotvisor-agent", "--message-format=json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo build");
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables
        .next_back()
        .expect("cargo says what it has built")
}

/// Whether an executable asks for a loader, and so for libraries (`PT_INTERP`, elf(5)).
fn is_dynamic(program: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let bytes = fs::read(program).unwrap();
    let number = |at: usize, length: usize| {
        let bytes = &bytes[at..at + length];
        bytes
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | usize::from(*byte))
    };
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert!(count > 0);
    (0..count).any(|at| number(headers + at * size, 4) == PT_INTERP as usize)
}

/// The most memory that was resident of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[test]
fn a_guest_has_room_for_it() {
    let program = build();
    let size = fs::metadata(&program).unwrap().len();
    assert!(size < SIZE, "{size} bytes");
    assert!(!is_dynamic(&program), "it needs libraries");
    let folder = tempfile::tempdir().unwrap();
    // With this machine's own tasks, and without anything that could be changed.
    symlink("/proc", folder.path().join("proc")).unwrap();
    let host = folder.path().join("host");
    let listener = UnixListener::bind(&host).unwrap();
    let mut agent = Command::new(&program)
        .arg("--root")
        .arg(folder.path())
        .arg("--unix")
        .arg(&host)
        .spawn()
        .unwrap();
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let come = poll(&mut fds, PollTimeout::from(20_000u16));
    let resident = resident(agent.id());
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(come, Ok(1), "the agent has not connected");
    println!("{size} bytes, {resident} KiB");
    assert!(resident < RESIDENT, "{resident} KiB are resident");
}
