//! Operations: what was asked for, for which vCPUs, until when, and what became of it.

use super::view::{
    Code, Ended, OperationId, OperationKind, OperationView, Outcome, PartView, Target,
};
use crate::events::{News, PhaseChange};
use crate::tally::Tally;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tracing::info;

/// How many ended operations are kept for whoever asks.
const KEPT: usize = 256;

/// How many may run. Those that want the same of a vCPU run side by side, so that a guest that hangs ends none of them
/// before its time.
const RUNNING: usize = 1024;

/// A running operation.
struct Running {
    kind: OperationKind,
    deadline: Instant,
    created_at: SystemTime,
    parts: BTreeMap<u32, Arc<PartView>>,
}

/// All operations of this process.
pub(super) struct Operations {
    last: OperationId,
    running: BTreeMap<OperationId, Running>,
    ended: BTreeMap<OperationId, Arc<OperationView>>,
    /// The ended ones, in the order in which they ended.
    order: VecDeque<OperationId>,
    /// How many have ended.
    count: u64,
    /// Something has changed since somebody last asked.
    changed: bool,
    /// What has happened since somebody last asked, in order.
    news: Vec<(SystemTime, News)>,
    tally: Arc<Tally>,
}

impl Operations {
    /// None yet; `tally` counts how they end.
    pub(super) fn new(tally: Arc<Tally>) -> Self {
        Self {
            last: 0,
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
            order: VecDeque::new(),
            count: 0,
            changed: false,
            news: Vec::new(),
            tally,
        }
    }

    /// Whether as many run as may.
    pub(super) fn is_full(&self) -> bool {
        self.running.len() >= RUNNING
    }

    /// A new operation, without parts.
    pub(super) fn begin(&mut self, kind: OperationKind, deadline: Instant) -> OperationId {
        self.last += 1;
        self.changed = true;
        let running = Running {
            kind,
            deadline,
            created_at: SystemTime::now(),
            parts: BTreeMap::new(),
        };
        self.running.insert(self.last, running);
        self.last
    }

    /// Adds a vCPU to a running operation.
    pub(super) fn add(&mut self, id: OperationId, vcpu: u32, from: &'static str, to: Target) {
        if let Some(operation) = self.running.get_mut(&id) {
            let part = PartView {
                vcpu,
                from,
                to,
                phase: from,
                outcome: None,
            };
            operation.parts.insert(vcpu, Arc::new(part));
        }
    }

    /// Others are told how an operation stands: it has all of its parts now, or one of them has ended.
    pub(super) fn show(&mut self, id: OperationId) {
        if let Some(operation) = self.running.get(&id) {
            let view = operation.view(id, None);
            self.tell(News::Operation(Arc::new(view)));
        }
    }

    /// A vCPU has another phase, which the open parts for it show.
    pub(super) fn moved(&mut self, change: PhaseChange) {
        for operation in self.running.values_mut() {
            let part = operation.parts.get_mut(&change.vcpu);
            if let Some(part) = part.filter(|part| part.outcome.is_none()) {
                Arc::make_mut(part).phase = change.phase;
            }
        }
        self.tell(News::Phase(change));
    }

    /// Something has happened that others may want to hear of.
    pub(super) fn tell(&mut self, news: News) {
        self.news.push((SystemTime::now(), news));
    }

    /// What has happened since this was last asked.
    pub(super) fn take_news(&mut self) -> Vec<(SystemTime, News)> {
        std::mem::take(&mut self.news)
    }

    /// Whether something has changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How many have ended so far.
    pub(super) fn ended(&self) -> u64 {
        self.count
    }

    /// Whether it still runs.
    pub(super) fn is_running(&self, id: OperationId) -> bool {
        self.running.contains_key(&id)
    }

    /// Whether there ever was such an operation that is still known of.
    pub(super) fn is_known(&self, id: OperationId) -> bool {
        self.is_running(id) || self.ended.contains_key(&id)
    }

