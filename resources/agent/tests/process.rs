//! The program itself, with a host and a picture of a guest.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use hotvisor_protocol::*;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(20);

const EXPEDITED: &str = "sys/kernel/rcu_expedited";
const IRQ: &str = "proc/irq/9/smp_affinity_list";

/// An agent, its guest and its host.
struct Bed {
    folder: TempDir,
    listener: UnixListener,
    agent: Child,
    stderr: ChildStderr,
}

fn wait_for(what: &str, fd: impl AsFd) {
    let timeout = PollTimeout::try_from(DEADLINE).unwrap();
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, timeout), Ok(1), "{what} has not come");
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, EXPEDITED, "0\n");
        write(root, IRQ, "0-3\n");
        write(root, "proc/irq/9/disk/x", "");
        write(root, "sys/devices/system/cpu/present", "0-3\n");
        write(root, "sys/devices/system/cpu/online", "0-3\n");
        for cpu in 1..4 {
            write(
                root,
                &format!("sys/devices/system/cpu/cpu{cpu}/online"),
                "1\n",
            );
        }
        let about = |cpu| format!("processor : {cpu}\napicid : {cpu}\n");
        write(root, "proc/cpuinfo", &(0..4).map(about).collect::<String>());
        let listener = UnixListener::bind(root.join("host")).unwrap();
        let mut agent = Command::new(env!("CARGO_BIN_EXE_hotvisor-agent"))
            .arg("--root")
            .arg(root)
            .arg("--unix")
            .arg(root.join("host"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = agent.stderr.take().unwrap();
        Self {
            folder,
            listener,
            agent,
            stderr,
        }
    }

    fn read(&self, path: &str) -> String {
        let text = fs::read_to_string(self.folder.path().join(path)).unwrap();
        text.trim().to_owned()
    }

    /// Waits for the agent to connect, and welcomes it.
    fn host(&self) -> Host {
        wait_for("the agent", &self.listener);
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut host = Host(BufReader::new(stream));
        let FromGuest::Hello(hello) = host.hear() else {
            panic!("no hello")
        };
        let version = negotiate(hello.version).unwrap();
        host.say(
            Welcome {
                version,
                pressure_ms: 0,
                expedite: true,
            }
            .into(),
        );
        let FromGuest::Online(online) = host.hear() else {
            panic!("no CPUs")
        };
        assert_eq!(online.cpus.len(), 4);
        host
    }

    /// What the agent, and its guard, have to say until both are gone.
    fn last_words(&mut self) -> String {
        let mut all = Vec::new();
        loop {
            wait_for("the end of agent and guard", &self.stderr);
            let mut buffer = [0; 4096];
            match self.stderr.read(&mut buffer).unwrap() {
                0 => return String::from_utf8(all).unwrap(),
                length => all.extend_from_slice(&buffer[..length]),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.agent.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // It is gone already, if all went well.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

struct Host(BufReader<UnixStream>);

impl Host {
    fn say(&mut self, message: FromHost) {
        let mut line = Vec::new();
        encode(&message, &mut line).unwrap();
        self.0.get_mut().write_all(&line).unwrap();
    }

    fn hear(&mut self) -> FromGuest {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).unwrap();
        let mut decoder = Decoder::<Stamped>::new();
        let mut messages = decoder.push(&line);
        let stamped = messages.next().expect("the agent is gone").unwrap();
        assert!(stamped.at_ns > 0);
        stamped.message
    }

    /// Begins to take a CPU away.
    fn unplug(&mut self, deadline_ms: u32) {
        let begin = Begin {
            operation: 7,
            kind: Kind::Unplug,
            cpus: List::new([ApicId::try_from(2).unwrap()]),
            drain: true,
            pinned: Pinned::Break,
            expedite: true,
            deadline_ms,
        };
        self.say(begin.into());
        let FromGuest::Drained(drained) = self.hear() else {
            panic!("not drained")
        };
        assert_eq!(drained.moved.irqs, 1);
    }
}

#[test]
fn a_killed_agent_is_cleaned_up_after() {
    let mut bed = Bed::new();
    let mut host = bed.host();
    host.unplug(60_000);
    assert_eq!(
        (bed.read(EXPEDITED), bed.read(IRQ)),
        ("1".to_owned(), "0-1,3".to_owned())
    );
    bed.signal(Signal::SIGKILL);
    assert_eq!(bed.last_words(), "");
    assert_eq!(
        (bed.read(EXPEDITED), bed.read(IRQ)),
        ("0".to_owned(), "0-3".to_owned())
    );
}

#[test]
fn an_agent_that_is_told_to_end_cleans_up() {
    let mut bed = Bed::new();
    let mut host = bed.host();
    host.unplug(60_000);
    bed.signal(Signal::SIGTERM);
    assert_eq!(bed.last_words(), "");
    assert!(bed.agent.wait().unwrap().success());
    assert_eq!(
        (bed.read(EXPEDITED), bed.read(IRQ)),
        ("0".to_owned(), "0-3".to_owned())
    );
}

#[test]
fn a_host_that_was_gone_is_found_again() {
    let bed = Bed::new();
    let mut host = bed.host();
    host.unplug(60_000);
    drop(host);
    let mut host = bed.host();
    assert_eq!(
        (bed.read(EXPEDITED), bed.read(IRQ)),
        ("0".to_owned(), "0-1,3".to_owned())
    );
    let outcome = Outcome::Undone;
    host.say(
        End {
            operation: 7,
            outcome,
        }
        .into(),
    );
    assert_eq!(
        host.hear(),
        Restored {
            operation: 7,
            restored: 1,
            kept: 0
        }
        .into()
    );
    assert_eq!(bed.read(IRQ), "0-3");
}

#[test]
fn what_is_bound_is_shown_without_a_host() {
    let bed = Bed::new();
    let _host = bed.host();
    let root = bed.folder.path();
    write(root, "proc/irq/10/smp_affinity_list", "2\n");
    write(root, "proc/irq/10/eth0/x", "");
    let ask = |what: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotvisor-agent"));
        let output = command
            .arg("--root")
            .arg(root)
            .args(what.split(' '))
            .output()
            .unwrap();
        let (out, err) = (output.stdout, output.stderr);
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    };
    assert_eq!(
        ask("blockers 2"),
        ("irq       10 eth0\n".to_owned(), String::new())
    );
    assert_eq!(ask("blockers 1").0, "Nothing is bound to CPU 1.\n");
    assert!(ask("blockers 7").1.contains("the CPUs are 0-3"));
    assert!(ask("--version").0.starts_with("hotvisor-agent "));
    assert!(ask("dance").1.contains("--help"));
}
