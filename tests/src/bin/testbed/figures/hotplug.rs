//! One vCPU unplugged and plugged, Hotvisor and QEMU in turn, and what Hotvisor's time is made of.
//!
//! Both are asked as programs ask them, and both times of a plug end with the same line from the guest.
//! An unplug ends with the word that the vCPU is gone: Hotvisor's answer, which comes when the vCPU's
//! thread is parked, and QEMU's `DEVICE_DELETED`.
//!
//! Most of what a guest needs for an unplug are two RCU grace periods, each some ticks of waiting: no VMM can
//! shorten them, and as the ticks fall differently each time, medians of twenty differ by a fifth from run to run,
//! even where the clock counts instructions. So a second pair of guests is measured that boot with expedited grace
//! periods; their medians repeat.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hotvisor_tests::artifacts::Artifacts;
use hotvisor_tests::vm::api::Target;
use hotvisor_tests::vm::{BOOT, SOON, Thread, Vm};
use serde::{Deserialize, Serialize};

use super::cycles::{self, REPORT, VCPU};
use super::{median, spread};
use crate::picture;
use crate::progress::Step;

/// Between two ticks of Debian's kernels, in guests and in L1: CONFIG_HZ is 250.
const TICK: Duration = Duration::from_millis(4);
/// After so many cycles it is the other VMM's turn.
const TURN: u32 = 10;
/// The threads that are ours alone; a vCPU's thread spends its time in the guest.
const OURS: [&str; 2] = ["vmm", "api"];

/// Kernel parameters of the guests under both VMMs, and what the table says of them.
const GUESTS: [(&str, &str); 2] = [
    ("", ""),
    ("rcupdate.rcu_expedited=1", "expedited grace periods, "),
];

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Samples {
    /// One for each of [`GUESTS`].
    guests: Vec<Guest>,
    /// Milliseconds of CPU time per operation, for each of [`OURS`].
    ours: [f64; 2],
    /// Threads after the cycles; before the second cycle there were as many.
    threads: usize,
}

/// What was measured of one kind of guest.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Guest {
    cycles: Vec<Cycle>,
    /// The guest kernel's own time for taking the CPU offline, in milliseconds, under each of the two.
    offline: Vec<(bool, f64)>,
    phases: Vec<Phase>,
}

/// A plug, and the unplug behind it, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Cycle {
    hotvisor: bool,
    plug: f64,
    unplug: f64,
}

/// A phase of one plug or unplug.
#[derive(Debug, Serialize, Deserialize)]
struct Phase {
    of: String,
    name: String,
    us: u64,
}

/// In L1: measures.
pub(super) fn measure(artifacts: &Artifacts, number: u32) -> Result<Samples> {
    let mut samples = Samples::default();
    for (parameters, label) in GUESTS {
        samples
            .guests
            .push(Guest::measure(artifacts, number, parameters, label)?);
    }
    let _step = Step::begin("Hotvisor: its own CPU time");
    samples.alone(artifacts, number)?;
    Ok(samples)
}

impl Guest {
    /// Some cycles under one VMM, then under the other, until there are enough.
    fn measure(artifacts: &Artifacts, number: u32, parameters: &str, label: &str) -> Result<Self> {
        let mut samples = Self::default();
        let mut done = 0;
        while done < number {
            let turn = TURN.min(number - done);
            for hotvisor in [true, false] {
                let name = if hotvisor { "Hotvisor" } else { "QEMU" };
                let (first, last) = (done + 1, done + turn);
                let _step = Step::begin(&format!(
                    "{name}: {label}cycles {first} to {last} of {number}"
                ));
                samples.compare(hotvisor, artifacts, turn, parameters)?;
            }
            done += turn;
        }
        Ok(samples)
    }

    /// Some cycles on a new guest. The first one is not counted: it makes what is there from then on.
    fn compare(
        &mut self,
        hotvisor: bool,
        artifacts: &Artifacts,
        number: u32,
        parameters: &str,
    ) -> Result<()> {
        let parameters = format!("{REPORT} {parameters}");
        let (vm, mut way) = cycles::boot(hotvisor, artifacts, &parameters)?;
        way.plug(&vm)?;
        way.unplug(&vm)?;
        for at in 0..number {
            drift(at, number);
            let plug = way.plug(&vm)?;
            drift(at, number);
            let unplug = way.unplug(&vm)?;
            self.cycles.push(Cycle {
                hotvisor,
                plug,
                unplug,
            });
            if hotvisor {
                self.add_phases(&vm)?;
            }
        }
        way.plug(&vm)?;
        let offline = offline_times(&vm, number)?.into_iter();
        self.offline.extend(offline.map(|time| (hotvisor, time)));
        end(&vm)
    }

