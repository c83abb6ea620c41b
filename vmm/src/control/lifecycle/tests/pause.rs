//! A pause: asked for, reached, missed, ended, and whatever may come in between.

use super::*;

fn refused(action: &Action) -> Option<No> {
    match action {
        Action::Refuse(no) => Some(*no),
        _ => None,
    }
}

/// A machine of two vCPUs on its way to hold, and one that is held.
fn paused() -> [Play; 2] {
    [1, 2].map(|holding| {
        let mut play = Play::new(policy(2, OnReset::Restart));
        let _ = play.pause(holding);
        play
    })
}

#[test]
fn it_is_paused_when_the_last_vcpu_holds_and_goes_on_when_asked_to() {
    let mut play = Play::new(policy(3, OnReset::Restart));
    for _ in 0..2 {
        assert!(matches!(play.pause(2), Action::Nothing));
        // Said twice, it is still one of them.
        assert!(matches!(play.event(Event::Holds(1)), Action::Nothing));
        assert!(matches!(play.event(Event::Holds(2)), Action::Paused));
        assert!(play.is_held());
        // One that was started meanwhile.
        assert!(matches!(play.event(Event::Holds(7)), Action::Nothing));
        assert!(play.is_held() && play.phase.as_ref().unwrap().deadline().is_none());
        let action = play.event(Event::Asked(Wish::Resume));
        assert!(matches!(action, Action::Release(Release::Asked)));
        assert!(play.is_free());
        // A report that comes late.
        assert!(matches!(play.event(Event::Holds(0)), Action::Nothing));
        assert!(play.is_free());
    }
}

#[test]
fn what_is_so_already_is_refused() {
    let mut play = Play::new(policy(2, OnReset::Restart));
    assert_eq!(
        refused(&play.event(Event::Asked(Wish::Resume))),
        Some(No::Runs)
    );
    for mut play in paused() {
        assert_eq!(
            refused(&play.event(Event::Asked(Wish::Pause))),
            Some(No::Paused)
        );
        let action = play.event(Event::Asked(Wish::Resume));
        assert!(matches!(action, Action::Release(Release::Asked)));
        assert_eq!(
            refused(&play.event(Event::Asked(Wish::Resume))),
            Some(No::Runs)
        );
    }
}

#[test]
fn a_vcpu_that_does_not_hold_is_kicked_again_and_in_the_end_named() {
    let mut play = Play::new(policy(3, OnReset::Restart));
    let begin = play.now;
    let _ = play.pause(1);
    assert!(matches!(play.event(Event::Tick), Action::Nothing));
    let mut kicks = 0;
    let late = loop {
        play.pass_deadline();
        match play.event(Event::Tick) {
            Action::KickAgain(left) => {
                assert_eq!(left, [1, 2].into());
                kicks += 1;
            }
            Action::Release(Release::Late(left)) => break left,
            action => panic!("{action:?}"),
        }
    };
    assert_eq!(late, [1, 2].into());
    assert!(kicks > 10 && play.now == begin + HOLD_TIMEOUT);
    assert!(play.is_free());
}

#[test]
fn the_guests_power_off_ends_a_machine_that_is_about_to_hold() {
    for mut play in paused() {
        assert!(matches!(play.event(Event::Off), Action::StopVcpus));
        // It may hold all the same, before it ends.
        assert!(matches!(play.event(Event::Holds(1)), Action::Nothing));
        for event in [Event::Asked(Wish::Pause), Event::Asked(Wish::Resume)] {
            assert_eq!(refused(&play.event(event)), Some(No::Ending));
        }
        let action = play.vcpus_end(2);
        assert!(matches!(action, Action::Finish(End::PoweredOff)));
        for event in [Event::Asked(Wish::Pause), Event::Asked(Wish::Resume)] {
            assert_eq!(refused(&play.event(event)), Some(No::Ending));
        }
    }
}

