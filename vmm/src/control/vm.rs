//! A machine that is described: what it is made of, and what there is of it.

use super::console::Console;
use super::hotplug::Hotplug;
use super::prepared::{FarEnd, Prepared};
use super::queue::Queue;
use super::sockets::Sockets;
use crate::boot::BootFiles;
use crate::config::{GuestEject, VmConfig};
use crate::error::Result;
use crate::kvm::probe;
use crate::machine::{Machine, Posts, check_limits};
use crate::socket::Stale;
use crate::vsock;
use event_manager::EventOps;
use hotvisor_devices::ratelimit;
use hotvisor_devices::serial::{Output, Serial};
use kvm_ioctls::Kvm;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a slow reader has for the end of the serial output.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Vm {
    pub(super) machine: Option<Machine>,
    config: Arc<VmConfig>,
    kvm: Kvm,
    files: BootFiles,
    guest_eject: GuestEject,
    output: Arc<Output>,
    console: Console,
    sockets: Sockets,
    /// What its console leads to the first time that it boots, if that is open already.
    far: Option<FarEnd>,
    /// The same file, for a later boot that may not open one of that name.
    kept: Option<File>,
}

/// Where the serial port of one boot writes to.
fn output(queue: &Queue) -> Arc<Output> {
    Arc::new(Output::new(Arc::new(queue.post(0))))
}

impl Vm {
    /// Checks everything that can be checked without leaving traces.
    pub(super) fn describe(
        prepared: Prepared,
        guest_eject: GuestEject,
        queue: &Queue,
        sockets: Option<vsock::Client>,
    ) -> Result<Self> {
        ratelimit::another_machine();
        let Prepared {
            config,
            kvm,
            files,
            far,
            socket,
        } = prepared;
        let sockets = Sockets::new(&config, sockets, socket)?;
        let files = BootFiles::new(files, &config)?;
        check_limits(&kvm, &config)?;
        if files.needs_long_mode() {
            probe::require_long_mode(&kvm)?;
        }
        Ok(Self {
            machine: None,
            config: Arc::new(config),
            kvm,
            files,
            guest_eject,
            output: output(queue),
            console: Console::nowhere(),
            sockets,
            kept: match &far {
                Some(FarEnd::File(file)) => file.try_clone().ok(),
                _ => None,
            },
            far,
        })
    }

    /// Makes the machine, in its `generation`, and then the host's side of its serial port.
    pub(super) fn boot(
        &mut self,
        queue: &Queue,
        generation: u64,
        hotplug: &mut Hotplug,
    ) -> Result<()> {
        // What nobody took of an earlier boot's is not this one's. Output that somebody attends to is not posted, either.
        self.output = output(queue);
        self.sockets.open(&self.config)?;
        let made = self.make(queue, generation, hotplug);
        let console = made.and_then(|()| self.far_end()).and_then(Console::open);
        self.console = console.inspect_err(|_| {
            self.machine = None;
            self.sockets.close();
        })?;
        Ok(())
    }

    fn far_end(&mut self) -> Result<FarEnd> {
        match self.far.take() {
            Some(open) => Ok(open),
            None => FarEnd::open(&self.config.serial, Stale::Kept)
                .map(|(far, _)| far)
                .or_else(|error| match &self.kept {
                    // It was rotated away, say, and no other may be made.
                    Some(kept) => kept.try_clone().map(FarEnd::Further).map_err(|_| error),
                    None => Err(error),
                }),
        }
    }

    /// Makes the machine, instead of the one before.
    pub(super) fn make(
        &mut self,
        queue: &Queue,
        generation: u64,
        hotplug: &mut Hotplug,
    ) -> Result<()> {
        // The old one first: its memory makes room for the new one's.
        self.machine = None;
        let posts = Posts {
            post: queue.post(generation),
            output: self.output.clone(),
            guest_eject: self.guest_eject,
            tally: hotplug.tally().clone(),
            sockets: self.sockets.server().cloned(),
        };
        let first = (generation, hotplug.wanted());
        let machine = Machine::new(&self.kvm, &self.config, &self.files, first, posts)?;
        self.machine = Some(machine);
        Ok(())
    }

    /// Starts to watch what the serial port leads to.
    pub(super) fn start_console(&mut self, ops: &mut EventOps) {
        let port = self.machine.as_ref().and_then(Machine::serial);
        self.console.start(port, ops);
    }

    /// The host's side of the serial port, the guest's, if it is there, and the output between them.
    pub(super) fn serial(&mut self) -> (&mut Console, Option<&Serial>, &Output) {
        let port = self.machine.as_ref().and_then(Machine::serial);
        (&mut self.console, port, &self.output)
    }

    /// When to look whether there is more serial output.
    pub(super) fn output_look(&self) -> Option<Instant> {
        self.console.look_again()
    }

    /// Writes what is left of the serial output.
    pub(super) fn finish_console(&mut self) {
        self.console.finish(&self.output, LAST_WORDS);
    }

    /// Never lets go of the machine: somebody is inside of a vCPU of its, who may use it for as long as that is so. The
    /// process's end takes both at once.
    pub(super) fn leave_machine(&mut self) {
        std::mem::forget(self.machine.take());
    }

    /// Lets go of a machine whose threads have ended, and of what its serial port led to.
    pub(super) fn stop(&mut self, ops: &mut EventOps) {
        self.machine = None;
        self.sockets.close();
        self.finish_console();
        self.console.stop(ops);
    }

    /// What it is to be.
    pub(super) fn config(&self) -> &Arc<VmConfig> {
        &self.config
    }
}