    fn add_phases(&mut self, vm: &Vm) -> Result<()> {
        let vcpu = vm.api().get(&format!("/api/v1/vcpus/{VCPU}"))?.body;
        for of in ["plug", "unplug"] {
            for (name, us) in picture::phases(&vcpu["timeline"][of])? {
                self.phases.push(Phase {
                    of: of.to_owned(),
                    name: name.to_owned(),
                    us,
                });
            }
        }
        Ok(())
    }
}

impl Samples {
    /// What is of Hotvisor alone, on a guest that says nothing while it is measured.
    fn alone(&mut self, artifacts: &Artifacts, number: u32) -> Result<()> {
        let (vm, _) = cycles::boot(true, artifacts, "")?;
        cycle(&vm)?;
        let before = vm.threads()?;
        let used = cpu_times(&vm, &before)?;
        for _ in 0..number {
            cycle(&vm)?;
        }
        let after = vm.threads()?;
        let ids = |threads: &[Thread]| threads.iter().map(|thread| thread.id).collect::<Vec<_>>();
        ensure!(
            ids(&before) == ids(&after),
            "threads before the cycles: {before:?}, and after them: {after:?}"
        );
        self.threads = after.len();
        for (which, now) in cpu_times(&vm, &after)?.into_iter().enumerate() {
            self.ours[which] = (now - used[which]) as f64 / 1e6 / f64::from(2 * number);
        }
        end(&vm)
    }
}

/// Lets a part of a tick pass, another one for each of so many cycles: where the clock counts instructions, each
/// request would come at the same moment between two ticks, and be lucky or unlucky with what waits for them. Spins,
/// because a sleep would end with a tick.
fn drift(at: u32, number: u32) {
    let start = Instant::now();
    let part = TICK * at / number;
    while start.elapsed() < part {
        std::hint::spin_loop();
    }
}

/// There and back; the guest says nothing.
fn cycle(vm: &Vm) -> Result<()> {
    for target in [Target::Online, Target::Offline] {
        cycles::succeeded(&vm.api().vcpu_target(VCPU, target, SOON)?)?;
    }
    Ok(())
}

fn end(vm: &Vm) -> Result<()> {
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

/// The CPU time of each of [`OURS`] so far, in nanoseconds.
fn cpu_times(vm: &Vm, threads: &[Thread]) -> Result<[u64; 2]> {
    let time = |name: &str| {
        let thread = threads.iter().find(|thread| thread.name == name);
        let thread = thread.with_context(|| format!("Hotvisor has no thread {name:?}"))?;
        let path = format!("/proc/{}/task/{}/schedstat", vm.pid(), thread.id);
        let text = fs::read_to_string(path)?;
        let first = text.split_whitespace().next().unwrap_or_default();
        Ok::<u64, anyhow::Error>(first.parse()?)
    };
    Ok([time(OURS[0])?, time(OURS[1])?])
}

/// What the guest's kernel needs by itself, nobody asking for the CPU: from one reading of its clock to the
/// next, less what lies between two readings with nothing in between.
fn offline_times(vm: &Vm, number: u32) -> Result<Vec<f64>> {
    let clock = "$(head -n 3 /proc/timer_list)";
    let online = format!("/sys/devices/system/cpu/cpu{VCPU}/online");
    let script = format!(
        "for i in $(seq {number}); do a={clock}; b={clock}; echo 0 >{online}; c={clock}; \
         echo 1 >{online}; echo $a $b $c; done"
    );
    let output = vm.sh(&script, BOOT)?;
    ensure!(output.status == 0, "the guest said {}", output.text);
    let times = clock_readings(&output.text);
    let times: Vec<f64> = times
        .chunks_exact(3)
        .map(|reading| {
            let (cost, whole) = (reading[1] - reading[0], reading[2] - reading[1]);
            (whole - cost) as f64 / 1e6
        })
        .collect();
    ensure!(
        times.len() == number as usize,
        "the guest said {}",
        output.text
    );
    Ok(times)
}

/// All `now at N nsecs` of a text.
fn clock_readings(text: &str) -> Vec<i64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let readings = words.windows(4).filter_map(|words| match words {
        ["now", "at", number, "nsecs"] => number.parse().ok(),
        _ => None,
    });
    readings.collect()
}

