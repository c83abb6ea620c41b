//! The control thread: the one writer of everything that a machine is.
//!
//! vCPU threads, devices and signals post events to it; it alone starts, stops and restarts machines.

mod console;
mod driver;
mod hotplug;
mod lifecycle;
mod queue;
mod signals;
mod terminal;
mod vm;
mod wish;
mod wishes;

pub use signals::Signals;

use crate::config::{Rules, VmConfig};
use crate::end::End;
use crate::error::Result;
use crate::hotplug::client::Client;
use crate::hotplug::notifier::Notifier;
use crate::isolation::seccomp::{Role, confine};
use driver::Driver;
use hotplug::Published;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use queue::Queue;
use std::sync::Arc;
use tracing::debug;

/// The control thread to be, and a way to reach it.
pub struct Control {
    queue: Queue,
    published: Published,
    notifiers: Vec<Box<dyn Notifier>>,
}

impl Control {
    /// A control thread to be.
    ///
    /// # Errors
    /// [`crate::Error::Host`] where the host has no descriptor for it.
    pub fn new() -> Result<Self> {
        Ok(Self {
            queue: Queue::new()?,
            published: Published::default(),
            notifiers: Vec::new(),
        })
    }

    /// Registers a part of this process that has to let go of a vCPU before it is taken away, behind those that
    /// are registered already. It is called on the control thread.
    pub fn register(&mut self, notifier: Box<dyn Notifier>) {
        self.notifiers.push(notifier);
    }

    /// A client; its calls are answered while the control thread runs.
    #[must_use]
    pub fn client(&self) -> Client {
        let Published {
            view,
            events,
            tally,
        } = &self.published;
        let calls = Arc::new(self.queue.post(0));
        Client::new(calls, view.subscribe(), events.events(), tally.clone())
    }

    /// Runs machines until the process is to end, on the calling thread: the one that is described by `config`,
    /// or those that clients ask for.
    #[must_use]
    pub fn run(self, rules: Rules, config: Option<VmConfig>, signals: Signals) -> End {
        raise_descriptors();
        if let Err(error) = confine(Role::Vmm) {
            return End::Failed(error);
        }
        match Driver::new(rules, config, signals, self) {
            Ok(driver) => driver.run_to_end(),
            Err(error) => End::Failed(error),
        }
    }
}

/// Lets this process have as many descriptors as the host allows it: each vCPU has two, and the 1,024 that are usual at
/// first are for programs that `select`.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        debug!("the limit of descriptors stays: {error}");
    }
}
