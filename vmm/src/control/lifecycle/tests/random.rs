//! Whatever may happen to a machine, in any order, and whoever may ask for something meanwhile.

use super::*;
use crate::control::wish::Wish;
use crate::control::wishes::Wishes;
use crate::error::Error;
use crate::hotplug::client::Refused;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

const VCPUS: u32 = 3;

const WISHES: [Wish; 9] = [
    Wish::Create,
    Wish::Boot,
    Wish::Pause,
    Wish::Resume,
    Wish::PressPowerButton,
    Wish::Reboot,
    Wish::Shutdown,
    Wish::Delete,
    Wish::Quit,
];

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// Somebody asks for it; where something is to be made for it, that fails or not.
    Wish(Wish, bool),
    Off,
    Reset,
    Signal,
    /// The thread of a vCPU ends with a fault.
    Fault(u32),
    /// The thread of a vCPU does as it was told.
    Obey(u32),
    /// Somebody goes into a vCPU, or leaves it.
    Enter(u32),
    Leave(u32),
    /// Time passes until something is due.
    Late,
}

fn step() -> impl Strategy<Value = Step> {
    let wish = (
        prop::sample::select(WISHES.to_vec()),
        prop::bool::weighted(0.2),
    );
    prop_oneof![
        6 => wish.prop_map(|(wish, fails)| Step::Wish(wish, fails)),
        1 => Just(Step::Off),
        1 => Just(Step::Reset),
        1 => Just(Step::Signal),
        1 => (0..VCPUS).prop_map(Step::Fault),
        9 => (0..VCPUS).prop_map(Step::Obey),
        2 => (0..VCPUS).prop_map(Step::Enter),
        4 => (0..VCPUS).prop_map(Step::Leave),
        1 => Just(Step::Late),
    ]
}

type Answer = oneshot::Receiver<Result<(), Refused>>;

/// The driver, as far as it matters here, and everybody who waits for an answer.
struct World {
    play: Play,
    wishes: Wishes,
    /// The vCPUs whose threads there are.
    threads: BTreeSet<u32>,
    fails: bool,
    /// Threads were kicked again.
    kicked: bool,
    asked: Vec<(Wish, Answer)>,
}

impl World {
    fn new(on_reset: OnReset) -> Self {
        let mut play = Play::new(policy(0, on_reset));
        play.phase = Some(Phase::Vacant);
        Self {
            play,
            wishes: Wishes::default(),
            threads: BTreeSet::new(),
            fails: false,
            kicked: false,
            asked: Vec::new(),
        }
    }

    fn phase(&self) -> &Phase {
        self.play.phase.as_ref().unwrap()
    }

    fn happens(&mut self, event: Event) {
        self.play.policy.vcpus = self.threads.clone();
        let ended = matches!(self.phase(), Phase::Ended);
        let action = self.play.event(event);
        if ended {
            assert!(matches!(self.phase(), Phase::Ended));
            assert!(matches!(
                action,
                Action::Nothing | Action::Refuse(No::Ending)
            ));
        }
        self.act(action);
    }

    /// As the driver does.
    fn act(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::KickAgain(_) => self.kicked = true,
            Action::PressPowerButton | Action::Agree => self.wishes.done(Ok(())),
            Action::Hold => drop(self.wishes.begin_pause()),
            Action::Paused => self.wishes.paused(),
            Action::Release(why) => self.wishes.released(&why),
            Action::Wait | Action::StopVcpus => self.wishes.wait(),
            Action::Refuse(no) => self.wishes.refuse(no),
            Action::Create | Action::Boot if self.fails => {
                self.happens(Event::NotDone);
                self.wishes
                    .done(Err(Error::host("it", "failed", "mend it")));
            }
            Action::Create => self.wishes.done(Ok(())),
            Action::Boot => {
                self.threads = (0..VCPUS).collect();
                self.wishes.done(Ok(()));
            }
            Action::Restart(start) => {
                assert_eq!(self.play.inside, BTreeSet::new());
                self.threads = (0..VCPUS).collect();
                if start == Start::Held {
                    let _ = self.wishes.begin_pause();
                }
                self.wishes.restarted(start);
                if start == Start::Held {
                    self.wishes.paused();
                }
            }
            Action::Stopped(rest) => {
                assert_eq!(self.threads, BTreeSet::new());
                assert_eq!(self.play.inside, BTreeSet::new());
                self.wishes.stopped(rest);
            }
            Action::Finish(_) => self.wishes.ended(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Wish(wish, fails) => {
                self.fails = fails;
                let (reply, answer) = oneshot::channel();
                self.asked.push((wish, answer));
                self.wishes.ask(wish, reply);
                self.happens(Event::Asked(wish));
            }
            Step::Off if !self.threads.is_empty() => self.happens(Event::Off),
            Step::Reset if !self.threads.is_empty() => self.happens(Event::Reset),
            Step::Off | Step::Reset => {}
            Step::Signal => self.happens(Event::Terminate("SIGTERM")),
            Step::Fault(id) => {
                if self.threads.remove(&id) {
                    self.happens(Event::VcpuEnded(id, Some(triple_fault())));
                }
            }
            Step::Obey(id) => self.obey(id),
            // Everybody is kept out of one that is being stopped.
            Step::Enter(id) if self.phase().is_running() => {
                self.play.inside.insert(id);
            }
            Step::Enter(_) => {}
            Step::Leave(id) => {
                if self.play.inside.remove(&id) {
                    self.happens(Event::Left(id));
                }
            }
            Step::Late => {
                self.kicked = true;
                while std::mem::take(&mut self.kicked) && self.phase().deadline().is_some() {
                    self.play.pass_deadline();
                    self.happens(Event::Tick);
                }
            }
        }
        self.wishes.answer();
        self.check();
    }

