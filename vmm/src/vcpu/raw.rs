//! The parts of a vCPU that `kvm-ioctls` does not show.
#![allow(
    unsafe_code,
    reason = "kvm_run is a union whose member the exit reason names, and system calls that no crate wraps"
)]

use kvm_bindings::{
    KVM_EXIT_INTERNAL_ERROR, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr,
    kvm_run,
};
use kvm_ioctls::{Error as Errno, VcpuFd, VmFd};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

ioctl_io_nr!(KVM_CREATE_VCPU, KVMIO, 0x41);
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

/// Has KVM make a vCPU, which it does once for each id, and gives its descriptor.
pub(super) fn create(vm: &VmFd, id: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the argument is a number, and the kernel touches none of our memory.
    let fd = unsafe { ioctl_with_val(vm, KVM_CREATE_VCPU(), id.into()) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel has just opened it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Maps the page of the vCPU whose descriptor this is, which is closed where that fails.
pub(super) fn map(vm: &VmFd, vcpu: OwnedFd) -> Result<VcpuFd, Errno> {
    // SAFETY: it is the descriptor of a vCPU of this VM, and nobody else's.
    unsafe { vm.create_vcpu_from_rawfd(vcpu.into_raw_fd()) }
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
