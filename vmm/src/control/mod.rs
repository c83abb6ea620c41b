//! The control thread: the one writer of everything that a machine is.
//!
//! vCPU threads, devices and signals post events to it; it alone starts, stops and restarts machines.

mod console;
mod driver;
mod hotplug;
mod lifecycle;
mod prepared;
mod published;
mod queue;
mod signals;
mod sockets;
mod terminal;
mod vm;
mod wish;
mod wishes;

pub use prepared::Prepared;
pub use signals::Signals;

use crate::agent::AgentNotifier;
use crate::config::Rules;
use crate::end::End;
use crate::error::Result;
use crate::hotplug::client::Client;
use crate::hotplug::notifier::Notifier;
use crate::isolation::{Role, confine};
use crate::vsock;
use driver::Driver;
use published::Published;
use queue::Queue;
use std::sync::Arc;

/// The control thread to be, and a way to reach it.
pub struct Control {
    queue: Queue,
    published: Published,
    notifiers: Vec<Box<dyn Notifier>>,
    sockets: Option<vsock::Client>,
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
            sockets: None,
        })
    }

    /// Registers a part of this process that has to let go of a vCPU before it is taken away, behind those that
    /// are registered already. It is called on the control thread.
    pub fn register(&mut self, notifier: Box<dyn Notifier>) {
        self.notifiers.push(notifier);
    }

    /// Has this thread serve the socket devices of machines. Without one, no machine can have any.
    /// By them it also reaches the agent in the guest, if there is one.
    pub fn serve_sockets(&mut self, thread: vsock::Client) {
        self.register(Box::new(AgentNotifier::new(thread.clone())));
        self.sockets = Some(thread);
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

    /// Runs machines until the process is to end, on the calling thread: the one that is prepared, or those that
    /// clients ask for. The last one is gone then; but where somebody has been inside of a vCPU for too long, it stays until the
    /// process is gone.
    #[must_use]
    pub fn run(self, rules: Rules, prepared: Option<Prepared>, signals: Signals) -> End {
        if let Err(error) = confine(Role::Vmm) {
            return End::Failed(error);
        }
        match Driver::new(rules, prepared, signals, self) {
            Ok(driver) => driver.run_to_end(),
            Err(error) => End::Failed(error),
        }
    }
}
