mod pause;
mod random;
mod rest;

use super::*;
use crate::hotplug::view::VcpuRef;
use crate::vcpu::{Fault, Registers};

fn policy(vcpus: u32, on_reset: OnReset) -> Policy {
    Policy {
        vcpus: (0..vcpus).collect(),
        inside: "vcpu-1: somebody".to_owned(),
        on_reset,
        shutdown_timeout: Duration::from_secs(3),
    }
}

fn triple_fault() -> End {
    End::Fault(
        VcpuRef {
            id: 0,
            generation: 1,
        },
        Fault::TripleFault(Registers::default()),
    )
}

/// A machine under test, and what it last asked for.
struct Play {
    phase: Option<Phase>,
    policy: Policy,
    now: Instant,
    /// The vCPUs that users are inside of.
    inside: BTreeSet<u32>,
}

impl Play {
    fn new(policy: Policy) -> Self {
        Self {
            phase: Some(Phase::started()),
            policy,
            now: Instant::now(),
            inside: BTreeSet::new(),
        }
    }

    fn event(&mut self, event: Event) -> Action {
        let mut action = self.one(event);
        if matches!(action, Action::StopVcpus) {
            // As the driver does when everybody is kept out.
            for id in &self.policy.vcpus.clone() - &self.inside {
                match self.one(Event::Left(id)) {
                    Action::Nothing => {}
                    last => action = last,
                }
            }
        }
        action
    }

    fn one(&mut self, event: Event) -> Action {
        let phase = self.phase.take().unwrap();
        let (phase, action) = phase.next(event, self.now, &self.policy);
        self.phase = Some(phase);
        action
    }

    /// Ends the threads of `n` vCPUs as ordered, and returns the last action. Those of vCPUs that somebody is inside of were
    /// not told to.
    fn vcpus_end(&mut self, n: u32) -> Action {
        let told = &(0..n).collect() - &self.inside;
        let ends = told.into_iter();
        ends.map(|id| self.event(Event::VcpuEnded(id, None)))
            .last()
            .unwrap_or(Action::Nothing)
    }

    /// The last user leaves a vCPU, whose thread may be told to end then.
    fn leave(&mut self, id: u32) -> Action {
        assert!(self.inside.remove(&id));
        self.event(Event::Left(id))
    }

    /// Pauses it; of `vcpus` vCPUs, these hold.
    fn pause(&mut self, holding: u32) -> Action {
        assert!(matches!(
            self.event(Event::Asked(Wish::Pause)),
            Action::Hold
        ));
        (0..holding)
            .map(|id| self.event(Event::Holds(id)))
            .last()
            .unwrap_or(Action::Nothing)
    }

    fn is_free(&self) -> bool {
        matches!(self.phase, Some(Phase::Running(Course::Free)))
    }

    fn is_held(&self) -> bool {
        matches!(self.phase, Some(Phase::Running(Course::Held)))
    }

    fn pass_deadline(&mut self) {
        self.now = self.phase.as_ref().unwrap().deadline().unwrap();
    }
}

#[test]
fn power_off_ends_with_success_when_the_last_vcpu_has_ended() {
    let mut play = Play::new(policy(3, OnReset::Restart));
    assert!(matches!(play.event(Event::Off), Action::StopVcpus));
    assert!(matches!(play.event(Event::Off), Action::Nothing));
    assert!(matches!(play.vcpus_end(2), Action::Nothing));
    let Action::Finish(end) = play.event(Event::VcpuEnded(2, None)) else {
        panic!("not over")
    };
    assert_eq!(end.code(), 0);
    assert!(matches!(
        play.event(Event::Terminate("SIGTERM")),
        Action::Nothing
    ));
}

#[test]
fn a_reset_restarts_or_ends_as_configured() {
    let mut play = Play::new(policy(2, OnReset::Restart));
    assert!(matches!(play.event(Event::Reset), Action::StopVcpus));
    assert!(matches!(play.vcpus_end(2), Action::Restart(Start::Free)));
    assert!(play.is_free());

    let mut play = Play::new(policy(2, OnReset::Exit));
    let _ = play.event(Event::Reset);
    assert!(matches!(play.vcpus_end(2), Action::Finish(End::Reset)));
}

