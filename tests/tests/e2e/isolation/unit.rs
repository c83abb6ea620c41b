//! The unit for systemd, under a systemd.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Place, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::process;
use hotvisor_tests::systemd::Systemd;
use hotvisor_tests::vm::{BOOT, Console, READY_MARKER, SOON};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::instead::{
    ALL, CAN, CANNOT, FORBIDDEN, INSTEAD, LEFT, NAME, OTHER, PUBLIC, TRY_ALL, USER,
};

const UNIT: &str = include_str!("../../../../resources/systemd/hotvisor@.service");
/// Where it has the program.
const PROGRAM: &str = "/usr/local/bin/hotvisor";

/// A machine, by its name.
const MACHINE: &str = "web";
/// Less than the machine's memory, and more than its guest uses; more of the processors than there are.
const LIMIT: &str = "[Service]\nMemoryMax=400M\nCPUQuota=800%\n";
/// What it says of the memory.
const WARNING: &str = "a memory limit of 400 MiB";

/// What a unit that has ended is asked for.
const END: &[&str] = &["ActiveState", "ExecMainStatus", "NRestarts", "Result"];

pub(super) fn tests() -> Vec<Test> {
    let image = Image::Supervised(Kernel::V6_1Cloud);
    let place = Place::Bed("installs units, and runs a systemd");
    let test = |name, run| Test {
        place,
        ..Test::with_image(name, image, run)
    };
    vec![
        test("isolation::the_unit", the_unit as fn(&Context, Kernel) -> _),
        test("isolation::the_unit_with_another_program", another_program),
    ]
}

/// Puts the program, the unit, and what they need of the host to where they belong.
fn install(program: &Path) -> Result<()> {
    let kvm = super::group()?;
    for folder in [
        "/etc/systemd/system",
        "/etc/hotvisor",
        "/usr/local/bin",
        "/var/tmp",
    ] {
        fs::create_dir_all(folder)?;
    }
    fs::write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")?;
    fs::write("/etc/group", format!("root:x:0:\nkvm:x:{kvm}:\n"))?;
    fs::write("/etc/systemd/system/hotvisor@.service", UNIT)?;
    let _ = fs::remove_file(PROGRAM);
    fs::hard_link(program, PROGRAM)?;
    Ok(())
}

fn unit(name: &str) -> String {
    format!("hotvisor@{name}.service")
}

/// The machine's guest, at its serial port.
struct Guest {
    console: Console,
    port: UnixStream,
}

impl Guest {
    /// Waits until the one that was started behind an offset of what is said takes commands.
    fn connect(systemd: &Systemd, from: usize) -> Result<Self> {
        // Its port is there before it runs, and it is long silent then.
        systemd.wait_said("the guest runs on 1 of 3 vCPUs", from, SOON)?;
        let path = format!("/run/hotvisor/{MACHINE}/console");
        let port = UnixStream::connect(&path)
            .map_err(|error| systemd.evidence(&format!("{path}: {error}")))?;
        let console = Console::collect("guest", port.try_clone()?)?;
        let guest = Self { console, port };
        guest.wait_for(systemd, READY_MARKER, 0, BOOT)?;
        Ok(guest)
    }

    fn wait_for(&self, systemd: &Systemd, text: &str, from: usize, within: Duration) -> Result<()> {
        let found = self.console.wait_for(text, from, Instant::now() + within);
        found.map(drop).map_err(|why| {
            let said = self.console.tail(20);
            systemd.evidence(&format!(
                "waited {within:?} for {text:?}; {why}; the guest said {said}"
            ))
        })
    }

    /// Waits until it says that it has so many CPUs; a kernel is not done with one when it is started.
    fn wait_cpus(&mut self, systemd: &Systemd, cpus: u32) -> Result<()> {
        let from = self.console.length();
        let wait = format!("n until [ $(nproc) = {cpus} ]; do :; done\n");
        self.port.write_all(wait.as_bytes())?;
        self.wait_for(systemd, "n end 0", from, SOON)
    }
}

/// `hotvisor ARGS` of a user of the machine.
fn cli(context: &Context, args: &[&str]) -> Result<String> {
    let mut command = Command::new(context.artifacts.hotvisor());
    command.env("HOTVISOR_SOCKET", format!("/run/hotvisor/{MACHINE}/api"));
    process::text(command.args(args))
}

