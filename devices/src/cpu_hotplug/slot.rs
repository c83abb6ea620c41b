//! One CPU's slot: what is there, what the guest was told of it, and what it may do with it.
//!
//! Each fact is kept by itself. In particular the right to eject is not the event that asks for the eject:
//! the guest's scan clears the event at once, long before it ejects, and that must not take the right away.

use super::regs::{ENABLED, INSERT, REMOVE};
use super::{
    EJECT_IN_PROGRESS, EJECT_REQUEST, GuestEject, INSERT_IN_PROGRESS, Ignored, Request, TAKEN,
    What, Withdrawn,
};

/// How many announcements of a CPU that is not shown yet leave it so. Whoever has not looked by the next one never will.
const UNSEEN: u8 = 2;

/// A slot. Everything but the counter and the `_OST` source belongs to the CPU in it, and goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// The CPU in it.
    cpu: Option<Cpu>,
    /// The guest has ejected a CPU before the one in the slot, with or without an effect, and has not looked since whether
    /// that one is gone, as it does next (`_STA` after `_EJ0`: ACPI 6.3, section 6.3.3). What it would see is the next one,
    /// and it would take the eject for failed; so whatever is in the slot is not shown until then. How often it was announced
    /// meanwhile.
    vacating: Option<u8>,
    /// How often a CPU was inserted since the machine's start.
    plug: u32,
    /// Source event of the `_OST` that is being put together.
    pub(super) ost_source: u32,
}

/// The CPU in a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cpu {
    insert: Event,
    /// How many announcements of it the guest has cleared, and not answered. One that it never answers, because another
    /// kernel has taken its place, leaves a later no without effect: the CPU stays, as where nothing is said at all.
    open_insertions: u32,
    /// It has answered to one that it takes it.
    taken: bool,
    /// Shown only when the CPU is known. A guest may carry out two notifications in the other order (Linux since 6.8 has
    /// their handlers run on all CPUs at once), and would eject before it answers to the insertion.
    remove: Event,
    /// How often its ejection was asked for; again before the guest has read that is no other time.
    asks: u32,
    /// How many requests to eject the guest has cleared, and not answered. It may have two at once: who ran out of time asks
    /// again. One that it never answers leaves a later no without effect, until it has ejected the CPU or started again.
    open_ejections: u32,
    /// It has begun with an ejection, and not said since what came of it.
    ejects: bool,
    /// The guest has acknowledged this insertion, so what it does from now on is meant for this CPU.
    known: bool,
    /// The guest has read that the slot is enabled, since this insertion.
    seen: bool,
}

/// An event bit, and whether the guest has ever read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Event {
    /// Set for the guest to see.
    pending: bool,
    /// The guest has read it set: now, or before it was set again.
    read: bool,
}

/// An eject that was honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Eject {
    pub(super) requested: bool,
}

impl Cpu {
    /// The host asked for the eject, and has not taken that back: the guest has yet to read it, or has read it and not answered.
    fn is_asked_for(&self) -> bool {
        self.remove.pending || self.open_ejections > 0
    }

    /// The guest is to see that it is asked for the eject.
    fn asks_for_eject(&self) -> bool {
        self.known && self.remove.pending
    }
}

impl Slot {
    /// A slot with a CPU that was there from the start, and that the guest's tables tell of.
    pub(super) fn present() -> Self {
        Self {
            cpu: Some(Cpu {
                known: true,
                seen: true,
                ..Cpu::default()
            }),
            ..Self::default()
        }
    }

    /// The insertion that the guest means. What it says of an ejection before it has acknowledged the CPU in the
    /// slot, it says of the one before: `_EJ0` comes before the last `_OST`, and another CPU may come between.
    pub(super) fn meant(&self, ejection: bool) -> u32 {
        match &self.cpu {
            Some(cpu) if self.is_vacating() || ejection && !cpu.known => self.plug.wrapping_sub(1),
            _ => self.plug,
        }
    }

    /// Whether nothing is shown of it, because the guest is about to look for a CPU that it has ejected.
    pub(super) fn is_vacating(&self) -> bool {
        self.vacating.is_some()
    }

