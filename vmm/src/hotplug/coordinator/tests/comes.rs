//! Host-side notifiers hear that a plug begins, and that it has ended, however that was.

use super::super::*;
use super::bench::Bench;
use crate::hotplug::client::Want;
use crate::hotplug::notifier::Done;
use std::sync::Mutex;

/// What was said, of which vCPU.
type Said = Mutex<Vec<(&'static str, u32)>>;

struct Plugs(Arc<Said>);

impl Plugs {
    fn says(&self, what: &'static str, vcpu: VcpuRef) {
        self.0.lock().unwrap().push((what, vcpu.id));
    }
}

impl Notifier for Plugs {
    fn name(&self) -> &'static str {
        "plugs"
    }
    fn comes(&mut self, vcpu: VcpuRef) {
        self.says("comes", vcpu);
    }
    fn came(&mut self, vcpu: VcpuRef) {
        self.says("came", vcpu);
    }
    fn prepare(&mut self, vcpu: VcpuRef, done: Done) {
        self.says("prepare", vcpu);
        done.ready();
    }
    fn undo(&mut self, vcpu: VcpuRef) {
        self.says("undo", vcpu);
    }
    fn after_death(&mut self, vcpu: VcpuRef) {
        self.says("after death", vcpu);
    }
}

fn bench() -> (Bench, Arc<Said>) {
    let (mut bench, said) = (Bench::new(1), Arc::default());
    bench
        .coordinator
        .register(Box::new(Plugs(Arc::clone(&said))));
    (bench, said)
}

fn take(said: &Said) -> Vec<(&'static str, u32)> {
    std::mem::take(&mut said.lock().unwrap())
}

#[test]
fn before_the_guest_is_told_and_when_it_has_started_it() {
    let (mut bench, said) = bench();
    bench.ask(Want::Count(2));
    assert_eq!(take(&said), [("comes", 1)]);
    assert_eq!(bench.machine.calls, [("start", 1)], "nobody is told yet");
    bench.tell(1, Message::Ready);
    bench.notice(1, What::InsertRead);
    bench.ost(1, 1, 0);
    assert_eq!(take(&said), [], "it is plugged, and not online");
    bench.tell(1, Message::Started);
    assert_eq!(take(&said), [("came", 1)]);
}

#[test]
fn one_that_comes_to_nothing_has_ended_as_well() {
    let (mut bench, said) = bench();
    bench.machine.full = true;
    bench.ask(Want::Count(2));
    assert_eq!(take(&said), [("comes", 1), ("came", 1)]);
    let (mut bench, said) = self::bench();
    bench.ask_within(Want::Count(2), Duration::ZERO);
    bench.tick();
    assert_eq!(take(&said), [("comes", 1), ("came", 1)]);
}

#[test]
fn an_unplug_that_takes_over_is_told_instead() {
    let (mut bench, said) = bench();
    bench.ask(Want::Count(2));
    bench.tell(1, Message::Ready);
    bench.notice(1, What::InsertRead);
    bench.machine.noticed = true;
    take(&said);
    bench.ask(Want::Count(1));
    assert_eq!(take(&said), [("prepare", 1)]);
}
