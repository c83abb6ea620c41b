//! What others see of the vCPUs.

use super::super::gate::Entrance;
use super::super::machinery::Machinery;
use super::super::slot::Slot;
use super::super::view::{ThreadView, VcpuView, View};
use super::Coordinator;
use std::sync::Arc;

impl Coordinator {
    /// The view, if it has changed since the last time.
    pub fn take_view(&mut self, machine: Option<&dyn Machinery>) -> Option<View> {
        let changed = std::mem::take(&mut self.changed);
        if !(self.operations.take_changed() || changed) {
            return None;
        }
        // A turn changes a few of maybe a thousand. Those that it does not change are only looked at.
        self.shown.truncate(self.slots.len());
        for id in self.ids() {
            let thread = machine.and_then(|machine| machine.thread(id));
            let at = id as usize;
            match self.shown.get_mut(at) {
                Some(shown) if self.slots[at].is_shown_by(shown, thread.as_ref()) => {}
                Some(shown) => {
                    *shown = Arc::new(self.slots[at].show(id, thread, self.gates[at].entrance()))
                }
                None => {
                    let new = self.slots[at].show(id, thread, self.gates[at].entrance());
                    self.shown.push(Arc::new(new));
                }
            }
        }
        Some(View {
            desired: self.desired,
            plugged: self.count(|slot| slot.phase.is_plugged()),
            online: self.count(|slot| slot.phase.is_online()),
            max: self.count(|_| true),
            vcpus: self.shown.clone(),
            operations: self.operations.view(),
            ended: self.operations.ended(),
            ..View::default()
        })
    }

    /// Forgets what it has shown, so that the next view is made anew.
    #[cfg(test)]
    pub(super) fn forget_shown(&mut self) {
        self.shown.clear();
        self.changed = true;
    }
}

impl Slot {
    fn show(&self, id: u32, thread: Option<ThreadView>, gate: Entrance) -> VcpuView {
        VcpuView {
            id,
            phase: self.phase.name(),
            target: self.target,
            generation: self.run,
            thread,
            last_operation: self.last_operation,
            last_plug: self.last_plug.clone(),
            last_unplug: self.last_unplug.clone(),
            gate,
        }
    }

    /// Whether a view with this thread would be no other one.
    fn is_shown_by(&self, shown: &VcpuView, with: Option<&ThreadView>) -> bool {
        // Each field by name, so that none is forgotten. The gate stays the same as long as the slot does.
        let VcpuView {
            id: _,
            phase,
            target,
            generation,
            thread,
            last_operation,
            last_plug,
            last_unplug,
            gate: _,
        } = shown;
        *phase == self.phase.name()
            && *target == self.target
            && *generation == self.run
            && thread.as_ref() == with
            && *last_operation == self.last_operation
            && *last_plug == self.last_plug
            && *last_unplug == self.last_unplug
    }
}
