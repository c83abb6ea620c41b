//! Virtio devices: what all of them have in common.
//!
//! *Virtual I/O Device (VIRTIO) 1.2*; sections below are its. A device has two sides, which meet in a [`Link`](link::Link):
//!
//! ```text
//!  vCPU threads ──► mmio::Transport ── Link ── the device's worker ──► the host's side of it
//!                   registers, status     queues, while the driver     takes buffers, fills them, and
//!                   and features          has the device in use        interrupts by the link
//! ```
//!
//! The registers answer from their own state. A notification of a queue, the moment at which the driver takes the device into
//! use, and a reset *wake* the worker, which nobody waits for. It reaches the queues, and by them the guest's memory, only
//! through the link's lock, which it holds for a bounded piece of work; so when a reset, a pause, or the end of the machine
//! has had that lock, nothing is read from or written to the guest's memory any more.
//!
//! | a hostile guest may | and then |
//! |---|---|
//! | access registers at another width or offset than their own | reads zero, writes are ignored; logged |
//! | set up queues before features are agreed on, or while they are in use | it is ignored; logged |
//! | put queues where there is no memory, or into each other | *device needs reset*, or it spoils its own memory |
//! | accept features that are not offered | `FEATURES_OK` does not stay |
//! | let indices of a ring jump, or loop its descriptors | *device needs reset*, or the chain ends after as many steps as the queue has entries |
//! | notify, reset and set up at full speed | its own vCPU is busy; the worker is woken once |

pub mod link;
pub mod mmio;
pub mod vsock;

use vm_memory::GuestMemory;

/// What a virtio device is to its transport.
pub trait Device: Send + Sync + 'static {
    /// Its number (section 5).
    const ID: u32;
    /// The most entries of each of its queues; powers of two.
    const QUEUES: &'static [u16];

    /// The feature bits of its own that it offers (bits 0 to 23, section 2.2).
    fn features(&self) -> u64;

    /// Reads its configuration space (section 2.5). What lies beyond is zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
}

/// Wakes a device's worker. Called on vCPU threads: it returns at once.
pub trait Wake: Send + Sync {
    /// The worker is to look at its queues.
    fn wake(&self);
}

/// A handle of a guest's memory, which lives as long as the last of them.
pub trait Memory: Clone + Send + Sync + 'static {
    /// The memory.
    type Of: GuestMemory;

    /// The memory, by guest-physical address.
    fn memory(&self) -> &Self::Of;
}
