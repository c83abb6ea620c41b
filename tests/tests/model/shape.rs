//! What a model consists of, and what there is to do in it.

use hotvisor_devices::cpu_hotplug::GuestEject;
use hotvisor_vmm::hotplug::client::Want;
use hotvisor_vmm::hotplug::view::OperationId;

use super::people::Life;

/// The product, or what others have done and it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Product,
    /// Everybody is shut out first, and the notifiers are called then: Linux until 2012.
    BlockFirst,
    /// The thread is joined inside the register write of its eject, with the lock held that everything needs.
    JoinInHandler,
    /// That the guest has read the request takes its right to eject away.
    AckRevokes,
    /// A late word is taken for one about the present insertion.
    NoGenerations,
    /// The guest is reminded of what it was asked for until it has answered, and at once.
    RemindsUntilAnswered,
    /// A client asks again, and at once, for what the guest refuses; and the guest refuses whatever it is asked.
    Insists,
}

/// Without a limit.
pub(crate) const ALWAYS: u8 = u8::MAX;

/// How much there is of what anybody may do or leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) requests: u8,
    /// All that are open run out of time, at any moment; so often, or [`ALWAYS`].
    pub(crate) deadlines: u8,
    pub(crate) cancels: u8,
    /// The machine stands still, and goes on.
    pub(crate) pauses: u8,
    /// The guest says no, delays, does nothing.
    pub(crate) refusals: u8,
    /// A notification overtakes the one before: Linux has run its handlers on all CPUs at once since 6.8.
    pub(crate) overtakes: u8,
    /// A scan that takes its time; the host's doings come in between.
    pub(crate) slow: u8,
    /// It finds a CPU by itself, as by the scan of its boot, and says nothing of it.
    pub(crate) finds: u8,
    /// It says what is not so.
    pub(crate) lies: u8,
    /// It ejects unasked.
    pub(crate) ejects: u8,
    pub(crate) reboots: u8,
    pub(crate) deaths: u8,
    /// The notifier says no.
    pub(crate) vetoes: u8,
    /// Of the requests, so many may take as long as they do.
    pub(crate) patient: u8,
    /// The host has no room for a thread, or the thread cannot run its vCPU.
    pub(crate) failures: u8,
    /// Time goes on until whatever waits for it is done again: the guest told, a thread kicked.
    pub(crate) reminders: u8,
}

impl Budget {
    /// Whether what the guest has done tells what it does next: it does what it was asked to, or says that it does not.
    pub(crate) fn is_honest(&self) -> bool {
        self.lies == 0 && self.ejects == 0
    }
}

/// What a model consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) variant: Variant,
    pub(crate) vcpus: u32,
    /// How many of them the machine boots with.
    pub(crate) boot: u32,
    pub(crate) users: &'static [Life],
    pub(crate) notifier: bool,
    /// What becomes of an ejection that nobody has asked for.
    pub(crate) guest_eject: GuestEject,
    pub(crate) budget: Budget,
}

/// What somebody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Ask(Want),
    /// The same, by somebody who waits for ever.
    AskPatiently(Want),
    Cancel(OperationId),
    Pause,
    Resume,
    /// As much time goes by as it takes until something is done again.
    Remind,
    /// The time of the operations that are open is over.
    Deadline,
    /// The control thread takes a message.
    Control,
    /// A vCPU's thread gets on.
    Thread(u32),
    /// The host has no room for the next thread that is to run a vCPU.
    Fill,
    /// A vCPU's thread cannot run it.
    CannotRun(u32),
    /// The guest looks for events; or for one after the other, and clears what it has found; obeys the oldest; and so on.
    Scan,
    ScanSlowly,
    Clear,
    Obey,
    Begin,
    Refuse,
    Ignore,
    /// The second oldest comes before the oldest.
    Overtake,
    Find(u32),
    /// It looks whether what it has ejected is gone, and says so.
    Look,
    LastWord,
    /// INIT and SIPI; or it leaves the CPU as it is.
    Start(u32),
    LeaveOffline(u32),
    EjectUnasked(u32),
    Lie(u32, u32, u32),
    Reboot,
    Die,
    /// A user does its next step, or gives up.
    User(usize),
    GiveUp(usize),
    /// The notifier lets go of a vCPU, or does not.
    Answer(u32),
    Veto(u32),
    /// Somebody asks again for what was refused.
    Insist,
}

impl Act {
    /// Whether the guest does it without having been asked for anything.
    pub(crate) fn is_of_the_guest_alone(&self) -> bool {
        matches!(
            self,
            Self::Reboot | Self::Die | Self::EjectUnasked(_) | Self::Lie(..) | Self::Find(_)
        )
    }
}
