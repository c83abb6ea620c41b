//! `acpiexec`, ACPICA's interpreter as a program, with real device models behind its system memory.
//!
//! With `-do` the program takes an operation region for memory of its own and follows a pointer to where the
//! region says. Nothing is mapped there. So it runs traced: each access faults, and is answered by a device
//! model, as an exit of a virtual machine would be.

use crate::insn::{LONGEST, Move, Registers};
use acpi_tables::Aml;
use acpi_tables::aml::{
    Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, OpRegion, OpRegionSpace,
};
use acpi_tables::sdt::Sdt;
use nix::libc::user_regs_struct;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the field lies whose evaluation ends a run.
const MARK: u64 = 0xfeb0_f000;

/// Where the interpreter's accesses go.
pub(crate) trait Bus {
    /// Answers a read; false where there is no device.
    fn read(&self, address: u64, data: &mut [u8]) -> bool;
    /// Takes a write; false where there is no device.
    fn write(&self, address: u64, data: &[u8]) -> bool;
}

/// What the interpreter did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read(u64, Vec<u8>),
    Write(u64, Vec<u8>),
    /// It executed `Notify`.
    Notify,
}

/// What came of a run.
pub(crate) struct Run {
    pub(crate) steps: Vec<Step>,
    output: String,
}

/// A table, ready to be run.
pub(crate) struct Acpiexec {
    dir: TempDir,
}

impl Acpiexec {
    pub(crate) fn new(dsdt: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("dsdt.aml"), dsdt).unwrap();
        fs::write(dir.path().join("ssdt.aml"), mark_table()).unwrap();
        Self { dir }
    }

    /// Evaluates methods, each a path and its arguments, one after the other.
    pub(crate) fn run(&self, calls: &[&str], bus: &dyn Bus) -> Run {
        let output: PathBuf = self.dir.path().join("output");
        let file = File::create(&output).unwrap();
        #[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
        // It waits for a line before it becomes the program, so that no access is made untraced.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "read go && exec acpiexec -di -df -do dsdt.aml ssdt.aml",
            ])
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stderr(file.try_clone().unwrap())
            .stdout(file)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        ptrace::seize(
            pid,
            Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL,
        )
        .expect("this test traces a program of its own, which the machine must allow");
        let mut commands = child.stdin.take().unwrap();
        writeln!(commands, "go").unwrap();
        for call in calls {
            writeln!(commands, "execute {call}").unwrap();
        }
        writeln!(commands, "execute \\MARK").unwrap();
        let mut tracer = Tracer::new(pid, commands, bus);
        let end = tracer.run();
        let output = String::from_utf8_lossy(&fs::read(output).unwrap()).into_owned();
        let ended_well = matches!(end, WaitStatus::Exited(_, 0));
        assert!(
            ended_well,
            "acpiexec (of Debian's package acpica-tools): {end:?}\n{output}"
        );
        assert!(!output.contains("AE_"), "an exception:\n{output}");
        let steps = tracer.steps;
        Run { steps, output }
    }
}

/// A table with one field, whose evaluation tells that everything before it is done.
fn mark_table() -> Vec<u8> {
    let (at, len) = (MARK, 4u8);
    let region = OpRegion::new("MREG".into(), OpRegionSpace::SystemMemory, &at, &len);
    let field = Field::new(
        "MREG".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        vec![FieldEntry::Named(*b"MARK", 32)],
    );
    let mut aml = Vec::new();
    region.to_aml_bytes(&mut aml);
    field.to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"SSDT", 36, 2, *b"HOTVIS", *b"MARK\0\0\0\0", 1);
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

/// Follows one program.
///
/// The program notifies from threads of their own, which it neither orders nor waits for. They are held
/// until all calls are done, and then let go one after the other; only then is the program told to end.
struct Tracer<'a> {
    pid: Pid,
    commands: Option<ChildStdin>,
    bus: &'a dyn Bus,
    steps: Vec<Step>,
    /// The debugger's own thread, which executes the commands; it is the first that is started.
    executor: Option<Pid>,
    /// Threads that notify and have not been let go yet, and which of those are there to be let go.
    notifying: VecDeque<Pid>,
    stopped: BTreeSet<Pid>,
    /// The one that was let go.
    running: Option<Pid>,
    /// All calls are done.
    done: bool,
    /// Instruction, and value, of the access before.
    last: Option<(u64, Move, u64)>,
}

impl<'a> Tracer<'a> {
    fn new(pid: Pid, commands: ChildStdin, bus: &'a dyn Bus) -> Self {
        Self {
            pid,
            commands: Some(commands),
            bus,
            steps: Vec::new(),
            executor: None,
            notifying: VecDeque::new(),
            stopped: BTreeSet::new(),
            running: None,
            done: false,
            last: None,
        }
    }

