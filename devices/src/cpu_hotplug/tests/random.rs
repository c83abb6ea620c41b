//! A guest and a host that do anything in any order.

use super::*;
use proptest::prelude::*;

/// Anything that guest or host may do.
#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Select(u32),
    Flags(u8),
    Command(u8),
    Data(u32),
    Insert(u32),
    Announce(u32),
    RequestEject(u32),
    WithdrawEject(u32),
    WithdrawInsert(u32),
    Discard(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let cpu = || prop_oneof![9 => 0u32..5, 1 => any::<u32>()];
    prop_oneof![
        2 => (0u64..16, 1usize..9).prop_map(|(offset, width)| Step::Read(offset, width)),
        2 => (0u64..16, prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(offset, data)| Step::Write(offset, data)),
        6 => cpu().prop_map(Step::Select),
        6 => (0u8..32).prop_map(Step::Flags),
        4 => (0u8..5).prop_map(Step::Command),
        4 => prop_oneof![4 => 0u32..4, 1 => Just(INSERT_IN_PROGRESS), 1 => Just(EJECT_IN_PROGRESS)]
            .prop_map(Step::Data),
        2 => cpu().prop_map(Step::Insert),
        1 => cpu().prop_map(Step::Announce),
        2 => cpu().prop_map(Step::RequestEject),
        2 => cpu().prop_map(Step::WithdrawEject),
        1 => cpu().prop_map(Step::WithdrawInsert),
        1 => cpu().prop_map(Step::Discard),
    ]
}

fn all_or_nothing(all: bool) -> Withdrawn {
    if all {
        Withdrawn::All
    } else {
        Withdrawn::Nothing
    }
}

impl Bed {
    /// Does it; whatever the host takes back or out has come to this.
    fn take(&self, step: &Step) -> Option<Withdrawn> {
        let host = &self.controller;
        let done = |done| Some(all_or_nothing(done));
        match *step {
            Step::Read(offset, width) => drop(self.read(offset, width)),
            Step::Write(offset, ref data) => self.write(offset, data),
            Step::Select(cpu) => self.select(cpu),
            Step::Flags(value) => self.write(FLAGS, &[value]),
            Step::Command(number) => self.write(COMMAND, &[number]),
            Step::Data(value) => self.write(DATA, &value.to_le_bytes()),
            Step::Insert(cpu) => drop(host.insert(cpu)),
            Step::Announce(cpu) => host.announce(cpu),
            Step::RequestEject(cpu) => drop(host.request_eject(cpu)),
            Step::WithdrawEject(cpu) => return Some(host.withdraw_eject(cpu)),
            Step::WithdrawInsert(cpu) => return done(host.withdraw_insert(cpu)),
            Step::Discard(cpu) => return done(host.discard(cpu)),
        }
        None
    }

    /// All slots, looked at from outside: a guest's look would leave traces.
    fn slots(&self) -> Vec<Looks> {
        let state = lock(&self.controller.state);
        let looks = |slot: &Slot| Looks {
            held: slot.held(),
            shown: slot.flags(),
            vacating: slot.is_vacating(),
        };
        state.slots.iter().map(looks).collect()
    }
}

/// A slot's flags as the host has set them, and as the guest would see them.
#[derive(Clone, Copy)]
struct Looks {
    held: u8,
    shown: u8,
    /// The guest has ejected a CPU, and not shown since that it knows it to be gone.
    vacating: bool,
}

/// What the rules say of a CPU, kept beside the controller from nothing but the steps and the notices.
#[derive(Clone, Default)]
struct Facts {
    known: bool,
    authorised: bool,
    /// Announcements that the guest has cleared, and not answered.
    open_insertions: u32,
    /// Requests to eject that the guest has cleared, and not answered.
    open_ejections: u32,
    asks: u32,
    /// The guest has begun with one, and not said what came of it.
    ejects: bool,
    taken: bool,
    plug: u32,
}

impl Facts {
    /// The rules' answer to an eject.
    fn eject(&self, cpu: usize, enabled: bool, policy: GuestEject) -> What {
        What::EjectIgnored(match self {
            _ if cpu == 0 => Ignored::BootCpu,
            _ if !enabled => Ignored::Empty,
            Self { known: false, .. } => Ignored::NotYetKnown,
            Self { authorised, .. } if *authorised || policy == GuestEject::Honour => {
                return What::Ejected {
                    requested: *authorised,
                };
            }
            _ => Ignored::NotAsked,
        })
    }

    fn inserted(&mut self) {
        self.known = false;
        self.authorised = false;
        self.open_insertions = 0;
        self.asks = 0;
        self.open_ejections = 0;
        self.ejects = false;
        self.taken = false;
        self.plug += 1;
    }

