//! What a guest does about the vCPUs that it is given and asked for, whatever the firmware interface by which it does so.

/// What it was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To take a vCPU.
    Insert,
    /// To give one back.
    Eject,
}

/// Something that it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// With which vCPU.
    pub vcpu: u32,
    /// The number of that vCPU's insertion, as [`Machinery::insert`](super::machinery::Machinery::insert) has returned it: the
    /// present one, or the last one of a vCPU that is gone; 0 for one that was there at the machine's start.
    pub plug: u32,
    /// What.
    pub what: What,
}

/// What it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It has read that there is a new vCPU, and done nothing else about it so far.
    InsertRead,
    /// It has read that it is asked to eject the vCPU, by the request with this number
    /// ([`Machinery::request_eject`](super::machinery::Machinery::request_eject)), and done nothing else about it so far.
    EjectRead(u32),
    /// It said something of it.
    Said {
        /// What.
        word: Word,
        /// It keeps a vCPU that it was asked to eject, and may not eject it any more: no request is with it, and this is the
        /// number of the last, also if that was taken back.
        kept: Option<u32>,
    },
    /// It has ejected the vCPU: it has no way to it any more.
    Ejected {
        /// Whether this was asked for; otherwise the guest did it by itself.
        requested: bool,
    },
    /// It has seen that the vCPU that it ejected is gone. It was inserted again meanwhile, and is shown from now on: the guest
    /// is to be notified.
    SeenEmpty,
}

/// A guest's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Of what it speaks.
    pub about: About,
    /// What it says of that.
    pub says: Says,
    /// The same in the numbers of its firmware interface, for whoever reads an outcome.
    pub numbers: (u32, u32),
}

/// What a guest speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// That it was given a vCPU.
    Insertion,
    /// That it was asked for one.
    Ejection,
    /// That it gives one back by itself. It says nothing of an ejection that it was asked for: both may be under way at once.
    OwnEjection,
    /// Something else.
    Other,
}

/// What a guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It has begun.
    Begun,
    /// It is done.
    Done,
    /// It does not do it: what that means, and what to do about it.
    No(&'static str),
}

/// What came of taking back a request to eject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// Nothing is changed: the guest may have read it, has answered it, or has just ejected the vCPU.
    Nothing,
    /// The guest has not read it and never will. It has an earlier one that it has not answered, and may still eject the vCPU
    /// for that.
    Last,
    /// The guest has not read it and never will, and has no other: it cannot eject the vCPU as one that it was asked for.
    All,
}

impl Word {
    /// Whether the guest says that it does not take a vCPU.
    #[must_use]
    pub fn is_no_to_insertion(&self) -> bool {
        self.about == About::Insertion && matches!(self.says, Says::No(_))
    }
}
