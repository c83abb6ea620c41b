//! What of a vCPU is there as long as its machine: KVM's own, and its time-stamp counter, as the machine stops it in a pause.

use super::raw;
use crate::error::{Error, FILES, Result};
use crate::failpoint::failpoint;
use kvm_ioctls::{VcpuFd, VmFd};
use std::io;
use std::os::fd::OwnedFd;

/// A vCPU that KVM has. Its own thread has another descriptor; the counter is the one thing that another thread touches, and
/// only while that is out of the guest.
#[derive(Debug)]
pub struct Made(OwnedFd);

impl Made {
    /// Has KVM make it.
    ///
    /// # Errors
    /// [`Error::Host`] with KVM's answer.
    pub fn new(vm: &VmFd, id: u32) -> Result<Self> {
        let made = failpoint!(CreateVcpu, raw::create(vm, id));
        made.map(Self)
            .map_err(|e| Error::kvm(&format!("create vCPU {id}"), e))
    }

    /// What its thread needs.
    ///
    /// # Errors
    /// [`Error::Host`] where there can be no more descriptors, or no page of it be mapped; nothing has changed then.
    pub fn open(&self, vm: &VmFd) -> Result<VcpuFd> {
        let fd: io::Result<OwnedFd> = failpoint!(Duplicate, self.0.try_clone());
        let fd = fd.map_err(|e| Error::host("second descriptor of a vCPU", e, FILES))?;
        failpoint!(MapVcpu, raw::map(vm, fd)).map_err(|e| Error::kvm("page of a vCPU", e))
    }

    /// Puts the counter back by so many ticks.
    ///
    /// # Errors
    /// [`Error::Host`] where this KVM cannot, as those before Linux 5.16.
    pub fn put_back(&self, ticks: u64) -> Result<()> {
        self.add(ticks.wrapping_neg())
    }

    /// Puts the counter forward by so many ticks.
    ///
    /// # Errors
    /// As [`Made::put_back`].
    pub fn put_forward(&self, ticks: u64) -> Result<()> {
        self.add(ticks)
    }

    fn add(&self, ticks: u64) -> Result<()> {
        let get = || failpoint!(GetTscOffset, raw::tsc_offset(&self.0));
        let set = |offset| failpoint!(SetTscOffset, raw::set_tsc_offset(&self.0, offset));
        get()
            .and_then(|offset| set(offset.wrapping_add(ticks)))
            .map_err(|e| {
                Error::host(
                    "TSC of a vCPU",
                    e,
                    "use a host kernel of version 5.16 or later",
                )
            })
    }
}
