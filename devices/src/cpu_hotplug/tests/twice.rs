//! A guest that has several requests to eject a CPU, and answers them one after the other.

use super::*;

/// Who ran out of time asks again, and the guest has two requests: the no to the first says nothing of the second.
#[test]
fn only_the_answer_to_the_last_request_takes_the_right_to_eject() {
    let bed = Bed::new(GuestEject::Ignore);
    let ask = || {
        bed.controller.request_eject(1);
        bed.set(1, REMOVE);
    };
    let answer = |source, status| {
        bed.posted();
        bed.ost(1, source, status);
        let [(1, _, What::Status { kept, .. })] = bed.posted()[..] else {
            panic!("nothing was posted of it");
        };
        kept
    };
    ask();
    ask();
    // Of the guest's own account, and of an insertion: neither answers the host.
    for (source, status) in [(3, 0x84), (3, 0x82), (0x103, 0x82), (1, 1)] {
        assert_eq!(answer(source, status), None, "{source:#x}, {status:#x}");
    }
    bed.controller.request_eject(1);
    assert_eq!(answer(3, 0x82), None, "it has not read the third");
    bed.set(1, REMOVE);
    bed.set(1, EJECT);
    assert_eq!(bed.posted().last(), Some(&(1, 0, EJECTED)));
    // The next CPU has nothing to do with what the guest has still to say of this one.
    assert_eq!(bed.flags_of(1), 0);
    bed.controller.insert(1);
    bed.ost(1, 1, 0);
    ask();
    assert_eq!(answer(3, 0x82), Some(1));
}

#[test]
fn a_request_that_was_not_read_can_be_taken_back_where_one_before_is_not_answered() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.request_eject(1);
    bed.set(1, REMOVE);
    bed.controller.request_eject(1);
    assert_eq!(bed.controller.withdraw_eject(1), Withdrawn::Last);
    assert_eq!((bed.next(0), bed.flags_of(1)), (None, ON));
    // A no to the first is the last word then, and has the number of the last.
    let other = Bed::new(GuestEject::Ignore);
    other.controller.request_eject(1);
    other.set(1, REMOVE);
    other.controller.request_eject(1);
    assert_eq!(other.controller.withdraw_eject(1), Withdrawn::Last);
    other.ost(1, 3, 0x82);
    let kept = said(3, 0x82, Some(2));
    assert_eq!(other.posted().last(), Some(&(1, 0, kept)));
    // Or it may carry the first one out.
    bed.set(1, EJECT);
    assert_eq!(bed.posted().last(), Some(&(1, 0, EJECTED)));
}

/// Another kernel has taken its place, and does one after the other.
#[test]
fn who_begins_anew_has_forgotten_what_it_had_begun() {
    let bed = Bed::new(GuestEject::Ignore);
    for _ in 0..2 {
        bed.controller.request_eject(1);
        bed.set(1, REMOVE);
        bed.ost(1, 3, 0x84);
    }
    bed.ost(1, 3, 0x82);
    assert_eq!(bed.posted().last(), Some(&(1, 0, said(3, 0x82, Some(2)))));
}
