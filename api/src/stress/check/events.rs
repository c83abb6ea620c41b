//! The stream of events, read for the whole run: nothing is missing in it, and each event fits the one before.

use crate::client::sse::Frame;
use crate::client::{Events, Failure};
use crate::wire::events::{MachineEvent, OperationEvent, PhaseEvent};
use crate::wire::operations::{Kind, Operation};
use crate::wire::vcpus::Vcpus;
use hotvisor_vmm::Problem;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

/// Events that are kept to be shown at least, and those of one step at most.
const SHOWN: usize = 80;
const STEP_SHOWN: usize = 4000;

/// The stream, and what it has told.
#[derive(Debug)]
pub(crate) struct Stream {
    frames: UnboundedReceiver<Result<Frame, Failure>>,
    told: Story,
}

/// What the events have told so far.
#[derive(Debug, Default)]
pub(crate) struct Story {
    last: Option<u64>,
    phases: BTreeMap<u32, String>,
    generations: BTreeMap<u32, u64>,
    /// How often each vCPU was started since this was last asked.
    starts: BTreeMap<u32, u64>,
    /// Operations that have begun since this was last asked, as they are.
    operations: BTreeMap<u64, Operation>,
    /// Operations that have ended since the machine was first looked at.
    pub(crate) ended: u64,
    shown: VecDeque<String>,
    /// How many of those are of the step that is under way.
    of_step: usize,
    /// The vCPUs of the operations of the step that was last looked at.
    last_step: BTreeSet<u32>,
    found: Vec<String>,
    /// There is another machine, or none.
    another: bool,
}

impl Story {
    /// From the machine as it is.
    pub(crate) fn begin(vcpus: &Vcpus) -> Self {
        let mut story = Self::default();
        story.adopt(vcpus);
        story
    }

    /// Goes on from what is so.
    pub(crate) fn adopt(&mut self, vcpus: &Vcpus) {
        for vcpu in &vcpus.vcpus {
            self.phases.insert(vcpu.id, vcpu.phase.to_string());
            self.generations.insert(vcpu.id, vcpu.generation);
        }
        self.of_step = 0;
        self.another = false;
    }

    /// The next event.
    pub(crate) fn hear(&mut self, frame: &Frame) {
        let Some(id) = frame.id else { return };
        let before = self.last.replace(id);
        if frame.data.is_empty() {
            return;
        }
        self.of_step = (self.of_step + 1).min(STEP_SHOWN);
        while self.shown.len() >= SHOWN.max(self.of_step) {
            self.shown.pop_front();
        }
        self.shown
            .push_back(format!("{id} {}: {}", frame.kind, frame.data.trim_end()));
        if before.is_some_and(|before| id != before + 1) {
            self.found
                .push(format!("after event {} comes {id}", before.unwrap_or(0)));
        }
        let understood = match &*frame.kind {
            "phase" => serde_json::from_str(&frame.data).map(|event| self.phase(&event)),
            "operation" => serde_json::from_str(&frame.data).map(|event| self.operation(event)),
            "machine" => serde_json::from_str(&frame.data).map(|event: MachineEvent| {
                // One that pauses or starts again goes on with its vCPUs.
                self.another |= matches!(&*event.state, "none" | "created");
            }),
            kind => {
                self.found
                    .push(format!("event {id} is a {kind}: {}", frame.data));
                Ok(())
            }
        };
        if let Err(e) = understood {
            self.found.push(format!("event {id} cannot be read: {e}"));
        }
    }

    fn phase(&mut self, event: &PhaseEvent) {
        let PhaseEvent {
            vcpu,
            from,
            phase,
            generation,
            ..
        } = event;
        let last = self.phases.insert(*vcpu, phase.to_string());
        if !self.another && last.as_deref() != Some(&**from) {
            let last = last.unwrap_or_default();
            self.found.push(format!(
                "vCPU {vcpu} comes from {from} into {phase}, and was {last}"
            ));
        }
        let before = self.generations.insert(*vcpu, *generation);
        if before.is_some_and(|before| before > *generation) {
            self.found.push(format!(
                "vCPU {vcpu} is of generation {generation}, after {before:?}"
            ));
        }
        if phase == "starting" {
            *self.starts.entry(*vcpu).or_default() += 1;
        }
    }

    fn operation(&mut self, event: OperationEvent) {
        let operation = event.operation;
        self.ended += u64::from(operation.ended_at.is_some());
        self.operations.insert(operation.id, operation);
    }

    /// Whether it has come to where the vCPUs are, and to the end of these operations.
    fn is_up_to(&self, vcpus: &Vcpus, ended: &[u64]) -> bool {
        let over = |id: &u64| {
            self.operations
                .get(id)
                .is_some_and(|o| o.ended_at.is_some())
        };
        let same = |vcpu: &crate::wire::vcpus::Vcpu| {
            self.phases
                .get(&vcpu.id)
                .is_some_and(|phase| *phase == vcpu.phase)
        };
        ended.iter().all(over) && vcpus.vcpus.iter().all(same)
    }

