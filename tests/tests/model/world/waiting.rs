//! Who waits, and for what, in words.

use super::World;
use crate::people::{Do, WAITS};

impl World {
    /// A line for each who cannot go on.
    pub(crate) fn waiting(&self) -> Vec<String> {
        let mut waiting = Vec::new();
        let stuck = self.users.iter().enumerate();
        let stuck = stuck.filter(|(_, user)| user.has_begun() && !self.can_go(user));
        for (number, user) in stuck {
            let what = match user.next() {
                Some(Do::Enter(vcpu, _)) => format!("vCPU {vcpu}'s gate to open"),
                Some(Do::EnterLock) => "the lock of old to open".to_owned(),
                _ => "the users' lock".to_owned(),
            };
            waiting.push(format!("user {number} waits for {what}"));
        }
        let begun = self.users.iter().enumerate();
        let waited_for = begun.filter(|(_, user)| user.life.is_waited_for && user.has_begun());
        for (number, _) in waited_for {
            for vcpu in self.waits.lock().pending.keys() {
                waiting.push(format!("{WAITS}, of vCPU {vcpu}, waits for user {number}"));
            }
        }
        if let Some(vcpu) = self.held {
            waiting.push(format!(
                "the write that ejects vCPU {vcpu} waits for its thread to leave the guest, and has the lock without which the \
                 control thread cannot tell it to"
            ));
        }
        for vcpu in &self.view.vcpus {
            let inside = self.users.iter().enumerate().filter(|(_, user)| {
                let inside = user.inside.as_ref();
                vcpu.phase == "syncing" && inside.is_some_and(|(inside, _)| *inside == vcpu.id)
            });
            for (number, _) in inside {
                waiting.push(format!(
                    "vCPU {} waits for user {number} to leave it",
                    vcpu.id
                ));
            }
        }
        for vcpu in self.stopping.iter().flatten() {
            waiting.push(format!(
                "the machine, to go, waits for users to leave vCPU {vcpu}"
            ));
        }
        let operations = self.open_operations();
        waiting.extend(operations.map(|operation| format!("operation {operation} has not ended")));
        waiting
    }
}
