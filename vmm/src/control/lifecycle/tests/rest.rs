//! A machine that is created, booted, stopped, started again and forgotten at somebody's wish.

use super::*;

fn refused(action: &Action) -> Option<No> {
    match action {
        Action::Refuse(no) => Some(*no),
        _ => None,
    }
}

fn at(phase: Phase) -> Play {
    Play {
        phase: Some(phase),
        ..Play::new(policy(2, OnReset::Exit))
    }
}

fn state(play: &Play) -> MachineState {
    play.phase.as_ref().unwrap().state()
}

#[test]
fn from_nothing_to_nothing() {
    let mut play = at(Phase::Vacant);
    assert_eq!(state(&play), MachineState::None);
    assert!(matches!(
        play.event(Event::Asked(Wish::Create)),
        Action::Create
    ));
    assert_eq!(state(&play), MachineState::Created);
    assert!(matches!(play.event(Event::Asked(Wish::Boot)), Action::Boot));
    assert!(play.is_free());
    assert!(matches!(
        play.event(Event::Asked(Wish::Shutdown)),
        Action::StopVcpus
    ));
    assert_eq!(state(&play), MachineState::Stopping);
    assert!(matches!(play.vcpus_end(2), Action::Stopped(Rest::Created)));
    assert!(matches!(play.event(Event::Asked(Wish::Boot)), Action::Boot));
    // Also where a reset would end the process.
    assert!(matches!(
        play.event(Event::Asked(Wish::Reboot)),
        Action::StopVcpus
    ));
    assert_eq!(state(&play), MachineState::Restarting);
    assert!(matches!(play.vcpus_end(2), Action::Restart(Start::Free)));
    assert!(matches!(
        play.event(Event::Asked(Wish::Delete)),
        Action::StopVcpus
    ));
    assert!(matches!(play.vcpus_end(2), Action::Stopped(Rest::Vacant)));
    assert_eq!(state(&play), MachineState::None);
    let _ = play.event(Event::Asked(Wish::Create));
    assert!(matches!(
        play.event(Event::Asked(Wish::Delete)),
        Action::Stopped(Rest::Vacant)
    ));
    assert!(matches!(
        play.event(Event::Asked(Wish::Delete)),
        Action::Agree
    ));
}

#[test]
fn what_could_not_be_done_leaves_no_trace() {
    let mut play = at(Phase::Vacant);
    let _ = play.event(Event::Asked(Wish::Create));
    assert!(matches!(play.event(Event::NotDone), Action::Nothing));
    assert_eq!(state(&play), MachineState::None);
    let _ = play.event(Event::Asked(Wish::Create));
    let _ = play.event(Event::Asked(Wish::Boot));
    assert!(matches!(play.event(Event::NotDone), Action::Nothing));
    assert_eq!(state(&play), MachineState::Created);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    use Wish::{Boot, Create, Pause, PressPowerButton, Reboot, Resume, Shutdown};
    for (no, wishes) in [
        (
            No::Vacant,
            [Boot, Pause, Resume, PressPowerButton, Reboot, Shutdown],
        ),
        (
            No::Stopped,
            [
                PressPowerButton,
                Pause,
                Resume,
                PressPowerButton,
                Reboot,
                Shutdown,
            ],
        ),
    ] {
        for wish in wishes {
            let mut play = at(if no == No::Vacant {
                Phase::Vacant
            } else {
                Phase::Created
            });
            let before = state(&play);
            assert_eq!(refused(&play.event(Event::Asked(wish))), Some(no));
            assert_eq!(state(&play), before);
        }
    }
    let mut play = at(Phase::Created);
    assert_eq!(
        refused(&play.event(Event::Asked(Create))),
        Some(No::Created)
    );
    let mut play = at(Phase::started());
    assert_eq!(
        refused(&play.event(Event::Asked(Create))),
        Some(No::Created)
    );
    assert_eq!(refused(&play.event(Event::Asked(Boot))), Some(No::Booted));
    assert!(play.is_free());
    let mut play = at(Phase::Ended);
    assert_eq!(refused(&play.event(Event::Asked(Create))), Some(No::Ending));
}

