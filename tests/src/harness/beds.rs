//! Runs tests in L1s: those that boot the same kernels together, and as many L1s at once as the machine has room for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use super::{Test, VMM_VARIABLE};
use crate::artifacts::{Artifacts, Image};
use crate::lines::Lines;
use crate::nested::{self, Bed, Job};

/// Environment variables that reach tests in L1.
const PASSED_ON: &[&str] = &[
    VMM_VARIABLE,
    "HOTVISOR_BOOT_STEP",
    "RUST_BACKTRACE",
    "RUST_LOG",
];

/// In L1, the names of the tests that are for it, one a line.
const SHARE_VARIABLE: &str = "HOTVISOR_TESTS";

/// The most tests for one L1. Its boot takes as long as a test or two; in few and large shares the last one runs alone.
const MOST: usize = 30;

/// How every line begins that says what became of a test. Such lines are shown as they come; all others belong
/// together, and are shown when their L1 has ended.
const OF_A_TEST: &str = "test ";

/// The tests for one L1.
struct Share {
    images: Vec<Image>,
    names: Vec<String>,
}

/// What came of one L1.
type Ended = Result<i32>;

/// In L1: leaves those tests that are for this one, in their order.
pub(super) fn share_of_this_one(tests: Vec<Test>) -> Vec<Test> {
    let Ok(names) = std::env::var(SHARE_VARIABLE) else {
        return tests;
    };
    let names: BTreeSet<&str> = names.lines().collect();
    let is_mine = |test: &Test| names.contains(test.name.as_str());
    tests.into_iter().filter(is_mine).collect()
}

/// Runs this executable with its own arguments in L1s, until all of these tests had their turn. The exit code is
/// that of the first one that has another than 0.
pub(super) fn run(
    artifacts: &Artifacts,
    more_files: fn() -> Result<Vec<(PathBuf, String)>>,
    tests: Vec<Test>,
) -> Result<ExitCode> {
    let shares = shares(tests);
    let mut beds = Vec::new();
    for share in shares {
        let mut files = artifacts.for_l1(&share.images)?;
        files.extend(more_files()?);
        if std::env::var_os(VMM_VARIABLE).is_some() {
            files.extend(nested::peer_qemu_files()?);
        }
        beds.push(Bed {
            files,
            ..Bed::new(job(&share)?)
        });
    }
    let at_once = nested::places().min(beds.len());
    let next = Mutex::new(beds.iter());
    let (sender, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| take_turns(&next, &sender));
        }
    });
    drop(sender);
    let mut status = 0;
    let mut errors = Vec::new();
    for end in ended {
        match end {
            Ok(code) if status == 0 => status = code,
            Ok(_) => {}
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if !errors.is_empty() {
        bail!("{}", errors.join("\n\nerror: "));
    }
    Ok(nested::exit_code(status))
}

/// The tests by what they boot, dealt out where they are many, and those first that are most.
fn shares(tests: Vec<Test>) -> Vec<Share> {
    let mut by_images: BTreeMap<Vec<Image>, Vec<String>> = BTreeMap::new();
    for test in tests {
        by_images.entry(test.images).or_default().push(test.name);
    }
    let mut shares: Vec<Share> = Vec::new();
    for (images, names) in by_images {
        let number = names.len().div_ceil(MOST);
        // Neighbours are alike, and take as long.
        let dealt = |hand| names.iter().skip(hand).step_by(number).cloned().collect();
        shares.extend((0..number).map(|hand| Share {
            images: images.clone(),
            names: dealt(hand),
        }));
    }
    shares.sort_by_key(|share| std::cmp::Reverse(share.names.len()));
    shares
}

fn job(share: &Share) -> Result<Job> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg.starts_with("--color")) {
        let color = if std::io::stdout().is_terminal() {
            "always"
        } else {
            "never"
        };
        args.push(format!("--color={color}"));
    }
    let mut job = Job::new("/init", args)?;
    job.env.push(Artifacts::variable());
    job.env
        .push((SHARE_VARIABLE.to_owned(), share.names.join("\n")));
    for &name in PASSED_ON {
        job.env.extend(
            std::env::var(name)
                .ok()
                .map(|value| (name.to_owned(), value)),
        );
    }
    Ok(job)
}

fn take_turns(next: &Mutex<std::slice::Iter<'_, Bed>>, ended: &Sender<Ended>) {
    loop {
        let bed = next.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(bed) = bed else { return };
        if ended.send(run_one(bed)).is_err() {
            return;
        }
    }
}

fn run_one(bed: &Bed) -> Ended {
    let mut lines = Lines::default();
    let mut held = String::new();
    let mut keep = |line: &str| {
        held.push_str(line);
        held.push('\n');
    };
    let outcome = bed.run(&mut |bytes| {
        lines.push(bytes, |line| {
            match line.starts_with(OF_A_TEST) && !line.starts_with("test result") {
                true => show(&format!("{line}\n")),
                false => keep(line),
            }
        });
    });
    // In the midst of a test, if its L1 has died.
    lines.end(keep);
    show(&held);
    Ok(outcome?.status)
}

/// Whoever closed our output learns the result from the exit code.
fn show(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Place;
    use super::*;
    use crate::kernels::Kernel;

    #[test]
    fn many_tests_of_one_kernel_are_dealt_out() {
        let test = |kernel, n| Test {
            name: format!("{n}::{kernel:?}"),
            images: vec![Image::BzImage(kernel)],
            place: Place::Any,
            run: Arc::new(|_| Ok(())),
        };
        let (many, few) = (MOST * 2 + 1, MOST);
        let tests = (0..many).map(|n| test(Kernel::V6_1Cloud, n));
        let others = (0..few).map(|n| test(Kernel::V6_12Cloud, n));
        let shares = shares(tests.chain(others).collect());
        let lengths: Vec<usize> = shares.iter().map(|share| share.names.len()).collect();
        assert_eq!(lengths, [MOST, many / 3 + 1, many / 3, many / 3]);
        let names: BTreeSet<&String> = shares.iter().flat_map(|share| &share.names).collect();
        assert_eq!(names.len(), many + few);
    }
}
