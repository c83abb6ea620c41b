//! The heap of this process, which lives as long as its guest.
#![allow(
    unsafe_code,
    reason = "no crate wraps what the C library offers for its own heap"
)]

/// Has all threads share one arena, before there are others. With more of them the C library opens files to learn how many
/// there should be, and whether one may shrink, on whichever thread needs or frees memory just then: a vCPU's may open
/// none. Those threads allocate next to nothing, and each thread has a cache of its own.
pub fn share_arena() {
    // SAFETY: it sets a number of the allocator's own.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives back to the host what was only needed to get started: the command line, the API's document, the kernel's
/// headers. It lies below what is kept, so that the C library does not do it by itself.
pub(crate) fn trim() {
    // SAFETY: it takes the allocator's own locks, and touches nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}
