//! The steps of Linux's CPU hotplug as they happen, from its tracepoints (`include/trace/events/cpuhp.h`).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use hotvisor_protocol::{Event, Kind};
use nix::fcntl::OFlag;

use crate::root::Root;
use crate::trouble::{Result, Trouble};

const TRACING: &str = "sys/kernel/tracing";
/// A buffer of our own: whoever else traces is not disturbed.
const INSTANCE: &str = "sys/kernel/tracing/instances/hotvisor";

/// Most bytes of a line; a longer one is dropped.
const LONGEST: usize = 1024;

/// Most steps that are told from the begin of one operation to that of the next.
pub const MOST: usize = 4096;

/// A step that begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Linux's number of the CPU.
    pub cpu: u32,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The step's number.
    pub step: u16,
    /// The function that is called, where it begins.
    pub name: String,
    /// Whether the steps go up, where it begins; what it returned, where it ends.
    pub what: What,
}

/// What the trace says of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It begins.
    Enter {
        /// Whether the CPU is being brought up.
        up: bool,
    },
    /// It has ended.
    Exit {
        /// 0, or an error below it.
        ret: i32,
    },
}

impl Step {
    /// What this is in an operation of this kind.
    #[must_use]
    pub fn event(&self, kind: Kind) -> Event {
        match self.what {
            What::Exit { .. } => Event::Exit,
            What::Enter { up } if up == (kind == Kind::Plug) => Event::Enter,
            What::Enter { .. } => Event::Rollback,
        }
    }
}

/// Reads a line of `trace_pipe`.
///
/// ```
/// # use hotvisor_agent::phases::{parse, What};
/// let line = "  cpuhp/1-20  [001] d..1.  12.345678: cpuhp_exit:  cpu: 0001  state: 235 step: 234 ret: -16";
/// let step = parse(line).unwrap();
/// assert_eq!((step.cpu, step.at_ns, step.what), (1, 12_345_678_000, What::Exit { ret: -16 }));
/// ```
#[must_use]
pub fn parse(line: &str) -> Option<Step> {
    const MARK: &str = ": cpuhp_";
    // The name of the task comes first, and may be anything.
    let (before, after) = line.split_at(line.rfind(MARK)?);
    let (kind, fields) = after.strip_prefix(MARK)?.split_once(':')?;
    let (seconds, micros) = before.rsplit(' ').next()?.split_once('.')?;
    let nanos = micros.parse::<u64>().ok()?.checked_mul(1000)?;
    let at_ns = seconds
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)?;
    let words: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |key: &str| {
        words
            .iter()
            .position(|word| *word == key)
            .and_then(|at| words.get(at + 1))
    };
    let step: u16 = field("step:")?.parse().ok()?;
    let (name, what) = match kind {
        "enter" | "multi_enter" => {
            let target: u16 = field("target:")?.parse().ok()?;
            let name = words.last()?.trim_matches(['(', ')']);
            (name.to_owned(), What::Enter { up: step <= target })
        }
        "exit" => (
            String::new(),
            What::Exit {
                ret: field("ret:")?.parse().ok()?,
            },
        ),
        _ => return None,
    };
    let cpu = field("cpu:")?.parse().ok()?;
    Some(Step {
        cpu,
        at_ns,
        step,
        name,
        what,
    })
}

/// Puts lines together out of what is read, within bounds.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    told: usize,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], steps: &mut Vec<Step>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // One that is too long is not read, whatever its end is.
            if self.partial.len() <= LONGEST {
                self.partial
                    .extend_from_slice(&piece[..piece.len().min(LONGEST)]);
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                let step = std::str::from_utf8(&line)
                    .ok()
                    .filter(|line| line.len() <= LONGEST);
                if let Some(step) = step.and_then(parse).filter(|_| self.told < MOST) {
                    self.told += 1;
                    steps.push(step);
                }
            }
        }
    }
}

/// A trace that runs, until it is dropped.
#[derive(Debug)]
pub struct Tracer {
    root: Root,
    pipe: File,
    lines: Lines,
}

/// Whether the guest's kernel can do this, and tracefs is mounted where it usually is.
#[must_use]
pub fn is_possible(root: &Root) -> bool {
    root.has(&format!("{TRACING}/events/cpuhp")) && root.has(&format!("{TRACING}/instances"))
}

