//! The guest's side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hotvisor_devices::cpu_hotplug::{GuestEject, Request as Asks};
use hotvisor_vmm::hotplug::machinery::Message;

use super::World;
use crate::machine::Machine;
use crate::shape::{ALWAYS, Act, Budget, Variant};

/// What it was asked for, and has yet to do.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) cpu: u32,
    pub(super) asks: Asks,
    /// The insertion that it is about.
    pub(super) plug: u32,
}

/// What is left of an ejection: Linux looks whether the CPU is gone, and says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastWord {
    cpu: u32,
    pub(super) looked: bool,
    /// Whether it is gone, or nobody asked for that and it may stay.
    gone: bool,
    source: u32,
}

/// Where its search for events is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Scan {
    #[default]
    Rests,
    Looks,
    /// It has found this, and not cleared it.
    Found(u32, Asks),
}

#[derive(Debug, Default)]
pub(super) struct Guest {
    pub(super) scan: Scan,
    pub(super) work: VecDeque<Work>,
    /// What it has ejected, and has still to say something of.
    pub(super) last_word: Option<LastWord>,
    pub(super) starting: BTreeSet<u32>,
    /// The CPUs that it knows of, and those that it runs, but the first.
    pub(super) knows: BTreeSet<u32>,
    pub(super) runs: BTreeSet<u32>,
    /// Requests to eject that it has forgotten: the CPU, and its insertion.
    pub(super) ignored: BTreeSet<(u32, u32)>,
    /// Those whose ejection has no effect, in the variant where reading the request takes the right to it.
    pub(super) revoked: BTreeSet<u32>,
    /// Which run of each thread it has started.
    pub(super) started: BTreeMap<u32, u64>,
    pub(super) is_dead: bool,
}

impl Guest {
    /// What it does about the oldest of its work, or of what it has done.
    fn next_of_work(&self, variant: Variant) -> Option<Act> {
        match self.last_word {
            Some(last) if last.looked => Some(Act::LastWord),
            Some(_) => Some(Act::Look),
            None if self.work.is_empty() => None,
            None if variant == Variant::Insists => Some(Act::Refuse),
            None => Some(Act::Obey),
        }
    }
}

impl World {
    /// What the guest does sooner or later. Its methods have one lock for all registers, so that it does nothing else with them
    /// in the midst of a scan.
    pub(super) fn due_of_guest(&self) -> Vec<Act> {
        let mut due: Vec<Act> = self
            .guest
            .starting
            .iter()
            .map(|id| Act::Start(*id))
            .collect();
        match self.guest.scan {
            Scan::Found(..) => due.push(Act::Clear),
            Scan::Looks => due.push(Act::Scan),
            Scan::Rests => {
                due.extend(self.machine.interrupt.then_some(Act::Scan));
                due.extend(self.guest.next_of_work(self.shape.variant));
            }
        }
        due
    }

    /// What the guest may do, and need not.
    pub(super) fn possible_of_guest(&self) -> Vec<Act> {
        if self.guest.scan != Scan::Rests {
            return Vec::new();
        }
        let Budget {
            refusals,
            overtakes,
            finds,
            lies,
            ejects,
            slow,
            ..
        } = self.budget;
        let mut possible = Vec::new();
        if slow > 0 && self.machine.interrupt {
            possible.push(Act::ScanSlowly);
        }
        let is_ejecting = self.guest.last_word.is_some();
        let vcpus = 1..self.shape.vcpus;
        if refusals > 0 && !is_ejecting && !self.guest.work.is_empty() {
            possible.extend([Act::Begin, Act::Refuse]);
            // Nothing else ends what it forgets.
            if self.shape.budget.deadlines == ALWAYS {
                possible.push(Act::Ignore);
            }
        }
        if overtakes > 0 && self.guest.work.len() > 1 {
            possible.push(Act::Overtake);
        }
        // Linux holds one lock for that and for its work.
        if finds > 0 && !is_ejecting {
            let unknown = vcpus.clone().filter(|id| !self.guest.knows.contains(id));
            possible.extend(unknown.map(Act::Find));
        }
        if refusals > 0 && self.shape.budget.deadlines == ALWAYS {
            possible.extend(self.guest.starting.iter().map(|id| Act::LeaveOffline(*id)));
        }
        if ejects > 0 && !is_ejecting {
            possible.extend((0..self.shape.vcpus).map(Act::EjectUnasked));
        }
        if lies > 0 && !is_ejecting {
            for id in 0..self.shape.vcpus {
                possible.extend([(1, 0), (3, 0), (3, 0x80)].map(|(s, t)| Act::Lie(id, s, t)));
            }
        }
        possible
    }

