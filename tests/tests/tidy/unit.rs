//! The unit for systemd, as `systemd-analyze` sees it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use hotvisor_tests::{host, paths};

const UNIT: &str = "resources/systemd/hotvisor@.service";

/// The README's figure: of 10, of which 0 is the best.
fn stated() -> f64 {
    let readme = fs::read_to_string(paths::workspace().join("README.md")).unwrap();
    let words: Vec<&str> = readme.split_whitespace().collect();
    let found = words
        .windows(3)
        .find(|words| words[..2] == ["exposure", "of"]);
    found.expect("the README states it")[2].parse().unwrap()
}

#[test]
fn the_unit_exposes_no_more_than_the_readme_says() {
    host::ensure(&["systemd"]).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={:.0}", stated() * 10.0))
        .arg(paths::workspace().join(UNIT))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    assert!(
        output.status.success(),
        "{last}: the README says {}\n{said}{}",
        stated(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The system calls of what `SystemCallFilter=` may name: one, or a group of them.
fn calls(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", "--no-pager", name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let named = said.lines().skip(1).map(str::trim);
    let named = named.filter(|line| !line.is_empty() && !line.starts_with('#'));
    named.flat_map(calls).collect()
}

/// What the unit leaves a process, and what our own filters leave its threads.
#[test]
fn the_unit_allows_every_call_that_our_filters_do() {
    host::ensure(&["systemd"]).unwrap();
    let unit = fs::read_to_string(paths::workspace().join(UNIT)).unwrap();
    let mut allowed = BTreeSet::new();
    for line in unit.lines() {
        let Some(names) = line.strip_prefix("SystemCallFilter=") else {
            continue;
        };
        match names.strip_prefix('~') {
            Some(names) => {
                let denied: BTreeSet<String> = names.split(' ').flat_map(calls).collect();
                allowed.retain(|call| !denied.contains(call));
            }
            None => allowed.extend(names.split(' ').flat_map(calls)),
        }
    }
    assert!(allowed.len() > 100, "{allowed:?}");
    let mut ours = 0;
    let mut complaints = Vec::new();
    for entry in fs::read_dir(paths::workspace().join("resources/seccomp")).unwrap() {
        let path = entry.unwrap().path();
        let rules: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut calls = Vec::new();
        find_calls(&rules, &mut calls);
        ours += calls.len();
        let missing = calls.iter().filter(|call| !allowed.contains(*call));
        complaints.extend(missing.map(|call| {
            format!(
                "{UNIT}: does not allow `{call}`, as {} does",
                path.display()
            )
        }));
    }
    assert!(ours > 50, "{ours} rules");
    crate::report(&complaints);
}

/// Every `"syscall"` in a filter.
fn find_calls(rules: &serde_json::Value, calls: &mut Vec<String>) {
    match rules {
        serde_json::Value::Array(all) => all.iter().for_each(|rule| find_calls(rule, calls)),
        serde_json::Value::Object(rule) => {
            calls.extend(
                rule.get("syscall")
                    .and_then(|call| call.as_str())
                    .map(str::to_owned),
            );
            rule.values().for_each(|part| find_calls(part, calls));
        }
        _ => {}
    }
}
