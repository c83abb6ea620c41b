//! The thread's side: one function per state, each returning the next.

use super::cpu::{Cpu, Kvm};
use super::handle::Spec;
use super::orders::{Order, Orders, Told};
use super::{Exit, Fault, Reports, kick};
use crate::error::Result;
use crate::hotplug::view::VcpuRef;
use crate::isolation::{Role, confine};
use kvm_bindings::{KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::VcpuFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// How long a vCPU that waits for INIT and is woken for nothing stays away from `KVM_RUN`: another vCPU's
/// paravirtual kick makes that return at once, again and again.
const BACK_OFF: Duration = Duration::from_millis(10);

/// The vCPU that needs neither INIT nor SIPI.
const BOOT_CPU: u32 = 0;

/// How long after INIT SIPI is first looked for; doubled each time.
const SIPI_PAUSE: Duration = Duration::from_micros(50);

/// A vCPU on its thread.
pub(super) struct Vcpu<C> {
    pub(super) me: VcpuRef,
    pub(super) cpu: C,
    /// The thread is under its filter of system calls: before that it does not enter the guest.
    pub(super) confined: bool,
    /// It is in the state in which it is to start.
    pub(super) fresh: bool,
    pub(super) orders: Arc<Orders>,
    pub(super) reports: Arc<dyn Reports>,
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
        tally,
        boots,
        pause: _,
    } = spec;
    tally.thread_begins();
    let confined = confine(Role::Vcpu);
    orders.set_tid(nix::unistd::gettid().as_raw());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let confined = match confined {
            Ok(()) => true,
            Err(why) if boots => return (Exit::Fault(Fault::Host(why)), Some(fd)),
            // It is tried once more when the thread is to enter the guest, and says then why it does not.
            Err(_) => false,
        };
        // Dropped last: the VM and its memory outlive the descriptor.
        let _vm = vm;
        let mut vcpu = Vcpu {
            me: vcpu,
            cpu: Kvm::new(kick::arm(fd), bus, tally.clone()),
            confined,
            fresh,
            orders: orders.clone(),
            reports: reports.clone(),
        };
        let exit = vcpu.follow_orders();
        (exit, Some(vcpu.cpu.into_fd()))
    }));
    let (exit, fd) = ended.unwrap_or_else(|panic| {
        let fault = Fault::Panic(message(&*panic));
        (Exit::Fault(fault), None)
    });
    tally.thread_ends();
    orders.set_ended();
    reports.ended(vcpu, exit);
    fd
}

impl<C: Cpu> Vcpu<C> {
    /// Does what it is told, until that is to end or the vCPU cannot go on.
    pub(super) fn follow_orders(&mut self) -> Exit {
        let mut state = State::from(Order::Park(0));
        loop {
            state = match state {
                State::Parked(run) => self.parked(run),
                State::Running(run) => self.running(run),
                State::Failed(run) => self.outside(|told| told.order == Order::Run(run)).into(),
                State::Ended(exit) => return exit,
            };
        }
    }

    fn parked(&self, run: u64) -> State {
        // It is born parked, after no run.
        if run != 0 {
            self.reports.parked(self.me, run);
        }
        self.outside(|told| told.order == Order::Park(run)).into()
    }

    /// Stays outside of the guest while `stays` says so, and reports each pause that comes meanwhile. Returns the
    /// order that is in force then.
    fn outside(&self, mut stays: impl FnMut(Told) -> bool) -> Order {
        let mut told = self.orders.current();
        while stays(told) {
            if let Some(pause) = told.pause {
                self.reports.held(self.me, pause);
            }
            told = self.orders.wait_while(told, None);
        }
        told.order
    }

    /// Waits out a pause, if there is one; returns another order than to go on with this run.
    ///
    /// Nothing of the vCPU is touched but the flag by which its guest learns of the pause. Called only where no
    /// access of the guest's is under way: while the vCPU waits to be started, and after a `KVM_RUN` that a kick
    /// has made return. That one completes an access first; one of several parts, it ends with the next part
    /// instead of by the kick.
    fn other_order(&self, run: u64) -> Option<Order> {
        let same = Order::Run(run);
        let mut held = false;
        let order = self.outside(|told| {
            let stays = told.order == same && told.pause.is_some();
            held |= stays;
            stays
        });
        if held && order == same {
            self.cpu.tell_of_pause();
        }
        (order != same).then_some(order)
    }

    /// Sees to it that the next run may begin, of whose vCPU the state is used up then.
    fn prepare(&mut self) -> Result<()> {
        if !self.confined {
            confine(Role::Vcpu)?;
            self.confined = true;
        }
        if !self.fresh {
            self.cpu.make_new()?;
        }
        self.fresh = false;
        Ok(())
    }

    fn running(&mut self, run: u64) -> State {
        if let Err(why) = self.prepare() {
            self.reports.not_ready(self.me, run, why);
            return State::Failed(run);
        }
        let mut started = false;
        self.reports.ready(self.me, run);
        // In a pause it does not enter the guest at all.
        if let Some(order) = self.other_order(run) {
            return order.into();
        }
        loop {
            let woken = match self.cpu.run() {
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => return State::Ended(Exit::Fault(fault)),
                // A kick, for another order or a pause.
                Err(libc::EINTR) => {
                    self.cpu.acknowledge();
                    if let Some(order) = self.other_order(run) {
                        return order.into();
                    }
                    false
                }
                // INIT and SIPI came, or something woke a CPU that waits for them.
                Err(libc::EAGAIN) => true,
                Err(errno) => {
                    let registers = self.cpu.registers();
                    return State::Ended(Exit::Fault(Fault::Run { errno, registers }));
                }
            };
            // Also after a kick: where INIT comes together with one, it is the kick that `KVM_RUN` speaks of.
            if !started && self.me.id != BOOT_CPU && self.is_started(run) {
                started = true;
                self.reports.started(self.me, run);
            } else if woken {
                self.stay_away(run, BACK_OFF);
            }
        }
    }

    /// Stays away from `KVM_RUN` for a while, if nothing comes that this run is to heed.
    fn stay_away(&self, run: u64, limit: Duration) {
        let going_on = Told {
            order: Order::Run(run),
            pause: None,
        };
        self.orders.wait_while(going_on, Some(limit));
    }

    /// Whether both INIT and SIPI have come; waits for SIPI, as long as there is no other order.
    ///
    /// `KVM_RUN` comes back once after INIT, and not again after SIPI. So that the start can be told from an
    /// INIT alone, the vCPU stays out of it until SIPI is there, which guests send within microseconds, if no
    /// pause comes in between; KVM keeps it, and asking for the state takes it up.
    fn is_started(&self, run: u64) -> bool {
        let mut limit = SIPI_PAUSE;
        loop {
            match self.cpu.mp_state() {
                Ok(KVM_MP_STATE_INIT_RECEIVED) => {}
                // It is asked again: nobody else would tell.
                Err(error) if limit == SIPI_PAUSE => {
                    warn!(
                        "{}: KVM does not say whether the guest has started it: {error}",
                        self.me
                    );
                }
                Err(_) => {}
                // No proof of anything.
                Ok(KVM_MP_STATE_UNINITIALIZED) => return false,
                Ok(_) => return true,
            }
            self.stay_away(run, limit);
            // The kick that came with another order makes the next `KVM_RUN` return.
            if self.other_order(run).is_some() {
                return false;
            }
            limit = (limit * 2).min(BACK_OFF / 2);
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}
