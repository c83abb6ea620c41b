//! Drives the bare-metal guest: a line in, a line out. `resources/baremetal/README.md` lists the lines.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::harness::{Context, Place, Test};
use hotvisor_tests::vm::{Builder, SOON, Vm};
use tempfile::TempDir;

/// The guest as a file to boot.
pub(crate) const IMAGE: &[u8] = include_bytes!(env!("HOTVISOR_BAREMETAL_GUEST"));

/// Memory of a machine where its size does not matter, in MiB.
pub(crate) const MEMORY: u32 = 64;

/// A machine that is yet to be started.
#[derive(Debug)]
pub(crate) struct Machine {
    vm: Builder,
    folder: TempDir,
}

/// A running guest.
#[derive(Debug)]
pub(crate) struct Guest {
    vm: Vm,
    /// Offset of the console behind what was read.
    read: Cell<usize>,
    _folder: TempDir,
}

/// A test of the suite.
pub(crate) fn test(name: &str, run: fn(&Context) -> Result<()>) -> Test {
    Test {
        name: name.to_owned(),
        images: Vec::new(),
        place: Place::Any,
        run: Arc::new(run),
    }
}

impl Machine {
    /// A machine with `boot` of `max` CPUs and a little memory.
    pub(crate) fn new(context: &Context, boot: u32, max: u32) -> Result<Self> {
        Self::of(context.artifacts.hotvisor(), boot, max)
    }

    /// The same with another build of the VMM.
    pub(crate) fn of(program: PathBuf, boot: u32, max: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("baremetal-").tempdir()?;
        let image = folder.path().join("guest.elf");
        fs::write(&image, IMAGE).context("cannot write the guest's image")?;
        let vm = Vm::hotvisor(program)
            .kernel(image)
            .cpus(boot, max)
            .memory(MEMORY)
            .arg("-v");
        Ok(Self { vm, folder })
    }

    /// Changes how the VMM is started.
    pub(crate) fn with(self, change: impl FnOnce(Builder) -> Builder) -> Self {
        Self {
            vm: change(self.vm),
            ..self
        }
    }

    /// A path in a folder that goes away with the machine.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it.
    pub(crate) fn start(self) -> Result<Guest> {
        Ok(Guest {
            vm: self.vm.start()?,
            read: Cell::new(0),
            _folder: self.folder,
        })
    }

    /// Starts it and waits until the guest takes commands.
    pub(crate) fn boot(self) -> Result<Guest> {
        let guest = self.start()?;
        guest.wait_ready()?;
        Ok(guest)
    }
}

