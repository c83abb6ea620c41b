//! The agent as one of those who are told that a vCPU comes or goes.

use super::Waits;
use crate::hotplug::notifier::{Done, Notifier};
use crate::hotplug::view::VcpuRef;
use crate::vsock::Client;
use hotvisor_protocol::{ApicId, Begin, End, Kind, List, Outcome, Pinned};
use std::collections::BTreeMap;

/// When an agent that hears of nobody any more takes an operation for undone. Longer ones are better off without it then.
const LONGEST_MS: u32 = 60_000;

/// See the module.
pub struct AgentNotifier {
    client: Client,
    /// Counts what the agent was told of.
    last: u64,
    /// What it was told of and has not ended, by vCPU.
    under_way: BTreeMap<u32, u64>,
}

impl AgentNotifier {
    /// One that reaches the agent through the thread `vsock`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            last: 0,
            under_way: BTreeMap::new(),
        }
    }

    fn begin(&mut self, vcpu: VcpuRef, kind: Kind, waits: Option<Waits>) {
        // What took over from another is its end.
        self.end(vcpu, Outcome::Undone);
        let Ok(id) = ApicId::try_from(vcpu.id) else {
            return;
        };
        if !self.client.presence().is_there() {
            return;
        }
        self.last += 1;
        self.under_way.insert(vcpu.id, self.last);
        let begin = Begin {
            operation: self.last,
            kind,
            cpus: List::new([id]),
            // Linux moves work away itself, and faster than anybody can from outside of its kernel.
            drain: false,
            pinned: Pinned::Break,
            expedite: true,
            deadline_ms: LONGEST_MS,
        };
        self.client.agent_begin(begin, waits);
    }

    fn end(&mut self, vcpu: VcpuRef, outcome: Outcome) {
        if let Some(operation) = self.under_way.remove(&vcpu.id) {
            self.client.agent_end(End { operation, outcome });
        }
    }
}

impl Notifier for AgentNotifier {
    fn name(&self) -> &'static str {
        "the guest's agent"
    }

    fn comes(&mut self, vcpu: VcpuRef) {
        self.begin(vcpu, Kind::Plug, None);
    }

    fn came(&mut self, vcpu: VcpuRef) {
        self.end(vcpu, Outcome::Done);
    }

    fn prepare(&mut self, vcpu: VcpuRef, done: Done) {
        self.begin(vcpu, Kind::Unplug, Some(Waits::new(done)));
    }

    fn undo(&mut self, vcpu: VcpuRef) {
        self.end(vcpu, Outcome::Undone);
    }

    fn after_death(&mut self, vcpu: VcpuRef) {
        self.end(vcpu, Outcome::Done);
    }
}
