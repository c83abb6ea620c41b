//! Runs the cells: as many at once as there is room for emulated machines, and by themselves those that run here.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use hotvisor_tests::nested;

use super::cell::{Cell, Verdict};
use super::{Bed, table};

/// Shows what each came to when it ends, and returns all of them in their order. Fails only where there is no room
/// for what comes of one.
pub(super) fn run(bed: &Bed<'_>, cells: &[Cell]) -> Result<Vec<(Cell, Verdict)>> {
    let numbered = cells.iter().enumerate();
    let (alone, others): (Vec<_>, Vec<_>) =
        numbered.partition(|(_, cell)| bed.here || cell.scenario.bare);
    let mut done = at_once(bed, &others, nested::places())?;
    done.extend(at_once(bed, &alone, 1)?);
    done.sort_by_key(|(number, _)| *number);
    let verdicts = done.into_iter().map(|(_, verdict)| verdict);
    Ok(cells.iter().copied().zip(verdicts).collect())
}

fn at_once(
    bed: &Bed<'_>,
    cells: &[(usize, &Cell)],
    places: usize,
) -> Result<Vec<(usize, Verdict)>> {
    let next = Mutex::new(cells.iter());
    let done = Mutex::new(Vec::new());
    let turns = || -> Result<()> {
        loop {
            let cell = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, cell)) = cell else {
                return Ok(());
            };
            let verdict = bed.run(cell)?;
            println!("{}", table::row(cell, &verdict));
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((*number, verdict));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..places.min(cells.len()))
            .map(|_| scope.spawn(turns))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}
