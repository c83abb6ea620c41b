//! The controller as a guest and a host see it, each rule by itself; then everything against everything.

use super::regs::{COMMAND, DATA, EJECT, ENABLED, FLAGS, INSERT, REMOVE, SELECTOR};
use super::*;

mod random;
mod twice;
mod vacating;

#[derive(Default)]
struct Posted(Mutex<Vec<Notice>>);

impl HotplugSink for Posted {
    fn notice(&self, notice: Notice) {
        lock(&self.0).push(notice);
    }
}

/// A controller, and the guest's accesses to it.
struct Bed {
    controller: CpuHotplug,
    posted: Arc<Posted>,
}

impl Bed {
    /// Four CPUs, of which 0 and 1 are there.
    fn new(policy: GuestEject) -> Self {
        let posted = Arc::new(Posted::default());
        let controller = CpuHotplug::new(4, [1], policy, posted.clone());
        Self { controller, posted }
    }

    /// What was posted since the last time.
    fn posted(&self) -> Vec<(u32, u32, What)> {
        let notices = std::mem::take(&mut *lock(&self.posted.0));
        notices.iter().map(|n| (n.cpu, n.plug, n.what)).collect()
    }

    fn read(&self, offset: u64, width: usize) -> u32 {
        let mut data = vec![0xaa; width];
        self.controller.mmio_read(MmioAddress(0), offset, &mut data);
        assert!(data.iter().skip(4).all(|byte| *byte == 0));
        value(&data)
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.controller.mmio_write(MmioAddress(0), offset, data);
    }

    fn select(&self, cpu: u32) {
        self.write(SELECTOR, &cpu.to_le_bytes());
    }

    fn command(&self, command: Command) {
        self.write(COMMAND, &[command.number()]);
    }

    fn data(&self) -> u32 {
        self.read(DATA, 4)
    }

    fn flags_of(&self, cpu: u32) -> u32 {
        self.select(cpu);
        self.read(FLAGS, 1)
    }

    fn set(&self, cpu: u32, flag: u8) {
        self.select(cpu);
        self.write(FLAGS, &[flag]);
    }

    fn ost(&self, cpu: u32, source: u32, status: u32) {
        self.select(cpu);
        for (command, value) in [(Command::OstSource, source), (Command::OstStatus, status)] {
            self.command(command);
            self.write(DATA, &value.to_le_bytes());
        }
    }

    /// Where command 0 leads from a CPU, if there is an event.
    fn next(&self, from: u32) -> Option<u32> {
        self.select(from);
        self.command(Command::NextWithEvent);
        let event = self.read(FLAGS, 1) & u32::from(INSERT | REMOVE) != 0;
        event.then(|| self.data())
    }
}

fn said(source: u32, status: u32, kept: Option<u32>) -> What {
    What::Status {
        source,
        status,
        kept,
    }
}

const ON: u32 = ENABLED as u32;
const COMES: u32 = (ENABLED | INSERT) as u32;
const GOES: u32 = (ENABLED | REMOVE) as u32;
const EJECTED: What = What::Ejected { requested: true };
const TOOK_ITS_LEAVE: What = What::Ejected { requested: false };

#[test]
fn an_insertion_is_an_event_until_read_and_known_once_answered() {
    let bed = Bed::new(GuestEject::Ignore);
    assert_eq!([0, 1, 2, 3].map(|cpu| bed.flags_of(cpu)), [ON, ON, 0, 0]);
    assert_eq!(bed.next(0), None);
    assert_eq!(bed.controller.insert(2), 1);
    assert_eq!(bed.next(0), Some(2));
    assert_eq!(bed.flags_of(2), COMES);
    bed.set(2, INSERT);
    bed.set(2, INSERT);
    assert_eq!(bed.flags_of(2), ON);
    bed.ost(2, 1, 0);
    let status = said(1, 0, None);
    let read = What::InsertRead;
    assert_eq!(bed.posted(), [(2, 1, read), (2, 1, status)]);
    bed.controller.announce(2);
    assert_eq!(bed.flags_of(2), COMES);
}

