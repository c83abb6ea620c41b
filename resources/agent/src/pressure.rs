//! How busy the guest is.

use hotvisor_protocol::{Busy, List, PRESSURE_PERIODS_MS, Pressure};

use crate::cpus::Names;
use crate::root::Root;

/// The period that is kept when this one is asked for, in nanoseconds; `None` for never.
#[must_use]
pub fn period_ns(asked_ms: u32) -> Option<u64> {
    let (least, most) = PRESSURE_PERIODS_MS.into_inner();
    (asked_ms > 0).then(|| u64::from(asked_ms.clamp(least, most)) * 1_000_000)
}

/// What a line of `/proc/stat` counts, in ticks since boot (proc(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    all: u64,
    idle: u64,
    steal: u64,
}

impl Ticks {
    fn parse(fields: &str) -> Option<Self> {
        // user nice system idle iowait irq softirq steal; what follows is part of user and nice.
        let all: Result<Vec<u64>, _> = fields
            .split_ascii_whitespace()
            .take(8)
            .map(str::parse)
            .collect();
        let all = all.ok().filter(|all| all.len() == 8)?;
        Some(Self {
            all: all.iter().sum(),
            idle: all[3] + all[4],
            steal: all[7],
        })
    }

    /// A part of the time since an earlier look, in thousandths. Idle time may be counted backwards by a tick.
    fn permille(part: u64, before: u64, all: u64, all_before: u64) -> u16 {
        let (part, all) = (part.saturating_sub(before), all.saturating_sub(all_before));
        let permille = (part.min(all) * 1000).checked_div(all);
        u16::try_from(permille.unwrap_or(0)).unwrap_or(1000)
    }

    fn steal_permille(&self, before: &Self) -> u16 {
        Self::permille(self.steal, before.steal, self.all, before.all)
    }

    fn busy_permille(&self, before: &Self) -> u16 {
        let busy = |ticks: &Self| ticks.all - ticks.idle;
        Self::permille(busy(self), busy(before), self.all, before.all)
    }
}

/// Compares what the guest counts with what it had counted.
#[derive(Debug, Default)]
pub struct Sampler {
    /// All CPUs together.
    all: Ticks,
    /// Those that were online, by number.
    each: Vec<(u32, Ticks)>,
}

impl Sampler {
    /// How busy the guest was since this was last asked for; since boot, the first time.
    pub fn sample(&mut self, root: &Root, names: &Names) -> Pressure {
        let (all, each) = ticks(root);
        let known = each.iter().filter_map(|(number, now)| {
            let (_, before) = self.each.iter().find(|(before, _)| before == number)?;
            let permille = now.busy_permille(before);
            Some(Busy {
                cpu: names.apic_id(*number)?,
                permille,
            })
        });
        let busy = List::new(known);
        let steal_permille = all.steal_permille(&self.all);
        (self.all, self.each) = (all, each);
        let (some_avg10, some_total_us) = stalls(root).unzip();
        let running = running(root).unwrap_or_default();
        Pressure {
            running,
            some_avg10,
            some_total_us,
            steal_permille,
            busy,
        }
    }
}

fn ticks(root: &Root) -> (Ticks, Vec<(u32, Ticks)>) {
    let (mut all, mut each) = (Ticks::default(), Vec::new());
    for line in root.lines("proc/stat").into_iter().flatten() {
        // CPUs come first, and behind them is a long line of interrupts.
        let Some((name, fields)) = line
            .strip_prefix("cpu")
            .and_then(|line| line.split_once(' '))
        else {
            break;
        };
        let Some(ticks) = Ticks::parse(fields) else {
            continue;
        };
        match name.parse() {
            Ok(number) => each.push((number, ticks)),
            Err(_) => all = ticks,
        }
    }
    (all, each)
}

/// Tasks that run or want to, without the one that asks.
fn running(root: &Root) -> Option<u32> {
    let text = root.read("proc/loadavg").ok()?;
    let (running, _) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    Some(running.parse::<u32>().ok()?.saturating_sub(1))
}

/// The share of ten seconds in which some task waited for a CPU, in hundredths of a percent, and for how long some did since
/// boot, in microseconds (`Documentation/accounting/psi.rst`).
fn stalls(root: &Root) -> Option<(u16, u64)> {
    let text = root.read("proc/pressure/cpu").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let field = |name: &str| {
        line.split(' ')
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let (whole, hundredths) = field("avg10")?.split_once('.')?;
    let share = whole
        .parse::<u16>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths.parse().ok()?)?;
    Some((share, field("total")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Picture;

    #[test]
    fn periods_are_kept_within_bounds() {
        assert_eq!(period_ns(0), None);
        assert_eq!(period_ns(1), Some(100_000_000));
        assert_eq!(period_ns(250), Some(250_000_000));
        assert_eq!(period_ns(9999), Some(1_000_000_000));
    }

    #[test]
    fn a_busy_guest_shows() {
        let picture = Picture::of_cpus(3);
        let mut names = Names::default();
        names.refresh(picture.root());
        picture.file("proc/loadavg", "4.01 2.54 1.96 8/124 20563\n");
        picture.file(
            "proc/pressure/cpu",
            "some avg10=94.40 avg60=64.66 avg300=33.82 total=25499\nfull avg10=0.00\n",
        );
        picture.file("proc/stat", "cpu  100 0 0 300 0 0 0 0 0 0\ncpu0 100 0 0 100 0 0 0 0 0 0\ncpu1 0 0 0 200 0 0 0 0 0 0\nintr 5\n");
        let mut sampler = Sampler::default();
        let first = sampler.sample(picture.root(), &names);
        assert_eq!(
            (first.running, first.some_avg10, first.some_total_us),
            (7, Some(9440), Some(25499))
        );
        assert!(first.busy.is_empty());
        // CPU 1 is idle, CPU 0 is not, CPU 2 has come since; a fifth of all was stolen.
        picture.file("proc/stat", "cpu  150 0 0 430 0 0 0 20 0 0\ncpu0 150 0 0 130 0 0 0 20 0 0\ncpu1 0 0 0 299 1 0 0 0 0 0\ncpu2 9 0 0 0 0 0 0 0 0 0\n");
        let second = sampler.sample(picture.root(), &names);
        assert_eq!(second.steal_permille, 100);
        let busy: Vec<(u32, u16)> = second
            .busy
            .iter()
            .map(|busy| (busy.cpu.into(), busy.permille))
            .collect();
        assert_eq!(busy, [(10, 700), (11, 0)]);
    }

    #[test]
    fn a_guest_that_says_nothing_is_not_busy() {
        let picture = Picture::new();
        let pressure = Sampler::default().sample(picture.root(), &Names::default());
        assert_eq!(pressure, Pressure::default());
    }
}
