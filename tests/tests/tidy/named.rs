//! Tests and files that documents name are there.

use std::collections::BTreeSet;
use std::fs;

use hotvisor_tests::paths;

use crate::report;
use crate::source::rust;

/// The heading of the part of a document that says by which test each of its claims is tried.
const CLAIMS: &[(&str, &str)] = &[
    ("README.md", "## What it survives"),
    ("SECURITY.md", "## The boundaries"),
];

/// A test that needs a guest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    suite: &'static str,
    name: String,
}

/// The tests that need a guest: those that are written out, and those of hotplug that are put together, of which one
/// part is.
fn tests() -> BTreeSet<Named> {
    let is_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let is_part = |part: &str| !part.is_empty() && part.chars().all(is_word);
    let mut names = BTreeSet::new();
    for source in rust() {
        let suites = ["baremetal", "e2e"].into_iter();
        let mut of =
            suites.filter(|suite| source.name.starts_with(&format!("tests/tests/{suite}/")));
        let Some(suite) = of.next() else { continue };
        let together = source.name.starts_with("tests/tests/e2e/hotplug/");
        for literal in source.text.split('"').skip(1).step_by(2) {
            let name = match literal.split_once("::") {
                Some((group, test)) if is_part(group) && is_part(test) => literal.to_owned(),
                None if together && is_part(literal) && literal.contains('_') => {
                    format!("hotplug::{literal}")
                }
                _ => continue,
            };
            names.insert(Named { suite, name });
        }
    }
    names
}

/// What a document says in backquotes under a heading.
fn named(text: &str, heading: &str) -> Vec<String> {
    let (_, part) = text.split_once(heading).expect("the heading is there");
    let part = part.split("\n## ").next().unwrap_or(part);
    let rows = part.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2).map(str::to_owned))
        .collect()
}

/// What a document names that is not there; `None` where it is no test's and no file's name.
fn missing(name: &str, tests: &BTreeSet<Named>) -> Option<bool> {
    if let Some((suite, filter)) = name.split_once(' ')
        && ["baremetal", "e2e"].contains(&suite)
    {
        let mut of_suite = tests.iter().filter(|test| test.suite == suite);
        return Some(!of_suite.any(|test| test.name.contains(filter)));
    }
    if let Some(group) = name.strip_suffix("::*") {
        return Some(
            !tests
                .iter()
                .any(|test| test.name.starts_with(&format!("{group}::"))),
        );
    }
    let parts = ["vmm/", "api/", "devices/", "tests/", "resources/"];
    if parts.iter().any(|part| name.starts_with(part)) {
        return Some(!paths::workspace().join(name).exists());
    }
    name.contains("::")
        .then(|| !tests.iter().any(|test| test.name == name))
}

#[test]
fn what_tries_a_claim_is_there() {
    let tests = tests();
    let mut complaints = Vec::new();
    for (document, heading) in CLAIMS {
        let text = fs::read_to_string(paths::workspace().join(document)).unwrap();
        let found = named(&text, heading);
        let known = found.iter().filter(|name| missing(name, &tests).is_some());
        assert!(known.count() > 10, "{document} names no tests: {found:?}");
        for name in found {
            if missing(&name, &tests) == Some(true) {
                complaints.push(format!(
                    "{document}: `{name}` is not there: name the test or file that is"
                ));
            }
        }
    }
    report(&complaints);
}

#[test]
fn what_is_not_there_is_missed() {
    let tests = BTreeSet::from([Named {
        suite: "baremetal",
        name: "hotplug::a_plug".to_owned(),
    }]);
    let gone = |name| missing(name, &tests);
    assert_eq!(gone("hotplug::a_plug"), Some(false));
    assert_eq!(gone("hotplug::*"), Some(false));
    assert_eq!(gone("baremetal plug"), Some(false));
    assert_eq!(gone("tests/tests/tidy/named.rs"), Some(false));
    assert_eq!(gone("e2e plug"), Some(true));
    assert_eq!(gone("hotplug::an_unplug"), Some(true));
    assert_eq!(gone("faults::*"), Some(true));
    assert_eq!(gone("e2e faults"), Some(true));
    assert_eq!(gone("vmm/src/nothing.rs"), Some(true));
    assert_eq!(gone("cargo test"), None);
}
