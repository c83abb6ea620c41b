//! What the coordinator does to a machine, and what it is told of it.

use super::guest::{Notice, Withdrawn};
use super::notifier::Answer;
use super::view::ThreadView;

/// A machine, as far as hotplug changes it. No method waits.
pub trait Machinery {
    /// Has a thread run the vCPU as if just created, waiting for the guest to start it; makes whatever of vCPU and thread there
    /// is not yet. Answered by [`Message::Ready`] with the same `run`.
    ///
    /// # Errors
    /// Why the host cannot do it, for people; nothing was changed.
    fn start(&mut self, vcpu: u32, run: u64) -> Result<(), String>;
    /// Has the vCPU's thread leave the guest; asked again, it is kicked again. Always answered by
    /// [`Message::Parked`], also where there is no thread.
    fn park(&mut self, vcpu: u32);
    /// Ends a parked thread; what it ran is kept.
    fn end_thread(&mut self, vcpu: u32);
    /// The vCPU's thread.
    fn thread(&self, vcpu: u32) -> Option<ThreadView>;
    /// Enables the vCPU in the guest's tables and tells the guest; returns the insertion's number.
    fn insert(&mut self, vcpu: u32) -> u32;
    /// Tells the guest of the insertion again, also if it has read that.
    fn announce(&mut self, vcpu: u32);
    /// Notifies the guest again of all that it has not read.
    fn remind(&mut self);
    /// Why the guest was not notified, if the last notification did not get to it.
    fn untold(&self) -> Option<String>;
    /// Takes the insertion back, if the guest cannot have noticed it.
    fn withdraw_insert(&mut self, vcpu: u32) -> bool;
    /// Takes the vCPU that the guest has said no to out of its tables, unless it was told of it again since then, and may
    /// take it. Whether it did.
    fn discard(&mut self, vcpu: u32) -> bool;
    /// Asks the guest to eject the vCPU. It is shown that when it has acknowledged the insertion, and notified then by
    /// [`Machinery::remind`]. Returns the request's number, of those for this insertion. The guest's reading of it comes with that
    /// ([`What::EjectRead`](super::guest::What::EjectRead)); and when the guest has said no to whatever it had read, `kept` of
    /// [`What::Said`](super::guest::What::Said) is the number that was given out last, also if that request was taken back.
    fn request_eject(&mut self, vcpu: u32) -> u32;
    /// Takes that back, if the guest has not read it, and says whether it has an earlier one that it has not answered.
    fn withdraw_eject(&mut self, vcpu: u32) -> Withdrawn;
    /// The guest has shown that it knows of this insertion.
    fn acknowledge(&mut self, vcpu: u32);
}

/// What the coordinator is told, by whatever thread. Each message carries what tells a late one apart.
#[derive(Debug)]
pub enum Message {
    /// The guest has done something about what it was given or asked for.
    Notice(Notice),
    /// A vCPU's thread is about to run it.
    Ready(u32, u64),
    /// A vCPU's thread could not be made to run it, and why.
    NotReady(u32, u64, String),
    /// The guest has started a vCPU.
    Started(u32, u64),
    /// A vCPU's thread has left the guest.
    Parked(u32, u64),
    /// The last user has left a vCPU's gate, which this closing has closed.
    GateEmpty(u32, u64),
    /// A notifier's answer about this attempt on a vCPU.
    Notifier(u32, u64, usize, Answer),
}
