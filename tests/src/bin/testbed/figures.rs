//! `cargo testbed figures`: the README's tables of what was measured, and its picture, from the files that hold the samples.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use hotvisor_tests::paths;

use crate::{bench, stress};

/// What stands before and behind each table in the README.
const BEGIN: &str = "<!-- figures ";
const END: &str = "<!-- /figures -->";

/// Writes the tables of the README anew, and resources/figures/bench.svg, from the samples beside it: bench.json, of
/// `cargo testbed bench --json`, filters.json, of `cargo testbed bench filters --clock instructions --json`, and stress.json, of
/// `cargo testbed stress --all --json`. Measures nothing.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    for (path, text) in made()? {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The files as they follow from the samples that there are.
fn made() -> Result<Vec<(PathBuf, String)>> {
    let folder = paths::workspace().join("resources/figures");
    let (mut made, mut tables) = (Vec::new(), Vec::new());
    let (bench, stress) = (folder.join("bench.json"), folder.join("stress.json"));
    if bench.exists() {
        let (shown, picture) = bench::figures(&bench)?;
        tables.extend(shown);
        made.push((folder.join("bench.svg"), picture));
    }
    if stress.exists() {
        tables.push(("stress".to_owned(), stress::figure(&stress)?));
    }
    let filters = folder.join("filters.json");
    if filters.exists() {
        tables.push(("filters".to_owned(), bench::filters_figure(&filters)?));
    }
    let readme = paths::workspace().join("README.md");
    let text = fs::read_to_string(&readme).context("cannot read the README")?;
    made.push((readme, filled(&text, &tables)?));
    Ok(made)
}

/// The text with each table in its place.
fn filled(text: &str, tables: &[(String, String)]) -> Result<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(BEGIN) {
        let (name, behind) = behind.split_once(" -->\n").context("no end of a mark")?;
        let (old, behind) = behind
            .split_once(END)
            .with_context(|| format!("nothing marks the end of {name}"))?;
        ensure!(
            !old.contains(BEGIN) && !before.contains(END),
            "the marks of {name}, or of what is before it, do not come in pairs"
        );
        let table = tables.iter().find(|(known, _)| known == name);
        let (_, table) = table.with_context(|| format!("nothing of {name} was measured"))?;
        filled += &format!("{before}{BEGIN}{name} -->\n\n{}\n\n{END}", table.trim_end());
        rest = behind;
    }
    ensure!(!rest.contains(END), "the end of a table without its begin");
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_what_was_measured() -> Result<()> {
        let readme = fs::read_to_string(paths::workspace().join("README.md"))?;
        ensure!(readme.contains(BEGIN), "it shows nothing");
        for (path, text) in made()? {
            ensure!(
                fs::read_to_string(&path)? == text,
                "{} is not what follows from the samples: run `cargo testbed figures`",
                path.display()
            );
        }
        Ok(())
    }

    #[test]
    fn tables_come_between_their_marks_and_nowhere_else() {
        let tables = [("a".to_owned(), "| 1 |\n".to_owned())];
        let text = "x\n<!-- figures a -->\nold\n<!-- /figures -->\ny\n";
        let new = "x\n<!-- figures a -->\n\n| 1 |\n\n<!-- /figures -->\ny\n";
        assert_eq!(filled(text, &tables).unwrap(), new);
        assert_eq!(filled(new, &tables).unwrap(), new);
        for wrong in [
            "<!-- figures b -->\n<!-- /figures -->\n",
            "<!-- figures a -->\n",
            "<!-- figures a",
            "<!-- /figures -->\n",
            "<!-- figures a -->\n<!-- figures a -->\n<!-- /figures -->\n",
            "<!-- /figures -->\n<!-- figures a -->\n<!-- /figures -->\n",
        ] {
            assert!(filled(wrong, &tables).is_err(), "{wrong}");
        }
    }
}
