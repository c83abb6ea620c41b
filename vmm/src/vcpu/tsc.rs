//! A vCPU's time-stamp counter, as the machine stops it in a pause.

use super::raw;
use crate::error::{Error, FILES, Result};
use crate::failpoint::failpoint;
use kvm_ioctls::VcpuFd;
use std::os::fd::OwnedFd;

/// The one thing of a vCPU that another thread than its own touches, and only while that is out of the guest. It
/// has a descriptor of its own for that.
#[derive(Debug)]
pub struct Tsc(OwnedFd);

impl Tsc {
    /// The counter of a vCPU.
    ///
    /// # Errors
    /// [`Error::Host`] where there can be no more descriptors.
    pub fn of(vcpu: &VcpuFd) -> Result<Self> {
        let fd = failpoint!(Duplicate, raw::duplicate(vcpu));
        fd.map(Self)
            .map_err(|e| Error::host("second descriptor of a vCPU", e, FILES))
    }

    /// Puts the counter back by so many ticks.
    ///
    /// # Errors
    /// [`Error::Host`] where this KVM cannot, as those before Linux 5.16.
    pub fn put_back(&self, ticks: u64) -> Result<()> {
        let put_back =
            || raw::set_tsc_offset(&self.0, raw::tsc_offset(&self.0)?.wrapping_sub(ticks));
        put_back().map_err(|e| {
            Error::host(
                "TSC of a vCPU",
                e,
                "use a host kernel of version 5.16 or later",
            )
        })
    }
}