#[test]
fn a_guest_that_resets_in_a_pause_starts_again_held() {
    for mut play in paused() {
        assert!(matches!(play.event(Event::Reset), Action::StopVcpus));
        assert_eq!(
            refused(&play.event(Event::Asked(Wish::Pause))),
            Some(No::Paused)
        );
        let action = play.vcpus_end(2);
        assert!(matches!(action, Action::Restart(Start::Held)));
        assert!(play.is_held());
        // Its threads say so.
        assert!(matches!(play.event(Event::Holds(0)), Action::Nothing));
        let _ = play.event(Event::Asked(Wish::Resume));
        assert!(play.is_free());
    }
    let mut play = Play::new(policy(2, OnReset::Exit));
    let _ = play.pause(1);
    let _ = play.event(Event::Reset);
    assert!(matches!(play.vcpus_end(2), Action::Finish(End::Reset)));
}

#[test]
fn a_pause_and_its_end_during_a_restart_are_for_the_next_guest() {
    let mut play = Play::new(policy(2, OnReset::Restart));
    let _ = play.event(Event::Reset);
    assert_eq!(
        refused(&play.event(Event::Asked(Wish::Resume))),
        Some(No::Runs)
    );
    assert!(matches!(
        play.event(Event::Asked(Wish::Pause)),
        Action::Wait
    ));
    assert_eq!(
        refused(&play.event(Event::Asked(Wish::Pause))),
        Some(No::Paused)
    );
    let action = play.event(Event::Asked(Wish::Resume));
    assert!(matches!(action, Action::Release(Release::Asked)));
    assert!(matches!(
        play.event(Event::Asked(Wish::Pause)),
        Action::Wait
    ));
    let action = play.vcpus_end(2);
    assert!(matches!(action, Action::Restart(Start::Held)));
    assert!(play.is_held());
}

#[test]
fn a_fault_or_a_signal_during_a_restart_to_be_held_ends_the_machine() {
    for mut play in paused() {
        let _ = play.event(Event::Reset);
        let _ = play.event(Event::VcpuEnded(1, Some(triple_fault())));
        let Action::Finish(end) = play.event(Event::VcpuEnded(0, None)) else {
            panic!("not over")
        };
        assert_eq!(end.code(), 3);
    }
    for mut play in paused() {
        let _ = play.event(Event::Reset);
        let _ = play.event(Event::Terminate("SIGTERM"));
        assert!(matches!(play.vcpus_end(2), Action::Finish(End::Reset)));
    }
}

#[test]
fn a_signal_lets_it_go_and_presses_the_button_and_a_second_one_ends_it() {
    for mut play in paused() {
        let action = play.event(Event::Terminate("SIGINT"));
        assert!(matches!(
            action,
            Action::Release(Release::PowerButton("SIGINT"))
        ));
        // The guest has its deadline, and nobody takes it away.
        assert_eq!(
            refused(&play.event(Event::Asked(Wish::Pause))),
            Some(No::PoweringOff)
        );
        assert_eq!(
            refused(&play.event(Event::Asked(Wish::Resume))),
            Some(No::Runs)
        );
        assert!(matches!(play.event(Event::Holds(1)), Action::Nothing));
        assert!(matches!(play.event(Event::Tick), Action::Nothing));
        let action = play.event(Event::Terminate("SIGTERM"));
        assert!(matches!(action, Action::StopVcpus));
        let Action::Finish(end) = play.vcpus_end(2) else {
            panic!("not over")
        };
        assert_eq!(end.code(), 6);
    }
    for mut play in paused() {
        let _ = play.event(Event::Terminate("SIGTERM"));
        play.pass_deadline();
        assert!(matches!(play.event(Event::Tick), Action::StopVcpus));
    }
}

#[test]
fn a_fault_and_an_end_without_an_order_stop_a_paused_machine() {
    for (end, code) in [(Some(triple_fault as fn() -> End), 3), (None, 1)] {
        for mut play in paused() {
            let event = Event::VcpuEnded(1, end.map(|end| end()));
            assert!(matches!(play.event(event), Action::StopVcpus));
            let Action::Finish(end) = play.event(Event::VcpuEnded(0, None)) else {
                panic!("not over")
            };
            assert_eq!(end.code(), code);
        }
    }
}
