//! A run that was broken off goes on where it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hotvisor_tests::paths;
use serde::{Deserialize, Serialize};

use super::Bed;
use super::cell::{Cell, VERDICT_FILE, Verdict};

/// What a run consists of. What came of one goes with what comes of another only if they are the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    seed: u64,
    /// Each cell, and how it is run.
    cells: Vec<(String, Vec<String>)>,
    /// Tells the Hotvisor apart that is stressed.
    program: u64,
}

/// Where it is written what the last run consists of.
const FILE: &str = "run.json";

/// The last run that was begun in this folder.
fn last(folder: &Path) -> Result<Run> {
    let file = folder.join(FILE);
    let text = fs::read_to_string(&file)
        .with_context(|| format!("there is no run to go on with: {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("no run: {}", file.display()))
}

/// What its steps follow from.
pub(super) fn seed(folder: &Path) -> Result<u64> {
    Ok(last(folder)?.seed)
}

impl Run {
    pub(super) fn new(bed: &Bed<'_>, cells: &[Cell]) -> Result<Self> {
        let cells = cells.iter();
        Ok(Self {
            seed: bed.seed,
            cells: cells
                .map(|cell| (cell.name(), bed.wanted(cell).arguments(cell)))
                .collect(),
            program: paths::fingerprint(&bed.artifacts.hotvisor())?,
        })
    }

    /// Forgets what its guests came to in an earlier one, and begins.
    pub(super) fn begin(&self, folder: &Path) -> Result<()> {
        for (name, _) in &self.cells {
            let file = folder.join(name).join(VERDICT_FILE);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(fs::write(folder.join(FILE), serde_json::to_vec(self)?)?)
    }

    /// What the last one has come to so far, failures included, if it was the same.
    pub(super) fn so_far(&self, folder: &Path) -> Result<BTreeMap<String, Verdict>> {
        let last = last(folder)?;
        ensure!(
            last.cells == self.cells && last.seed == self.seed,
            "the last run was another one: give the same scenarios, kernels, minutes and seed ({})",
            last.seed
        );
        ensure!(
            last.program == self.program,
            "the last run was of another build of Hotvisor: begin a new one"
        );
        let mut so_far = BTreeMap::new();
        for (name, _) in &self.cells {
            let file = folder.join(name).join(VERDICT_FILE);
            // It has not begun, or was at it.
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            let verdict = serde_json::from_str(&text)
                .with_context(|| format!("no result: {}", file.display()))?;
            so_far.insert(name.clone(), verdict);
        }
        Ok(so_far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, program: u64) -> Run {
        let cell = |name: &str| (name.to_owned(), vec![format!("--seed={seed}")]);
        Run {
            seed,
            cells: vec![cell("idle"), cell("busy")],
            program,
        }
    }

    #[test]
    fn what_has_ended_is_kept_and_only_for_the_same_run() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        assert!(run(1, 1).so_far(folder).is_err(), "there is none");
        run(1, 1).begin(folder)?;
        assert_eq!(seed(folder)?, 1);
        assert!(run(1, 1).so_far(folder)?.is_empty());
        for (name, done) in [("idle", true), ("busy", false)] {
            fs::create_dir(folder.join(name))?;
            if done {
                let failed = Verdict {
                    failure: Some("no".to_owned()),
                    ..Verdict::default()
                };
                let text = serde_json::to_vec(&failed)?;
                fs::write(folder.join(name).join(VERDICT_FILE), text)?;
            }
        }
        let so_far = run(1, 1).so_far(folder)?;
        assert_eq!(so_far.len(), 1);
        assert_eq!(so_far["idle"].failure.as_deref(), Some("no"));
        for other in [run(2, 1), run(1, 2)] {
            assert!(other.so_far(folder).is_err(), "{other:?}");
        }
        run(1, 1).begin(folder)?;
        assert!(run(1, 1).so_far(folder)?.is_empty());
        Ok(())
    }
}
