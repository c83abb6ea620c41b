//! Many cycles of plug and unplug on one Linux guest under Hotvisor, in which nothing may grow.

use anyhow::{Result, ensure};
use hotvisor_tests::vm::{Footprint, Vm};

use super::machine::Machine;
use super::results::{Guest, Peer};
use super::{Bench, MEMORY};
use crate::progress::Step;

/// Cycles before the first look, so that what is made once is there, and the lists of the latest operations, 256,
/// and of the latest events, 4096, are as long as they get. A cycle has 13 events.
const WARM_UP: u32 = 350;
/// KiB that Hotvisor's own memory may vary by: a heap whose free pieces lie elsewhere, pages of code that ran
/// for the first time.
const SLACK: u64 = 128;
/// How many cycles one step of the progress is.
const STEP: u32 = 100;

/// What was seen.
#[derive(Debug)]
pub(super) struct Samples {
    cycles: u32,
    before: Sample,
    after: Sample,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    threads: usize,
    files: usize,
    memory_kib: u64,
}

impl Sample {
    fn take(vm: &Vm) -> Result<Self> {
        let Footprint { threads, files } = vm.footprint()?;
        Ok(Self {
            threads,
            files,
            memory_kib: vm.own_memory(MEMORY)?,
        })
    }
}

/// In L1: measures.
pub(super) fn measure(bench: &Bench<'_>, number: u32) -> Result<Samples> {
    let plan = bench.plan(Peer::Hotvisor, Guest::Plain, 1, bench.max);
    let mut machine = Machine::boot(&plan)?;
    cycle(&mut machine, WARM_UP)?;
    let before = Sample::take(&machine.vm)?;
    let mut done = 0;
    while done < number {
        let step = STEP.min(number - done);
        let _step = Step::begin(&format!(
            "cycles {} to {} of {number}",
            done + 1,
            done + step
        ));
        cycle(&mut machine, step)?;
        done += step;
    }
    let after = Sample::take(&machine.vm)?;
    machine.end()?;
    Ok(Samples {
        cycles: number,
        before,
        after,
    })
}

fn cycle(machine: &mut Machine, number: u32) -> Result<()> {
    for _ in 0..number {
        machine.plug(&[1])?;
        machine.unplug(&[1])?;
    }
    Ok(())
}

/// The table, unless something grew.
pub(super) fn table(samples: &Samples) -> Result<String> {
    let Samples {
        cycles,
        before,
        after,
    } = samples;
    let table = format!(
        "| {cycles} cycles of plug and unplug | before | after |\n\
         |---|---:|---:|\n\
         | threads | {} | {} |\n\
         | descriptors | {} | {} |\n\
         | own memory | {} KiB | {} KiB |\n",
        before.threads,
        after.threads,
        before.files,
        after.files,
        before.memory_kib,
        after.memory_kib
    );
    ensure!(
        after.threads <= before.threads && after.files <= before.files,
        "threads or descriptors were left behind\n{table}"
    );
    ensure!(
        after.memory_kib <= before.memory_kib + SLACK,
        "its memory grew by more than {SLACK} KiB\n{table}"
    );
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_an_error() {
        let sample = |threads, files, memory_kib| Sample {
            threads,
            files,
            memory_kib,
        };
        let before = sample(5, 20, 2000);
        let ends = |after| {
            table(&Samples {
                cycles: 3,
                before,
                after,
            })
        };
        assert!(ends(sample(5, 20, 2000 + SLACK)).is_ok());
        assert!(ends(sample(6, 20, 2000)).is_err());
        assert!(ends(sample(5, 21, 2000)).is_err());
        let error = ends(sample(5, 20, 2001 + SLACK)).unwrap_err().to_string();
        assert!(error.contains("128 KiB"), "{error}");
    }
}
