//! What Hotvisor and its agent in the guest say to each other: lines of JSON over a stream, usually of
//! virtio-vsock. `PROTOCOL.md` beside the agent has the messages as tables.
//!
//! Either side reads with a [`Decoder`] and writes with [`encode`]. The host must not trust what it reads: a word of the
//! agent adds detail to what the host sees by itself, and never stands for it. So everything is bounded where it is
//! decoded: numbers of CPUs, lengths of lists and of texts, and the characters of texts.
//!
//! ```
//! use hotvisor_protocol::{Decoder, FromHost, Ping, encode};
//!
//! let mut bytes = Vec::new();
//! encode(&FromHost::Ping(Ping { id: 7 }), &mut bytes)?;
//! assert_eq!(bytes, b"{\"ping\":{\"id\":7}}\n");
//!
//! let mut decoder = Decoder::<FromHost>::new();
//! let messages: Vec<_> = decoder.push(&bytes).collect();
//! assert_eq!(messages, [Ok(FromHost::Ping(Ping { id: 7 }))]);
//! # Ok::<(), hotvisor_protocol::TooLong>(())
//! ```

#![forbid(unsafe_code)]

mod blocker;
mod bounded;
mod decoder;
mod guest;
mod host;
mod line;

pub use blocker::{
    BlockedCpuset, BlockedIrq, BlockedTask, Blocker, Blockers, DeadlineBandwidth, Isolated,
    NohzFull,
};
pub use bounded::{ApicId, CpuNumber, List, OutOfRange, Text};
pub use decoder::{Decoder, Fault, Messages};
pub use guest::{
    Answer, Busy, Drained, Event, FromGuest, Hello, Moved, NotOnline, Online, Phase, Pong,
    Pressure, Problem, Refused, Restored, Stamped,
};
pub use host::{Ask, Begin, End, FromHost, Kind, Outcome, Ping, Pinned, Welcome};
pub use line::{Line, TooLong, encode};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;

/// The oldest version that this crate can speak.
pub const OLDEST_VERSION: u16 = 1;

/// The port of virtio-vsock where the host listens, on its own address ([`HOST_CID`]).
pub const PORT: u32 = 5720;

/// The address of the host as virtio-vsock has it (`VMADDR_CID_HOST`, vsock(7)).
pub const HOST_CID: u32 = 2;

/// Most bytes of a line, its end not counted.
pub const LINE_MAX: usize = 64 * 1024;

/// CPUs that a machine may have: APIC ids and Linux's numbers of CPUs are below it.
pub const MAX_CPUS: u32 = 1024;

/// Most entries of a list of blockers. More than anybody reads; who sends cuts it.
pub const MAX_BLOCKERS: usize = 64;

/// The periods of [`Pressure`] that an agent may be asked for, in milliseconds; others are taken for the nearest.
pub const PRESSURE_PERIODS_MS: std::ops::RangeInclusive<u32> = 100..=1000;

/// The version that both sides speak, when the other says that `theirs` is its newest: the lower of both. `None` where
/// this crate does not speak that any more.
///
/// ```
/// assert_eq!(hotvisor_protocol::negotiate(9), Some(hotvisor_protocol::VERSION));
/// assert_eq!(hotvisor_protocol::negotiate(0), None);
/// ```
#[must_use]
pub fn negotiate(theirs: u16) -> Option<u16> {
    let both = theirs.min(VERSION);
    (both >= OLDEST_VERSION).then_some(both)
}
