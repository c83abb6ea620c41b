//! L1, the emulated machine: boots it, runs one program in it, and brings back its output as it
//! comes, its exit code, and files that it left.
//!
//! L1's first process is this same executable (see [`init`]), which must be statically linked. Three
//! serial ports connect the two: L1's kernel console, logged for the case that something goes
//! wrong; the program's standard input and output; and the files that come back.

mod init;
mod job;
mod peer;
mod place;
mod qemu;
mod stream;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

pub use init::{exit_code, run_if_first_process};
pub use job::Job;
pub(crate) use peer::shared_libraries;
pub use peer::{peer_files, peer_qemu_files};
pub use place::places;

use crate::image::Archive;
use crate::kernels::{Kernel, Unpacked};
use crate::paths;
use stream::{Event, Stream};

/// Time for L1 to come up; it needs 2 s on an idle machine.
const BOOT: Duration = Duration::from_secs(180);
/// Time for L1 to power off after its job.
const POWER_OFF: Duration = Duration::from_secs(20);
/// `irqbypass`, `kvm` and `kvm-amd`: the emulated CPU has SVM.
const L1_MODULES: &[&str] = &["kvm-amd"];

/// How L1's clock runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// With the host's, on one CPU, or as many as `HOTVISOR_L1_CPUS` says.
    Wall,
    /// One nanosecond for each instruction, on one CPU: times do not depend on the host's load.
    Instructions {
        /// What random numbers in L1 begin with. They are all that it gets from outside, and with the same ones
        /// the same job takes the same time to the nanosecond.
        seed: u64,
    },
}

/// Where the program's standard input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nowhere.
    Nothing,
    /// From this process's own standard input.
    Inherited,
}

/// A program to run in L1, and what it needs there.
#[derive(Clone, Debug)]
pub struct Bed {
    /// What to run.
    pub job: Job,
    /// Files of the host, with their places in L1.
    pub files: Vec<(PathBuf, String)>,
    /// How time passes.
    pub clock: Clock,
    /// Whether no other may run beside it, because it measures.
    pub alone: bool,
    /// Memory in MiB; the host gives only what is touched.
    pub memory: u32,
    /// Where standard input comes from.
    pub input: Input,
    /// Time for the program to end, counted from its start.
    pub deadline: Duration,
}

/// What came back from L1.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The program's exit code; 128 plus the signal's number if a signal ended it.
    pub status: i32,
    /// The files that [`Job::collect`] names, as far as they exist.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Bed {
    /// A bed for a job, with defaults for everything else.
    #[must_use]
    pub fn new(job: Job) -> Self {
        Self {
            job,
            files: Vec::new(),
            clock: Clock::Wall,
            alone: false,
            memory: 4096,
            input: Input::Nothing,
            deadline: Duration::from_secs(3600),
        }
    }

    /// Boots L1, runs the job, gives its output to `sink` as it comes, and waits for its end. There
    /// are [`places`] for so many at once on a machine; one more waits for the first that ends.
    ///
    /// # Errors
    /// L1 cannot be made or started, dies, or misses a deadline. The error holds the end of L1's
    /// console.
    pub fn run(&self, sink: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
        let place = place::take(self.alone)?;
        // Always the same ones, so that beds that are killed leave no more than these behind.
        let folder = paths::bed(&format!("l1-{}", place.number))?;
        let kernel = Kernel::V6_1Cloud.fetch()?;
        let initramfs = folder.join("initramfs");
        self.archive(&kernel)?
            .write(&mut fs::File::create(&initramfs)?)?;
        let files = qemu::Files {
            kernel: kernel.bzimage(),
            initramfs,
            console: folder.join("console"),
            results: folder.join("results"),
        };
        for old in [&files.console, &files.results] {
            fs::write(old, "")?;
        }
        let mut machine = Machine::start(self, files)?;
        let status = machine.follow(&self.job.nonce, self.deadline, sink)?;
        let collected = machine.finish()?;
        Ok(Outcome {
            status,
            files: collected,
        })
    }

    fn archive(&self, kernel: &Unpacked) -> Result<Archive> {
        let mut archive = Archive::new();
        archive.busybox()?;
        // Also where another build has replaced its file since it was started.
        archive.host_file("init", 0o755, "/proc/self/exe");
        archive.bytes(job::PATH, 0o644, serde_json::to_vec(&self.job)?);
        for folder in ["proc", "sys", "run", "tmp", "root"] {
            archive.directory(folder);
        }
        for (number, module) in kernel.modules(L1_MODULES)?.into_iter().enumerate() {
            let file = format!("{}/{number:02}-{}.ko", job::MODULES, module.name);
            archive.bytes(&file, 0o644, module.object);
        }
        for (source, place) in &self.files {
            archive.host_file(place, 0o755, source);
        }
        Ok(archive)
    }
}

