//! What the guest did, as the controller posts it.

use std::fmt;

/// Something that the guest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// With which CPU.
    pub cpu: u32,
    /// Which of the slot's insertions was the present one, or the last one where the slot is empty; 0 for
    /// a CPU that was there at the machine's start.
    pub plug: u32,
    /// What.
    pub what: What,
}

/// What the guest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Its scan has read that there is a new CPU, and cleared the event. Nothing else was done about it so far.
    InsertRead,
    /// Its scan has read that it is asked to eject the CPU, by the request with this number, and cleared the event. Nothing else
    /// was done about it so far.
    EjectRead(u32),
    /// It evaluated `_OST` (ACPI 6.3, section 6.3.5) with these two.
    Status {
        /// Which event it speaks of: 1 insertion, 3 eject, 0x103 eject of its own accord.
        source: u32,
        /// What became of it: 0 is success.
        status: u32,
        /// The guest keeps a CPU that it was asked to eject, and may not eject it any more: no request is with it, and this is the
        /// number of the last.
        kept: Option<u32>,
    },
    /// It ejected the CPU, which is not enabled any more.
    Ejected {
        /// Whether this was asked for; otherwise the guest did it by itself.
        requested: bool,
    },
    /// It ejected where this has no effect.
    EjectIgnored(Ignored),
    /// It has seen that the CPU that it ejected is gone. Another one was inserted meanwhile and is shown from now on: the guest
    /// is to be notified.
    SeenEmpty,
}

/// Why an eject has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// The boot CPU stays.
    BootCpu,
    /// The slot is empty.
    Empty,
    /// The guest has not acknowledged the CPU's insertion yet, so that it can only mean the CPU before.
    NotYetKnown,
    /// Nobody asked for it, and the policy is not to honour this.
    NotAsked,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BootCpu => "the boot CPU stays",
            Self::Empty => "the slot is empty",
            Self::NotYetKnown => "it has not acknowledged this CPU, and means the one before",
            Self::NotAsked => "nobody asked for it",
        })
    }
}

/// Takes what the guest did. Called with the controller locked: it posts and returns.
pub trait HotplugSink: Send + Sync {
    /// Posts one notice.
    fn notice(&self, notice: Notice);
}