    /// The rules' answer to a wish to take out what the guest has said no to. It may be no for the sake of a scan, too.
    fn discard(&self, cpu: usize, flags: u8, answer: Option<Withdrawn>) -> Withdrawn {
        let asked = flags & INSERT != 0 || self.open_insertions > 0;
        let scanned = self.known && flags & REMOVE != 0 && answer == Some(Withdrawn::Nothing);
        all_or_nothing(cpu != 0 && flags & ENABLED != 0 && !asked && !self.taken && !scanned)
    }

    /// The guest's `_OST` about this CPU. Whether it keeps it, and has no right to eject it any more.
    fn said(&mut self, source: u32, status: u32, pending: bool) -> Option<u32> {
        match (source, status) {
            (0 | 1, _) => {
                self.known = true;
                if status != INSERT_IN_PROGRESS {
                    self.open_insertions = self.open_insertions.saturating_sub(1);
                    self.taken |= status == 0;
                }
            }
            (3, EJECT_IN_PROGRESS) => {
                // The one before is dead.
                if self.ejects && self.open_ejections > 1 {
                    self.open_ejections -= 1;
                }
                self.ejects = self.open_ejections > 0;
            }
            (3, _) => {
                self.ejects = false;
                // Who was not asked has not answered.
                self.open_ejections = self.open_ejections.checked_sub(1)?;
                let kept = !pending && self.open_ejections == 0;
                self.authorised &= !kept;
                return kept.then_some(self.asks);
            }
            _ => self.ejects = false,
        }
        None
    }
}

/// Holds one step, before and after which the slots are so, against the rules.
fn check(
    facts: &mut [Facts],
    policy: GuestEject,
    (step, answer): (&Step, Option<Withdrawn>),
    (before, after): (&[Looks], &[Looks]),
    posted: &[(u32, u32, What)],
) -> Result<(), TestCaseError> {
    prop_assert!(posted.len() <= 2);
    for (cpu, fact) in facts.iter_mut().enumerate() {
        let (was, is) = (before[cpu], after[cpu]);
        if matches!(*step, Step::Discard(n) if n as usize == cpu) {
            prop_assert_eq!(answer, Some(fact.discard(cpu, was.held, answer)));
        }
        let mut expected = asked(fact, cpu, (step, answer), (was.held, is.held));
        let mut vacated = matches!(*step, Step::Read(FLAGS, 1))
            || matches!(*step, Step::Announce(n) if n as usize == cpu);
        let mut ejected = false;
        for &(_, plug, what) in posted.iter().filter(|notice| notice.0 as usize == cpu) {
            let ejection = matches!(what, What::Status { source, .. } if source > 1);
            let earlier = is_earlier(fact, was, what);
            prop_assert_eq!(plug, fact.plug.wrapping_sub(u32::from(earlier)));
            match what {
                What::InsertRead => {
                    prop_assert!(was.shown & INSERT != 0);
                    expected &= !INSERT;
                    fact.open_insertions += 1;
                }
                What::EjectRead(ask) => {
                    prop_assert!(was.shown & REMOVE != 0);
                    prop_assert_eq!(ask, fact.asks);
                    expected &= !REMOVE;
                    fact.open_ejections += 1;
                }
                What::Status {
                    source,
                    status,
                    kept,
                } => {
                    let meant = was.shown != 0 && (fact.known || !ejection);
                    let pending = was.held & REMOVE != 0;
                    let expected = meant.then(|| fact.said(source, status, pending)).flatten();
                    prop_assert_eq!(kept, expected);
                    vacated |= ejection;
                }
                What::Ejected { .. } | What::EjectIgnored(_) => {
                    prop_assert_eq!(what, fact.eject(cpu, was.shown != 0, policy));
                    if matches!(what, What::Ejected { .. }) {
                        expected = 0;
                    }
                    ejected = !matches!(
                        what,
                        What::EjectIgnored(Ignored::BootCpu | Ignored::NotAsked)
                    );
                }
                What::SeenEmpty => {
                    prop_assert!(vacated && was.vacating && !is.vacating && is.held != 0);
                    expected |= INSERT;
                }
            }
        }
        prop_assert_eq!(is.held, expected, "CPU {} after {:?}", cpu, step);
        check_shown(fact, (was, is), vacated, ejected)?;
    }
    prop_assert!(after[0].shown & ENABLED != 0, "the boot CPU stays");
    Ok(())
}

/// Whether it is about the CPU before: the insertion of this one is not shown, or not acknowledged.
fn is_earlier(fact: &Facts, was: Looks, what: What) -> bool {
    match what {
        What::SeenEmpty => false,
        What::EjectIgnored(why) => why == Ignored::NotYetKnown || was.held != 0 && was.vacating,
        what => {
            let ejection = matches!(what, What::Status { source, .. } if source > 1);
            was.held != 0 && (was.vacating || ejection && !fact.known)
        }
    }
}