/// While it is being stopped, what leaves less of it wins.
#[test]
fn a_stop_goes_further_and_not_back() {
    use Wish::{Delete, Quit, Reboot, Shutdown};
    let order = || [Reboot, Shutdown, Delete, Quit];
    for first in 0..4 {
        for (then, wish) in order().into_iter().enumerate() {
            let mut play = at(Phase::started());
            let begin = order().into_iter().nth(first).unwrap();
            assert!(matches!(play.event(Event::Asked(begin)), Action::StopVcpus));
            let action = play.event(Event::Asked(wish));
            let no = match (first, then) {
                (3, 0..3) => Some(No::Ending),
                (1, 0) => Some(No::Stopping),
                (2, 0) => Some(No::Deleting),
                _ => None,
            };
            assert_eq!(refused(&action), no, "{first} {then}");
            assert!(no.is_some() || matches!(action, Action::Wait));
            let end = play.vcpus_end(2);
            let end = match end {
                Action::Restart(Start::Free) => 0,
                Action::Stopped(Rest::Created) => 1,
                Action::Stopped(Rest::Vacant) => 2,
                Action::Finish(End::Asked("the API")) => 3,
                other => panic!("{other:?}"),
            };
            assert_eq!(end, first.max(then));
        }
    }
    let mut play = at(Phase::started());
    let _ = play.event(Event::Asked(Delete));
    assert_eq!(
        refused(&play.event(Event::Asked(Reboot))),
        Some(No::Deleting)
    );
    assert!(matches!(play.event(Event::Asked(Shutdown)), Action::Wait));
    assert_eq!(
        refused(&play.event(Event::Asked(Wish::Pause))),
        Some(No::Deleting)
    );
    assert_eq!(
        refused(&play.event(Event::Asked(Wish::Boot))),
        Some(No::Deleting)
    );
    // A guest that crashes while it is taken away is taken away all the same.
    let _ = play.event(Event::VcpuEnded(1, Some(triple_fault())));
    let action = play.event(Event::VcpuEnded(0, None));
    assert!(matches!(action, Action::Stopped(Rest::Vacant)));
}

#[test]
fn a_signal_ends_what_does_not_run_at_once_and_has_the_last_word() {
    let term = || Event::Terminate("SIGTERM");
    for phase in [Phase::Vacant, Phase::Created] {
        let action = at(phase).event(term());
        assert!(matches!(action, Action::Finish(End::Asked("SIGTERM"))));
    }
    let mut play = at(Phase::started());
    let _ = play.event(Event::Asked(Wish::Shutdown));
    let _ = play.event(term());
    let action = play.vcpus_end(2);
    assert!(matches!(action, Action::Finish(End::Asked("SIGTERM"))));

    let mut play = at(Phase::started());
    let _ = play.event(term());
    for wish in [Wish::Reboot, Wish::Shutdown, Wish::Delete] {
        assert_eq!(
            refused(&play.event(Event::Asked(wish))),
            Some(No::PoweringOff)
        );
    }
    assert!(matches!(
        play.event(Event::Asked(Wish::Quit)),
        Action::StopVcpus
    ));
}

#[test]
fn the_button_can_be_pressed_at_any_time_and_sets_no_deadline() {
    let mut free = at(Phase::started());
    let [_, mut held] = [1, 2].map(|holding| {
        let mut play = at(Phase::started());
        let _ = play.pause(holding);
        play
    });
    for play in [&mut free, &mut held] {
        let before = state(play);
        let action = play.event(Event::Asked(Wish::PressPowerButton));
        assert!(matches!(action, Action::PressPowerButton));
        assert_eq!(state(play), before);
        assert_eq!(play.phase.as_ref().unwrap().deadline(), None);
    }
    // A guest that is held is stopped like any other.
    assert!(matches!(
        held.event(Event::Asked(Wish::Reboot)),
        Action::StopVcpus
    ));
    assert!(matches!(held.vcpus_end(2), Action::Restart(Start::Free)));
}
