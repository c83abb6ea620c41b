//! The thread's side: one function per state, each returning the next.

use super::handle::{Order, Orders, Spec};
use super::kick::{self, Armed};
use super::{Exit, Fault, Registers, exits};
use kvm_bindings::KVM_MP_STATE_UNINITIALIZED;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use vm_device::device_manager::IoManager;

/// How long a vCPU that waits for INIT and is woken for nothing stays away from `KVM_RUN`: another vCPU's
/// paravirtual kick makes that return at once, again and again.
const BACK_OFF: Duration = Duration::from_millis(10);

/// A vCPU on its thread.
struct Vcpu {
    fd: Armed,
    bus: Arc<IoManager>,
    orders: Arc<Orders>,
}

enum State {
    Parked,
    Running,
    Ended(Exit),
}

impl From<Order> for State {
    fn from(order: Order) -> Self {
        match order {
            Order::Park => Self::Parked,
            Order::Run => Self::Running,
            Order::End => Self::Ended(Exit::Ordered),
        }
    }
}

/// The thread.
pub(super) fn main(spec: Spec, orders: &Arc<Orders>, ready: &SyncSender<()>) {
    let Spec {
        vcpu,
        fd,
        vm,
        bus,
        reports,
    } = spec;
    let exit = catch_unwind(AssertUnwindSafe(|| {
        // Dropped last: the VM and its memory outlive the descriptor.
        let _vm = vm;
        let mut vcpu = Vcpu {
            fd: kick::arm(fd),
            bus,
            orders: orders.clone(),
        };
        // A spawner that has given up drops its handle, and with it orders the end.
        let _ = ready.send(());
        vcpu.follow_orders()
    }));
    let exit = exit.unwrap_or_else(|panic| Exit::Fault(Fault::Panic(message(&*panic))));
    orders.set_ended();
    reports.ended(vcpu, exit);
}

impl Vcpu {
    fn follow_orders(&mut self) -> Exit {
        let mut state = State::Parked;
        loop {
            state = match state {
                State::Parked => self.parked(),
                State::Running => self.running(),
                State::Ended(exit) => return exit,
            };
        }
    }

    fn parked(&self) -> State {
        self.orders.wait_while(Order::Park, None).into()
    }

    fn running(&mut self) -> State {
        loop {
            match exits::serve(&mut self.fd, &self.bus) {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return State::Ended(Exit::Fault(fault)),
                Err(libc::EINTR) => {
                    self.fd.acknowledge();
                    match self.orders.current() {
                        Order::Run => {}
                        order => return order.into(),
                    }
                }
                // INIT and SIPI came, or something woke a CPU that waits for them.
                Err(libc::EAGAIN) => self.back_off_if_uninitialized(),
                Err(errno) => {
                    let registers = Registers::read(&self.fd);
                    return State::Ended(Exit::Fault(Fault::Run { errno, registers }));
                }
            }
        }
    }

    fn back_off_if_uninitialized(&self) {
        let state = self.fd.get_mp_state().map(|state| state.mp_state);
        if state == Ok(KVM_MP_STATE_UNINITIALIZED) {
            self.orders.wait_while(Order::Run, Some(BACK_OFF));
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}
