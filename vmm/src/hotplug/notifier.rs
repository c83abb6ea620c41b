//! Host-side notifiers: parts of this process that have to let go of a vCPU before it is taken away.

use super::view::VcpuRef;
use std::fmt;
use std::sync::Arc;

/// A part that wants to know that a vCPU goes.
///
/// They are called in the order in which they were registered, on the control thread, before the guest is
/// asked; the guest's own notifiers come last. Undone are they in the opposite order. No method may wait: what
/// takes time is begun, and its end reported through [`Done`], with the operation's deadline over it.
pub trait Notifier: Send {
    /// What a person is told of a notifier that refuses or does not answer.
    fn name(&self) -> &'static str;

    /// A plug of the vCPU begins: the guest is told of it next.
    fn comes(&mut self, _vcpu: VcpuRef) {}

    /// Such a plug has ended, well or not. It is not called where an unplug takes over.
    fn came(&mut self, _vcpu: VcpuRef) {}

    /// Begins to let go of the vCPU. Users bound to it still get through its gate.
    fn prepare(&mut self, vcpu: VcpuRef, done: Done);

    /// The vCPU stays: takes back what `prepare` did, or what it began and has not ended.
    fn undo(&mut self, vcpu: VcpuRef);

    /// The vCPU is gone and its thread parked. Also called where the guest ejected it without being asked, and
    /// `prepare` never was.
    fn after_death(&mut self, vcpu: VcpuRef);
}

/// A notifier's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has let go.
    Ready,
    /// It does not let go, and why.
    Refused(String),
}

/// Takes one notifier's answer, from any thread, now or later. Dropped without an answer, it says that the
/// notifier gave none.
pub struct Done {
    answer: Option<Post>,
}

type Post = Arc<dyn Fn(Answer) + Send + Sync>;

impl Done {
    pub(crate) fn new(post: impl Fn(Answer) + Send + Sync + 'static) -> Self {
        Self {
            answer: Some(Arc::new(post)),
        }
    }

    /// The notifier has let go.
    pub fn ready(mut self) {
        self.send(Answer::Ready);
    }

    /// The notifier does not let go.
    pub fn refuse(mut self, why: impl Into<String>) {
        self.send(Answer::Refused(why.into()));
    }

    fn send(&mut self, answer: Answer) {
        if let Some(post) = self.answer.take() {
            post(answer);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.send(Answer::Refused("it gave no answer".to_owned()));
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done")
    }
}