#[test]
fn a_requested_eject_is_honoured_after_its_event_was_cleared() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.request_eject(1);
    assert_eq!(bed.flags_of(1), GOES);
    bed.set(1, REMOVE);
    bed.ost(1, 3, 0x84);
    bed.set(1, EJECT);
    assert_eq!(bed.read(FLAGS, 1), 0);
    let in_progress = said(3, 0x84, None);
    let read = What::EjectRead(1);
    let expected = [(1, 0, read), (1, 0, in_progress), (1, 0, EJECTED)];
    assert_eq!(bed.posted(), expected);
    assert_eq!(bed.controller.insert(1), 1);
    bed.ost(1, 1, 0);
    bed.set(1, EJECT);
    let used_up = What::EjectIgnored(Ignored::NotAsked);
    assert_eq!(bed.posted().last(), Some(&(1, 1, used_up)));
}

#[test]
fn an_eject_clears_what_was_pending() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.announce(1);
    bed.controller.request_eject(1);
    bed.set(1, EJECT);
    assert_eq!(bed.posted(), [(1, 0, EJECTED)]);
    assert_eq!(bed.next(0), None);
    bed.set(1, INSERT);
    bed.set(1, REMOVE);
    bed.controller.announce(1);
    bed.controller.request_eject(1);
    assert_eq!((bed.flags_of(1), bed.posted()), (0, vec![]));
}

#[test]
fn ejects_that_mean_nobody_are_ignored_with_their_reason() {
    let bed = Bed::new(GuestEject::Honour);
    bed.controller.request_eject(0);
    for (cpu, why) in [(0, Ignored::BootCpu), (2, Ignored::Empty)] {
        let before = bed.flags_of(cpu);
        bed.set(cpu, EJECT);
        assert_eq!(bed.posted(), [(cpu, 0, What::EjectIgnored(why))]);
        assert_eq!(bed.flags_of(cpu), before);
    }
    bed.set(4, EJECT);
    bed.set(u32::MAX, EJECT);
    assert_eq!(bed.posted(), []);
}

#[test]
fn a_stale_eject_does_not_reach_the_cpu_that_was_plugged_since() {
    for policy in [GuestEject::Honour, GuestEject::Ignore] {
        let bed = Bed::new(policy);
        bed.controller.request_eject(1);
        bed.set(1, EJECT);
        bed.controller.insert(1);
        // Even where the host by now wants this one gone, too.
        bed.controller.request_eject(1);
        bed.posted();
        bed.set(1, EJECT);
        let twice = What::EjectIgnored(Ignored::Empty);
        assert_eq!(bed.posted(), [(1, 0, twice)]);
        assert_eq!(bed.flags_of(1), 0);
        assert_eq!(bed.posted(), [(1, 1, What::SeenEmpty)]);
        bed.set(1, EJECT);
        let stale = What::EjectIgnored(Ignored::NotYetKnown);
        assert_eq!(bed.posted(), [(1, 0, stale)]);
        assert_eq!(bed.flags_of(1), 0, "as the one that it means");
        assert_eq!(bed.flags_of(1), COMES, "asked for, and not shown");
        bed.posted();
        // The late status of the eject before is no answer to the insertion either.
        bed.ost(1, 3, 0);
        bed.set(1, EJECT);
        assert_eq!(bed.posted().last(), Some(&(1, 0, stale)));
        assert_eq!(bed.flags_of(1), 0);
        bed.ost(1, 1, 1);
        bed.set(1, EJECT);
        assert_eq!(bed.posted().last(), Some(&(1, 1, EJECTED)));
    }
}

#[test]
fn the_policy_decides_about_an_eject_that_nobody_asked_for() {
    let bed = Bed::new(GuestEject::Honour);
    bed.set(1, EJECT);
    assert_eq!(bed.posted(), [(1, 0, TOOK_ITS_LEAVE)]);
    assert_eq!(bed.flags_of(1), 0);
    let bed = Bed::new(GuestEject::Ignore);
    bed.set(1, EJECT);
    let ignored = What::EjectIgnored(Ignored::NotAsked);
    assert_eq!((bed.posted(), bed.flags_of(1)), (vec![(1, 0, ignored)], ON));
}

#[test]
fn a_request_that_was_not_read_can_be_withdrawn_and_one_that_was_cannot() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.request_eject(1);
    assert_eq!(bed.controller.withdraw_eject(1), Withdrawn::All);
    assert_eq!((bed.next(0), bed.flags_of(1)), (None, ON));
    // Read is what the guest has seen, cleared or not: its scan goes by what it saw.
    bed.controller.request_eject(1);
    assert_eq!(bed.flags_of(1), GOES);
    assert_eq!(bed.controller.withdraw_eject(1), Withdrawn::Nothing);
    bed.set(1, REMOVE);
    bed.controller.request_eject(1);
    assert_eq!(bed.controller.withdraw_eject(1), Withdrawn::Last);
    bed.set(1, EJECT);
    assert_eq!(bed.posted().last(), Some(&(1, 0, EJECTED)));
    // There is nothing to withdraw: what the guest did decides.
    assert_eq!(bed.controller.withdraw_eject(1), Withdrawn::Nothing);
}