#[test]
fn a_signal_presses_the_button_and_a_second_one_ends_the_machine() {
    let mut play = Play::new(policy(1, OnReset::Restart));
    assert!(matches!(
        play.event(Event::Terminate("SIGTERM")),
        Action::PressPowerButton
    ));
    assert!(matches!(play.event(Event::Tick), Action::Nothing));
    assert!(matches!(
        play.event(Event::Terminate("SIGINT")),
        Action::StopVcpus
    ));
    let Action::Finish(end) = play.vcpus_end(1) else {
        panic!("not over")
    };
    assert_eq!(
        (end.code(), end.to_string().contains("a second SIGINT")),
        (6, true)
    );
}

#[test]
fn a_guest_that_ignores_its_button_is_ended_at_the_deadline() {
    let mut play = Play::new(policy(1, OnReset::Restart));
    let _ = play.event(Event::Terminate("SIGTERM"));
    play.pass_deadline();
    assert!(matches!(play.event(Event::Tick), Action::StopVcpus));
    let Action::Finish(end) = play.vcpus_end(1) else {
        panic!("not over")
    };
    assert_eq!(
        (end.code(), end.to_string().contains("within 3 s")),
        (6, true)
    );
}

#[test]
fn a_reset_after_the_button_ends_the_machine() {
    let mut play = Play::new(policy(1, OnReset::Restart));
    let _ = play.event(Event::Terminate("SIGTERM"));
    let _ = play.event(Event::Reset);
    assert!(matches!(play.vcpus_end(1), Action::Finish(End::Reset)));
}

#[test]
fn a_fault_stops_the_others_and_is_the_reason() {
    let mut play = Play::new(policy(3, OnReset::Restart));
    assert!(matches!(
        play.event(Event::VcpuEnded(1, Some(triple_fault()))),
        Action::StopVcpus
    ));
    let _ = play.event(Event::VcpuEnded(0, Some(End::Reset)));
    let Action::Finish(end) = play.event(Event::VcpuEnded(2, None)) else {
        panic!("not over")
    };
    assert_eq!(end.code(), 3);
    // The only vCPU: nobody is left to stop.
    let mut play = Play::new(policy(1, OnReset::Restart));
    let action = play.event(Event::VcpuEnded(0, Some(triple_fault())));
    assert!(matches!(action, Action::Finish(_)));
}

#[test]
fn a_fault_or_a_signal_during_a_restart_ends_the_machine() {
    let mut play = Play::new(policy(2, OnReset::Restart));
    let _ = play.event(Event::Reset);
    let _ = play.event(Event::VcpuEnded(1, Some(triple_fault())));
    let Action::Finish(end) = play.event(Event::VcpuEnded(0, None)) else {
        panic!("not over")
    };
    assert_eq!(end.code(), 3);

    let mut play = Play::new(policy(2, OnReset::Restart));
    let _ = play.event(Event::Reset);
    let _ = play.event(Event::Terminate("SIGTERM"));
    assert!(matches!(play.vcpus_end(2), Action::Finish(End::Reset)));
}

#[test]
fn a_vcpu_that_does_not_end_is_kicked_again_and_in_the_end_named() {
    let mut play = Play::new(policy(3, OnReset::Restart));
    let _ = play.event(Event::Off);
    let _ = play.event(Event::VcpuEnded(1, None));
    let begin = play.now;
    let mut kicks = 0;
    let end = loop {
        play.pass_deadline();
        match play.event(Event::Tick) {
            Action::KickAgain(left) => {
                assert_eq!(left, [0, 2].into());
                kicks += 1;
            }
            Action::Finish(end) => break end,
            action => panic!("{action:?}"),
        }
    };
    assert!(kicks > 10 && play.now == begin + STOP_TIMEOUT);
    assert_eq!(
        (
            end.code(),
            end.to_string().contains("vcpu-0, vcpu-2 did not end")
        ),
        (1, true)
    );
}

