//! vCPU threads: one named thread each, which alone touches its vCPU's descriptor; but for its [`Made`], while the
//! machine is paused.
//!
//! A thread is born parked and told what to do through its [`Handle`]; what becomes of it, it reports
//! through [`Reports`]. It never decides anything about another thread.

mod cpu;
mod exits;
mod handle;
#[cfg(test)]
#[cfg(feature = "loom")]
mod interleaved;
pub mod kick;
mod made;
mod orders;
mod raw;
mod registers;
mod run;

pub(crate) use handle::PATIENCE;
pub use handle::{Handle, Spec};
pub use made::Made;
pub use registers::Registers;

use crate::error::Error;
use crate::hotplug::view::VcpuRef;

/// Why a vCPU cannot go on.
#[derive(Clone, Debug)]
pub enum Fault {
    /// KVM says that the guest shut the CPU down: a triple fault.
    TripleFault(Registers),
    /// KVM gave up: an instruction that it cannot emulate, or worse.
    InternalError {
        /// KVM's number for what went wrong.
        suberror: u32,
        /// KVM's data about it.
        data: Vec<u64>,
        /// The state in which it happened.
        registers: Registers,
    },
    /// An exit that this program does not handle.
    Unhandled {
        /// What KVM called it.
        exit: String,
        /// The state in which it happened.
        registers: Registers,
    },
    /// `KVM_RUN` itself failed.
    Run {
        /// The error's number.
        errno: i32,
        /// The state in which it happened.
        registers: Registers,
    },
    /// The host has not let its thread do what it needs.
    Host(Error),
    /// The thread panicked.
    Panic(String),
}

/// How a thread ended.
#[derive(Clone, Debug)]
pub enum Exit {
    /// It was told to.
    Ordered,
    /// Its vCPU cannot go on.
    Fault(Fault),
}

/// Takes what the threads report. Called on the vCPU's thread: it posts and returns.
///
/// A *run* is what a thread does between two parkings; its number comes with the order to run.
pub trait Reports: Send + Sync {
    /// The thread is about to enter the guest.
    fn ready(&self, vcpu: VcpuRef, run: u64);

    /// The vCPU could not be given the state of a new one; the thread stays parked.
    fn not_ready(&self, vcpu: VcpuRef, run: u64, why: Error);

    /// The guest has started the vCPU: INIT and SIPI came. Never said of the boot CPU.
    fn started(&self, vcpu: VcpuRef, run: u64);

    /// The thread has left the guest for good; its vCPU is as it was left.
    fn parked(&self, vcpu: VcpuRef, run: u64);

    /// The thread is out of the guest, and stays so as long as the pause with this number lasts. Any access of
    /// the guest's that it served before that is complete. A pause may be reported more than once.
    fn held(&self, vcpu: VcpuRef, pause: u64);

    /// The thread has ended: it touches nothing any more, and joining it returns at once.
    fn ended(&self, vcpu: VcpuRef, exit: Exit);
}
