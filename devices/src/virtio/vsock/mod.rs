//! The socket device: streams between programs in the guest and programs on the host (section 5.10).
//!
//! [`Vsock`] is what the guest's driver sees in registers, [`Worker`] what carries packets between the guest's rings and the
//! host's [`Streams`], connection by connection. It is driven by whoever has a thread, descriptors
//! and a clock for it.
//!
//! | a hostile guest may | and then |
//! |---|---|
//! | send packets that are shorter than their header, or than it says | they are dropped; logged |
//! | send longer ones | what is beyond is not read |
//! | send them as somebody else, or to somebody else than the host | they are dropped; logged |
//! | send to connections that do not exist, or of unknown kinds | each is answered with a reset; no further packet is taken while some such answers wait for a buffer |
//! | send more than it has credit for | the connection is reset |
//! | open connections without end | beyond [`MOST_CONNECTIONS`] each is answered with a reset |
//! | close none, and answer nothing | a connection that is being opened or closed has a deadline |
//! | offer buffers that are too small | they are given back unused |
//! | claim any credit it likes | it gets what it has buffers for |

mod connection;
mod header;
mod muxer;
mod worker;

#[cfg(test)]
mod tests;

pub use connection::{Half, Ready, Stream};
pub use header::{HOST_CID, Header, Kind, LEN as HEADER_LEN, Op};
pub use muxer::{Key, MOST_CONNECTIONS, NoConnection, Streams};
pub use worker::{Passed, Worker};

use super::Device;

/// The device's number of each of its queues (section 5.10.2).
pub(super) mod queue {
    /// Buffers for what the host sends.
    pub(in super::super) const RX: usize = 0;
    /// What the guest sends.
    pub(in super::super) const TX: usize = 1;
}

/// Feature bit: there are streams (section 5.10.3).
const F_STREAM: u64 = 1 << 0;

/// What the driver sees of the device.
#[derive(Debug)]
pub struct Vsock {
    /// The guest's context id.
    pub cid: u32,
}

impl Device for Vsock {
    const ID: u32 = 19;
    // The third one is for events, of which there is none: the host does not move to another one.
    const QUEUES: &'static [u16] = &[128, 128, 16];

    fn features(&self) -> u64 {
        F_STREAM
    }

    /// `guest_cid`, 64 bits of which the upper half is reserved (section 5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = u64::from(self.cid).to_le_bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(space.iter().skip(from)) {
            *byte = *value;
        }
    }
}
