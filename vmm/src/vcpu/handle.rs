//! The owner's side of a vCPU thread: its orders, its kick, its join handle.

use super::{Reports, VcpuRef, kick, run};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::kvm::Vm;
use crate::tally::VcpuTally;
use kvm_ioctls::VcpuFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::error;
use vm_device::device_manager::IoManager;

/// A vCPU's stack: our own frames, and a signal's.
const STACK: usize = 256 << 10;
/// How long a thread may take to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How often a thread that is to end is kicked again.
const REKICK: Duration = Duration::from_millis(50);

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
    fn new(pause: Option<u64>) -> Self {
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

    fn give(&self, order: Order) {
        let mut standing = self.lock();
        // An end is final.
        if standing.told.order != Order::End {
            standing.told.order = order;
        }
        self.changed.notify_all();
    }

    fn set_pause(&self, pause: Option<u64>) {
        self.lock().told.pause = pause;
        self.changed.notify_all();
    }

    /// What is in force.
    pub(super) fn current(&self) -> Told {
        self.lock().told
    }

    /// Waits until what is in force is something else than `told`, at most `limit`; returns it.
    pub(super) fn wait_while(&self, told: Told, limit: Option<Duration>) -> Told {
        let same = |standing: &mut Standing| standing.told == told;
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
        after.told
    }

    /// Says which thread follows the orders.
    pub(super) fn set_tid(&self, tid: i32) {
        self.lock().tid = Some(tid);
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
    /// Its descriptor.
    pub fd: VcpuFd,
    /// Whether the vCPU is in the state in which it is to start; otherwise it is put into that of a new one
    /// first, as it is before each later run.
    pub fresh: bool,
    /// The number of the pause, if it is made in one.
    pub pause: Option<u64>,
    /// The VM, kept alive as long as the thread.
    pub vm: Arc<Vm>,
    /// The devices.
    pub bus: Arc<IoManager>,
    /// Where its reports go.
    pub reports: Arc<dyn Reports>,
    /// What it counts.
    pub tally: Arc<VcpuTally>,
}

/// A vCPU thread. Dropping it ends the thread and waits for that, with a limit.
pub struct Handle {
    vcpu: VcpuRef,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<Option<VcpuFd>>>,
    running: bool,
}

impl Handle {
    /// Starts the thread, parked.
    ///
    /// # Errors
    /// [`Error::Host`] where the host has no room for it, with the descriptor, which KVM gives only once.
    pub fn spawn(spec: Spec) -> Result<Self, (Error, VcpuFd)> {
        let vcpu = spec.vcpu;
        if let Err(error) = kick::install() {
            return Err((error, spec.fd));
        }
        let orders = Arc::new(Orders::new(spec.pause));
        let own_orders = orders.clone();
        // A thread that cannot be made drops what it was to be made from, so it gets that later.
        let (give, take) = sync_channel(1);
        let builder = thread::Builder::new()
            .name(vcpu.to_string())
            .stack_size(STACK);
        let main = move || run::main(take.recv().ok()?, &own_orders);
        let thread = failpoint!(Spawn, builder.spawn(main));
        let thread = match thread {
            Ok(thread) => thread,
            Err(error) => {
                let asked = format!("thread of {vcpu}");
                let remedy = "raise the limit of threads (`ulimit -u`)";
                return Err((Error::host(asked, error, remedy), spec.fd));
            }
        };
        // There is room for one, and the thread takes nothing else.
        let _ = give.send(spec);
        Ok(Self {
            vcpu,
            orders,
            thread: Some(thread),
            running: false,
        })
    }

    /// Lets it run for the n-th time, n being `run`; it reports [`Reports::ready`].
    pub fn run(&mut self, run: u64) {
        self.running = true;
        self.orders.give(Order::Run(run));
    }

    /// Has it leave the guest, after this run; it reports [`Reports::parked`]. Asked again, it is kicked again.
    pub fn park(&mut self, run: u64) {
        self.running = false;
        self.orders.give(Order::Park(run));
        self.kick();
    }

    /// Has it stay out of the guest, whatever its orders are, for the pause with this number; it reports
    /// [`Reports::held`]. Its orders are obeyed all the same.
    pub fn hold(&self, pause: u64) {
        self.orders.set_pause(Some(pause));
        self.kick();
    }

    /// Lets it go on with its run where it was held.
    pub fn release(&self) {
        self.orders.set_pause(None);
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.vcpu.to_string()
    }

    /// The thread's id, once it runs.
    #[must_use]
    pub fn tid(&self) -> Option<i32> {
        self.orders.lock().tid
    }

    /// Whether it was last told to run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Has it end; it reports [`Reports::ended`].
    pub fn end(&self) {
        self.orders.give(Order::End);
        self.kick();
    }

    /// Ends the thread and joins it, or gives up on it at `deadline`. Returns the vCPU's descriptor, which a
    /// panic loses.
    pub fn finish(&mut self, deadline: Instant) -> Option<VcpuFd> {
        let thread = self.thread.take()?;
        self.orders.give(Order::End);
        kick::kick(&thread);
        while !self.orders.wait_ended(REKICK) {
            if Instant::now() >= deadline {
                error!("{} does not end: given up on", self.vcpu);
                return None;
            }
            kick::kick(&thread);
        }
        // It has ended but for returning; a panic of its was reported already.
        thread.join().unwrap_or_default()
    }

    /// Kicks it.
    pub fn kick(&self) {
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
