//! A program in Hotvisor's place that gives up nothing by itself: this one. It does what no VMM should, and says what came of it.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Pid, Uid, setuid};

/// Environment variable that makes this executable such a program, and says what it does: it tries all that there is, it makes a
/// system call that the unit forbids, or it ends with an exit code.
pub(super) const INSTEAD: &str = "HOTVISOR_TEST_INSTEAD";
pub(super) const TRY_ALL: &str = "try";
pub(super) const FORBIDDEN: &str = "setuid";

/// How each line begins that says what could be done, or could not.
pub(super) const CAN: &str = "instead: can ";
pub(super) const CANNOT: &str = "instead: cannot ";

/// How the line begins that says who it is.
pub(super) const USER: &str = "instead: user ";

/// What the last line is: what systemd says of the end may overtake it.
pub(super) const ALL: &str = "instead: that is all";

/// The machine's name, by which its folders are found, and another's.
pub(super) const NAME: &str = "instead";
pub(super) const OTHER: &str = "other";
/// A file of the host's that everybody may read.
pub(super) const PUBLIC: &str = "/etc/public";

/// What the unit leaves, and nothing else.
pub(super) const LEFT: &[&str] = &[
    "read its own files",
    "use KVM",
    "write into its runtime folder",
    "read its control group's files",
];

/// What is tried, and whether it was done.
type Tried = (&'static str, bool);

/// If this process was started to be one, is one.
pub(crate) fn run_if_instead() -> Option<ExitCode> {
    let what = std::env::var(INSTEAD).ok()?;
    let code = match what.as_str() {
        TRY_ALL => {
            let mut said = format!("{USER}{}\n", Uid::current());
            for (what, done) in [files(), groups(), reach()].concat() {
                let _ = writeln!(said, "{}{what}", if done { CAN } else { CANNOT });
            }
            let _ = writeln!(said, "{ALL}");
            u8::from(io::stderr().write_all(said.as_bytes()).is_err())
        }
        // Nobody comes back from this call.
        FORBIDDEN => u8::from(setuid(Uid::from_raw(0)).is_ok()),
        code => code.parse().ok()?,
    };
    Some(code.into())
}

fn reads(path: &str) -> bool {
    fs::read_dir(path).is_ok() || File::open(path).is_ok()
}

fn writes(path: &str) -> bool {
    fs::write(path, "x").is_ok()
}

fn files() -> Vec<Tried> {
    let uses = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    let own = |path: &str| format!("{path}/{NAME}/file");
    vec![
        ("read its own files", reads(&own("/var/lib/hotvisor"))),
        ("use KVM", uses("/dev/kvm")),
        (
            "write into its runtime folder",
            writes(&own("/run/hotvisor")),
        ),
        ("read the host's files", reads(PUBLIC)),
        (
            "see other machines' files",
            there(&format!("/var/lib/hotvisor/{OTHER}")),
        ),
        (
            "see other machines' sockets",
            there(&format!("/run/hotvisor/{OTHER}")),
        ),
        ("see other processes", there("/proc/1")),
        (
            "see the host's devices",
            reads("/sys/devices") || reads("/sys/class"),
        ),
        (
            "use the host's shared memory",
            writes("/dev/shm/file") || reads("/dev/shm"),
        ),
        (
            "write into its own files",
            writes(&own("/var/lib/hotvisor")),
        ),
        ("write over itself", writes("/usr/local/bin/hotvisor")),
        ("write into its root", writes("/file")),
        ("see the host's terminals", there("/dev/pts/ptmx")),
        ("use a serial port of the host's", uses("/dev/ttyS0")),
        ("use a loop device of the host's", uses("/dev/loop-control")),
        (
            "run a program",
            std::process::Command::new("/bin/busybox").status().is_ok(),
        ),
    ]
}

fn there(path: &str) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}

fn groups() -> Vec<Tried> {
    const GROUP: &str = "/sys/fs/cgroup";
    let file = |name: &str| format!("{GROUP}/{name}");
    let folders = fs::read_dir(GROUP).into_iter().flatten().flatten();
    let mut folders = folders.filter(|entry| entry.path().is_dir());
    let limits = ["cgroup.procs", "cgroup.subtree_control", "pids.max"];
    vec![
        (
            "read its control group's files",
            limits.iter().all(|name| reads(&file(name))),
        ),
        (
            "write into its control group's files",
            limits.iter().any(|name| writes(&file(name))),
        ),
        (
            "make a control group",
            fs::create_dir(file("another")).is_ok(),
        ),
        ("see other control groups", folders.next().is_some()),
        (
            "see the host's file systems",
            there("/sys/fs/bpf") || there("/sys/fs/ext4"),
        ),
    ]
}

fn reach() -> Vec<Tried> {
    let opens = |family| socket(family, SockType::Raw, SockFlag::empty(), None).is_ok();
    vec![
        ("use the network", UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("use netlink", opens(AddressFamily::Netlink)),
        ("use packets", opens(AddressFamily::Packet)),
        (
            "talk to systemd",
            UnixStream::connect("/run/systemd/private").is_ok(),
        ),
        (
            "have namespaces of its own",
            unshare(CloneFlags::CLONE_NEWUSER).is_ok(),
        ),
        (
            "signal another process",
            kill(Pid::from_raw(1), None).is_ok(),
        ),
    ]
}