/// Holds what the guest is shown of a slot after a step in which it has shown that it knows a CPU to be gone, or ejected one.
fn check_shown(
    fact: &Facts,
    (was, is): (Looks, Looks),
    vacated: bool,
    ejected: bool,
) -> Result<(), TestCaseError> {
    let hidden = match (is.vacating, fact.known) {
        (true, _) => u8::MAX,
        (_, false) => REMOVE,
        _ => 0,
    };
    prop_assert_eq!(is.shown, is.held & !hidden);
    prop_assert!(
        is.shown == 0 || is.shown & ENABLED != 0,
        "an event of an empty slot"
    );
    match (was.vacating, is.vacating) {
        (false, true) => prop_assert!(ejected),
        (true, false) => prop_assert!(vacated),
        _ => prop_assert!(!ejected || was.vacating),
    }
    Ok(())
}

/// The flags that the host's part in a step makes of `was`.
fn asked(
    fact: &mut Facts,
    cpu: usize,
    (step, answer): (&Step, Option<Withdrawn>),
    (was, is): (u8, u8),
) -> u8 {
    let is_for = |target: u32| target as usize == cpu;
    match *step {
        Step::Insert(n) if is_for(n) => {
            if was == 0 {
                fact.inserted();
            }
            was | ENABLED | INSERT
        }
        Step::Announce(n) if is_for(n) && was != 0 => was | INSERT,
        Step::RequestEject(n) if is_for(n) && was != 0 && cpu != 0 => {
            fact.authorised = true;
            fact.asks += u32::from(was & REMOVE == 0);
            was | REMOVE
        }
        // It stays where a scan has found it, and the right to eject where an earlier one is open.
        Step::WithdrawEject(n) if is_for(n) => {
            let gone = was & REMOVE != 0 && is & REMOVE == 0;
            let left = match (gone, fact.open_ejections) {
                (false, _) => Withdrawn::Nothing,
                (true, 0) => Withdrawn::All,
                (true, _) => Withdrawn::Last,
            };
            assert_eq!(answer, Some(left));
            fact.authorised &= left != Withdrawn::All;
            (was & !REMOVE) | (is & was & REMOVE)
        }
        Step::WithdrawInsert(n) | Step::Discard(n)
            if is_for(n) && answer == Some(Withdrawn::All) =>
        {
            0
        }
        _ => was,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_order_of_accesses_and_calls_breaks_a_rule(
        steps in prop::collection::vec(step(), 1..80),
        policy in prop_oneof![Just(GuestEject::Honour), Just(GuestEject::Ignore)],
    ) {
        let bed = Bed::new(policy);
        let mut facts = vec![Facts::default(); 4];
        for fact in &mut facts[..2] {
            fact.known = true;
        }
        for step in &steps {
            let before = bed.slots();
            let answer = bed.take(step);
            let (after, posted) = (bed.slots(), bed.posted());
            check(&mut facts, policy, (step, answer), (&before, &after), &posted)?;
        }
        // A scan finds exactly what is there.
        let slots = bed.slots();
        let has_event = |looks: &Looks| looks.shown & (INSERT | REMOVE) != 0;
        let with_event = (0u32..4).filter(|cpu| has_event(&slots[*cpu as usize]));
        let mut found = Vec::new();
        while let Some(cpu) = bed.next(0) {
            found.push(cpu);
            bed.set(cpu, INSERT);
            bed.set(cpu, REMOVE);
        }
        prop_assert_eq!(found, with_event.collect::<Vec<_>>());
    }

    /// What was withdrawn before the guest could see it is never seen, whatever it does afterwards.
    #[test]
    fn a_withdrawn_request_stays_withdrawn(
        before in prop::collection::vec(step(), 0..30),
        after in prop::collection::vec(step(), 0..30),
    ) {
        let bed = Bed::new(GuestEject::Ignore);
        for step in &before {
            bed.take(step);
        }
        if bed.controller.withdraw_eject(1) == Withdrawn::All {
            bed.posted();
            let asks = |step: &&Step| !matches!(step, Step::RequestEject(_) | Step::Insert(_));
            for step in after.iter().filter(asks) {
                bed.take(step);
            }
            for (cpu, _, what) in bed.posted().into_iter().filter(|notice| notice.0 == 1) {
                let seen = matches!(what, What::EjectRead(_) | What::Ejected { .. });
                prop_assert!(!seen, "CPU {}: {:?}", cpu, what);
            }
        }
    }
}