    /// The CPU that the guest can see.
    fn visible(&mut self) -> Option<&mut Cpu> {
        let shown = self.vacating.is_none();
        self.cpu.as_mut().filter(|_| shown)
    }

    pub(super) fn has_event(&self) -> bool {
        self.flags() & (INSERT | REMOVE) != 0
    }

    /// The flags, as the guest would see them; nothing is taken for read.
    pub(super) fn flags(&self) -> u8 {
        match &self.cpu {
            Some(_) if self.is_vacating() => 0,
            Some(cpu) if !cpu.known => self.held() & !REMOVE,
            _ => self.held(),
        }
    }

    /// The flags of what is in the slot, shown or not.
    pub(super) fn held(&self) -> u8 {
        self.cpu.as_ref().map_or(0, |cpu| {
            let bit = |set, flag| if set { flag } else { 0 };
            ENABLED | bit(cpu.insert.pending, INSERT) | bit(cpu.remove.pending, REMOVE)
        })
    }

    /// The guest was shown the flags, or was led here by command 0, which tells as much.
    pub(super) fn shown(&mut self) {
        if let Some(cpu) = self.visible() {
            cpu.seen = true;
            cpu.insert.read |= cpu.insert.pending;
            cpu.remove.read |= cpu.asks_for_eject();
        }
    }

    /// The guest knows that the CPU that it ejected is gone. Whether another one is there to be shown now.
    pub(super) fn vacated(&mut self) -> bool {
        let shown_now = self.vacating.take().is_some() && self.cpu.is_some();
        if shown_now {
            // It may have been cleared before an eject that was not for it.
            self.set_insert_event();
        }
        shown_now
    }

    /// The guest clears an event. What it has read by that, if the event was set.
    pub(super) fn acknowledge(&mut self, request: Request) -> Option<What> {
        let cpu = self.visible()?;
        cpu.seen = true;
        let (event, open, read) = match request {
            Request::Insert => (&mut cpu.insert, &mut cpu.open_insertions, What::InsertRead),
            Request::Eject if !cpu.known => return None,
            Request::Eject => (
                &mut cpu.remove,
                &mut cpu.open_ejections,
                What::EjectRead(cpu.asks),
            ),
        };
        // Who clears what it has not read has been told all the same.
        event.read |= event.pending;
        let was_set = std::mem::take(&mut event.pending);
        *open = open.saturating_add(u32::from(was_set));
        was_set.then_some(read)
    }

    /// The guest has started the CPU: it means this insertion.
    pub(super) fn started(&mut self) {
        if let Some(cpu) = &mut self.cpu {
            cpu.known = true;
            self.vacating = None;
        }
    }

    /// What the guest says of an insertion, or of an ejection: see there.
    pub(super) fn answer(&mut self, insertion: bool, source: u32, status: u32) -> Option<u32> {
        if insertion {
            self.answer_insertion(status);
            return None;
        }
        self.answer_ejection(source, status)
    }

    /// The guest has answered to an announcement, or says that it is at it.
    fn answer_insertion(&mut self, status: u32) {
        let Some(cpu) = self.visible() else { return };
        cpu.known = true;
        if status != INSERT_IN_PROGRESS {
            cpu.open_insertions = cpu.open_insertions.saturating_sub(1);
            cpu.taken |= status == TAKEN;
        }
    }

    /// The guest says what comes of an ejection, and the CPU is still there. If that answers a request, and no other is with it
    /// any more, the number of the last; with that goes the right to eject. What it says before it has acknowledged this CPU, it
    /// says of the one before.
    fn answer_ejection(&mut self, source: u32, status: u32) -> Option<u32> {
        let cpu = self.visible().filter(|cpu| cpu.known)?;
        if source == EJECT_REQUEST && status == EJECT_IN_PROGRESS {
            // It does one after the other: of the one before there is nothing to be heard any more.
            let asked = cpu.open_ejections > 0;
            let dead = std::mem::replace(&mut cpu.ejects, asked) && cpu.open_ejections > 1;
            cpu.open_ejections -= u32::from(dead);
            return None;
        }
        cpu.ejects = false;
        if source != EJECT_REQUEST || cpu.open_ejections == 0 {
            return None;
        }
        cpu.open_ejections -= 1;
        let last = !cpu.remove.pending && cpu.open_ejections == 0;
        last.then_some(cpu.asks)
    }