#[test]
fn a_refused_request_leaves_nothing_behind() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.request_eject(1);
    bed.set(1, REMOVE);
    bed.ost(1, 3, 0x82);
    let kept = said(3, 0x82, Some(1));
    assert_eq!(bed.posted().last(), Some(&(1, 0, kept)));
    bed.set(1, EJECT);
    let ignored = What::EjectIgnored(Ignored::NotAsked);
    assert_eq!(bed.posted().last(), Some(&(1, 0, ignored)));
    bed.controller.request_eject(1);
    assert_eq!(bed.controller.withdraw_eject(1), Withdrawn::All);
}

#[test]
fn an_insertion_can_be_withdrawn_until_the_guest_may_know() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.insert(2);
    assert!(bed.controller.withdraw_insert(2));
    assert_eq!((bed.next(0), bed.flags_of(2)), (None, 0));
    assert_eq!(bed.controller.insert(2), 2);
    assert_eq!(bed.flags_of(2), COMES);
    assert!(!bed.controller.withdraw_insert(2));
    assert_eq!(bed.controller.insert(3), 1);
    bed.set(3, INSERT);
    assert!(!bed.controller.withdraw_insert(3));
    assert!(!bed.controller.withdraw_insert(0));
    assert_eq!([2, 3].map(|cpu| bed.flags_of(cpu)), [COMES, ON]);
}

/// Who says no, hears of it again, and says yes to that, has it.
#[test]
fn a_no_counts_only_as_the_answer_to_the_last_announcement() {
    let bed = Bed::new(GuestEject::Ignore);
    let in_progress = |bed: &Bed| bed.ost(2, 1, 0x80);
    let no = |bed: &Bed| bed.ost(2, 1, 1);
    assert!(!bed.controller.discard(2), "there is none");
    bed.controller.insert(2);
    no(&bed);
    assert!(!bed.controller.discard(2), "it has not heard of it");
    bed.set(2, INSERT);
    in_progress(&bed);
    assert!(!bed.controller.discard(2), "it has not answered");
    bed.controller.announce(2);
    no(&bed);
    assert!(!bed.controller.discard(2), "it is to hear of it again");
    bed.set(2, INSERT);
    assert!(!bed.controller.discard(2), "it has heard of it again");
    assert_eq!(bed.flags_of(2), ON);
    no(&bed);
    assert!(bed.controller.discard(2));
    assert_eq!(bed.flags_of(2), 0);
    assert!(!bed.controller.discard(0), "the boot CPU stays");
    for yes_first in [false, true] {
        bed.controller.insert(2);
        for says_yes in [yes_first, !yes_first] {
            bed.set(2, INSERT);
            bed.ost(2, 1, u32::from(!says_yes));
            bed.controller.announce(2);
        }
        bed.set(2, INSERT);
        no(&bed);
        assert!(!bed.controller.discard(2), "it has it already");
        bed.controller.request_eject(2);
        bed.set(2, EJECT);
        assert_eq!(bed.flags_of(2), 0);
    }
    bed.controller.insert(2);
    bed.set(2, INSERT);
    no(&bed);
    assert!(bed.controller.discard(2), "the next one is asked for anew");
}

/// A scan ends where it finds no event, so none must vanish between the search and the look.
#[test]
fn the_host_takes_no_event_away_from_a_scan_that_has_found_it() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.request_eject(1);
    bed.command(Command::NextWithEvent);
    assert_eq!(bed.controller.withdraw_eject(1), Withdrawn::Nothing);
    assert_eq!(bed.read(FLAGS, 1), GOES);
    bed.write(FLAGS, &[REMOVE]);
    bed.controller.insert(2);
    bed.command(Command::NextWithEvent);
    assert!(!bed.controller.withdraw_insert(2));
    assert_eq!(bed.read(FLAGS, 1), COMES);
    // Nor with a CPU that the guest has said no to.
    bed.controller.insert(2);
    bed.set(2, INSERT);
    bed.ost(2, 1, 1);
    bed.controller.request_eject(2);
    assert_eq!(bed.next(2), Some(2));
    assert!(!bed.controller.discard(2));
    assert_eq!(bed.read(FLAGS, 1), GOES);
    bed.set(2, REMOVE);
    assert!(bed.controller.discard(2));
}

