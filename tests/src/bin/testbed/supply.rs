//! The crates that we use, looked at by `cargo deny`: licences, sources, versions, and advisories where their database can
//! be reached.
//!
//! It comes from crates.io, once, in the version that is named here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use hotvisor_tests::{paths, process};

use crate::test::Count;

const VERSION: &str = "0.20.2";
/// What `cargo deny` says where there is no way to the database of advisories.
const UNREACHABLE: &str = "failed to fetch advisory database";
/// What is apart from the workspace: its manifest, and what is looked at.
const APART: &str = "tests/fuzz/libfuzzer/Cargo.toml";

/// The executable, installed if it was not yet.
fn install() -> Result<PathBuf> {
    let bed = paths::bed("cargo-deny")?;
    let (program, stamp) = (bed.join("bin/cargo-deny"), bed.join("installed"));
    let lock = File::create(bed.join("lock"))?;
    lock.lock()
        .context("cannot lock the folder of cargo-deny")?;
    if fs::read_to_string(&stamp).ok().as_deref() != Some(VERSION) {
        eprintln!("bed: installing cargo-deny {VERSION} from crates.io");
        let mut command = Command::new("cargo");
        // Built faster without optimisation than it would run faster with it.
        command.args([
            "install",
            "--quiet",
            "--locked",
            "--debug",
            "--version",
            VERSION,
        ]);
        command
            .arg("--root")
            .arg(&bed)
            .arg("--target-dir")
            .arg(bed.join("target"));
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        process::output(command.arg("cargo-deny")).context(
            "cannot install cargo-deny; it comes from crates.io, once, and needs the network for that",
        )?;
        // Of no use any more, and large.
        match fs::remove_dir_all(bed.join("target")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        // Written last: what it names is whole.
        fs::write(&stamp, VERSION)?;
    }
    Ok(program)
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
    let mut apart = deny(&program, APART);
    apart.args(["licenses", "sources"]);
    let mut advisories = [deny(&program, "Cargo.toml"), deny(&program, APART)];
    for command in &mut advisories {
        command.arg("advisories");
    }
    let mut count = Count::default();
    for command in [crates, apart].into_iter().chain(advisories) {
        count = count.plus(look(command)?);
    }
    Ok(count)
}
