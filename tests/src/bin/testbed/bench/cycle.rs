//! vCPUs plugged, unplugged and plugged again, one at a time, the VMMs in turn.
//!
//! All are asked as programs ask them, over a connection that stays. A plug ends with the same line from the guest
//! under each. An unplug ends with the word that the vCPU is gone: Hotvisor's answer, which comes when the vCPU's
//! thread is parked; QEMU's `DEVICE_DELETED`; the end of the vCPU's thread under Cloud Hypervisor, which has no word
//! for it.
//!
//! Most of what a guest needs for either it needs by itself, and no VMM can shorten it: RCU grace periods, each some
//! ticks of waiting, in `cpus_write_lock` and `sched_cpu_deactivate`; and in a plug, where the emulated machine has one
//! CPU, the two CPUs of the guest that wait for each other busily while each has that one for a slice of its scheduler's.
//! So what the guest's kernel itself needs is measured within the same operations, all else is what is left, and a
//! second kind of guest has expedited grace periods.

use anyhow::{Result, ensure};

use super::machine::{Machine, Plan, drift, taken};
use super::results::{Absent, Change, Guest, Key, Results, What};
use super::trace::{self, Exits, Noted};
use super::{Bench, phases};
use crate::progress::Step;

/// Cycles in which exits are counted; they hardly differ.
const COUNTED: u32 = 5;

/// In L1: some cycles on a new guest under one VMM, then under the next, until there are enough.
pub(super) fn measure(bench: &Bench<'_>, results: &mut Results) -> Result<()> {
    for guest in Guest::ALL {
        for turn in 0..bench.turns {
            for &peer in &bench.peers {
                let (number, turns) = (turn + 1, bench.turns);
                let _step = Step::begin(&format!("{peer}, {guest}: turn {number} of {turns}"));
                drift(turn);
                let plan = bench.plan(peer, guest, 1, bench.max);
                whole(bench, &plan, turn, bench.cycles, turn == 0, results)?;
            }
        }
    }
    Ok(())
}

/// One machine from its boot to its end. Of a peer's that comes to a stand nothing counts, and it is said why; Hotvisor's
/// has to get there.
pub(super) fn whole(
    bench: &Bench<'_>,
    plan: &Plan<'_>,
    turn: u32,
    cycles: u32,
    exits: bool,
    results: &mut Results,
) -> Result<()> {
    let mut own = Results::new(results.seed);
    let done = Turn::begin(bench, plan, turn, &mut own).and_then(|turn| turn.run(cycles, exits));
    match done {
        Err(error) if !plan.peer.is_ours() => {
            eprintln!("{error:#}");
            let why = format!("a guest of {}'s is left out: {}", plan.peer, first(&error));
            results.absent.push(Absent {
                peer: plan.peer,
                time: bench.time,
                max: plan.max,
                vcpus: 1,
                why,
            });
        }
        done => {
            done?;
            results.merge(own);
        }
    }
    Ok(())
}

/// The first line of what was wrong; the others are evidence.
pub(super) fn first(error: &anyhow::Error) -> String {
    let said = format!("{error:#}");
    said.lines().next().unwrap_or_default().to_owned()
}

/// The cycles of one machine.
struct Turn<'a> {
    machine: Machine,
    results: &'a mut Results,
    key: Key,
    /// Of the next request.
    number: u32,
    /// Changes so far whose time in the guest's kernel is not looked at yet.
    made: Vec<(Change, f64)>,
}

impl<'a> Turn<'a> {
    /// Boots, and has the guest's kernel note what it does.
    fn begin(
        bench: &Bench<'_>,
        plan: &Plan<'_>,
        turn: u32,
        results: &'a mut Results,
    ) -> Result<Self> {
        let machine = Machine::boot(plan)?;
        trace::note_hotplug(&machine.vm)?;
        let key = Key {
            time: bench.time,
            what: What::Init,
            guest: plan.guest,
            max: plan.max,
            vcpus: 1,
            peer: plan.peer,
        };
        Ok(Self {
            machine,
            results,
            key,
            // Each turn begins elsewhere in the sequence.
            number: turn * 100,
            made: Vec::new(),
        })
    }

    /// First plugs, then some more of one vCPU; exits are counted in the end, because that takes time.
    fn run(mut self, cycles: u32, exits: bool) -> Result<()> {
        let init = self.machine.init;
        self.add(What::Init, init);
        // Cloud Hypervisor would take the same vCPU again.
        let fresh = match self.machine.picks_lowest() {
            true => 1,
            false => (self.key.max - 1).min(cycles),
        };
        for vcpu in 1..=fresh {
            self.change(Change::Plug, vcpu)?;
            self.change(Change::Unplug, vcpu)?;
        }
        for _ in 0..cycles {
            self.change(Change::Replug, 1)?;
            self.change(Change::Unplug, 1)?;
        }
        self.add_kernel()?;
        if exits {
            self.count_exits()?;
        }
        self.machine.end()
    }

    fn add(&mut self, what: What, value: f64) {
        let key = Key {
            what,
            ..self.key.clone()
        };
        self.results.add(key, value);
    }

    fn change(&mut self, change: Change, vcpu: u32) -> Result<()> {
        self.number += 1;
        drift(self.number);
        let ms = self.make(change, vcpu)?;
        self.machine.settle()?;
        self.made.push((change, ms));
        self.add(What::Change(change), ms);
        if self.key.peer.is_ours() {
            for (name, ms) in phases(&self.machine.vm, vcpu, change == Change::Unplug)? {
                self.add(What::Phase(change, name), ms);
            }
        }
        Ok(())
    }

    fn make(&mut self, change: Change, vcpu: u32) -> Result<f64> {
        match change {
            Change::Plug | Change::Replug => self.machine.plug(&[vcpu]),
            Change::Unplug => self.machine.unplug(&[vcpu]),
        }
    }

    /// The kernel's part of what was made so far.
    fn add_kernel(&mut self) -> Result<()> {
        let Noted { up, down } = trace::noted_hotplug(&self.machine.vm)?;
        let made = std::mem::take(&mut self.made);
        let (unplugs, plugs): (Vec<(Change, f64)>, _) = made
            .into_iter()
            .partition(|(change, _)| *change == Change::Unplug);
        for (changes, times) in [(plugs, up), (unplugs, down)] {
            ensure!(
                changes.len() == times.len(),
                "{} changes were made, and the guest noted {times:?}",
                changes.len()
            );
            for ((change, whole), ms) in changes.into_iter().zip(times) {
                self.add(What::Kernel(change), ms);
                self.add(What::Rest(change), whole - ms);
            }
        }
        Ok(())
    }

    fn count_exits(&mut self) -> Result<()> {
        let exits = Exits::begin()?;
        for _ in 0..COUNTED {
            for change in [Change::Replug, Change::Unplug] {
                exits.clear()?;
                let (all, own) = (exits.all()?, self.machine.own_times()?);
                self.make(change, 1)?;
                let all = exits.all()? - all;
                let own = taken(&own, &self.machine.own_times()?);
                // What the guest does after the word that it is done counts for the VMM's registers.
                self.machine.settle()?;
                let registers = exits.registers()?;
                self.add(What::Registers(change), registers as f64);
                self.add(What::Exits(change), all as f64);
                self.add(What::Own(change), own);
            }
        }
        Ok(())
    }
}
