//! The heap of this process, which lives as long as its guest.
#![allow(
    unsafe_code,
    reason = "no crate wraps what the C library offers for its own heap"
)]

/// Gives back to the host what was only needed to get started: the command line, the API's document, the kernel's
/// headers. It lies below what is kept, so that the C library does not do it by itself.
pub(crate) fn trim() {
    // SAFETY: it takes the allocator's own locks, and touches nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}
