//! A systemd of its own in L1: the host's, as the first process of namespaces, with the units that a test gives it.
//!
//! There is no bus and no journal: `systemctl` talks to the first process itself, and what units say to the journal comes here,
//! together with what systemd says.

use std::fs::{self, File};
use std::io::{self, PipeWriter, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::pty::openpty;
use nix::unistd::ttyname;

use crate::nested::{forward, shared_libraries};
use crate::vm::{Console, Watched};

/// Where Debian has it, in L1 as on the host.
const FOLDER: &str = "/usr/lib/systemd";
/// systemd itself, what talks to it, and what makes the namespaces: busybox's cannot make one of control groups.
const PROGRAMS: &[&str] = &["/usr/lib/systemd/systemd", "/usr/bin/systemctl", UNSHARE];
const UNSHARE: &str = "/usr/bin/unshare";
/// What newer ones start a unit's program with.
const EXECUTOR: &str = "/usr/lib/systemd/systemd-executor";
/// Units that every service needs, or is in the way of.
const TARGETS: &[&str] = &["basic", "multi-user", "shutdown", "sysinit"];

/// Makes the first process of the new namespace of processes, which goes with the one that makes it, move into its control
/// group; only then is there a namespace with that one on top.
const OUTSIDE: &str = "echo 0 >\"$1/cgroup.procs\" && \
                       exec /usr/bin/unshare --mount --cgroup --ipc --uts sh -c \"$2\" sh \"$3\"";
/// What that process does before it becomes systemd.
const INSIDE: &str = "mount -t proc proc /proc && umount /sys/fs/cgroup && \
                      mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount --bind \"$1\" /dev/console && \
                      exec env -i container=l1 PATH=/bin:/usr/bin /usr/lib/systemd/systemd \
                      --unit=multi-user.target --log-target=console --show-status=0";

/// Where the journal listens for what units print. Some lines come first that say whose it is.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// Time for it to come up; it needs 2 s on an idle machine.
const BOOT: Duration = Duration::from_secs(60);

/// systemd with its libraries and units, each with its place in L1.
///
/// # Errors
/// A part of it is missing on the host.
pub(crate) fn files() -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    let there = |name: &&&str| Path::new(name).exists();
    let programs = PROGRAMS
        .iter()
        .chain([&EXECUTOR].into_iter().filter(|name| there(name)));
    for &program in programs {
        files.extend(shared_libraries(Path::new(program))?);
        files.push((program.into(), program.to_owned()));
    }
    for target in TARGETS {
        let place = format!("{FOLDER}/system/{target}.target");
        files.push((PathBuf::from(&place), place));
    }
    Ok(files)
}

/// A running systemd. Dropping ends it, and all that it runs.
#[derive(Debug)]
pub struct Systemd {
    process: Watched,
    /// Its own id, as this process sees it.
    pid: u32,
    /// What it says, and its units.
    said: Console,
    /// Its console, which has an end when nobody holds it open.
    _console: File,
}

impl Systemd {
    /// Starts it with what is in `/etc/systemd`, and waits until it is up.
    ///
    /// # Errors
    /// It does not come up in time.
    pub fn start() -> Result<Self> {
        let group = tempfile::Builder::new()
            .prefix("systemd-")
            .tempdir_in("/sys/fs/cgroup")?
            .keep();
        let terminal = openpty(None, None)?;
        let console = File::from(terminal.slave);
        let mut command = Command::new(UNSHARE);
        command
            .args(["--pid", "--fork", "--kill-child", "sh", "-c", OUTSIDE, "sh"])
            .arg(&group)
            .arg(INSIDE)
            .arg(ttyname(&console)?)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console.try_clone()?);
        let (said, all) = io::pipe()?;
        let said = Console::collect("systemd", said)?;
        pass_on(File::from(terminal.master), all.try_clone()?)?;
        listen(all)?;
        let (process, _) = Watched::spawn(&mut command)?;
        let mut systemd = Self {
            process,
            pid: 0,
            said,
            _console: console,
        };
        systemd.wait_said("Startup finished", 0, BOOT)?;
        let maker = systemd.process.pid();
        let children = fs::read_to_string(format!("/proc/{maker}/task/{maker}/children"))?;
        systemd.pid = children.trim().parse().context("it has no process")?;
        Ok(systemd)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it and its units have said.
    #[must_use]
    pub fn said(&self) -> &Console {
        &self.said
    }

    /// Waits until it, or a unit, has said a text, from an offset on.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_said(&self, text: &str, from: usize, deadline: Duration) -> Result<()> {
        match self.said.wait_for(text, from, Instant::now() + deadline) {
            Ok(_) => Ok(()),
            Err(why) => Err(self.evidence(&format!("waited {deadline:?} for {text:?}; {why}"))),
        }
    }

    /// Runs `systemctl ARGS`, which must succeed, and returns what it prints.
    ///
    /// # Errors
    /// It does not succeed.
    pub fn systemctl(&self, args: &[&str]) -> Result<String> {
        let pid = self.pid.to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "-p", "/usr/bin/systemctl"]);
        command.args(args).stdin(Stdio::null());
        let output = command.output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            self.evidence(&format!("systemctl {args:?}: {}", text(&output.stderr)))
        );
        Ok(text(&output.stdout))
    }

    /// Properties of a unit, as lines `NAME=VALUE` in the order of the names.
    ///
    /// # Errors
    /// It does not say.
    pub fn show(&self, unit: &str, properties: &[&str]) -> Result<Vec<String>> {
        let list = format!("--property={}", properties.join(","));
        let text = self.systemctl(&["show", unit, &list])?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }

    /// The id of a unit's main process, as this process sees it.
    ///
    /// # Errors
    /// It has none.
    pub fn main_process(&self, unit: &str) -> Result<u32> {
        let inside = self.show(unit, &["MainPID"])?.concat();
        let inside = inside.trim_start_matches("MainPID=");
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid"));
        let ours = namespace(self.pid)?;
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse() else {
                continue;
            };
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let is_it = ids.and_then(|ids| ids.split_whitespace().last()) == Some(inside);
            if is_it && namespace(pid).is_ok_and(|of| of == ours) {
                return Ok(pid);
            }
        }
        Err(self.evidence(&format!("there is no process of {unit}: {inside:?}")))
    }

    /// An error that says what went wrong, followed by what was said.
    #[must_use]
    pub fn evidence(&self, what: &str) -> anyhow::Error {
        anyhow!(
            "{what}\n--- systemd and its units said ---\n{}",
            self.said.tail(60)
        )
    }
}

/// Passes on what units print, those of whatever systemd runs until somebody else listens there.
fn listen(all: PipeWriter) -> Result<()> {
    let folder = Path::new(JOURNAL).parent().context("no folder")?;
    fs::create_dir_all(folder)?;
    let _ = fs::remove_file(JOURNAL);
    let listener = UnixListener::bind(JOURNAL)?;
    // A unit's process connects when it is its user's already.
    fs::set_permissions(JOURNAL, fs::Permissions::from_mode(0o666))?;
    let pass_on_all = move || {
        for stream in listener.incoming().flatten() {
            let Ok(to) = all.try_clone() else { return };
            let _ = pass_on(stream, to);
        }
    };
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(pass_on_all)?;
    Ok(())
}

/// Passes on what comes, until its end.
fn pass_on(from: impl Read + Send + 'static, mut to: PipeWriter) -> Result<()> {
    std::thread::Builder::new()
        .name("systemd-said".to_owned())
        .spawn(move || forward(from, |bytes| to.write_all(bytes).is_ok()))?;
    Ok(())
}
