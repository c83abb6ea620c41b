//! From an eject to the guest's look whether the CPU is gone.

use super::*;

/// The guest has ejected CPU 1, another one was inserted, and it has not looked in between.
fn not_looked() -> Bed {
    let bed = Bed::new(GuestEject::Honour);
    bed.set(1, EJECT);
    assert_eq!(bed.controller.insert(1), 1);
    bed.posted();
    bed
}

/// `_EJ0` comes before the last `_OST`, and the host may have put the next CPU in between.
#[test]
fn the_last_word_on_an_ejected_cpu_is_not_taken_for_one_on_the_next() {
    let bed = not_looked();
    bed.ost(1, 3, 0);
    let word = |kept| said(3, 0, kept);
    assert_eq!(bed.posted(), [(1, 0, word(None)), (1, 1, What::SeenEmpty)]);
    bed.ost(1, 1, 0);
    bed.ost(1, 3, 0);
    assert_eq!(bed.posted().last(), Some(&(1, 1, word(None))));
}

/// Linux evaluates `_STA` right after `_EJ0`, and takes the eject for failed where something is there.
#[test]
fn the_next_cpu_is_shown_once_the_guest_has_looked_whether_the_last_one_is_gone() {
    let bed = not_looked();
    // A scan for other CPUs' events may read these flags, and has not asked for them.
    assert_eq!(bed.next(1), None);
    assert_eq!(bed.posted(), []);
    assert_eq!((bed.flags_of(1), bed.flags_of(1)), (0, COMES));
    assert_eq!(bed.posted(), [(1, 1, What::SeenEmpty)]);
    assert_eq!(bed.next(0), Some(1));
}

#[test]
fn a_cpu_that_is_not_shown_yet_has_nothing_to_do_with_what_the_guest_does() {
    let bed = not_looked();
    // Of the one before.
    bed.ost(1, 1, 0);
    let word = said(1, 0, None);
    assert_eq!(bed.posted(), [(1, 0, word)]);
    bed.set(1, INSERT);
    bed.set(1, REMOVE);
    assert_eq!(bed.posted(), []);
    assert!(bed.controller.withdraw_insert(1), "it was not noticed");
    assert_eq!((bed.flags_of(1), bed.posted()), (0, vec![]));
}

#[test]
fn a_guest_that_does_not_look_sees_the_next_cpu_when_it_is_announced_again() {
    let bed = not_looked();
    for _ in 0..3 {
        assert_eq!(bed.next(0), None);
        bed.controller.announce(1);
    }
    assert_eq!(bed.next(0), Some(1));
}

/// Linux ejects again what it was asked for twice, and looks again.
#[test]
fn an_eject_that_comes_twice_finds_the_slot_empty_again() {
    for inserted_first in [true, false] {
        let bed = Bed::new(GuestEject::Ignore);
        bed.controller.request_eject(1);
        bed.set(1, EJECT);
        assert_eq!(bed.flags_of(1), 0);
        if inserted_first {
            bed.controller.insert(1);
            // As where the insertion of another CPU has the guest look at all of them.
            bed.set(1, INSERT);
        }
        bed.posted();
        bed.set(1, EJECT);
        if !inserted_first {
            bed.controller.insert(1);
        }
        assert_eq!((bed.flags_of(1), bed.flags_of(1)), (0, COMES));
        assert_eq!(bed.posted().last(), Some(&(1, 1, What::SeenEmpty)));
    }
}

#[test]
fn what_is_announced_to_an_empty_slot_changes_nothing() {
    let bed = Bed::new(GuestEject::Honour);
    bed.set(1, EJECT);
    (0..9).for_each(|_| bed.controller.announce(1));
    bed.controller.insert(1);
    assert_eq!((bed.flags_of(1), bed.flags_of(1)), (0, COMES));
}