impl Guest {
    /// The VMM around it.
    pub(crate) fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Waits for the line with which the guest starts, or starts again. A CPU that was in the midst of an
    /// answer when the machine was reset may have left a part of it in front.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let found = self.vm.wait_for("ready apic=0\n", self.read.get(), SOON)?;
        self.read.set(found.end);
        Ok(())
    }

    /// The next line that the guest prints.
    pub(crate) fn line(&self) -> Result<String> {
        let start = self.read.get();
        let end = self.vm.wait_for("\n", start, SOON)?.end;
        self.read.set(end);
        Ok(self.vm.console().between(start, end).trim_end().to_owned())
    }

    /// Sends a command that gives no answer, or none yet.
    pub(crate) fn tell(&self, command: &str) -> Result<()> {
        self.vm
            .send(format!("{command}\n").as_bytes())
            .with_context(|| self.vm.evidence(format!("cannot send {command:?}")))
    }

    /// Gives a command and returns the answer's line.
    pub(crate) fn ask(&self, command: &str) -> Result<String> {
        self.tell(command)?;
        self.line()
            .with_context(|| format!("{command:?} has no answer"))
    }

    /// Gives a command that must succeed, and returns what follows `ok`.
    pub(crate) fn ok(&self, command: &str) -> Result<String> {
        let line = self.ask(command)?;
        match line.strip_prefix("ok") {
            Some(answer) => Ok(answer.trim_start().to_owned()),
            None => Err(self.vm.evidence(format!("{command:?} gave {line:?}"))),
        }
    }

    /// Gives a command that must succeed with exactly this answer.
    pub(crate) fn expect(&self, command: &str, wanted: &str) -> Result<()> {
        let answer = self.ok(command)?;
        self.ensure(answer == wanted, || {
            format!("{command:?} gave {answer:?}, and not {wanted:?}")
        })
    }

    /// Gives a command that must fail with exactly this error.
    pub(crate) fn expect_err(&self, command: &str, wanted: &str) -> Result<()> {
        let line = self.ask(command)?;
        self.ensure(line.strip_prefix("err ") == Some(wanted), || {
            format!("{command:?} gave {line:?}, and not the error {wanted:?}")
        })
    }

    /// The value behind `name=` in a command's answer.
    pub(crate) fn field(&self, command: &str, name: &str) -> Result<String> {
        let answer = self.ok(command)?;
        field(&answer, name).with_context(|| {
            self.vm
                .evidence(format!("{command:?} gave no {name:?} in {answer:?}"))
        })
    }

    /// Gives a command that waits for the serial port's interrupt, causes that with a byte, and has this CPU
    /// take it.
    pub(crate) fn expect_interrupt(&self, command: &str, byte: u8, cpu: u32) -> Result<()> {
        let armed = self.ask(command)?;
        self.ensure(armed == "waiting", || format!("{command:?} gave {armed:?}"))?;
        self.vm.send(&[byte])?;
        let answer = self.line()?;
        let wanted = format!("ok pin=4 cpu={cpu} byte={byte:#x}");
        self.ensure(answer == wanted, || {
            format!("the interrupt gave {answer:?}, and not {wanted:?}")
        })
    }

    /// Starts a CPU by INIT and SIPI; it must come alive with that APIC id for the n-th time.
    pub(crate) fn start_cpu(&self, id: u32, starts: u32) -> Result<()> {
        self.expect(
            &format!("sipi {id}"),
            &format!("{id} alive apic={id} starts={starts} beats=0"),
        )
    }

    /// An error with evidence unless something holds.
    pub(crate) fn ensure(&self, holds: bool, what: impl FnOnce() -> String) -> Result<()> {
        ensure!(holds, self.vm.evidence(what()));
        Ok(())
    }

    /// Presses the power button by a signal, and waits until the VMM says so: a second signal before that
    /// would be the same to it as one.
    pub(crate) fn press_power_button(&self) -> Result<()> {
        self.vm.press_power_button()?;
        self.wait_said("power button")
    }

    /// Waits until the VMM has said a text.
    pub(crate) fn wait_said(&self, text: &str) -> Result<()> {
        let end = Instant::now() + SOON;
        match self.vm.stderr().wait_for(text, 0, end) {
            Ok(_) => Ok(()),
            Err(why) => Err(self.vm.evidence(format!(
                "waited {SOON:?} for the VMM to say {text:?}; {why}"
            ))),
        }
    }

    /// Waits until the VMM has ended with this exit code, having said all of these words.
    pub(crate) fn wait_code(&self, code: i32, words: &[&str]) -> Result<()> {
        let status: ExitStatus = self.vm.wait_exit(SOON)?;
        self.ensure(status.code() == Some(code), || {
            format!("the VMM ended with {status}, and not with code {code}")
        })?;
        // Its last words may still be in the pipe when its end is known.
        words.iter().try_for_each(|word| self.wait_said(word))
    }

    /// Powers off as an operating system does; the VMM must end well.
    pub(crate) fn power_off(&self) -> Result<()> {
        self.tell("off 5")?;
        self.wait_code(0, &[])
    }
}

/// A number as the guest prints it.
pub(crate) fn number(text: &str) -> Result<u64> {
    let digits = text
        .strip_prefix("0x")
        .with_context(|| format!("{text:?} is no number of the guest's"))?;
    Ok(u64::from_str_radix(digits, 16)?)
}

/// The value behind `name=` among an answer's words.
pub(crate) fn field(answer: &str, name: &str) -> Option<String> {
    answer.split_whitespace().find_map(|word| {
        let value = word.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.to_owned())
    })
}
