//! The parts of `kvm_run` that `kvm-ioctls` does not show.
#![allow(
    unsafe_code,
    reason = "kvm_run is a union whose member the exit reason names"
)]

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, kvm_run};

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
