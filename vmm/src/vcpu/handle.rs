//! The owner's side of a vCPU thread: what it is told, its kick, its join handle.

use super::orders::{Order, Orders};
use super::{Reports, kick, run};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use crate::hotplug::view::VcpuRef;
use crate::kvm::Vm;
use crate::tally::VcpuTally;
use kvm_ioctls::VcpuFd;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
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

/// What a vCPU thread is made from.
pub struct Spec {
    /// Which one it is.
    pub vcpu: VcpuRef,
    /// Its descriptor.
    pub fd: VcpuFd,
    /// Whether the vCPU is in the state in which it is to start; otherwise it is put into that of a new one
    /// first, as it is before each later run.
    pub fresh: bool,
    /// Whether its machine starts with it, and cannot go on without it.
    pub boots: bool,
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
                let remedy = "raise the limit of threads (`ulimit -u`, or pids.max of the control group: TasksMax= of systemd)";
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
        // Where it is parked it waits for just that.
        self.orders.give(Order::Run(run), || ());
    }

    /// Has it leave the guest, after this run; it reports [`Reports::parked`]. Asked again, it is kicked again.
    pub fn park(&mut self, run: u64) {
        self.running = false;
        self.orders.give(Order::Park(run), || self.kick());
    }

    /// Has it stay out of the guest, whatever its orders are, for the pause with this number; it reports
    /// [`Reports::held`]. Its orders are obeyed all the same.
    pub fn hold(&self, pause: u64) {
        self.orders.hold(pause, || self.kick());
    }

    /// Lets it go on with its run where it was held.
    pub fn release(&self) {
        self.orders.release();
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.vcpu.to_string()
    }

    /// The thread's id, once it runs.
    #[must_use]
    pub fn tid(&self) -> Option<i32> {
        self.orders.tid()
    }

    /// Whether it was last told to run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Has it end; it reports [`Reports::ended`].
    pub fn end(&self) {
        self.orders.give(Order::End, || self.kick());
    }

    /// Ends the thread and joins it, or gives up on it at `deadline`. Returns the vCPU's descriptor, which a
    /// panic loses.
    pub fn finish(&mut self, deadline: Instant) -> Option<VcpuFd> {
        let thread = self.thread.take()?;
        self.orders.give(Order::End, || kick::kick(&thread));
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
