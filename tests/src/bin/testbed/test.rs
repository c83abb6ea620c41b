//! `cargo testbed test`.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use hotvisor_tests::{host, paths, process};

use crate::supply;

/// What the tests are called that check interleavings, and what they are built with.
const INTERLEAVED: &str = "interleaved";
const CHECKER: &str = "loom";
/// What calls are built with that tests can have fail.
const FAILING: &str = "failpoints";

/// The manifest of what is apart from the workspace, because it needs a nightly compiler to be run.
pub(crate) const LIBFUZZER: &str = "tests/fuzz/libfuzzer/Cargo.toml";

/// Tests that need KVM and a bed, and so run last and each on its own.
const IN_BED: &[&str] = &["baremetal", "e2e"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose names contain this, and no checks of the source.
    filter: Option<String>,
}

/// Something to be run, and what it is called.
struct Step {
    name: String,
    work: Work,
}

/// What a step consists of.
enum Work {
    /// A command that prints the results of tests.
    Tests(Command),
    /// A command that is one check itself.
    Check(Command),
    Crates,
}

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::ensure(host::BED)?;
    host::ensure(host::BAREMETAL)?;
    let steps = steps(args.filter.as_deref())?;
    let mut total = Count::default();
    let number = steps.len();
    for (at, step) in (1..).zip(steps) {
        eprintln!("\n=== {at} of {number}: {} ===", step.name);
        let started = Instant::now();
        let name = step.name.clone();
        let count = step.run()?;
        total = total.plus(count);
        let seconds = started.elapsed().as_secs();
        eprintln!("=== {at} of {number}: {name}: {count} ({seconds} s) ===");
    }
    if total == Count::default() {
        eprintln!(
            "error: no test has {:?} in its name",
            args.filter.as_deref().unwrap_or_default()
        );
    }
    println!("{total}");
    let good = total.failed == 0 && total.passed > 0;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(paths::workspace());
    command
}

fn steps(filter: Option<&str>) -> Result<Vec<Step>> {
    let mut steps = match filter {
        None => checks()?,
        Some(_) => Vec::new(),
    };
    steps.extend(tests(filter)?);
    Ok(steps)
}

/// What looks at the source, and runs nothing of it.
fn checks() -> Result<Vec<Step>> {
    let check = |name: &str, command| Step {
        name: name.to_owned(),
        work: Work::Check(command),
    };
    let strict = |args: &[&str]| cargo(&[args, &["--", "-D", "warnings"]].concat());
    let mut checks = vec![
        Step {
            name: "crates".to_owned(),
            work: Work::Crates,
        },
        check("formatting", cargo(&["fmt", "--all", "--check"])),
        check("lints", strict(&["clippy", "--workspace", "--all-targets"])),
    ];
    let failing = ["clippy", "--package", "hotvisor", "--features", FAILING];
    let failing = [&failing[..], &["--all-targets"]].concat();
    checks.push(check("lints of failpoints", strict(&failing)));
    for package in ["hotvisor-vmm", "hotvisor-devices"] {
        let name = format!("documentation of {package}");
        checks.push(check(&name, strict(&["rustdoc", "--package", package])));
    }
    let mut apart = cargo(&["check", "--locked", "--bins", "--manifest-path", LIBFUZZER]);
    // With what the lints have built; and without libFuzzer itself, which only a target that is linked needs.
    apart.arg("--target-dir").arg(paths::target());
    apart.env("CUSTOM_LIBFUZZER_PATH", paths::workspace().join("none.a"));
    checks.push(check("targets for libFuzzer", apart));
    Ok(checks)
}

fn tests(filter: Option<&str>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut add = |name: &str, args: &[&str]| {
        let mut command = cargo(args);
        command.args(["--no-fail-fast", "--"]).args(filter);
        steps.push(Step {
            name: name.to_owned(),
            work: Work::Tests(command),
        });
    };
    let integration = integration_tests()?;
    let mut unit = vec!["test", "--workspace", "--lib", "--bins", "--examples"];
    let elsewhere = |name: &&String| !IN_BED.contains(&name.as_str());
    for name in integration.iter().filter(elsewhere) {
        unit.extend(["--test", name]);
    }
    add("unit and property tests", &unit);
    add("documentation tests", &["test", "--workspace", "--doc"]);
    if filter.is_none_or(|filter| filter.contains(INTERLEAVED)) {
        // With a checker in the place of what the gate is built from, with which nothing else works.
        let checked = ["--package", "hotvisor-vmm", "--features", CHECKER];
        let test = [&["test"], &checked[..], &["--lib", INTERLEAVED]].concat();
        add("tests of interleavings", &test);
    }
    if filter.is_none_or(|filter| filter.contains(FAILING)) {
        let built = ["--package", "hotvisor-vmm", "--features", FAILING];
        let test = [&["test"], &built[..], &["--lib", "failpoint"]].concat();
        add("tests of failpoints", &test);
    }
    let there = |name: &&&str| integration.iter().any(|found| found == *name);
    for name in IN_BED.iter().filter(there) {
        let test = ["test", "--package", "hotvisor-tests", "--test", name];
        add(&format!("{name} tests"), &test);
    }
    Ok(steps)
}

/// The names of the workspace's integration tests.
fn integration_tests() -> Result<Vec<String>> {
    let metadata = process::output(
        Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(paths::workspace()),
    )?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo knows no packages")?;
    let targets = packages
        .iter()
        .filter_map(|package| package["targets"].as_array())
        .flatten();
    let tests = targets.filter(|target| target["kind"][0] == "test");
    Ok(tests
        .filter_map(|test| test["name"].as_str())
        .map(str::to_owned)
        .collect())
}

impl Step {
    /// Does it, shows what it prints, and counts.
    fn run(self) -> Result<Count> {
        let (mut command, has_tests) = match self.work {
            Work::Tests(command) => (command, true),
            Work::Check(command) => (command, false),
            Work::Crates => return supply::check(),
        };
        let line = process::spelled(&command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let stdout = child
            .stdout
            .take()
            .context("the step has no standard output")?;
        let mut count = Count::default();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            count = count.plus(Count::of_line(&line));
        }
        let success = child.wait()?.success();
        Ok(count.of_step(has_tests, success))
    }
}

impl Count {
    pub(crate) const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    pub(crate) const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }

    /// Reads `test result: ok. 5 passed; 0 failed; 1 ignored; …`; nothing for any other line.
    fn of_line(line: &str) -> Self {
        let mut count = Self::default();
        let Some((_, result)) = line.split_once("test result: ") else {
            return count;
        };
        let Some((_, numbers)) = result.split_once(". ") else {
            return count;
        };
        for part in numbers.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            match what {
                "passed" => count.passed = number,
                "failed" => count.failed = number,
                "ignored" => count.skipped = number,
                _ => {}
            }
        }
        count
    }

    /// A step without tests counts as one; a step that failed without a failed test, as when it
    /// does not compile, has one failure all the same.
    fn of_step(mut self, has_tests: bool, success: bool) -> Self {
        if !success && self.failed == 0 {
            self.failed = 1;
        } else if !has_tests {
            self.passed = 1;
        }
        self
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_what_the_harness_prints() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 9 filtered out";
        assert_eq!(
            Count::of_line(line),
            Count {
                passed: 5,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(Count::of_line("test boot ... ok"), Count::default());
    }

    #[test]
    fn a_step_that_fails_without_a_test_is_a_failure() {
        let none = Count::default();
        assert_eq!(none.of_step(true, false).failed, 1);
        assert_eq!(none.of_step(false, true).passed, 1);
        assert_eq!(none.of_step(true, true), none);
    }
}