/// A machine is started, confined, changed, killed and so started again, and stopped.
fn the_unit(context: &Context, kernel: Kernel) -> Result<()> {
    let image = context.image.context("no image")?;
    install(&context.artifacts.hotvisor())?;
    let (unit, folder) = (unit(MACHINE), format!("/var/lib/hotvisor/{MACHINE}"));
    fs::create_dir_all(&folder)?;
    fs::hard_link(context.artifacts.kernel(image), format!("{folder}/vmlinuz"))?;
    fs::hard_link(
        context.artifacts.initramfs(kernel),
        format!("{folder}/initramfs"),
    )?;
    // As the unit's head has it; and it says when the guest runs.
    let machine = format!(
        "MACHINE=-v --kernel {folder}/vmlinuz --initramfs {folder}/initramfs \\\n    \
         --cpus boot=1,max=3 --memory size=512M --serial socket=/run/hotvisor/{MACHINE}/console \\\n    \
         --cmdline \"console=ttyS0 quiet\"\n"
    );
    fs::write(format!("/etc/hotvisor/{MACHINE}.conf"), machine)?;
    fs::create_dir_all(format!("/etc/systemd/system/{unit}.d"))?;
    fs::write(format!("/etc/systemd/system/{unit}.d/override.conf"), LIMIT)?;
    let systemd = Systemd::start()?;
    systemd.systemctl(&["start", &unit])?;
    let mut guest = Guest::connect(&systemd, 0)?;
    systemd.wait_said(WARNING, 0, SOON)?;
    for (command, cpus) in [("plug", 2), ("unplug", 1)] {
        cli(context, &[command, "1"])?;
        guest.wait_cpus(&systemd, cpus)?;
    }
    let process = systemd.main_process(&unit)?;
    confined(&systemd, process)?;
    let from = systemd.said().length();
    kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGKILL)?;
    systemd.wait_said(
        "Scheduled restart job, restart counter is at 1.",
        from,
        SOON,
    )?;
    let guest = Guest::connect(&systemd, from)?;
    let vcpus = cli(context, &["vcpus", "--json"])?;
    let vcpus: serde_json::Value = serde_json::from_str(&vcpus)?;
    ensure!(vcpus["online"] == 1, systemd.evidence(&vcpus.to_string()));
    let from = guest.console.length();
    systemd.systemctl(&["stop", &unit])?;
    guest.wait_for(&systemd, "reboot: Power down", from, SOON)?;
    expect(&systemd, &unit, ["inactive", "0", "0", "success"])?;
    for left in [
        format!("/run/hotvisor/{MACHINE}"),
        format!("/run/hotvisor-root/{MACHINE}/empty"),
    ] {
        systemd.wait_gone(Path::new(&left), SOON)?;
    }
    Ok(())
}

/// What is to be shown of a unit that has ended.
fn expect(systemd: &Systemd, unit: &str, values: [&str; 4]) -> Result<()> {
    let wanted = END.iter().zip(values);
    let wanted: Vec<String> = wanted
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let shown = systemd.show(unit, END)?;
    ensure!(
        shown == wanted,
        systemd.evidence(&format!("{unit}: {shown:?}, expected {wanted:?}"))
    );
    Ok(())
}

/// What the kernel says of the process.
fn confined(systemd: &Systemd, process: u32) -> Result<()> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    for task in fs::read_dir(folder.join("task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let none = "0".repeat(16);
        for (field, value) in [
            ("CapInh", none.as_str()),
            ("CapPrm", &none),
            ("CapEff", &none),
            ("CapBnd", &none),
            ("CapAmb", &none),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            let line = format!("{field}:\t{value}");
            ensure!(status.lines().any(|l| l == line), "not {line}: {status}");
        }
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let users: Vec<u32> = user
            .context("no user")?
            .split_whitespace()
            .map(|user| Ok(user.parse()?))
            .collect::<Result<_>>()?;
        // Those that systemd gives away (systemd.exec(5), "DynamicUser=").
        ensure!(
            users.iter().all(|user| (61_184..=65_519).contains(user)),
            "its users are {users:?}"
        );
    }
    for namespace in ["ipc", "mnt", "net", "user", "uts"] {
        let of = |pid| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        ensure!(
            of(process)? != of(systemd.pid())?,
            "{namespace} is the host's"
        );
    }
    // It would not have started without Landlock.
    let command = fs::read_to_string(folder.join("cmdline"))?;
    ensure!(command.contains("\0--landlock\0true\0"), "{command:?}");
    files(&folder.join("root"))?;
    group(&folder.join("root/sys/fs/cgroup"), process)?;
    writable(&fs::read_to_string(folder.join("mountinfo"))?)
}

/// Of the host's control groups it sees its own, with its limits.
fn group(shown: &Path, process: u32) -> Result<()> {
    // KVM's thread for huge pages is in it too.
    let members = fs::read_to_string(shown.join("cgroup.procs"))?;
    ensure!(
        members.lines().any(|member| member == process.to_string()),
        "it sees a group of {members:?}, and is {process}"
    );
    for entry in fs::read_dir(shown)? {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
        ensure!(!kind?.is_dir(), "it sees {}", path.display());
    }
    for (name, limit) in [
        ("memory.max", "419430400\n"),
        ("cpu.max", "800000 100000\n"),
    ] {
        let found = fs::read_to_string(shown.join(name))?;
        ensure!(found == limit, "{name}: {found:?}");
    }
    Ok(())
}

