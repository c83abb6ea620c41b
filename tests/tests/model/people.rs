//! Those who use a vCPU from outside, each with a short life, and the notifier that waits for one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotvisor_vmm::hotplug::gate::{Binding, Denied, Entrance, Gate, Inside};
use hotvisor_vmm::hotplug::notifier::{Done, Notifier};
use hotvisor_vmm::hotplug::view::VcpuRef;

/// What a user does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Do {
    /// Goes through the vCPU's gate, bound to it or not.
    Enter(u32, bool),
    Leave,
    /// The lock that two users have between them.
    Take,
    Release,
    /// The hotplug lock as it once was: one for all that is shut before anybody is notified.
    EnterLock,
    LeaveLock,
}

/// A user's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) steps: &'static [Do],
    /// Whether the notifier waits for its end.
    pub(crate) is_waited_for: bool,
    /// Whether it gives up what it waits for, as everybody does who goes through a gate: nobody waits without a deadline.
    pub(crate) gives_up: bool,
}

pub(crate) struct User {
    pub(crate) life: Life,
    at: usize,
    pub(crate) inside: Option<(u32, Inside)>,
    in_lock: Option<Inside>,
    has_lock: bool,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = self.inside.as_ref().map(|(vcpu, _)| vcpu);
        write!(f, "User({}, {inside:?})", self.at)
    }
}

impl User {
    pub(crate) fn new(life: Life) -> Self {
        Self {
            life,
            at: 0,
            inside: None,
            in_lock: None,
            has_lock: false,
        }
    }

    pub(crate) fn next(&self) -> Option<Do> {
        self.life.steps.get(self.at).copied()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.at > 0 && self.next().is_some()
    }

    pub(crate) fn has_lock(&self) -> bool {
        self.has_lock
    }

    /// Its life is over: it lets go of everything.
    pub(crate) fn end(&mut self) {
        self.at = self.life.steps.len();
        self.has_lock = false;
        self.inside = None;
        self.in_lock = None;
    }

    /// Does the next step, which can be done.
    pub(crate) fn go(&mut self, gates: &[Entrance], lock: Option<&Entrance>) {
        let Some(next) = self.next() else { return };
        self.at += 1;
        match next {
            Do::Enter(vcpu, pinned) => {
                let binding = match pinned {
                    true => Binding::Pinned,
                    false => Binding::Movable,
                };
                match gates[vcpu as usize].enter(binding, "a user", Duration::ZERO) {
                    Ok(inside) => self.inside = Some((vcpu, inside)),
                    // It goes elsewhere, or does without.
                    Err(Denied::Migrate | Denied::Offline) => self.end(),
                    Err(Denied::Deadline(_)) => self.at -= 1,
                }
            }
            Do::Leave => self.inside = None,
            Do::Take => self.has_lock = true,
            Do::Release => self.has_lock = false,
            Do::EnterLock => {
                let entered =
                    lock.map(|lock| lock.enter(Binding::Pinned, "a user", Duration::ZERO));
                match entered {
                    Some(Ok(inside)) => self.in_lock = Some(inside),
                    Some(Err(_)) => self.at -= 1,
                    None => {}
                }
            }
            Do::LeaveLock => self.in_lock = None,
        }
    }
}

/// What the notifier is at.
#[derive(Default)]
pub(crate) struct Asked {
    /// The vCPUs that it was asked to let go of, and has not answered for.
    pub(crate) pending: BTreeMap<u32, Done>,
    /// The vCPUs that it has let go of.
    pub(crate) gone: BTreeSet<u32>,
}

/// What the notifiers are called, in the order in which there can be any.
pub(crate) const LOCK: &str = "the lock";
pub(crate) const WAITS: &str = "the notifier";

/// A notifier that answers when it is let.
#[derive(Clone, Default)]
pub(crate) struct Waits(Arc<Mutex<Asked>>);

impl Waits {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.lock();
        let pending: Vec<_> = asked.pending.keys().collect();
        write!(f, "Waits({pending:?}, {:?})", asked.gone)
    }
}

impl Notifier for Waits {
    fn name(&self) -> &'static str {
        WAITS
    }

    fn prepare(&mut self, vcpu: VcpuRef, done: Done) {
        let mut asked = self.lock();
        asked.gone.insert(vcpu.id);
        // Answering for what is asked anew is the coordinator's matter, and not under this lock.
        let before = asked.pending.insert(vcpu.id, done);
        drop(asked);
        drop(before);
    }

    fn undo(&mut self, vcpu: VcpuRef) {
        let taken = {
            let mut asked = self.lock();
            asked.gone.remove(&vcpu.id);
            asked.pending.remove(&vcpu.id)
        };
        drop(taken);
    }

    fn after_death(&mut self, vcpu: VcpuRef) {
        // It has let go, or has nothing of it any more.
        let taken = self.lock().pending.remove(&vcpu.id);
        drop(taken);
        self.lock().gone.remove(&vcpu.id);
    }
}

/// The lock of old: shut before anybody else is notified.
pub(crate) struct Lock(pub(crate) Arc<Gate>);

impl Notifier for Lock {
    fn name(&self) -> &'static str {
        LOCK
    }

    fn prepare(&mut self, _: VcpuRef, done: Done) {
        let _ = self.0.close();
        done.ready();
    }

    fn undo(&mut self, _: VcpuRef) {
        self.0.open();
    }

    fn after_death(&mut self, _: VcpuRef) {
        self.0.open();
    }
}
