//! L1's first process: sets the machine up, runs the job, reports, and powers off.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, sync};

use super::job::{self, Job};
use super::stream::Event;

/// The port of the job's standard input and output.
const JOB_PORT: &str = "/dev/ttyS1";

/// If this process is L1's first one, does that one's work and never returns. A program that boots
/// L1 with itself as `/init` calls this before anything else.
pub fn run_if_first_process() {
    if std::process::id() != 1 {
        return;
    }
    if let Err(error) = first_process() {
        eprintln!("bed: L1 cannot go on: {error:#}");
    }
    sync();
    // The kernel has nothing to return to; without ACPI it would stop here, and the host's
    // deadline ends it.
    let _: nix::Result<Infallible> = reboot(RebootMode::RB_POWER_OFF);
}

fn first_process() -> Result<()> {
    set_up().context("while setting the machine up")?;
    let job: Job = serde_json::from_slice(&fs::read(Path::new("/").join(job::PATH))?)?;
    let mut port = open_port(JOB_PORT, !job.terminal)?;
    port.write_all(&Event::Started.message(&job.nonce))?;
    let outcome = run(&job, &port);
    // What the job left behind must not print behind its end.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while wait().is_ok() {}
    let event = match outcome.and_then(|status| send_results(&job).map(|()| status)) {
        Ok(status) => Event::Ended(status),
        Err(error) => Event::Failed(format!("{error:#}")),
    };
    // A session that ends hangs its terminal up, and this descriptor with it.
    let mut port = open_port(JOB_PORT, true)?;
    tcdrain(&port)?;
    port.write_all(&event.message(&job.nonce))?;
    tcdrain(&port)?;
    Ok(())
}

fn set_up() -> Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        fs::create_dir_all(place).with_context(|| format!("cannot make {place}"))?;
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    fs::write(
        "/sys/fs/cgroup/cgroup.subtree_control",
        "+cpu +cpuset +memory +pids",
    )
    .context("cannot enable the cgroup controllers")?;
    // Guests touch little of the memory that they have.
    fs::write("/proc/sys/vm/overcommit_memory", "1")?;
    let modules = Path::new("/").join(job::MODULES);
    let mut files: Vec<_> = fs::read_dir(modules)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for file in files {
        finit_module(File::open(&file)?, c"", ModuleInitFlags::empty())
            .with_context(|| format!("cannot insert {}", file.display()))?;
    }
    Ok(())
}

fn open_port(path: &str, raw: bool) -> Result<File> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NOCTTY.bits())
        .open(path)
        .with_context(|| format!("cannot open {path}"))?;
    let mut attributes = tcgetattr(&port)?;
    if raw {
        cfmakeraw(&mut attributes);
    }
    tcsetattr(&port, SetArg::TCSANOW, &attributes)?;
    Ok(port)
}

/// Runs the job's program to its end, and reaps whatever else ends meanwhile.
fn run(job: &Job, port: &File) -> Result<i32> {
    let mut command = if job.terminal {
        // Makes the serial port the program's controlling terminal.
        let mut setsid = Command::new("/bin/setsid");
        setsid.arg("-c").arg(&job.program);
        setsid
    } else {
        Command::new(&job.program)
    };
    command
        .args(&job.args)
        .env_clear()
        .env("PATH", "/bin:/usr/bin:/artifacts")
        .env("HOME", "/root")
        .env("TERM", "vt100")
        .envs(job.env.iter().cloned())
        .current_dir("/root")
        .stdin(port.try_clone()?)
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?);
    if !job.terminal {
        command.process_group(0);
    }
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {} in it", job.program))?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match wait()? {
            WaitStatus::Exited(pid, status) if pid == child => return Ok(status),
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                return Ok(128 + signal as i32);
            }
            _ => {}
        }
    }
}

fn send_results(job: &Job) -> Result<()> {
    let mut port = open_port("/dev/ttyS2", true)?;
    for path in &job.collect {
        for path in files(path) {
            if let Ok(bytes) = fs::read(&path) {
                port.write_all(&job::result(&path, &bytes))?;
            }
        }
    }
    tcdrain(&port)?;
    Ok(())
}

/// The files in a folder, or a file itself.
fn files(path: &str) -> Vec<String> {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.path().display().to_string())
            .collect(),
        Err(_) => vec![path.to_owned()],
    }
}

/// The exit code of a process that passes on a job's status.
#[must_use]
pub fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
