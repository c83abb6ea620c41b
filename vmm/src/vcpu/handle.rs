//! The owner's side of a vCPU thread: its orders, its kick, its join handle.

use super::{Reports, VcpuRef, kick, run};
use crate::error::{Error, Result};
use crate::kvm::Vm;
use kvm_ioctls::VcpuFd;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::error;
use vm_device::device_manager::IoManager;

/// A vCPU's stack: our own frames, and a signal's.
const STACK: usize = 256 << 10;
/// How long a thread may take until it is set up, and until it has ended.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How often a thread that is to end is kicked again.
const REKICK: Duration = Duration::from_millis(50);

/// What a thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Park,
    Run,
    End,
}

/// What a thread was told, and whether it still listens.
struct Standing {
    order: Order,
    ended: bool,
}

/// A thread's orders.
pub(super) struct Orders {
    standing: Mutex<Standing>,
    changed: Condvar,
}

impl Orders {
    fn new() -> Self {
        let standing = Standing {
            order: Order::Park,
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

    fn give(&self, order: Order) {
        let mut standing = self.lock();
        // An end is final.
        if standing.order != Order::End {
            standing.order = order;
        }
        self.changed.notify_all();
    }

    /// The order in force.
    pub(super) fn current(&self) -> Order {
        self.lock().order
    }

    /// Waits until the order is another one than `order`, at most `limit`; returns the one in force.
    pub(super) fn wait_while(&self, order: Order, limit: Option<Duration>) -> Order {
        let same = |standing: &mut Standing| standing.order == order;
        let guard = self.lock();
        let after = match limit {
            None => self
                .changed
                .wait_while(guard, same)
                .unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                let waited = self.changed.wait_timeout_while(guard, limit, same);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        after.order
    }

    /// Says that the thread follows no order any more.
    pub(super) fn set_ended(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until the thread has ended, at most `limit`; returns whether it has.
    fn wait_ended(&self, limit: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), limit, |s| !s.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

/// What a vCPU thread is made from.
pub struct Spec {
    /// Which one it is.
    pub vcpu: VcpuRef,
    /// Its descriptor, in the state in which it is to start.
    pub fd: VcpuFd,
    /// The VM, kept alive as long as the thread.
    pub vm: Arc<Vm>,
    /// The devices.
    pub bus: Arc<IoManager>,
    /// Where its reports go.
    pub reports: Arc<dyn Reports>,
}

/// A vCPU thread. Dropping it ends the thread and waits for that, with a limit.
pub struct Handle {
    vcpu: VcpuRef,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Starts the thread, parked. Returns when it has set itself up.
    ///
    /// # Errors
    /// [`Error::Host`] where the host has no room for it, or where it does not come up in time.
    pub fn spawn(spec: Spec) -> Result<Self> {
        let vcpu = spec.vcpu;
        let asked = format!("thread of {vcpu}");
        kick::install()?;
        let orders = Arc::new(Orders::new());
        let (ready, is_ready) = sync_channel(1);
        let own_orders = orders.clone();
        let thread = thread::Builder::new()
            .name(vcpu.to_string())
            .stack_size(STACK)
            .spawn(move || run::main(spec, &own_orders, &ready))
            .map_err(|e| Error::host(&asked, e, "raise the limit of threads (`ulimit -u`)"))?;
        let handle = Self {
            vcpu,
            orders,
            thread: Some(thread),
        };
        match is_ready.recv_timeout(PATIENCE) {
            Ok(()) => Ok(handle),
            Err(RecvTimeoutError::Timeout) => Err(Error::host(
                asked,
                format!("not ready after {} s", PATIENCE.as_secs()),
                "see whether the host is overloaded",
            )),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::host(asked, "it ended in its set-up", "see the log"))
            }
        }
    }

    /// Lets it run.
    pub fn run(&self) {
        self.orders.give(Order::Run);
    }

    /// Has it end; it reports [`Reports::ended`].
    pub fn end(&self) {
        self.orders.give(Order::End);
        self.kick();
    }

    /// Ends the thread and joins it, or gives up on it at `deadline`.
    pub fn finish(&mut self, deadline: Instant) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.orders.give(Order::End);
        kick::kick(&thread);
        while !self.orders.wait_ended(REKICK) {
            if Instant::now() >= deadline {
                return error!("{} does not end: given up on", self.vcpu);
            }
            kick::kick(&thread);
        }
        // It has ended but for returning; a panic of its was reported already.
        let _ = thread.join();
    }

    fn kick(&self) {
        if let Some(thread) = &self.thread {
            kick::kick(thread);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.finish(Instant::now() + PATIENCE);
    }
}