    fn obey(&mut self, id: u32) {
        let stopping = matches!(self.phase(), Phase::Stopping { .. });
        // With somebody inside it is told to leave the guest, and not to end.
        let ends = stopping && !self.play.inside.contains(&id);
        if ends && self.threads.remove(&id) {
            self.happens(Event::VcpuEnded(id, None));
        } else if self.threads.contains(&id) {
            self.happens(Event::Holds(id));
        }
    }

    /// Whoever was told that it is so finds it so, and nobody waits for what is not under way.
    fn check(&mut self) {
        let Self { play, asked, .. } = self;
        let phase = play.phase.as_ref().unwrap();
        asked.retain_mut(|(wish, answer)| match answer.try_recv() {
            Ok(Ok(())) => {
                assert!(is_so(*wish, phase), "{wish:?} is not so: {phase:?}");
                false
            }
            Ok(Err(_)) => false,
            Err(TryRecvError::Closed) => {
                assert!(matches!(phase, Phase::Ended), "{wish:?} is lost: {phase:?}");
                false
            }
            Err(TryRecvError::Empty) => true,
        });
        let under_way = matches!(
            phase,
            Phase::Stopping { .. } | Phase::Running(Course::Holding { .. })
        );
        assert!(under_way || asked.is_empty(), "{asked:?}: {phase:?}");
        assert!(!under_way || phase.deadline().is_some());
    }
}

/// Whether what was wished for is so in `phase`.
fn is_so(wish: Wish, phase: &Phase) -> bool {
    let held = matches!(phase, Phase::Running(Course::Held | Course::Holding { .. }));
    match wish {
        Wish::Create => matches!(phase, Phase::Created),
        Wish::Boot => phase.is_running() && !held,
        Wish::Pause => matches!(phase, Phase::Running(Course::Held)),
        Wish::Resume => !held,
        Wish::PressPowerButton | Wish::Reboot => phase.is_running(),
        Wish::Shutdown => matches!(phase, Phase::Created | Phase::Vacant),
        Wish::Delete => matches!(phase, Phase::Vacant),
        Wish::Quit => matches!(phase, Phase::Ended),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_wish_is_answered_once_and_truly(
        steps in prop::collection::vec(step(), 1..60),
        exit in any::<bool>(),
    ) {
        let mut world = World::new(if exit { OnReset::Exit } else { OnReset::Restart });
        // Most of what is of interest needs a machine.
        for wish in [Wish::Create, Wish::Boot] {
            world.take(Step::Wish(wish, false));
        }
        for step in steps {
            world.take(step);
        }
        // Nobody does anything any more: time alone brings it to rest, and then everybody knows.
        for _ in 0..1000 {
            if world.phase().deadline().is_none() {
                break;
            }
            world.take(Step::Late);
        }
        prop_assert_eq!(world.phase().deadline(), None);
        prop_assert!(world.asked.is_empty());
        // Whatever it is at, it can be ended, and stays so.
        world.take(Step::Wish(Wish::Quit, false));
        world.take(Step::Late);
        prop_assert!(matches!(world.phase(), Phase::Ended));
        for wish in WISHES {
            world.take(Step::Wish(wish, false));
        }
        prop_assert!(world.asked.is_empty());
    }
}
