//! The host's side of the agent in the guest, where there is one (`resources/agent`): what it is asked for, and what its
//! word is worth.
//!
//! The agent connects to port [`PORT`] of the host by the guest's socket device. Nobody listens there but this: a
//! [`Session`] on the thread `vsock`, which is the far end of that connection. To the coordinator it is one of the host-side
//! notifiers ([`AgentNotifier`]): it is asked before the guest's kernel is, so that it can move work away from the CPU and have
//! grace periods hurried before anybody waits for one.
//!
//! | an agent may | and then |
//! |---|---|
//! | not be there, or not speak our version | nothing is asked of it |
//! | not answer | the operation goes on after [`PATIENCE`], and the next one without it, until it says something |
//! | say anything that is no message, or anything before hello | its connection ends |
//! | say more than [`MOST_MESSAGES`] things in a second | its connection ends |
//! | not read | what it is told beyond [`MOST_OUT`] is not said, and the operation goes on without it |
//! | answer to what it was not asked, or twice, or about another CPU | it is not heard |
//! | say that it has done what it has not, or not done what it has | the operation goes on, and what becomes of it the guest's kernel says |
//! | go, connect again, or twice | what was asked of the one before is as good as answered; the last one counts |

mod notifier;
mod session;

#[cfg(test)]
mod tests;

pub use hotvisor_protocol::PORT;
pub use notifier::AgentNotifier;
pub use session::{MOST_MESSAGES, MOST_OUT, PATIENCE, Session};

use crate::hotplug::notifier::Done;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an agent is there that answers.
#[derive(Clone, Debug, Default)]
pub struct Presence(Arc<AtomicBool>);

impl Presence {
    /// Whether it is worth asking it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, there: bool) {
        self.0.store(there, Ordering::Relaxed);
    }
}

/// Somebody who waits for the agent's answer. Whatever becomes of it, dropping this lets him go on: without an agent, an
/// operation goes on as well.
#[derive(Debug)]
pub struct Waits(Option<Done>);

impl Waits {
    /// It is `done` that waits.
    #[must_use]
    pub fn new(done: Done) -> Self {
        Self(Some(done))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done.ready();
        }
    }
}
