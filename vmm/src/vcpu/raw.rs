//! The parts of a vCPU that `kvm-ioctls` does not show.
#![allow(
    unsafe_code,
    reason = "kvm_run is a union whose member the exit reason names, and system calls that no crate wraps"
)]

use kvm_bindings::{
    KVM_EXIT_INTERNAL_ERROR, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr,
    kvm_run,
};
use kvm_ioctls::VcpuFd;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// Number and data of an internal error, if the last exit was one.
pub(super) fn internal_error(run: &kvm_run) -> Option<(u32, Vec<u64>)> {
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: the exit reason says that this member was written; it is plain integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = (internal.ndata as usize).min(internal.data.len());
    Some((internal.suberror, internal.data[..count].to_vec()))
}

/// A second descriptor of a vCPU, for what another thread than its own may do to it.
pub(super) fn duplicate(vcpu: &VcpuFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open as long as `vcpu` is, which is borrowed for longer than this.
    let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
    fd.try_clone_to_owned()
}

/// What KVM adds to the host's TSC for this vCPU (Linux, Documentation/virt/kvm/devices/vcpu.rst, section 4.1).
pub(super) fn tsc_offset(vcpu: &OwnedFd) -> io::Result<u64> {
    let mut offset = 0_u64;
    let attr = tsc_offset_at(&raw mut offset);
    // SAFETY: this attribute is a u64, which KVM writes to `offset`, and nothing else.
    match unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attr) } {
        0 => Ok(offset),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has KVM add this to the host's TSC for this vCPU.
pub(super) fn set_tsc_offset(vcpu: &OwnedFd, mut offset: u64) -> io::Result<()> {
    let attr = tsc_offset_at(&raw mut offset);
    // SAFETY: this attribute is a u64, which KVM reads from `offset`, and nothing else.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attr) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn tsc_offset_at(place: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: place.expose_provenance() as u64,
        ..kvm_device_attr::default()
    }
}