/// The tables.
pub(super) fn table(samples: &Samples) -> Result<String> {
    let number = samples.guests.first().context("no guests")?.cycles.len() / 2;
    let mut table = format!(
        "| Linux 6.1 with 1 vCPU and another, median of {number} (least to most) | Hotvisor | QEMU | ratio |\n\
         |---|---:|---:|---:|\n"
    );
    for (guest, (_, label)) in samples.guests.iter().zip(GUESTS) {
        guest.rows(label, &mut table)?;
    }
    let [vmm, api] = samples.ours;
    let _ = writeln!(
        table,
        "| CPU time of the threads `vmm` and `api`, per operation | {vmm:.2} ms and {api:.2} ms | | |\n\
         | threads made by {number} plugs of a dormant vCPU | 0 of {} | | |",
        samples.threads
    );
    table += "\n| phase, median | | expedited | |\n|---|---:|---:|---|\n";
    for (of, name) in samples.phase_names() {
        let _ = write!(table, "| {of}: `{name}` |");
        for guest in &samples.guests {
            let phases = guest.phases.iter();
            let phases = phases.filter(|phase| phase.of == of && phase.name == name);
            let ms = median(phases.map(|phase| phase.us))? as f64 / 1000.0;
            let _ = write!(table, " {ms:.2} ms |");
        }
        let _ = writeln!(table, " {} |", picture::meaning(name));
    }
    Ok(table)
}

impl Guest {
    fn rows(&self, label: &str, table: &mut String) -> Result<()> {
        type Of = fn(&Cycle) -> f64;
        let rows: [(&str, Of); 2] = [
            ("unplug: request to the vCPU gone", |cycle| cycle.unplug),
            ("plug: request to online in the guest", |cycle| cycle.plug),
        ];
        for (name, of) in rows {
            let times = |hotvisor| {
                let cycles = self.cycles.iter();
                cycles
                    .filter(move |cycle| cycle.hotvisor == hotvisor)
                    .map(of)
            };
            let ratio = median(times(true))? / median(times(false))?;
            let (ours, theirs) = (spread(times(true), 1)?, spread(times(false), 1)?);
            let _ = writeln!(table, "| {label}{name} | {ours} | {theirs} | {ratio:.2} |");
        }
        let offline = |hotvisor| {
            let times = self.offline.iter();
            times
                .filter(move |(under, _)| *under == hotvisor)
                .map(|(_, time)| *time)
        };
        let unplugs = self.cycles.iter().filter(|cycle| cycle.hotvisor);
        let times = median(unplugs.map(|cycle| cycle.unplug))? / median(offline(true))?;
        let (ours, theirs) = (spread(offline(true), 1)?, spread(offline(false), 1)?);
        let _ = writeln!(
            table,
            "| {label}the guest kernel's own time for offline, of which our unplug is {times:.2} \
             | {ours} | {theirs} | |"
        );
        Ok(())
    }
}

impl Samples {
    /// Each phase once, in the order of time.
    fn phase_names(&self) -> Vec<(&str, &str)> {
        let mut names: Vec<(&str, &str)> = Vec::new();
        for phase in self.guests.iter().flat_map(|guest| &guest.phases) {
            let name = (phase.of.as_str(), phase.name.as_str());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.sort_by_key(|(of, _)| *of);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_the_clock_are_found_in_the_heads_of_the_list() {
        let text = "Timer List Version: v0.9 HRTIMER_MAX_CLOCK_BASES: 8 now at 15 nsecs\n\
                    Timer List Version: v0.9 HRTIMER_MAX_CLOCK_BASES: 8 now at 23 nsecs";
        assert_eq!(clock_readings(text), [15, 23]);
    }

    #[test]
    fn ratios_are_of_medians_and_phases_in_order() {
        let cycle = |hotvisor, plug, unplug| Cycle {
            hotvisor,
            plug,
            unplug,
        };
        let phase = |of: &str, name: &str, us| Phase {
            of: of.to_owned(),
            name: name.to_owned(),
            us,
        };
        let guest = |unplug, stopping| Guest {
            cycles: vec![cycle(true, 30.0, unplug), cycle(false, 40.0, 50.0)],
            offline: vec![(true, 10.0), (false, 11.0)],
            phases: vec![
                phase("unplug", "stopping", stopping),
                phase("plug", "starting", 10),
            ],
        };
        let samples = Samples {
            guests: vec![guest(20.0, 1500), guest(5.0, 40)],
            ours: [0.5, 0.25],
            threads: 5,
        };
        let table = table(&samples).unwrap();
        for part in [
            "| unplug: request to the vCPU gone | 20.0 ms (20.0 to 20.0) | 50.0 ms (50.0 to 50.0) | 0.40 |",
            "expedited grace periods, unplug: request to the vCPU gone | 5.0 ms (5.0 to 5.0) | 50.0",
            "guest | 30.0 ms (30.0 to 30.0) | 40.0 ms (40.0 to 40.0) | 0.75 |",
            "our unplug is 2.00 | 10.0 ms (10.0 to 10.0) | 11.0 ms (11.0 to 11.0) |",
            "0.50 ms and 0.25 ms",
            "| plug: `starting` | 0.01 ms | 0.01 ms | host: its thread gets ready to run it |\n\
             | unplug: `stopping` | 1.50 ms | 0.04 ms |",
        ] {
            assert!(table.contains(part), "{part} is not in {table}");
        }
    }
}