    /// Where the events tell of an operation's end otherwise than the API's answer does.
    pub(crate) fn check_end(&mut self, told: &Operation) {
        match self.operations.get(&told.id) {
            Some(heard) if heard != told => self.found.push(format!(
                "operation {} ended by the events as {heard:?}, and by the API as {told:?}",
                told.id
            )),
            _ => {}
        }
    }

    /// What is wrong with operations that are not among `ours`; none but an eject of the guest's by itself, where `ejects`
    /// allows it.
    pub(crate) fn check_strangers(&mut self, ours: &BTreeSet<u64>, ejects: bool) -> Vec<u64> {
        let operations = std::mem::take(&mut self.operations);
        let parts = operations.values().flat_map(|o| &o.vcpus);
        self.last_step = parts.map(|part| part.id).collect();
        let mut strangers = Vec::new();
        for (id, operation) in operations {
            if ours.contains(&id) {
                continue;
            }
            strangers.push(id);
            let ids: Vec<_> = operation.vcpus.iter().map(|part| part.id).collect();
            match operation.kind {
                Kind::GuestEject if ejects => {}
                Kind::GuestEject => self.found.push(format!(
                    "operation {id} is not ours: the guest ejected vCPU {ids:?} by itself"
                )),
                kind => self.found.push(format!(
                    "operation {id} is not ours: somebody else asked for a change ({kind:?}, vCPUs {ids:?}); \
                     a run must be the only client that asks for changes"
                )),
            }
        }
        strangers
    }

    /// What did not fit since this was last asked.
    pub(crate) fn take_found(&mut self) -> Vec<String> {
        std::mem::take(&mut self.found)
    }

    /// How often each vCPU was started since this was last asked.
    pub(crate) fn take_starts(&mut self) -> BTreeMap<u32, u64> {
        std::mem::take(&mut self.starts)
    }

    /// Whether the guest has ejected this vCPU by itself since strangers were last looked for.
    pub(crate) fn was_ejected(&self, vcpu: u32) -> bool {
        let of = |operation: &Operation| {
            operation.kind == Kind::GuestEject
                && operation.ended_at.is_some()
                && operation.vcpus.iter().any(|part| part.id == vcpu)
        };
        self.operations.values().any(of)
    }

    /// An operation of those that were heard of since strangers were last looked for, if it has ended.
    pub(crate) fn ended(&self, id: u64) -> Option<Operation> {
        let heard = self.operations.get(&id);
        heard
            .filter(|operation| operation.ended_at.is_some())
            .cloned()
    }

    /// The vCPUs of the operations that were heard of since strangers were last looked for, and those that were started.
    pub(crate) fn touched(&self) -> BTreeSet<u32> {
        let parts = self.operations.values().flat_map(|o| &o.vcpus);
        let parts = parts.map(|part| part.id);
        let now: BTreeSet<u32> = parts.chain(self.starts.keys().copied()).collect();
        match now.is_empty() {
            true => self.last_step.clone(),
            false => now,
        }
    }

    /// The last of them.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.shown.iter().cloned().collect()
    }
}

impl Stream {
    /// Reads `events` from now on, in a task of its own.
    pub(crate) fn begin(mut events: Events, told: Story) -> Self {
        let (sender, frames) = unbounded_channel();
        tokio::spawn(async move {
            loop {
                let next = events.next().await.transpose();
                let Some(next) = next else { return };
                let over = next.is_err();
                if sender.send(next).is_err() || over {
                    return;
                }
            }
        });
        Self { frames, told }
    }

    pub(crate) fn story(&mut self) -> &mut Story {
        &mut self.told
    }

    /// Hears what is there already.
    pub(crate) fn catch_up(&mut self) {
        while let Ok(Ok(frame)) = self.frames.try_recv() {
            self.told.hear(&frame);
        }
    }

