//! A systemd of its own in L1: the host's, as the first process of namespaces, with the units that a test gives it.
//!
//! There is no bus and no journal: `systemctl` talks to the first process itself, and what units say to the journal comes here,
//! together with what systemd says.

use std::fs::{self, File};
use std::io::{self, PipeWriter, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::ttyname;

use crate::lines::Lines;
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

    /// Waits until a file or folder that it has to remove is gone.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_gone(&self, path: &Path, within: Duration) -> Result<()> {
        ensure!(
            goes_within(path, within)?,
            self.evidence(&format!("{} is left after {within:?}", path.display()))
        );
        Ok(())
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

/// Whether there is nothing of this name, at once or before the time is over.
fn goes_within(path: &Path, within: Duration) -> Result<bool> {
    let end = Instant::now() + within;
    let folder = path.parent().context("a name without a folder")?;
    let events = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // Before the first look, so that what goes behind it is told.
    let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    match events.add_watch(folder, gone) {
        Err(Errno::ENOENT) => return Ok(true),
        watch => drop(watch.with_context(|| format!("cannot watch {}", folder.display()))?),
    }
    while path.symlink_metadata().is_ok() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut waiting = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::try_from(left)?) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => drop(events.read_events()?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
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

/// Passes on what comes, until its end: each line in one write, so that others' are before or behind it (pipe(7), "PIPE_BUF").
fn pass_on(from: impl Read + Send + 'static, mut to: PipeWriter) -> Result<()> {
    let mut write = move |line: &str| to.write_all(format!("{line}\n").as_bytes()).is_ok();
    let all = move || {
        let mut lines = Lines::default();
        forward(from, |bytes| {
            let mut taken = true;
            lines.push(bytes, |line| taken = taken && write(line));
            taken
        });
        lines.end(|line| {
            write(line);
        });
    };
    std::thread::Builder::new()
        .name("systemd-said".to_owned())
        .spawn(all)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_goes_is_waited_for_and_one_that_stays_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (goes, stays) = (folder.path().join("goes"), folder.path().join("stays"));
        fs::create_dir(&goes).unwrap();
        fs::create_dir(&stays).unwrap();
        let long = Duration::from_secs(10);
        let waiting = {
            let goes = goes.clone();
            std::thread::spawn(move || goes_within(&goes, long))
        };
        fs::remove_dir(&goes).unwrap();
        assert!(waiting.join().unwrap().unwrap());
        assert!(goes_within(&goes, Duration::ZERO).unwrap());
        assert!(goes_within(&goes.join("inside"), Duration::ZERO).unwrap());
        assert!(!goes_within(&stays, Duration::from_millis(5)).unwrap());
    }

    #[test]
    fn lines_of_several_are_not_mixed() {
        let (said, all) = io::pipe().unwrap();
        let said = Console::collect("test", said).unwrap();
        let mut writers: Vec<PipeWriter> = Vec::new();
        for _ in 0..2 {
            let (from, to) = io::pipe().unwrap();
            pass_on(from, all.try_clone().unwrap()).unwrap();
            writers.push(to);
        }
        drop(all);
        for piece in ["be", "gin ", "end\nla", "st"] {
            for writer in &mut writers {
                writer.write_all(piece.as_bytes()).unwrap();
            }
        }
        drop(writers);
        let end = Instant::now() + Duration::from_secs(10);
        said.wait_for_close(end).unwrap();
        let text = said.text(0);
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["begin end", "begin end", "last", "last"]);
    }
}