    pub(super) fn guest(&mut self, act: &Act) {
        // What comes of that is no undoing.
        self.before.take_if(|_| act.is_of_the_guest_alone());
        self.has_ejected |= matches!(act, Act::EjectUnasked(_) | Act::Lie(..));
        match act {
            Act::Scan => self.scan(false),
            Act::ScanSlowly => {
                self.budget.slow -= 1;
                self.scan(true);
            }
            Act::Clear => self.clear(),
            Act::LeaveOffline(cpu) => {
                self.budget.refusals -= 1;
                self.guest.starting.remove(cpu);
            }
            Act::Overtake => {
                self.budget.overtakes -= 1;
                self.guest.work.swap(0, 1);
            }
            Act::Find(cpu) => {
                self.budget.finds -= 1;
                if self.machine.sta(*cpu) {
                    self.has(*cpu);
                }
            }
            Act::Look => self.look_whether_gone(),
            Act::LastWord => {
                if let Some(LastWord { cpu, source, .. }) = self.guest.last_word.take() {
                    self.machine.ost(cpu, source, 0);
                }
            }
            Act::Start(cpu) => {
                self.guest.starting.remove(cpu);
                let thread = &mut self.machine.threads[*cpu as usize];
                if let Some(run) = thread.running {
                    thread.todo.push_back(Message::Started(*cpu, run));
                    self.guest.runs.insert(*cpu);
                    self.guest.started.insert(*cpu, run);
                }
            }
            Act::EjectUnasked(cpu) => {
                self.budget.ejects -= 1;
                let honoured = self.eject(*cpu);
                self.guest.last_word = Some(LastWord {
                    cpu: *cpu,
                    looked: false,
                    gone: honoured.is_some(),
                    source: 0x103,
                });
                if self.shape.guest_eject == GuestEject::Ignore && honoured == Some(false) {
                    let wrong = format!("vCPU {cpu}: the guest's own ejection was honoured");
                    self.is_wrong(wrong);
                }
            }
            Act::Lie(cpu, source, status) => {
                self.budget.lies -= 1;
                self.machine.ost(*cpu, *source, *status);
            }
            Act::Reboot => self.reboot(),
            Act::Die => {
                self.budget.deaths -= 1;
                self.guest.is_dead = true;
                self.coordinator.ended();
            }
            _ => self.work(act),
        }
    }

    /// It looks whether what it has ejected is gone.
    fn look_whether_gone(&mut self) {
        if let Some(last) = &mut self.guest.last_word {
            last.looked = true;
            let LastWord { cpu, gone, .. } = *last;
            if self.machine.sta(cpu) && gone {
                self.is_wrong(format!(
                    "vCPU {cpu}'s eject seems to the guest to have failed"
                ));
            }
        }
    }

    /// One pass of its scan; or, if it is slow, so much of it until it has found something, or nothing.
    fn scan(&mut self, slow: bool) {
        if self.guest.scan == Scan::Rests {
            self.machine.begin_scan();
        }
        while let Some((cpu, asks)) = self.machine.find() {
            self.guest.scan = Scan::Found(cpu, asks);
            if slow {
                return;
            }
            self.clear();
        }
        self.guest.scan = Scan::Rests;
        let owes = !self.guest.work.is_empty() || !self.guest.ignored.is_empty();
        let reminds = self.shape.variant == Variant::RemindsUntilAnswered;
        self.machine.interrupt |= owes && reminds;
    }

    /// It notes what it has found, and looks further.
    fn clear(&mut self) {
        let Scan::Found(cpu, asks) = self.guest.scan else {
            return;
        };
        self.guest.scan = Scan::Looks;
        self.machine.clear(asks);
        if self.shape.variant == Variant::AckRevokes && asks == Asks::Eject {
            self.guest.revoked.insert(cpu);
        }
        let plug = self.machine.plugs[cpu as usize];
        self.guest.work.push_back(Work { cpu, asks, plug });
    }