    /// Follows the program to its end.
    fn run(&mut self) -> WaitStatus {
        let pid = self.pid;
        let (done, waits) = channel::<()>();
        thread::spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        // This thread's children and tracees only: other tests have theirs.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = waitpid(Pid::from_raw(-1), Some(flags)).unwrap();
            match status {
                WaitStatus::Stopped(thread, Signal::SIGSEGV) => self.fault(thread),
                WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
                WaitStatus::PtraceEvent(thread, _, event) => self.event(thread, event),
                WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..)
                    if thread == pid =>
                {
                    drop(done);
                    return status;
                }
                WaitStatus::Exited(thread, _) => self.ended(thread),
                _ => {}
            }
        }
    }

    fn event(&mut self, thread: Pid, event: i32) {
        if event == ptrace::Event::PTRACE_EVENT_CLONE as i32 {
            let started = ptrace::getevent(thread).unwrap();
            self.sighted(Pid::from_raw(started.try_into().unwrap()));
        }
        // Either report, the starter's and the started one's own, may come first.
        self.sighted(thread);
        if self.notifying.contains(&thread) {
            self.stopped.insert(thread);
        } else {
            go_on(thread, None);
        }
        self.let_go();
    }

    fn sighted(&mut self, thread: Pid) {
        if thread == self.pid || self.notifying.contains(&thread) || self.running == Some(thread) {
            return;
        }
        match self.executor {
            None => self.executor = Some(thread),
            Some(executor) if executor == thread => {}
            Some(_) => {
                self.steps.push(Step::Notify);
                self.notifying.push_back(thread);
            }
        }
    }

    fn ended(&mut self, thread: Pid) {
        if self.running == Some(thread) {
            self.running = None;
        }
        self.let_go();
    }

    fn let_go(&mut self) {
        if !self.done || self.running.is_some() {
            return;
        }
        match self.notifying.front() {
            Some(thread) if self.stopped.contains(thread) => {
                self.running = self.notifying.pop_front();
                self.running.into_iter().for_each(|next| go_on(next, None));
            }
            Some(_) => {}
            None => {
                if let Some(mut commands) = self.commands.take() {
                    writeln!(commands, "quit").unwrap();
                }
            }
        }
    }

    /// Does what the faulting instruction means, and goes on after it.
    fn fault(&mut self, thread: Pid) {
        let mut all = ptrace::getregs(thread).unwrap();
        let mut registers = general(&mut all).map(|register| *register);
        let at = all.rip;
        let code = code(thread, at);
        let instruction = Move::decode(&code, &registers)
            .unwrap_or_else(|| panic!("acpiexec faults at {at:#x}, which is {code:x?}"));
        let value = match self.last.take() {
            // The C library copies four bytes with two moves that overlap, here in full: one access. The
            // interpreter's next access of this kind would come back to the first of the two.
            Some((before, same, value))
                if before < at
                    && (same.store, same.address, same.width)
                        == (instruction.store, instruction.address, instruction.width) =>
            {
                value
            }
            // While it loads the tables, it looks at every device: nothing is there yet.
            _ if self.executor != Some(thread) => 0,
            _ => self.access(&instruction, &registers),
        };
        if !instruction.store {
            instruction.load(&mut registers, value);
        }
        general(&mut all)
            .into_iter()
            .zip(registers)
            .for_each(|(to, from)| *to = from);
        all.rip += instruction.len as u64;
        self.last = Some((at, instruction, value));
        ptrace::setregs(thread, all).unwrap();
        go_on(thread, None);
        self.let_go();
    }

    fn access(&mut self, instruction: &Move, registers: &Registers) -> u64 {
        let Move { address, width, .. } = *instruction;
        if address == MARK {
            self.done = true;
            return 0;
        }
        let mut word = [0; 8];
        let found = if instruction.store {
            word = instruction.value(registers);
            let found = self.bus.write(address, &word[..width]);
            self.steps
                .push(Step::Write(address, word[..width].to_vec()));
            found
        } else {
            let found = self.bus.read(address, &mut word[..width]);
            self.steps.push(Step::Read(address, word[..width].to_vec()));
            found
        };
        assert!(found, "{width} bytes at {address:#x}, where no device is");
        u64::from_le_bytes(word)
    }
}

fn go_on(thread: Pid, signal: Option<Signal>) {
    // It may have been killed meanwhile; then its end is reported next.
    let _ = ptrace::cont(thread, signal);
}

fn general(all: &mut user_regs_struct) -> [&mut u64; 16] {
    [
        &mut all.rax,
        &mut all.rcx,
        &mut all.rdx,
        &mut all.rbx,
        &mut all.rsp,
        &mut all.rbp,
        &mut all.rsi,
        &mut all.rdi,
        &mut all.r8,
        &mut all.r9,
        &mut all.r10,
        &mut all.r11,
        &mut all.r12,
        &mut all.r13,
        &mut all.r14,
        &mut all.r15,
    ]
}

/// The bytes at an instruction; the second word may lie beyond the end of the code.
fn code(thread: Pid, at: u64) -> Vec<u8> {
    let words = (at..).step_by(8).take(LONGEST / 8);
    words
        .map_while(|at| ptrace::read(thread, at as ptrace::AddressType).ok())
        .flat_map(i64::to_le_bytes)
        .collect()
}

impl Run {
    /// The accesses alone.
    pub(crate) fn accesses(&self) -> Vec<Step> {
        let steps = self.steps.iter();
        steps
            .filter(|step| **step != Step::Notify)
            .cloned()
            .collect()
    }

    /// What was notified, and of what.
    pub(crate) fn notified(&self) -> Vec<(String, u8)> {
        let lines = self.output.lines();
        let notified: Vec<_> = lines
            .filter_map(|line| line.split_once(" Notify on [")?.1.split_once(']'))
            .map(|(device, rest)| {
                let value = rest.split_once("Value 0x").unwrap().1;
                (
                    device.to_owned(),
                    u8::from_str_radix(&value[..2], 16).unwrap(),
                )
            })
            .collect();
        let threads = self.steps.iter().filter(|step| **step == Step::Notify);
        assert_eq!(notified.len(), threads.count(), "{}", self.output);
        notified
    }

    /// The numbers that methods returned.
    pub(crate) fn returned(&self) -> Vec<u64> {
        let lines = self.output.lines();
        let mut numbers: Vec<_> = lines
            .filter_map(|line| line.trim().strip_prefix("[Integer] = "))
            .map(|digits| u64::from_str_radix(digits, 16).unwrap())
            .collect();
        assert_eq!(numbers.pop(), Some(0), "the mark's own");
        numbers
    }

    /// What was printed.
    pub(crate) fn output(&self) -> &str {
        &self.output
    }
}
