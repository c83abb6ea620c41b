use super::*;
use proptest::prelude::*;

fn plan(seed: u64, mix: &str, max: u32, most: u32) -> Plan {
    let mix = Mix::parse(mix, |_| true).unwrap();
    Plan::new(seed, mix, max, most, [0].into())
}

fn asks(step: &Step) -> Vec<&Ask> {
    match &step.doing {
        Doing::Ask(asks) | Doing::Contradict(asks) | Doing::Boot(asks) => asks.iter().collect(),
        Doing::Pause(ask, _, more) => vec![ask, more],
        Doing::Cancel(ask, _)
        | Doing::Abandon(ask, _)
        | Doing::Half(ask)
        | Doing::Offline(_, ask)
        | Doing::Refuse(ask) => vec![ask],
        Doing::Eject(_) | Doing::Reboot => Vec::new(),
    }
}

/// Who finds these steps in another version has another sequence for each seed that somebody has put down.
#[test]
fn the_sequence_of_a_seed_stays_what_it_is() {
    let steps: Vec<_> = plan(7, "all", 4, 4)
        .take(6)
        .map(|step| step.to_string())
        .collect();
    assert_eq!(steps, SEVEN);
}

const SEVEN: [&str; 6] = [
    "plug: plug 2; plug 1; plug 3; plug 2",
    "set: PUT /api/v1/vcpus {\"online\":[0,1]}",
    "set: PUT /api/v1/vcpus {\"online\":[0]}",
    "unplug: unplug 1; unplug 3; unplug 1",
    "eject: the guest ejects vCPU 2 by itself",
    "cancel: unplug 1; after 32µs cancel it",
];

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_steps(seed: u64, max in 2u32..40) {
        let steps = || plan(seed, "all,reboot,boot", max, max).take(200);
        prop_assert!(steps().eq(steps()));
        prop_assert!(!steps().eq(plan(seed ^ 1, "all,reboot,boot", max, max).take(200)));
    }

    #[test]
    fn only_what_can_be_is_asked_for(seed: u64, max in 2u32..40, most in 1u32..40) {
        let most = most.min(max);
        for step in plan(seed, "all,boot", max, most).take(200) {
            for ask in asks(&step) {
                match ask {
                    Ask::One(id, to) => {
                        prop_assert!(*id < max);
                        prop_assert!(*id > 0 || *to == crate::wire::vcpus::Target::Online);
                    }
                    Ask::Count(count) => prop_assert!((1..=most).contains(count)),
                    Ask::Set(set) => {
                        prop_assert!(set.contains(&0) && set.len() <= most as usize, "{step}");
                        prop_assert!(set.iter().all(|id| *id < max), "{step}");
                    }
                }
            }
        }
    }

    #[test]
    fn not_more_are_asked_for_than_may_be(seed: u64, most in 2u32..8) {
        // As many as there are at most, whichever of the requests are met.
        let mut there = 1;
        for step in plan(seed, "plug,unplug,resize,set", 12, most).take(300) {
            for ask in asks(&step) {
                match ask {
                    Ask::One(_, crate::wire::vcpus::Target::Online) => there += 1,
                    Ask::One(..) => {}
                    Ask::Count(count) => there = *count,
                    Ask::Set(set) => there = u32::try_from(set.len()).unwrap(),
                }
                prop_assert!(there <= most, "{step}");
            }
        }
    }

    #[test]
    fn what_is_taken_back_makes_no_room(seed: u64, most in 2u32..8) {
        let mut there = 1;
        for step in plan(seed, "plug,cancel", 12, most).take(300) {
            if matches!(step.doing, Doing::Cancel(..)) {
                continue;
            }
            for ask in asks(&step) {
                match ask {
                    Ask::One(..) => there += 1,
                    Ask::Count(count) => there = *count,
                    Ask::Set(set) => there = u32::try_from(set.len()).unwrap(),
                }
                prop_assert!(there <= most, "{step}");
            }
        }
    }

    #[test]
    fn moments_are_short_and_long(seed: u64) {
        let mut chooser = Chooser::new(seed, 4, 4, [0].into());
        let moments: Vec<_> = (0..200).map(|_| chooser.moment()).collect();
        prop_assert!(moments.iter().all(|time| time.as_micros() >= 20 && time.as_millis() < 330));
        prop_assert!(moments.iter().any(|time| time.as_micros() < 200));
        prop_assert!(moments.iter().any(|time| time.as_millis() > 20));
    }
}