/// All that there is in the process's root, but for `/proc`, folders and links, and what it may know of its control group.
fn files(root: &Path) -> Result<()> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let kind = kind?;
            let inside = path.strip_prefix(root)?.display().to_string();
            let skipped = ["proc", "sys/fs/cgroup"].contains(&inside.as_str());
            if kind.is_dir() && !skipped {
                left.push(path);
            } else if kind.is_file() || kind.is_socket() || kind.is_char_device() {
                found.insert(inside);
            } else if kind.is_block_device() {
                bail!("there is a disk, {inside}");
            }
        }
    }
    let devices = [
        "full", "kvm", "null", "ptmx", "random", "tty", "urandom", "zero",
    ];
    let devices = devices.map(|name| format!("dev/{name}"));
    let files = [
        "run/hotvisor/web/api",
        "run/hotvisor/web/console",
        "usr/local/bin/hotvisor",
    ];
    let machine = ["initramfs", "vmlinuz"].map(|name| format!("var/lib/hotvisor/{MACHINE}/{name}"));
    let wanted: BTreeSet<String> = devices
        .into_iter()
        .chain(files.map(str::to_owned))
        .chain(machine)
        .collect();
    ensure!(
        found.is_subset(&wanted) && found.contains("dev/kvm"),
        "in its root there is {found:?}, expected {wanted:?}"
    );
    Ok(())
}

/// Where it could write if it had the rights to (proc_pid_mountinfo(5)).
fn writable(mounts: &str) -> Result<()> {
    let may = [
        "/dev/kvm",
        "/dev/mqueue",
        "/proc",
        "/run",
        "/run/hotvisor/web",
        "/run/hotvisor-root/web/empty",
        "/tmp",
        "/var/tmp",
    ];
    for mount in mounts.lines() {
        let mut words = mount.split(' ').skip(4);
        let (place, options) = (words.next().unwrap_or_default(), words.next());
        let read_only = options.is_some_and(|options| options.split(',').any(|o| o == "ro"));
        ensure!(
            read_only || may.contains(&place),
            "{place} is writable: {mounts}"
        );
    }
    Ok(())
}

/// Whatever takes the process over gets no further, also without what Hotvisor gives up by itself. How it ends is how the unit
/// says that it is not started again, or is.
fn another_program(_: &Context, _: Kernel) -> Result<()> {
    install(&std::env::current_exe()?)?;
    fs::write(PUBLIC, "public")?;
    for name in [NAME, OTHER] {
        let folder = format!("/var/lib/hotvisor/{name}");
        fs::create_dir_all(&folder)?;
        fs::write(format!("{folder}/file"), "file")?;
    }
    let systemd = Systemd::start()?;
    let begin = |name: &str, does: &str| -> Result<usize> {
        let from = systemd.said().length();
        let told = format!("{INSTEAD}={does}\n");
        fs::write(format!("/etc/hotvisor/{name}.conf"), told)?;
        systemd.systemctl(&["reset-failed"])?;
        // Some end so soon that they might not count as started.
        systemd.systemctl(&["start", "--no-block", &unit(name)])?;
        Ok(from)
    };
    let ended = |name: &str, from, how: &str| {
        systemd.wait_said(&format!("{}: {how}", unit(name)), from, SOON)
    };
    let lines = |from, start: &str| -> Vec<String> {
        let said = systemd.said().text(from);
        let lines = said.lines().filter_map(|line| line.strip_prefix(start));
        lines.map(|line| line.trim().to_owned()).collect()
    };

    let mut users = Vec::new();
    let mut last = 0;
    for name in [OTHER, NAME] {
        // The other one's is gone when that ends.
        fs::create_dir_all(format!("/run/hotvisor/{OTHER}"))?;
        last = begin(name, TRY_ALL)?;
        ended(name, last, "Deactivated successfully.")?;
        systemd.wait_said(ALL, last, SOON)?;
        users.extend(lines(last, USER));
    }
    ensure!(
        users.len() == 2 && users[0] != users[1],
        systemd.evidence(&format!("the users of two machines are {users:?}"))
    );
    let (done, not_done) = (lines(last, CAN), lines(last, CANNOT).len());
    ensure!(
        done == LEFT && not_done > 15,
        systemd.evidence(&format!("it can {done:?}"))
    );

    for (does, status, result) in [
        ("2", "2", "exit-code"),
        ("7", "7", "exit-code"),
        (FORBIDDEN, "31", "signal"),
    ] {
        let from = begin(NAME, does)?;
        ended(NAME, from, &format!("Failed with result '{result}'."))?;
        expect(&systemd, &unit(NAME), ["failed", status, "0", result])?;
    }
    let from = begin(NAME, "1")?;
    ended(
        NAME,
        from,
        "Scheduled restart job, restart counter is at 1.",
    )
}