#[test]
fn the_search_starts_at_the_selector_and_goes_around() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.request_eject(1);
    bed.controller.insert(3);
    assert_eq!(
        [0, 1, 2, 3].map(|from| bed.next(from)),
        [1, 1, 3, 3].map(Some)
    );
    bed.set(3, INSERT);
    assert_eq!(bed.next(2), Some(1));
    bed.set(1, REMOVE);
    bed.select(2);
    bed.command(Command::NextWithEvent);
    assert_eq!((bed.data(), bed.read(FLAGS, 1)), (2, 0), "it stays");
}

#[test]
fn one_write_does_one_thing() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.controller.announce(1);
    bed.controller.request_eject(1);
    let all = ENABLED | INSERT | REMOVE | EJECT | 1 << 4;
    for (written, expected) in [
        (all, GOES),
        (all & !INSERT, ON),
        (all & !(INSERT | REMOVE), 0),
    ] {
        bed.set(1, written);
        assert_eq!(bed.flags_of(1), expected);
    }
    bed.set(0, 1 << 4);
    bed.set(0, ENABLED);
    assert_eq!((bed.flags_of(0), bed.posted().len()), (ON, 3));
}

#[test]
fn commands_answer_as_they_should() {
    let bed = Bed::new(GuestEject::Ignore);
    bed.select(3);
    for (command, answer) in [
        (Command::ArchId, 3),
        (Command::OstSource, 0),
        (Command::OstStatus, 0),
        (Command::NextWithEvent, 3),
    ] {
        bed.command(command);
        assert_eq!((bed.data(), bed.read(SELECTOR, 4)), (answer, 0));
        assert_eq!(bed.read(COMMAND, 1), 0);
    }
    bed.command(Command::ArchId);
    bed.write(COMMAND, &[4]);
    bed.write(DATA, &[9, 0, 0, 0]);
    assert_eq!((bed.data(), bed.posted().len()), (3, 0));
}

#[test]
fn a_cpu_that_the_machine_does_not_have_reads_zero_and_keeps_nothing() {
    let bed = Bed::new(GuestEject::Honour);
    bed.command(Command::ArchId);
    bed.controller.insert(2);
    for cpu in [4, 5, u32::MAX] {
        bed.select(cpu);
        bed.command(Command::NextWithEvent);
        for flag in [INSERT, REMOVE, EJECT] {
            bed.write(FLAGS, &[flag]);
        }
        assert_eq!((bed.read(FLAGS, 1), bed.data()), (0, 0));
        bed.ost(cpu, 1, 0);
        bed.controller.announce(cpu);
        bed.controller.request_eject(cpu);
        assert_eq!(bed.controller.insert(cpu), 0);
        assert_eq!(bed.controller.withdraw_eject(cpu), Withdrawn::Nothing);
        assert!(!bed.controller.withdraw_insert(cpu));
    }
    assert_eq!(bed.posted(), []);
    bed.select(1);
    assert_eq!(bed.data(), 1, "the command is as it was");
}

#[test]
fn odd_accesses_read_zero_and_do_nothing() {
    let bed = Bed::new(GuestEject::Honour);
    bed.controller.announce(1);
    bed.select(1);
    for offset in 0..16 {
        for width in [1, 2, 3, 4, 8, 12] {
            if regs::decode(offset, width).is_err() {
                assert_eq!(bed.read(offset, width), 0, "{width} at {offset}");
                bed.write(offset, &vec![0xff; width]);
            }
        }
    }
    assert_eq!(bed.read(FLAGS, 1), COMES);
    assert_eq!((bed.data(), bed.posted()), (1, vec![]));
}

#[test]
fn a_cpu_that_was_started_is_known_without_an_acknowledgement() {
    let bed = Bed::new(GuestEject::Honour);
    bed.controller.insert(2);
    bed.controller.request_eject(2);
    bed.set(2, EJECT);
    assert_eq!(bed.flags_of(2), 0, "as the one before");
    // Nor does it clear what it is not shown yet.
    bed.set(2, REMOVE);
    assert_eq!(bed.flags_of(2), COMES);
    bed.controller.acknowledge(2);
    assert_eq!(bed.flags_of(2), COMES | GOES);
    bed.set(2, EJECT);
    assert_eq!(bed.flags_of(2), 0);
}
