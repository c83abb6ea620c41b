//! The guest and its load without Hotvisor's part in it.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hotvisor_tests::artifacts::Artifacts;
use hotvisor_tests::paths;
use hotvisor_tests::stress;

use super::Bed;
use super::cell::Cell;

/// Runs the scenario with each kernel.
pub(super) fn run(bed: &Bed<'_>, cells: &[Cell]) -> Result<ExitCode> {
    ensure!(
        cells.iter().all(|cell| cell.kernel.is_some()),
        "a guest without an operating system has nothing to complain of"
    );
    let mut good = true;
    for cell in cells {
        // A guest that dies of its own load must not keep the others from being seen.
        if let Err(error) = one(bed, cell) {
            println!("{}: {error:#}", cell.name());
            good = false;
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn one(bed: &Bed<'_>, cell: &Cell) -> Result<()> {
    if bed.here {
        return show(cell, bed.artifacts, bed.share);
    }
    let folder = paths::bed("stress")?.join(format!("control-{}", cell.name()));
    fs::create_dir_all(&folder)?;
    let kernel = cell.kernel.context("every cell has a kernel")?;
    let arguments = vec![
        "stress".to_owned(),
        format!("--control={}", cell.scenario.name),
        format!("--kernel={}", kernel.name()),
        format!("--seconds={}", bed.share.as_secs()),
    ];
    let patience = 20 * bed.share + Duration::from_secs(1800);
    bed.boot(cell, arguments, patience, &folder).map(drop)
}

/// In L1: runs the one that was named.
pub(super) fn in_l1(cell: &Cell, artifacts: &Artifacts, time: Duration) -> Result<ExitCode> {
    show(cell, artifacts, time)?;
    Ok(ExitCode::SUCCESS)
}

fn show(cell: &Cell, artifacts: &Artifacts, time: Duration) -> Result<()> {
    let kernel = cell.kernel.context("every cell has a kernel")?;
    let alone = stress::alone(artifacts, kernel, cell.scenario, time)?;
    println!(
        "{}: {} processes, {} pages swapped out, {} times a CPU came back; the kernel \
         wrote {} lines of warnings",
        cell.name(),
        alone.processes,
        alone.swapped,
        alone.toggled,
        alone.complaints.len()
    );
    for complaint in &alone.complaints {
        println!("  {complaint}");
    }
    if !alone.load.is_empty() {
        println!("its load said last:\n{}", alone.load);
    }
    Ok(())
}
