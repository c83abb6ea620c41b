//! What a thread does to its vCPU.

use super::kick::Armed;
use super::{Fault, Registers, exits};
use crate::arch::regs;
use crate::error::Result;
use crate::failpoint::failpoint;
use crate::tally::VcpuTally;
use kvm_ioctls::VcpuFd;
use std::sync::Arc;
use vm_device::device_manager::IoManager;

/// A vCPU in the hands of its thread: KVM's, or a model's where interleavings are checked.
pub(super) trait Cpu {
    /// Puts it into the state of a new one, which waits for INIT.
    fn make_new(&self) -> Result<()>;

    /// `KVM_RUN`, and whatever its exit asks for; fails with the error's number. `EINTR` is a kick, `EAGAIN` that
    /// something has woken it that waits for INIT.
    fn run(&mut self) -> Result<Result<(), Fault>, i32>;

    /// See [`Armed::acknowledge`].
    fn acknowledge(&mut self);

    /// `KVM_GET_MP_STATE`.
    fn mp_state(&self) -> Result<u32, kvm_ioctls::Error>;

    /// Has its guest's watchdogs not take a pause for a hang.
    fn tell_of_pause(&self);

    /// What is in its registers.
    fn registers(&self) -> Registers;
}

/// KVM's.
pub(super) struct Kvm {
    fd: Armed,
    bus: Arc<IoManager>,
    tally: Arc<VcpuTally>,
}

impl Kvm {
    pub(super) fn new(fd: Armed, bus: Arc<IoManager>, tally: Arc<VcpuTally>) -> Self {
        Self { fd, bus, tally }
    }

    /// Gives the descriptor back.
    pub(super) fn into_fd(self) -> VcpuFd {
        self.fd.disarm()
    }
}

impl Cpu for Kvm {
    fn make_new(&self) -> Result<()> {
        regs::make_new(&self.fd)
    }

    fn run(&mut self) -> Result<Result<(), Fault>, i32> {
        exits::serve(&mut self.fd, &self.bus, &self.tally)
    }

    fn acknowledge(&mut self) {
        self.fd.acknowledge();
    }

    fn mp_state(&self) -> Result<u32, kvm_ioctls::Error> {
        let state = failpoint!(SeeStart, self.fd.get_mp_state());
        state.map(|state| state.mp_state)
    }

    fn tell_of_pause(&self) {
        // A guest without kvm-clock, or a KVM without it, knows no such flag.
        let _ = failpoint!(KvmclockCtrl, self.fd.kvmclock_ctrl());
    }

    fn registers(&self) -> Registers {
        Registers::read(&self.fd)
    }
}