#[test]
fn a_machine_is_there_until_its_last_user_has_left() {
    for (event, restarts) in [
        (Event::Reset, true),
        (Event::Asked(Wish::Shutdown), false),
        (Event::Asked(Wish::Delete), false),
    ] {
        let mut play = Play::new(policy(3, OnReset::Restart));
        play.inside = [0, 1].into();
        assert!(matches!(play.event(event), Action::StopVcpus));
        assert!(matches!(play.vcpus_end(3), Action::Nothing));
        for last in [1, 0] {
            assert!(matches!(play.leave(last), Action::Nothing));
            match play.event(Event::VcpuEnded(last, None)) {
                Action::Nothing => assert_eq!(last, 1),
                Action::Restart(Start::Free) => assert!(restarts && last == 0),
                Action::Stopped(_) => assert!(!restarts && last == 0),
                action => panic!("{action:?}"),
            }
        }
    }
}

/// A process that is to end waits for them too, and not for ever: nothing is left of them then.
#[test]
fn an_end_is_as_it_was_asked_for_whoever_is_inside() {
    let ends = |leaves: bool, terminated: bool| {
        let mut play = Play::new(policy(2, OnReset::Restart));
        play.inside = [1].into();
        let asked = if terminated { Event::Reset } else { Event::Off };
        assert!(matches!(play.event(asked), Action::StopVcpus));
        assert!(matches!(play.vcpus_end(2), Action::Nothing));
        if terminated {
            let _ = play.event(Event::Terminate("SIGTERM"));
        }
        if leaves {
            assert!(matches!(play.leave(1), Action::Nothing));
            return play.vcpus_end(2);
        }
        play.pass_deadline();
        play.event(Event::Tick)
    };
    for leaves in [false, true] {
        let end = ends(leaves, false);
        assert!(matches!(end, Action::Finish(End::PoweredOff)), "{end:?}");
        let end = ends(leaves, true);
        assert!(matches!(end, Action::Finish(End::Reset)), "{end:?}");
    }
}

#[test]
fn a_user_that_does_not_leave_is_named() {
    let mut play = Play::new(policy(2, OnReset::Restart));
    play.inside = [1].into();
    let _ = play.event(Event::Reset);
    assert!(matches!(play.vcpus_end(2), Action::Nothing));
    // Nobody is to be kicked before that: the thread that is left does what it was told.
    play.pass_deadline();
    let Action::Finish(end) = play.event(Event::Tick) else {
        panic!("not over")
    };
    let said = end.to_string();
    assert!(
        said.contains("inside after 10 s: vcpu-1: somebody"),
        "{said}"
    );
    assert!(!said.contains("did not end"), "{said}");
}

/// Who is inside excuses the thread of that vCPU, and no other one.
#[test]
fn only_a_thread_that_was_told_to_end_is_kicked_and_blamed() {
    for ends in [true, false] {
        let mut play = Play::new(policy(3, OnReset::Restart));
        play.inside = [1].into();
        let _ = play.event(Event::Off);
        let _ = play.event(Event::VcpuEnded(0, None));
        play.pass_deadline();
        let Action::KickAgain(late) = play.event(Event::Tick) else {
            panic!("nobody is kicked")
        };
        assert_eq!(late, [2].into());
        if ends {
            let _ = play.event(Event::VcpuEnded(2, None));
            play.pass_deadline();
        } else {
            play.now += STOP_TIMEOUT;
        }
        let Action::Finish(end) = play.event(Event::Tick) else {
            panic!("not over")
        };
        let said = end.to_string();
        assert_eq!(end.code(), u8::from(!ends), "{said}");
        assert!(
            ends || said.contains("vcpu-2 did not end within 10 s; inside"),
            "{said}"
        );
        assert!(!said.contains("vcpu-1 did not"), "{said}");
    }
}
