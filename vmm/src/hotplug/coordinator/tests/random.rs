//! The coordinator and the real controller, with threads and a guest that do whatever they may, in any order.

use super::super::*;
use super::board::{Board, CPUS, Queue};
use super::news::Follower;
use crate::hotplug::client::{Request, Want};
use crate::hotplug::view::View;
use hotvisor_devices::cpu_hotplug::Request as Ask;
use proptest::prelude::*;
use std::collections::VecDeque;

const FOREVER: Duration = Duration::from_secs(3600);

/// What the guest does about a notification.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Obey,
    Refuse,
    Begin,
    Ignore,
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Want, bool),
    Cancel(u64),
    Tick,
    /// Whoever is to be told again, or kicked again, is.
    Remind,
    /// The control thread takes a message.
    Control,
    /// A vCPU's thread gets on.
    Thread(u32),
    Scan,
    Work(Manner),
    /// The second oldest notification comes before the oldest.
    Overtake,
    /// An eject out of the blue.
    Eject(u32),
    /// The next start of a thread fails, at once or later.
    Fail(u32, bool),
    Pause,
    Resume,
    Restart,
}

fn want() -> impl Strategy<Value = Want> {
    let set = proptest::collection::btree_set(1..CPUS, 0..CPUS as usize).prop_map(|mut set| {
        set.insert(0);
        Want::Set(set)
    });
    let target = prop_oneof![Just(Target::Online), Just(Target::Offline)];
    prop_oneof![
        (1..=CPUS).prop_map(Want::Count),
        set,
        (1..CPUS, target).prop_map(|(id, target)| Want::One(id, target)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let manner = prop_oneof![
        6 => Just(Manner::Obey),
        2 => Just(Manner::Refuse),
        1 => Just(Manner::Begin),
        1 => Just(Manner::Ignore),
    ];
    prop_oneof![
        4 => (want(), proptest::bool::weighted(0.2)).prop_map(|(w, brief)| Step::Ask(w, brief)),
        1 => (1..20u64).prop_map(Step::Cancel),
        1 => Just(Step::Tick),
        1 => Just(Step::Remind),
        10 => Just(Step::Control),
        8 => (0..CPUS).prop_map(Step::Thread),
        4 => Just(Step::Scan),
        6 => manner.prop_map(Step::Work),
        1 => Just(Step::Overtake),
        1 => (0..=CPUS).prop_map(Step::Eject),
        1 => (1..CPUS, any::<bool>()).prop_map(|(id, now)| Step::Fail(id, now)),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Restart),
    ]
}

struct World {
    coordinator: Coordinator,
    board: Board,
    queue: Queue,
    /// Notifications that the guest has not worked on, in order.
    work: VecDeque<(u32, Ask)>,
    machine: u64,
    /// A CPU that was ejected, and whether the guest has looked since whether it is gone, which it does before it
    /// says so.
    last_word: Option<(u32, bool)>,
    /// It has read of an ejection and forgotten it: nobody can know that nothing comes of it any more.
    forgetful: bool,
    published: View,
    follower: Follower,
}

impl World {
    fn new() -> Self {
        let queue = Queue::default();
        let sink = queue.clone();
        let post: PostMessage = Arc::new(move |message| sink.post(message));
        let limits = Limits {
            operation: FOREVER,
            dormant: None,
        };
        let mut coordinator = Coordinator::new(limits, post, Arc::default());
        coordinator.describe(2, CPUS);
        let board = Board::new(&queue, coordinator.wanted().into_iter());
        coordinator.restarted(1);
        let mut world = Self {
            coordinator,
            board,
            queue,
            work: VecDeque::new(),
            machine: 1,
            last_word: None,
            forgetful: false,
            published: View::default(),
            follower: Follower::default(),
        };
        world.boots();
        world
    }

    fn step(&mut self, step: Step) {
        self.take(step);
        self.follower.hear(&mut self.coordinator);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask(want, brief) => {
                let timeout = Some(if brief { Duration::ZERO } else { FOREVER });
                let request = Request { want, timeout };
                let paused = self.coordinator.paused.is_some();
                let asked = self.coordinator.change(&request, &mut self.board);
                assert_eq!(asked.is_err(), paused, "{asked:?}");
            }
            Step::Cancel(id) => {
                let _ = self.coordinator.cancel(id, &mut self.board);
            }
            Step::Tick => self.coordinator.tick(Instant::now(), &mut self.board),
            Step::Remind => {
                let slots = self.coordinator.slots.iter_mut();
                let again = slots.filter_map(|slot| slot.again.as_mut());
                again.for_each(|(at, _)| *at = Instant::now());
                self.coordinator.tick(Instant::now(), &mut self.board);
            }
            Step::Control => {
                if let Some(message) = self.queue.pop() {
                    self.coordinator.message(message, &mut self.board);
                }
            }
            Step::Thread(id) => {
                if let Some(message) = self.board.threads[id as usize].todo.pop_front() {
                    self.queue.post(message);
                }
            }
            Step::Scan => {
                self.board.interrupt = false;
                self.work.extend(self.board.scan());
            }
            Step::Work(manner) => self.work(manner),
            Step::Overtake if self.work.len() > 1 => self.work.swap(0, 1),
            Step::Overtake => {}
            // It has one lock for that and for its work: no other eject before it has looked what came of one.
            Step::Eject(_) if self.last_word.is_some() => {}
            Step::Eject(cpu) => {
                self.board.eject(cpu);
                // `_STA`, as after every eject.
                self.board.flags(cpu);
            }
            Step::Fail(id, now) => self.board.threads[id as usize].fails = Some(now),
            Step::Pause => self.coordinator.pause(Instant::now()),
            Step::Resume => self.coordinator.resume(Instant::now()),
            Step::Restart => self.restart(),
        }
        // Once in each turn, of which this is one.
        self.view();
    }

    fn work(&mut self, manner: Manner) {
        // Much may come between an eject and its last _OST, but no other work of the guest's.
        match self.last_word.take() {
            Some((cpu, true)) => return self.board.ost(cpu, 3, 0),
            Some((cpu, false)) => {
                assert!(
                    !self.board.is_enabled(cpu),
                    "the eject seems to have failed"
                );
                self.last_word = Some((cpu, true));
                return;
            }
            None => {}
        }
        let Some((cpu, ask)) = self.work.pop_front() else {
            return;
        };
        match (ask, manner) {
            (_, Manner::Ignore) => self.forgetful |= ask == Ask::Eject,
            (Ask::Insert, Manner::Refuse) => self.board.ost(cpu, 1, 1),
            (Ask::Insert, _) => {
                self.board.ost(cpu, 1, 0);
                // INIT and SIPI.
                if let Some(run) = self.board.threads[cpu as usize].running {
                    let started = Message::Started(cpu, run);
                    self.board.threads[cpu as usize].todo.push_back(started);
                }
            }
            (Ask::Eject, Manner::Refuse) => self.board.ost(cpu, 3, 0x82),
            (Ask::Eject, Manner::Begin) => {
                self.board.ost(cpu, 3, 0x84);
                self.work.push_front((cpu, Ask::Eject));
            }
            (Ask::Eject, Manner::Obey) => {
                self.board.ost(cpu, 3, 0x84);
                self.board.eject(cpu);
                // Also where it was asked twice, and has ejected it already.
                self.last_word = Some((cpu, false));
            }
        }
    }

    fn restart(&mut self) {
        self.machine += 1;
        // Posts of the machine before are stale: the queue drops them by their generation.
        self.queue.0.lock().unwrap().clear();
        self.work.clear();
        self.last_word = None;
        self.forgetful = false;
        self.board = Board::new(&self.queue, self.coordinator.wanted().into_iter());
        self.coordinator.restarted(self.machine);
        self.boots();
    }

    /// The guest starts all CPUs that it finds.
    fn boots(&mut self) {
        for (id, run) in self.coordinator.slots.iter().enumerate().skip(1) {
            let cpu = u32::try_from(id).unwrap();
            if self.board.threads[id].running.is_some() {
                let started = Message::Started(cpu, run.run);
                self.board.threads[id].todo.push_back(started);
            }
        }
    }

    /// Everybody does what there is left to do.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let before = self.queue.0.lock().unwrap().len() + self.work.len();
            if self.board.interrupt {
                self.step(Step::Scan);
            }
            self.step(Step::Work(Manner::Obey));
            (0..CPUS).for_each(|id| self.step(Step::Thread(id)));
            self.step(Step::Control);
            let after = self.queue.0.lock().unwrap().len() + self.work.len();
            let todo = self
                .board
                .threads
                .iter()
                .any(|thread| !thread.todo.is_empty());
            if before == 0 && after == 0 && !todo && self.last_word.is_none() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// What everybody sees: the last view that was published.
    fn view(&mut self) -> View {
        if let Some(view) = self.coordinator.take_view(Some(&self.board)) {
            self.published = view;
        }
        self.published.clone()
    }

    /// What is kept of an earlier view is as it would be made now.
    fn check_kept(&mut self, view: &View) {
        let vcpus = |view: &View| format!("{:?}", view.vcpus);
        self.coordinator.forget_shown();
        let anew = self.coordinator.take_view(Some(&self.board));
        assert_eq!(Some(vcpus(view)), anew.as_ref().map(vcpus));
    }

    /// At rest, what is said is what there is.
    fn check(&mut self) {
        let view = self.view();
        self.check_kept(&view);
        self.follower.check(&view);
        for (id, slot) in (0..CPUS).zip(&self.coordinator.slots) {
            let plugged = slot.phase.is_plugged();
            assert_eq!(plugged, self.board.is_enabled(id), "{id} {:?}", slot.phase);
            let running = self.board.threads[id as usize].running.is_some();
            assert_eq!(plugged, running, "{id} {:?}", slot.phase);
            assert_eq!(
                slot.target == Target::Online,
                plugged,
                "{id} {:?}",
                slot.phase
            );
        }
        let slots = self.coordinator.slots.iter();
        assert_eq!(
            usize::try_from(view.plugged).unwrap(),
            slots.filter(|slot| slot.phase.is_plugged()).count()
        );
        assert!(view.online <= view.plugged && view.plugged <= view.max);
        for (id, operation) in view.operations {
            assert!(
                operation.ended.is_some(),
                "operation {id} hangs: {operation:?}"
            );
        }
    }

    /// Everybody does what there is left to do, and is told of it again.
    fn obey(&mut self) {
        self.step(Step::Resume);
        self.settle();
        for _ in 0..3 {
            self.step(Step::Remind);
            self.settle();
        }
    }

    /// Everybody does what there is left to do, and what then still hangs runs out of time.
    fn come_to_rest(&mut self) {
        self.step(Step::Resume);
        self.settle();
        self.coordinator.operations.expire();
        self.coordinator.tick(Instant::now(), &mut self.board);
        self.follower.hear(&mut self.coordinator);
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_three_counts_agree_in_the_end(
        steps in proptest::collection::vec(step(), 0..120)
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.come_to_rest();
        world.check();
        // And a request that everybody obeys is met.
        let threads = world.board.threads.iter_mut();
        threads.for_each(|thread| thread.fails = None);
        let timeout = Some(FOREVER);
        let request = Request { want: Want::Count(CPUS), timeout };
        let operation = world.coordinator.change(&request, &mut world.board).unwrap();
        world.follower.hear(&mut world.coordinator);
        world.obey();
        let view = world.view();
        let ended = view.operations[&operation].ended.as_ref().map(|ended| ended.code);
        let met = ended == Some(Code::Succeeded) && view.online == CPUS;
        prop_assert!(met || world.forgetful, "{ended:?}, {} online", view.online);
        world.come_to_rest();
        world.check();
    }
}

/// Linux looks right after its eject whether the CPU is gone, and a plug can be quicker.
#[test]
fn a_vcpu_that_is_wanted_back_at_once_is_shown_when_the_guest_has_seen_it_gone() {
    let mut world = World::new();
    let step = |world: &mut World, target| world.step(Step::Ask(Want::One(1, target), false));
    let host = |world: &mut World| {
        for _ in 0..10 {
            world.step(Step::Control);
            world.step(Step::Thread(1));
        }
    };
    step(&mut world, Target::Offline);
    host(&mut world);
    world.step(Step::Scan);
    world.step(Step::Work(Manner::Obey));
    assert_eq!(world.last_word, Some((1, false)), "it has ejected");
    step(&mut world, Target::Online);
    host(&mut world);
    assert_eq!(world.coordinator.slots[1].phase.name(), "announced");
    assert_eq!(world.board.scan(), []);
    world.step(Step::Work(Manner::Obey));
    host(&mut world);
    assert_eq!(world.board.scan(), [(1, Ask::Insert)]);
}

/// vCPU 2 was plugged, and the guest has not read that.
fn with_announced() -> World {
    let mut world = World::new();
    world.step(Step::Ask(Want::One(2, Target::Online), false));
    world.step(Step::Thread(2));
    world.step(Step::Control);
    assert_eq!(world.coordinator.slots[2].phase.name(), "announced");
    world
}

/// The host may be slow, and remind a guest that has said no.
#[test]
fn a_guest_that_says_no_and_then_yes_has_it() {
    let mut world = with_announced();
    let hears_and = |world: &mut World, manner| {
        world.step(Step::Scan);
        world.step(Step::Work(manner));
    };
    hears_and(&mut world, Manner::Refuse);
    world.board.announce(2);
    hears_and(&mut world, Manner::Obey);
    world.come_to_rest();
    assert_eq!(world.coordinator.slots[2].phase.name(), "online");
    world.check();
}

/// Linux since 6.8 handles notifications on all CPUs at once, and one may overtake the other.
#[test]
fn an_ejection_is_shown_when_the_guest_has_answered_to_the_insertion() {
    let mut world = with_announced();
    // As by the scan of its boot.
    assert!(world.board.is_enabled(2));
    world.step(Step::Ask(Want::One(2, Target::Offline), false));
    assert_eq!(world.coordinator.slots[2].phase.name(), "notifying");
    assert_eq!(world.board.scan(), [(2, Ask::Insert)]);
    world.board.interrupt = false;
    world.board.ost(2, 1, 0);
    (0..2).for_each(|_| world.step(Step::Control));
    assert!(world.board.interrupt);
    assert_eq!(world.board.scan(), [(2, Ask::Eject)]);
    world.work.push_back((2, Ask::Eject));
    world.come_to_rest();
    world.check();
    assert_eq!(world.coordinator.slots[2].phase.name(), "dormant");
}

/// Who has forgotten what it was told of (kexec) is told of that again, not of an ejection that it is not shown.
#[test]
fn a_guest_that_is_to_eject_what_it_has_not_answered_to_is_told_of_the_insertion_again() {
    let mut world = with_announced();
    assert_eq!(world.board.scan(), [(2, Ask::Insert)]);
    world.step(Step::Ask(Want::One(2, Target::Offline), false));
    assert_eq!(world.board.scan(), []);
    world.coordinator.slots[2].again = Some((Instant::now(), REMIND));
    world.step(Step::Tick);
    assert_eq!(world.board.scan(), [(2, Ask::Insert)]);
}
