//! The thread's side: one function per state, each returning the next.

use super::handle::{Order, Orders, Spec};
use super::kick::{self, Armed};
use super::{Exit, Fault, Registers, Reports, VcpuRef, exits};
use crate::arch::regs;
use kvm_bindings::{KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::VcpuFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use vm_device::device_manager::IoManager;

/// How long a vCPU that waits for INIT and is woken for nothing stays away from `KVM_RUN`: another vCPU's
/// paravirtual kick makes that return at once, again and again.
const BACK_OFF: Duration = Duration::from_millis(10);

/// How long after INIT SIPI is first looked for; doubled each time.
const SIPI_PAUSE: Duration = Duration::from_micros(50);

/// A vCPU on its thread.
struct Vcpu {
    me: VcpuRef,
    fd: Armed,
    fresh: bool,
    bus: Arc<IoManager>,
    orders: Arc<Orders>,
    reports: Arc<dyn Reports>,
}

enum State {
    /// Parked after this run.
    Parked(u64),
    Running(u64),
    /// Parked, because this run could not begin.
    Failed(u64),
    Ended(Exit),
}

impl From<Order> for State {
    fn from(order: Order) -> Self {
        match order {
            Order::Park(run) => Self::Parked(run),
            Order::Run(run) => Self::Running(run),
            Order::End => Self::Ended(Exit::Ordered),
        }
    }
}

/// The thread. It gives the descriptor back.
pub(super) fn main(spec: Spec, orders: &Arc<Orders>) -> Option<VcpuFd> {
    let Spec {
        vcpu,
        fd,
        fresh,
        vm,
        bus,
        reports,
    } = spec;
    orders.set_tid(nix::unistd::gettid().as_raw());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        // Dropped last: the VM and its memory outlive the descriptor.
        let _vm = vm;
        let mut vcpu = Vcpu {
            me: vcpu,
            fd: kick::arm(fd),
            fresh,
            bus,
            orders: orders.clone(),
            reports: reports.clone(),
        };
        let exit = vcpu.follow_orders();
        (exit, Some(vcpu.fd.disarm()))
    }));
    let (exit, fd) = ended.unwrap_or_else(|panic| {
        let fault = Fault::Panic(message(&*panic));
        (Exit::Fault(fault), None)
    });
    orders.set_ended();
    reports.ended(vcpu, exit);
    fd
}

impl Vcpu {
    fn follow_orders(&mut self) -> Exit {
        let mut state = State::from(Order::Park(0));
        loop {
            state = match state {
                State::Parked(run) => self.parked(run),
                State::Running(run) => self.running(run),
                State::Failed(run) => self.orders.wait_while(Order::Run(run), None).into(),
                State::Ended(exit) => return exit,
            };
        }
    }

    fn parked(&self, run: u64) -> State {
        // It is born parked, after no run.
        if run != 0 {
            self.reports.parked(self.me, run);
        }
        self.orders.wait_while(Order::Park(run), None).into()
    }

    fn running(&mut self, run: u64) -> State {
        if !self.fresh
            && let Err(why) = regs::make_new(&self.fd)
        {
            self.reports.not_ready(self.me, run, why);
            return State::Failed(run);
        }
        self.fresh = false;
        let mut started = false;
        self.reports.ready(self.me, run);
        loop {
            match exits::serve(&mut self.fd, &self.bus) {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return State::Ended(Exit::Fault(fault)),
                Err(libc::EINTR) => {
                    self.fd.acknowledge();
                    match self.orders.current() {
                        Order::Run(same) if same == run => {}
                        order => return order.into(),
                    }
                }
                // INIT and SIPI came, or something woke a CPU that waits for them.
                Err(libc::EAGAIN) => {
                    if self.is_started(run) && !started {
                        started = true;
                        self.reports.started(self.me, run);
                    }
                }
                Err(errno) => {
                    let registers = Registers::read(&self.fd);
                    return State::Ended(Exit::Fault(Fault::Run { errno, registers }));
                }
            }
        }
    }

    /// Whether both INIT and SIPI have come, or another order first.
    ///
    /// `KVM_RUN` comes back once after INIT, and not again after SIPI. So that the start can be told from an
    /// INIT alone, the vCPU stays out of it until SIPI is there, which guests send within microseconds; KVM
    /// keeps it, and asking for the state takes it up.
    fn is_started(&self, run: u64) -> bool {
        let mut pause = SIPI_PAUSE;
        loop {
            let limit = match self.fd.get_mp_state().map(|state| state.mp_state) {
                Ok(KVM_MP_STATE_UNINITIALIZED) => BACK_OFF,
                Ok(KVM_MP_STATE_INIT_RECEIVED) => pause,
                Ok(_) => return true,
                // No proof of anything.
                Err(_) => BACK_OFF,
            };
            let order = self.orders.wait_while(Order::Run(run), Some(limit));
            if limit == BACK_OFF || order != Order::Run(run) {
                return false;
            }
            pause = (pause * 2).min(BACK_OFF / 2);
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}
