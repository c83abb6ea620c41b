//! What a vCPU thread is told, by the one that owns it.
//!
//! An order is written down first, and the thread made to look then: whoever is kicked finds what the kick was about.

use crate::sync::{Condvar, Mutex, MutexGuard, wait_while};
use std::sync::PoisonError;
use std::time::Duration;

/// What a thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// To be parked, after this run.
    Park(u64),
    /// To run the vCPU, for the n-th time.
    Run(u64),
    /// To end.
    End,
}

/// What a thread was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// What it is to do.
    pub(super) order: Order,
    /// The number of the pause, if there is one: whatever the order is, the thread stays out of the guest.
    pub(super) pause: Option<u64>,
}

/// What a thread was told, and whether it still listens.
struct Standing {
    told: Told,
    tid: Option<i32>,
    ended: bool,
}

/// A thread's orders.
pub(super) struct Orders {
    standing: Mutex<Standing>,
    changed: Condvar,
}

impl Orders {
    pub(super) fn new(pause: Option<u64>) -> Self {
        let standing = Standing {
            told: Told {
                order: Order::Park(0),
                pause,
            },
            tid: None,
            ended: false,
        };
        Self {
            standing: Mutex::new(standing),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order; `kick` has a thread that is in the guest look.
    pub(super) fn give(&self, order: Order, kick: impl FnOnce()) {
        let mut standing = self.lock();
        // An end is final.
        if standing.told.order != Order::End {
            standing.told.order = order;
        }
        drop(standing);
        self.changed.notify_all();
        kick();
    }

    /// Has the thread stay out of the guest for the pause with this number; `kick` as above.
    pub(super) fn hold(&self, pause: u64, kick: impl FnOnce()) {
        self.lock().told.pause = Some(pause);
        self.changed.notify_all();
        kick();
    }

    /// The pause is over.
    pub(super) fn release(&self) {
        self.lock().told.pause = None;
        self.changed.notify_all();
    }

    /// What is in force.
    pub(super) fn current(&self) -> Told {
        self.lock().told
    }

    /// Waits until what is in force is something else than `told`, at most `limit`; returns it.
    pub(super) fn wait_while(&self, told: Told, limit: Option<Duration>) -> Told {
        let same = |standing: &mut Standing| standing.told == told;
        wait_while(&self.changed, self.lock(), limit, same).told
    }

    /// Says which thread follows the orders.
    pub(super) fn set_tid(&self, tid: i32) {
        self.lock().tid = Some(tid);
    }

    /// The thread that follows the orders, once it runs.
    pub(super) fn tid(&self) -> Option<i32> {
        self.lock().tid
    }

    /// Says that the thread follows no order any more.
    pub(super) fn set_ended(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until the thread has ended, at most `limit`; returns whether it has.
    pub(super) fn wait_ended(&self, limit: Duration) -> bool {
        let listens = |standing: &mut Standing| !standing.ended;
        wait_while(&self.changed, self.lock(), Some(limit), listens).ended
    }
}