    /// The oldest of what the guest was asked.
    fn work(&mut self, act: &Act) {
        let Some(work) = self.guest.work.pop_front() else {
            return;
        };
        let Work { cpu, asks, .. } = work;
        if *act != Act::Obey && self.shape.variant != Variant::Insists {
            self.budget.refusals -= 1;
        }
        match (asks, act) {
            (Asks::Insert, Act::Ignore) => {}
            (Asks::Eject, Act::Ignore) => {
                self.guest.ignored.insert((cpu, work.plug));
            }
            (Asks::Insert, act) => {
                // Linux looks first whether it is there. It may say yes when it hears of it again.
                let is_there = self.machine.sta(cpu);
                if *act == Act::Refuse || !is_there {
                    return self.machine.ost(cpu, 1, 1);
                }
                self.machine.ost(cpu, 1, 0);
                self.has(cpu);
            }
            (Asks::Eject, Act::Refuse) => self.machine.ost(cpu, 3, 0x82),
            (Asks::Eject, Act::Begin) => {
                self.machine.ost(cpu, 3, 0x84);
                self.guest.work.push_front(work);
            }
            (Asks::Eject, _) => {
                let has_it = self.guest.knows.contains(&cpu);
                self.machine.ost(cpu, 3, 0x84);
                let honoured = self.eject(cpu);
                // Linux does so as well with what it has ejected already, when it was asked twice.
                self.guest.last_word = Some(LastWord {
                    cpu,
                    looked: false,
                    gone: true,
                    source: 3,
                });
                if has_it && honoured != Some(true) && self.shape.budget.lies == 0 {
                    let came = match honoured {
                        Some(_) => "and it counts as its own doing",
                        None => "in vain",
                    };
                    self.is_wrong(format!(
                        "the guest ejects vCPU {cpu} as it was asked to, {came}"
                    ));
                }
            }
        }
    }

    /// The CPU is one of its own from now on; twice is as once.
    fn has(&mut self, cpu: u32) {
        if self.guest.knows.insert(cpu) {
            self.guest.starting.insert(cpu);
        }
    }

    /// The CPU is in its last loop, and out of the guest's hands. If it was honoured: whether it counts as asked for.
    fn eject(&mut self, cpu: u32) -> Option<bool> {
        let runs = self.guest.runs.remove(&cpu);
        self.guest.starting.remove(&cpu);
        let asked = match self.guest.revoked.contains(&cpu) {
            true => None,
            false => self.machine.eject(cpu, &self.queue),
        };
        let honoured = asked.is_some();
        if honoured {
            self.guest.knows.remove(&cpu);
        }
        if !honoured && runs {
            self.guest.runs.insert(cpu);
        }
        if honoured && self.shape.variant == Variant::JoinInHandler {
            self.held = Some(cpu);
        }
        asked
    }

    /// It asks for a reset: everybody is kept out, and the machine is there until nobody is inside.
    fn reboot(&mut self) {
        self.budget.reboots -= 1;
        self.stopping = Some(self.coordinator.retire());
        self.restart_if_left();
    }

    /// What comes while the machine is on its way out: only who is inside counts.
    pub(super) fn hears_while_stopping(&mut self, message: &Message) {
        let id = self.coordinator.is_left(message);
        if let (Some(id), Some(left)) = (id, &mut self.stopping) {
            left.remove(&id);
        }
        self.restart_if_left();
    }

    pub(super) fn restart_if_left(&mut self) {
        if self.stopping.take_if(|left| left.is_empty()).is_none() {
            return;
        }
        if self.users.iter().any(|user| user.inside.is_some()) {
            self.is_wrong("the machine was torn down with a user inside".to_owned());
        }
        self.generation += 1;
        if self.shape.variant != Variant::NoGenerations {
            // What the machine before has posted is dropped by its generation; what a gate or a notifier has to say is not.
            self.queue.forget_machine();
        }
        let present: Vec<(u32, u64)> = self.coordinator.wanted().into_iter().collect();
        let wrong = std::mem::take(&mut self.machine.wrong);
        self.machine = Machine::new(
            &self.queue,
            self.shape.vcpus,
            &present,
            self.shape.guest_eject,
        );
        self.machine.wrong = wrong;
        self.guest = Guest::default();
        self.coordinator.restarted(self.generation);
        self.guest.starting = present
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| *id != 0)
            .collect();
        self.guest.knows = self.guest.starting.clone();
    }
}
