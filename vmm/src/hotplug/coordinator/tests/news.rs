//! What others hear: enough to know at any moment what the view shows.

use super::*;
use crate::events::PhaseChange;
use crate::hotplug::view::View;
use crate::hotplug::view::{OperationId, OperationView};

/// Knows only what it was told.
#[derive(Default)]
pub(super) struct Follower {
    phases: BTreeMap<u32, &'static str>,
    operations: BTreeMap<OperationId, Arc<OperationView>>,
}

impl Follower {
    /// Hears what has happened since the last time, each of which must follow from what it knows.
    pub(super) fn hear(&mut self, coordinator: &mut Coordinator) {
        for (_, news) in coordinator.take_news() {
            match news {
                News::Phase(change) => self.phase(&change),
                News::Operation(operation) => self.operation(operation),
                News::Machine(_) => {}
            }
        }
    }

    fn phase(&mut self, change: &PhaseChange) {
        assert_ne!(change.from, change.phase);
        let before = self.phases.insert(change.vcpu, change.phase);
        assert_eq!(before.unwrap_or(change.from), change.from, "{change:?}");
        for operation in self.operations.values_mut() {
            let operation = Arc::make_mut(operation);
            for part in operation.parts.iter_mut() {
                if part.vcpu == change.vcpu && part.outcome.is_none() {
                    Arc::make_mut(part).phase = change.phase;
                }
            }
        }
    }

    fn operation(&mut self, now: Arc<OperationView>) {
        let outcomes =
            |view: &OperationView| view.parts.iter().filter(|p| p.outcome.is_some()).count();
        if let Some(before) = self.operations.get(&now.id) {
            assert!(before.ended.is_none(), "it had ended: {now:?}");
            let more = outcomes(&now) > outcomes(before) || now.ended.is_some();
            assert!(more, "nothing new: {now:?}");
            let phases = |view: &OperationView| -> Vec<_> {
                let open = view.parts.iter().zip(&now.parts);
                let open = open.filter(|(_, part)| part.outcome.is_none());
                open.map(|(part, _)| part.phase).collect()
            };
            assert_eq!(
                phases(before),
                phases(&now),
                "a phase was not told of: {now:?}"
            );
        } else {
            assert!(now.ended.is_none(), "its begin was not told of: {now:?}");
        }
        self.operations.insert(now.id, now);
    }

    /// What it knows is what the view shows.
    pub(super) fn check(&self, view: &View) {
        for vcpu in &view.vcpus {
            let known = self.phases.get(&vcpu.id);
            assert_eq!(
                *known.unwrap_or(&vcpu.phase),
                vcpu.phase,
                "vCPU {}",
                vcpu.id
            );
        }
        for (id, operation) in &view.operations {
            let known = &self.operations[id];
            assert_eq!(format!("{known:?}"), format!("{operation:?}"));
        }
    }
}

/// Phases that were told of, as `from`, `phase` and whether it took time, and operations' states between them.
fn told(news: Vec<(SystemTime, News)>) -> Vec<String> {
    let line = |(_, news)| match news {
        News::Phase(change) => {
            let PhaseChange { from, phase, .. } = change;
            format!("{} {from} {phase} {}", change.vcpu, change.spent.is_some())
        }
        News::Operation(view) => {
            let state = view.ended.map_or("running", |ended| ended.code.name());
            let done = view.parts.iter().filter(|p| p.outcome.is_some()).count();
            format!("{state} {done}/{}", view.parts.len())
        }
        News::Machine(state) => state.to_owned(),
    };
    news.into_iter().map(line).collect()
}

#[test]
fn an_unplug_is_told_step_by_step_and_its_times_add_up() {
    let mut bench = Bench::new(2);
    bench.coordinator.take_news();
    let operation = bench.ask(Want::Count(1));
    bench.guest_ejects(1);
    let news = bench.coordinator.take_news();
    let changes = news.iter().filter_map(|(_, news)| match news {
        News::Phase(change) => Some(change.clone()),
        _ => None,
    });
    let changes: Vec<_> = changes.collect();
    assert!(changes.iter().all(|c| c.operation == Some(operation)));
    assert!(changes.iter().all(|c| c.target == Target::Offline));
    let timeline = bench.view().vcpus[1].last_unplug.clone().unwrap();
    let of = |phase: &str| -> Duration {
        let stages = timeline.phases.iter();
        let stages = stages.filter(|(stage, _)| stage.split('.').next() == Some(phase));
        stages.map(|(_, spent)| *spent).sum()
    };
    for change in &changes[1..] {
        assert_eq!(change.spent, Some(of(change.from)), "{change:?}");
    }
    assert_eq!(
        told(news),
        [
            "running 0/1",
            "1 online draining false",
            "1 draining notifying true",
            "1 notifying syncing true",
            "1 syncing stopping true",
            "1 stopping dormant true",
            "succeeded 1/1",
        ]
    );
}

#[test]
fn a_plug_is_told_and_so_is_each_part_s_end() {
    let mut bench = Bench::new(1);
    bench.coordinator.take_news();
    bench.ask(Want::Set([0, 2, 3].into()));
    bench.guest_starts(2);
    bench.ask(Want::Count(3));
    bench.guest_starts(3);
    let news = told(bench.coordinator.take_news());
    let operations = news.iter().filter(|line| line.contains('/'));
    let operations: Vec<_> = operations.map(String::as_str).collect();
    assert_eq!(
        operations,
        // The second one is about the one that is on its way.
        [
            "running 0/2",
            "running 1/2",
            "running 0/1",
            "succeeded 2/2",
            "succeeded 1/1"
        ]
    );
    let third = news.iter().filter(|line| line.starts_with("3 "));
    let third: Vec<_> = third.map(String::as_str).collect();
    assert_eq!(
        third,
        [
            "3 absent starting false",
            "3 starting announced true",
            "3 announced plugged true",
            "3 plugged online true",
        ]
    );
}

#[test]
fn what_is_so_already_begins_and_ends() {
    let mut bench = Bench::new(2);
    bench.coordinator.take_news();
    bench.ask(Want::Count(2));
    assert_eq!(
        told(bench.coordinator.take_news()),
        ["running 0/0", "succeeded 0/0"]
    );
}
