//! What is counted agrees with what is shown.

use super::*;
use crate::hotplug::view::Timeline;

fn total(timeline: &Timeline) -> Duration {
    timeline.phases.iter().map(|(_, spent)| *spent).sum()
}

impl Bench {
    fn tally(&self) -> &Tally {
        &self.coordinator.tally
    }

    /// How many plugs or unplugs ended so, and how long they took.
    fn attempts(&self, target: Target, code: Code) -> (u64, Duration) {
        let mut all = self.tally().attempts();
        let found = all.find(|(to, how, _)| (*to, *how) == (target, code));
        let (.., times) = found.unwrap();
        (times.count(), times.sum)
    }

    /// Codes of all plugs and unplugs, with how often there was each.
    fn ends(&self) -> Vec<(Target, &'static str, u64)> {
        let all = self.tally().attempts();
        let all = all.map(|(target, code, times)| (target, code.name(), times.count()));
        all.filter(|(.., count)| *count > 0).collect()
    }
}

#[test]
fn times_are_those_of_the_timeline() {
    let mut bench = Bench::new(2);
    bench.ask(Want::Count(1));
    bench.guest_ejects(1);
    bench.ask(Want::Count(2));
    bench.guest_starts(1);
    let vcpu = bench.view().vcpus[1].clone();
    for (target, timeline) in [
        (Target::Offline, vcpu.last_unplug.as_ref().unwrap()),
        (Target::Online, vcpu.last_plug.as_ref().unwrap()),
    ] {
        let whole = bench.attempts(target, Code::Succeeded);
        assert_eq!(whole, (1, total(timeline)), "{target}");
        for (stage, spent) in &timeline.phases {
            let mut stages = bench.tally().stages();
            let found = stages.find(|(to, name, _)| (*to, *name) == (target, *stage));
            let (.., times) = found.unwrap();
            assert_eq!((times.count(), times.sum), (1, *spent), "{target} {stage}");
        }
        let stages = bench.tally().stages();
        let counted = stages.filter(|(to, _, times)| *to == target && times.count() > 0);
        assert_eq!(counted.count(), timeline.phases.len());
    }
}

#[test]
fn each_end_is_counted_once_as_what_it_was() {
    let mut bench = Bench::new(2);
    bench.ask(Want::Count(1));
    bench.reads_eject(1);
    bench.ost(1, 3, 0x84);
    bench.ost(1, 3, 0x82);
    assert_eq!(bench.ends(), [(Target::Offline, "refused", 1)]);
    // One that an unplug takes over from.
    bench.ask(Want::Set([0, 1, 2].into()));
    bench.tell(2, Message::Ready);
    bench.machine.noticed = true;
    bench.ask(Want::One(2, Target::Offline));
    bench.guest_ejects(2);
    assert_eq!(
        bench.ends(),
        [
            (Target::Online, "superseded", 1),
            (Target::Offline, "succeeded", 1),
            (Target::Offline, "refused", 1),
        ]
    );
    let parts: Vec<_> = bench.tally().parts().filter(|(.., n)| *n > 0).collect();
    assert_eq!(
        parts,
        [
            (Target::Online, Code::Superseded, 1),
            (Target::Offline, Code::Succeeded, 1),
            (Target::Offline, Code::Refused, 1),
        ]
    );
    let operations: Vec<_> = bench
        .tally()
        .operations()
        .filter(|(.., n)| *n > 0)
        .collect();
    assert_eq!(
        operations,
        [
            ("resize", Code::Refused, 1),
            ("set", Code::Superseded, 1),
            ("vcpu", Code::Succeeded, 1),
        ]
    );
    let statuses: Vec<_> = bench.tally().statuses().filter(|(.., n)| *n > 0).collect();
    let eject = |status, n| (Some(3), Some(status), n);
    assert_eq!(statuses, [eject(0, 1), eject(0x82, 1), eject(0x84, 2)]);
}

/// It ends where it waits, and what it waited there is a part of it.
#[test]
fn a_plug_that_nobody_brings_online_took_all_of_its_time() {
    const LONG: Duration = Duration::from_secs(40);
    let mut bench = Bench::new(1);
    bench.ask(Want::Count(2));
    bench.tell(1, Message::Ready);
    bench.notice(1, What::InsertRead);
    bench.ost(1, 1, 0);
    bench.coordinator.slots[1].age(LONG);
    bench.coordinator.operations.expire();
    bench.tick();
    let (count, time) = bench.attempts(Target::Online, Code::TimedOut);
    assert!(
        count == 1 && time >= LONG && time < 2 * LONG,
        "{count} {time:?}"
    );
}

/// A machine has as many gates as there may be vCPUs, and few of them are open.
#[test]
fn a_machine_that_goes_closes_the_gates_of_vcpus_that_are_there() {
    let mut bench = Bench::new(2);
    let closed = |bench: &Bench| bench.tally().gate_tally().closing.read().count();
    assert_eq!((closed(&bench), bench.view().max), (0, 4));
    assert_eq!(bench.coordinator.retire(), BTreeSet::new());
    assert_eq!(closed(&bench), 2);
}