    /// The guest ejects the CPU, of a slot that is not the boot CPU's.
    pub(super) fn eject(&mut self, policy: GuestEject) -> Result<Eject, Ignored> {
        let ejected = match self.visible() {
            None => Err(Ignored::Empty),
            // Before the authorisation: that one may be for this CPU, and the eject for the one before it.
            Some(cpu) if !cpu.known => Err(Ignored::NotYetKnown),
            Some(cpu) if !cpu.is_asked_for() && policy == GuestEject::Ignore => {
                return Err(Ignored::NotAsked);
            }
            Some(cpu) => Ok(Eject {
                requested: cpu.is_asked_for(),
            }),
        };
        if ejected.is_ok() {
            self.cpu = None;
        }
        self.vacating = Some(0);
        ejected
    }

    /// A new CPU, if the slot is empty. The number of the present insertion.
    pub(super) fn insert(&mut self) -> u32 {
        if self.cpu.is_none() {
            self.plug = self.plug.wrapping_add(1);
            self.cpu = Some(Cpu::default());
            self.vacating = self.vacating.map(|_| 0);
        }
        self.set_insert_event();
        self.plug
    }

    /// Sets the insert event again. A guest that has not looked by now after an eject is not waited for any longer.
    pub(super) fn announce(&mut self) {
        if self.cpu.is_none() {
            return;
        }
        self.vacating = match self.vacating {
            Some(times) if times < UNSEEN => Some(times + 1),
            _ => None,
        };
        self.set_insert_event();
    }

    fn set_insert_event(&mut self) {
        if let Some(cpu) = &mut self.cpu {
            cpu.insert.pending = true;
        }
    }

    /// Returns the number of the request.
    pub(super) fn request_eject(&mut self) -> u32 {
        let Some(cpu) = &mut self.cpu else { return 0 };
        if !cpu.remove.pending {
            cpu.asks = cpu.asks.wrapping_add(1);
            cpu.remove = Event {
                pending: true,
                read: false,
            };
        }
        cpu.asks
    }

    /// Takes back the last request to eject, if the guest has not read it. A scan that was led here takes a slot without an event
    /// for the end of its work, so that one stays.
    pub(super) fn withdraw_eject(&mut self) -> Withdrawn {
        let unread = |cpu: &&mut Cpu| cpu.remove.pending && !cpu.remove.read;
        let Some(cpu) = self.cpu.as_mut().filter(unread) else {
            return Withdrawn::Nothing;
        };
        cpu.remove = Event::default();
        if cpu.is_asked_for() {
            Withdrawn::Last
        } else {
            Withdrawn::All
        }
    }

    /// Takes out a CPU that the guest has said no to. Not where it was told of it again since then: it may say yes to
    /// that, or has said so. Nor where its scan is at this slot (`scanned`) and would find the event gone that led it here.
    /// Whether it did.
    pub(super) fn discard(&mut self, scanned: bool) -> bool {
        let asked = |cpu: &Cpu| cpu.insert.pending || cpu.open_insertions > 0;
        let found = |cpu: &Cpu| scanned && cpu.asks_for_eject();
        let refused = |cpu: &Cpu| !cpu.taken && !asked(cpu) && !found(cpu);
        let refused = self.cpu.as_ref().is_some_and(refused);
        if refused {
            self.cpu = None;
        }
        refused
    }

    /// Takes back an insertion that the guest cannot know of. Whether it did.
    pub(super) fn withdraw_insert(&mut self) -> bool {
        let unseen = self.cpu.as_ref().is_some_and(|cpu| !cpu.seen);
        if unseen {
            self.cpu = None;
        }
        unseen
    }
}