    /// The open parts for a vCPU: which operation, what it wants, until when.
    pub(super) fn open_for(
        &self,
        vcpu: u32,
    ) -> impl Iterator<Item = (OperationId, Target, Instant)> + '_ {
        self.running.iter().filter_map(move |(id, operation)| {
            let part = operation.parts.get(&vcpu)?;
            part.outcome
                .is_none()
                .then_some((*id, part.to, operation.deadline))
        })
    }

    /// The vCPUs of an operation's open parts.
    pub(super) fn open_parts(&self, id: OperationId) -> Vec<u32> {
        let parts = self.running.get(&id).map(|operation| &operation.parts);
        let open = parts
            .into_iter()
            .flatten()
            .filter(|(_, part)| part.outcome.is_none());
        open.map(|(vcpu, _)| *vcpu).collect()
    }

    /// What an operation wants of a vCPU.
    pub(super) fn wanted(&self, id: OperationId, vcpu: u32) -> Option<Target> {
        Some(self.running.get(&id)?.parts.get(&vcpu)?.to)
    }

    /// Running operations whose time is over.
    pub(super) fn overdue(&self, now: Instant) -> Vec<OperationId> {
        let overdue = self.running.iter().filter(|(_, o)| o.deadline <= now);
        overdue.map(|(id, _)| *id).collect()
    }

    /// When the next one's time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.running
            .values()
            .map(|operation| operation.deadline)
            .min()
    }

    /// Every running operation has so much more time.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.running
            .values_mut()
            .for_each(|running| running.deadline += by);
    }

    /// The time of every running operation is over.
    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        self.running
            .values_mut()
            .for_each(|running| running.deadline = now);
    }

    /// Ends one operation's part.
    pub(super) fn conclude(
        &mut self,
        id: OperationId,
        vcpu: u32,
        phase: &'static str,
        outcome: Outcome,
    ) {
        if let Some(operation) = self.running.get_mut(&id)
            && let Some(part) = operation.parts.get_mut(&vcpu)
        {
            info!(operation = id, vcpu, to = %part.to, code = %outcome.code, "{}", outcome.detail);
            self.changed = true;
            let part = Arc::make_mut(part);
            part.phase = phase;
            if part.outcome.is_none() {
                self.tally.part(part.to, outcome.code);
            }
            part.outcome = Some(outcome);
            if !operation.is_done() {
                self.show(id);
            }
        }
        self.end_if_done(id);
    }

    /// Ends every open part for a vCPU that wants `to`.
    pub(super) fn conclude_all(
        &mut self,
        vcpu: u32,
        to: Target,
        phase: &'static str,
        outcome: &Outcome,
    ) {
        let open: Vec<_> = self.open_for(vcpu).collect();
        for (id, wanted, _) in open {
            if wanted == to {
                self.conclude(id, vcpu, phase, outcome.clone());
            }
        }
    }

    /// Ends an operation all of whose parts have ended.
    pub(super) fn end_if_done(&mut self, id: OperationId) {
        if !self.running.get(&id).is_some_and(Running::is_done) {
            return;
        }
        if let Some(operation) = self.running.remove(&id) {
            let outcomes = operation
                .parts
                .values()
                .filter_map(|part| part.outcome.as_ref());
            let code = outcomes.map(|outcome| outcome.code).max();
            let code = code.unwrap_or(Code::Succeeded);
            self.tally.operation(operation.kind, code);
            let ended = Ended {
                code,
                at: SystemTime::now(),
            };
            let view = Arc::new(operation.view(id, Some(ended)));
            self.tell(News::Operation(view.clone()));
            self.ended.insert(id, view);
            self.order.push_back(id);
            self.count += 1;
            self.changed = true;
            if self.order.len() > KEPT
                && let Some(first) = self.order.pop_front()
            {
                self.ended.remove(&first);
            }
        }
    }

    /// All of them, for everybody.
    pub(super) fn view(&self) -> BTreeMap<OperationId, Arc<OperationView>> {
        let mut all = self.ended.clone();
        let running = self.running.iter();
        all.extend(running.map(|(id, running)| (*id, Arc::new(running.view(*id, None)))));
        all
    }
}

impl Running {
    fn is_done(&self) -> bool {
        self.parts.values().all(|part| part.outcome.is_some())
    }

    fn view(&self, id: OperationId, ended: Option<Ended>) -> OperationView {
        OperationView {
            id,
            kind: self.kind,
            ended,
            parts: self.parts.values().cloned().collect(),
            created_at: self.created_at,
        }
    }
}
