//! A machine that does not run.

use super::*;

/// None is described.
pub(super) fn vacant(event: &Event) -> (Phase, Action) {
    match event {
        Event::Asked(Wish::Create) => (Phase::Created, Action::Create),
        // It is forgotten already.
        Event::Asked(Wish::Delete) => (Phase::Vacant, Action::Agree),
        event => at_rest(Phase::Vacant, No::Vacant, event),
    }
}

/// One is described.
pub(super) fn created(event: &Event) -> (Phase, Action) {
    match event {
        Event::Asked(Wish::Create) => (Phase::Created, Action::Refuse(No::Created)),
        Event::Asked(Wish::Boot) => (Phase::started(), Action::Boot),
        Event::Asked(Wish::Delete) => (Phase::Vacant, Action::Stopped(Rest::Vacant)),
        Event::NotDone => (Phase::Vacant, Action::Nothing),
        event => at_rest(Phase::Created, No::Stopped, event),
    }
}

/// What is the same for both. Nothing that happens to a guest can happen here.
fn at_rest(phase: Phase, no: No, event: &Event) -> (Phase, Action) {
    match event {
        Event::Terminate(signal) => (Phase::Ended, Action::Finish(End::Asked(signal))),
        Event::Asked(Wish::Quit) => (Phase::Ended, Action::Finish(End::Asked("the API"))),
        event if event.is_wish() => (phase, Action::Refuse(no)),
        _ => (phase, Action::Nothing),
    }
}
