//! The crates that we use, looked at by `cargo deny`: licences, sources, versions, and advisories where their database can
//! be reached.
//!
//! It comes from crates.io, once, in the version that is named here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use hotvisor_tests::{installed, paths, process};

use crate::test::{Count, LIBFUZZER};

const VERSION: &str = "0.20.2";
/// What `cargo deny` says where there is no way to the database of advisories.
const UNREACHABLE: &str = "failed to fetch advisory database";

/// The executable, installed if it was not yet.
fn install() -> Result<PathBuf> {
    let installed = installed::folder("cargo-deny", "crates.io", VERSION, |bed| {
        let target = bed.join("target");
        let mut command = Command::new("cargo");
        // Built faster without optimisation than it would run faster with it.
        command
            .args(["install", "--quiet", "--locked", "--debug"])
            .args(["--version", VERSION])
            .arg("--root")
            .arg(bed)
            .arg("--target-dir")
            .arg(&target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        process::output(command.arg("cargo-deny"))?;
        // Of no use any more, and large.
        match fs::remove_dir_all(target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    })?;
    Ok(installed.join("bin/cargo-deny"))
}

/// `cargo deny` for a manifest, with the configuration of the whole project.
fn deny(program: &Path, manifest: &str) -> Command {
    let workspace = paths::workspace();
    let mut command = Command::new(program);
    command.arg("--config").arg(workspace.join("deny.toml"));
    command.arg("--manifest-path").arg(workspace.join(manifest));
    command.arg("check").current_dir(workspace);
    command
}

/// Runs it, and counts: what cannot be looked at is skipped, and said to be.
fn look(mut command: Command) -> Result<Count> {
    eprintln!("{}", process::spelled(&command));
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo-deny")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Count::PASSED);
    }
    if said.contains(UNREACHABLE) {
        eprintln!("skipped: the database of advisories cannot be reached");
        return Ok(Count::SKIPPED);
    }
    eprintln!("{said}");
    Ok(Count::FAILED)
}

/// Looks at all of it.
pub(crate) fn check() -> Result<Count> {
    let program = match install() {
        Ok(program) => program,
        // The tests are worth something without it.
        Err(error) => {
            eprintln!("{error:#}");
            return Ok(Count::FAILED);
        }
    };
    let mut crates = deny(&program, "Cargo.toml");
    // A version that is allowed twice, and is not there twice, is a mistake as well.
    crates.args(["--deny", "unmatched-skip", "--deny", "unnecessary-skip"]);
    crates.args(["bans", "licenses", "sources"]);
    let mut apart = deny(&program, LIBFUZZER);
    apart.args(["licenses", "sources"]);
    let mut advisories = [deny(&program, "Cargo.toml"), deny(&program, LIBFUZZER)];
    for command in &mut advisories {
        command.arg("advisories");
    }
    let mut count = Count::default();
    for command in [crates, apart].into_iter().chain(advisories) {
        count = count.plus(look(command)?);
    }
    Ok(count)
}