    /// The next event, until then. Whether there was one.
    ///
    /// # Errors
    /// The stream has broken.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<bool, Failure> {
        match timeout_at(until, self.frames.recv()).await {
            Err(_) => Ok(false),
            Ok(Some(Ok(frame))) => {
                self.told.hear(&frame);
                Ok(true)
            }
            Ok(Some(Err(failure))) => Err(failure),
            Ok(None) => Err(Failure::Reach(Problem::new(
                "the stream of events",
                "the VM has ended it",
                "see whether the VM is still there",
            ))),
        }
    }

    /// Waits for the events up to what the vCPUs are, and to the ends of these operations.
    ///
    /// # Errors
    /// The stream has broken.
    pub(crate) async fn reach(
        &mut self,
        vcpus: &Vcpus,
        ended: &[u64],
        until: Instant,
    ) -> Result<(), Failure> {
        self.catch_up();
        while !self.told.is_up_to(vcpus, ended) {
            if self.next(until).await? {
                continue;
            }
            if self.told.another {
                break;
            }
            for vcpu in &vcpus.vcpus {
                let phase = self.told.phases.get(&vcpu.id).cloned().unwrap_or_default();
                if phase != vcpu.phase {
                    let (id, says) = (vcpu.id, &vcpu.phase);
                    self.told.found.push(format!(
                        "vCPU {id} is {phase} by the events, and {says} by the API"
                    ));
                }
            }
            self.told.found.push(format!(
                "the events lack an end of the operations {ended:?}"
            ));
            break;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64, kind: &str, data: &str) -> Frame {
        Frame {
            id: Some(id),
            kind: kind.to_owned(),
            data: data.to_owned(),
        }
    }

    fn phase(id: u64, generation: u64, from: &str, to: &str) -> Frame {
        let data = format!(
            r#"{{"at":"x","vcpu":1,"generation":{generation},"target":"online","from":"{from}","phase":"{to}","us":null,"operation":1}}"#
        );
        frame(id, "phase", &data)
    }

    fn story(frames: &[Frame]) -> Story {
        let mut story = Story::default();
        story.phases.insert(1, "dormant".to_owned());
        story.hear(&frame(4, "message", ""));
        frames.iter().for_each(|frame| story.hear(frame));
        story
    }

    fn found(frames: &[Frame]) -> String {
        story(frames).take_found().join("; ")
    }

    #[test]
    fn what_fits_is_no_contradiction() {
        let mut story = story(&[
            phase(5, 1, "dormant", "starting"),
            phase(6, 2, "starting", "announced"),
        ]);
        assert_eq!(story.take_found(), Vec::<String>::new());
        assert_eq!(story.take_starts(), BTreeMap::from([(1, 1)]));
        assert_eq!(story.lines().len(), 2);
    }

    #[test]
    fn an_operation_ends_in_the_same_way_for_all() {
        let data = r#"{"at":"x","operation":{"id":17,"kind":"vcpu","desired":null,"state":"succeeded","vcpus":[],"created_at":"x","ended_at":"y"}}"#;
        let mut story = story(&[frame(5, "operation", data)]);
        let mut told = story.ended(17).unwrap();
        story.check_end(&told);
        assert_eq!(story.take_found(), Vec::<String>::new());
        told.state = crate::wire::operations::State::Refused;
        story.check_end(&told);
        assert!(
            story
                .take_found()
                .join("")
                .contains("operation 17 ended by the events")
        );
    }

    #[test]
    fn all_events_of_a_step_are_shown_and_some_before() {
        let mut story = Story::default();
        let hear = |story: &mut Story, from: u64, count: u64| {
            (from..from + count).for_each(|id| {
                story.hear(&frame(
                    id,
                    "machine",
                    "{\"at\":\"x\",\"state\":\"running\"}",
                ))
            });
        };
        hear(&mut story, 1, 300);
        assert_eq!(story.lines().len(), 300);
        story.adopt(&crate::stress::model::tests::vcpus(&["online"]));
        hear(&mut story, 301, 10);
        assert_eq!(story.lines().len(), SHOWN);
        assert!(story.lines().iter().any(|line| line.starts_with("231 ")));
    }

    #[test]
    fn each_thing_that_does_not_fit_is_noticed() {
        assert!(found(&[phase(6, 1, "dormant", "starting")]).contains("after event 4 comes 6"));
        assert!(found(&[phase(5, 1, "online", "draining")]).contains("and was dormant"));
        let back = [
            phase(5, 2, "dormant", "starting"),
            phase(6, 1, "starting", "announced"),
        ];
        assert!(found(&back).contains("of generation 1"));
        assert!(found(&[frame(5, "gap", "{}")]).contains("is a gap"));
        assert!(found(&[frame(5, "phase", "{}")]).contains("cannot be read"));
    }

    #[test]
    fn somebody_elses_operation_is_said_to_be_one() {
        let data = r#"{"at":"x","operation":{"id":17,"kind":"vcpu","desired":null,"state":"running","vcpus":[],"created_at":"x","ended_at":null}}"#;
        let mut other = story(&[frame(5, "operation", data)]);
        assert_eq!(other.check_strangers(&BTreeSet::new(), true), [17]);
        assert!(
            other
                .take_found()
                .join("")
                .contains("operation 17 is not ours")
        );
        let mut ours = story(&[frame(5, "operation", data)]);
        assert!(
            ours.check_strangers(&BTreeSet::from([17]), false)
                .is_empty()
        );
        assert_eq!(ours.take_found(), Vec::<String>::new());
    }
}