/// A running L1.
struct Machine {
    child: Child,
    files: qemu::Files,
    output: Receiver<Vec<u8>>,
}

impl Machine {
    fn start(bed: &Bed, files: qemu::Files) -> Result<Self> {
        let mut command = qemu::command(bed, &files);
        let line = crate::process::spelled(&command);
        let mut child = spawn(&mut command, bed.input)
            .with_context(|| format!("cannot start the emulated machine:\n  {line}"))?;
        let stdout = child.stdout.take().context("QEMU has no standard output")?;
        let (sender, output) = mpsc::channel();
        std::thread::Builder::new()
            .name("l1-output".to_owned())
            .spawn(move || forward(stdout, |bytes| sender.send(bytes.to_vec()).is_ok()))?;
        if let (Input::Inherited, Some(mut stdin)) = (bed.input, child.stdin.take()) {
            // Ends with this process, or with the first byte that L1 no longer takes.
            std::thread::Builder::new()
                .name("l1-input".to_owned())
                .spawn(move || {
                    forward(std::io::stdin(), |bytes| {
                        stdin.write_all(bytes).and_then(|()| stdin.flush()).is_ok()
                    });
                })?;
        }
        Ok(Self {
            child,
            files,
            output,
        })
    }

    /// Passes the job's output on until its exit code comes.
    fn follow(
        &mut self,
        nonce: &str,
        deadline: Duration,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<i32> {
        let mut stream = Stream::new(nonce);
        let (mut awaited, mut within) = ("the emulated machine to boot", BOOT);
        let mut end = Instant::now() + within;
        loop {
            let bytes = match self.output.recv_timeout(end - Instant::now().min(end)) {
                Ok(bytes) => bytes,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.evidence(&format!("waited {within:?} for {awaited}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.evidence(&format!("it ended while we waited for {awaited}")));
                }
            };
            for event in stream.push(&bytes, sink) {
                match event {
                    Event::Started => {
                        (awaited, within) = ("the program in it to end", deadline);
                        end = Instant::now() + within;
                    }
                    Event::Ended(status) => return Ok(status),
                    Event::Failed(reason) => return Err(self.evidence(&reason)),
                }
            }
        }
    }

    /// Waits for the power-off and reads what came back.
    fn finish(&mut self) -> Result<Vec<(String, Vec<u8>)>> {
        let end = Instant::now() + POWER_OFF;
        loop {
            match self.output.recv_timeout(end - Instant::now().min(end)) {
                Ok(_) => {}
                // The results are written before the exit code, so that nothing is lost by force.
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("bed: the emulated machine did not power off within {POWER_OFF:?}");
                    self.child.kill()?;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.child.wait()?;
        job::read_results(&fs::read(&self.files.results).unwrap_or_default())
    }

    fn evidence(&mut self, what: &str) -> anyhow::Error {
        let _ = self.child.kill();
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        let console = fs::read(&self.files.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        anyhow!(
            "the emulated machine failed: {what}\n\
             --- QEMU said ---\n{said}\n--- end of its kernel's console ---\n{tail}"
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &mut Command, input: Input) -> Result<Child> {
    let input = match input {
        Input::Nothing => Stdio::null(),
        Input::Inherited => Stdio::piped(),
    };
    Ok(command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

/// Reads until the end, or until nobody takes the bytes.
pub(crate) fn forward(mut from: impl Read, mut to: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if to(&buffer[..length]) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return,
        }
    }
}