impl Tracer {
    /// Begins to trace.
    ///
    /// # Errors
    /// Where tracefs does not take it.
    pub fn start(root: &Root) -> Result<Self> {
        // One that an agent left which was killed.
        remove(root);
        let set = |file: &str, value: &str| root.write(&format!("{INSTANCE}/{file}"), value);
        let open = || {
            fs::create_dir(root.path(INSTANCE))?;
            set("trace_clock", "mono")?;
            set("buffer_size_kb", "16")?;
            // Kernels that have this wait until half of the buffer is full otherwise.
            let _ = set("buffer_percent", "0");
            set("events/cpuhp/enable", "1")?;
            OpenOptions::new()
                .read(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(root.path(&format!("{INSTANCE}/trace_pipe")))
        };
        let pipe = open().map_err(|error| {
            remove(root);
            let remedy = "run the agent as root, with tracefs writable; operations go on without their steps being told";
            Trouble::new(format!("/{INSTANCE}"), error, remedy)
        })?;
        let (root, lines) = (root.clone(), Lines::default());
        Ok(Self { root, pipe, lines })
    }

    /// An operation begins: as many steps as ever may be told of it.
    pub fn begin(&mut self) {
        self.lines.told = 0;
    }

    /// The steps since this was last asked for.
    pub fn read(&mut self) -> Vec<Step> {
        let (mut steps, mut buffer) = (Vec::new(), [0; 4096]);
        // A pipe that is filled faster than it is read does not hold up everything else.
        for _ in 0..64 {
            match self.pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => self.lines.take(&buffer[..length], &mut steps),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        steps
    }
}

fn remove(root: &Root) {
    // There is none, usually.
    let _ = root.write(&format!("{INSTANCE}/events/cpuhp/enable"), "0");
    let _ = fs::remove_dir(root.path(INSTANCE));
}

/// Removes the trace of an agent that was killed.
pub fn put_back(root: &Root) {
    if root.has(INSTANCE) {
        remove(root);
    }
}

impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // An instance cannot be removed while its pipe is open, and a field is closed only after this.
        if let Ok(closed) = File::open("/dev/null") {
            self.pipe = closed;
        }
        remove(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTER: &str = "           <...>-1     [000] ...1.    12.345678: cpuhp_enter: cpu: 0001 target: 140 step: 235 (sched_cpu_deactivate)\n";
    const MULTI: &str = " cpuhp/1-20 [001] ..... 9999999.000001: cpuhp_multi_enter: cpu: 0001 target: 238 step: 203 (x86_pmu_starting_cpu)\n";

    #[test]
    fn steps_are_read() {
        let step = parse(ENTER.trim_end()).unwrap();
        let what = What::Enter { up: false };
        let name = "sched_cpu_deactivate".to_owned();
        assert_eq!(
            step,
            Step {
                cpu: 1,
                at_ns: 12_345_678_000,
                step: 235,
                name,
                what
            }
        );
        assert_eq!(step.event(Kind::Unplug), Event::Enter);
        assert_eq!(step.event(Kind::Plug), Event::Rollback);
        let multi = parse(MULTI.trim_end()).unwrap();
        assert_eq!(
            (multi.at_ns, multi.what),
            (9_999_999_000_001_000, What::Enter { up: true })
        );
    }

    #[test]
    fn what_is_no_step_is_passed_over() {
        assert_eq!(parse("CPU:1 [LOST 12 EVENTS]"), None);
        assert_eq!(
            parse(": cpuhp_enter: cpu: 0001 target: 140 step: 235 (a)"),
            None
        );
        assert_eq!(
            parse("1.0: cpuhp_enter: cpu: 0001 target: 140 step: 70000 (a)"),
            None
        );
        assert_eq!(parse("1.0: cpuhp_exit: cpu: 0001"), None);
        assert_eq!(
            parse("99999999999999.0: cpuhp_exit: cpu: 1 step: 1 ret: 0"),
            None
        );
    }

    #[test]
    fn lines_may_come_in_pieces_and_have_an_end() {
        let (mut lines, mut steps) = (Lines::default(), Vec::new());
        let text = [ENTER, &"x".repeat(5000), "\n", ENTER].concat();
        for piece in text.as_bytes().chunks(7) {
            lines.take(piece, &mut steps);
            assert!(lines.partial.len() <= 2 * LONGEST);
        }
        assert_eq!(steps.len(), 2);
        for _ in 0..2 * MOST {
            lines.take(ENTER.as_bytes(), &mut steps);
        }
        assert_eq!(steps.len(), MOST);
    }
}
