//! What the product is made of that others have written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use hotvisor_tests::paths;
use serde_json::Value;
use spdx::{Expression, ParseMode};

use crate::layers::metadata;
use crate::report;
use crate::source::rust;

/// Where all crates come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Licences, by their SPDX names, under which others may use what they are in.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "Unicode-3.0",
];

/// Crates of which the product has two versions, and why.
const TWICE: &[(&str, &str)] = &[
    ("bitflags", "vmm-sys-util has not moved on to version 2"),
    (
        "syn",
        "what derives code moves on to version 3 one by one; none of it runs",
    ),
];

/// The graph of packages, as cargo resolves it for the machine that we build for.
struct Graph {
    packages: BTreeMap<String, Value>,
    /// What each needs, but for its tests: to run, and to be built.
    needs: BTreeMap<String, Vec<String>>,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

impl Graph {
    fn new() -> Self {
        let all = metadata("--filter-platform=x86_64-unknown-linux-gnu");
        let packages = list(&all, "packages")
            .iter()
            .map(|package| (text(package, "id").to_owned(), package.clone()));
        let needs = list(&all["resolve"], "nodes").iter().map(|node| {
            let needed = list(node, "deps").iter().filter(|need| {
                let mut kinds = list(need, "dep_kinds").iter();
                kinds.any(|kind| kind["kind"].as_str() != Some("dev"))
            });
            let ids = needed.map(|need| text(need, "pkg").to_owned());
            (text(node, "id").to_owned(), ids.collect())
        });
        Self {
            packages: packages.collect(),
            needs: needs.collect(),
        }
    }

    /// The crates of others that the product is made of, with those that build it.
    fn product(&self) -> Vec<&Value> {
        let ours = |(_, package): &(&String, &Value)| text(package, "name") == "hotvisor";
        let (root, _) = self.packages.iter().find(ours).expect("the product");
        let (mut seen, mut left) = (BTreeSet::new(), vec![root.as_str()]);
        while let Some(id) = left.pop() {
            if seen.insert(id) {
                left.extend(self.needs[id].iter().map(String::as_str));
            }
        }
        let packages = seen.into_iter().map(|id| &self.packages[id]);
        packages
            .filter(|package| !package["source"].is_null())
            .collect()
    }
}

#[test]
fn crates_may_be_used_and_come_from_where_they_should() {
    let graph = Graph::new();
    let mut complaints = Vec::new();
    for package in graph.packages.values().filter(|p| !p["source"].is_null()) {
        let (name, licence) = (text(package, "name"), text(package, "license"));
        let source = text(package, "source");
        if source != REGISTRY {
            complaints.push(format!("{name}: comes from {source}: use one of crates.io"));
        }
        let allowed = Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|licence| {
            licence.evaluate(|asked| {
                let id = asked.license.id();
                id.is_some_and(|id| LICENCES.contains(&id.name))
            })
        });
        if !allowed {
            complaints.push(format!(
                "{name}: licence {licence:?}: use another crate, or add the licence to LICENCES and to deny.toml"
            ));
        }
    }
    report(&complaints);
}

#[test]
fn cargo_deny_allows_the_same_licences() {
    let deny = fs::read_to_string(paths::workspace().join("deny.toml")).unwrap();
    let line = deny.lines().find_map(|line| line.strip_prefix("allow = "));
    let allowed: Vec<&str> = line
        .expect("licences")
        .split('"')
        .skip(1)
        .step_by(2)
        .collect();
    assert_eq!(allowed, LICENCES);
}

#[test]
fn the_product_has_each_crate_once() {
    let graph = Graph::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in graph.product() {
        let found = versions.entry(text(package, "name")).or_default();
        found.push(text(package, "version"));
    }
    let twice = versions.iter().filter(|(_, found)| found.len() > 1);
    let found: BTreeSet<&str> = twice.map(|(name, _)| *name).collect();
    let known: BTreeSet<&str> = TWICE.iter().map(|(name, _)| *name).collect();
    let mut complaints = Vec::new();
    for name in found.difference(&known) {
        complaints.push(format!(
            "{name}: {:?}: have one version of it",
            versions[name]
        ));
    }
    for name in known.difference(&found) {
        complaints.push(format!("{name}: once: take it off TWICE and deny.toml"));
    }
    report(&complaints);
}

/// The number before these words in SECURITY.md.
fn stated(words: &str) -> usize {
    let security = fs::read_to_string(paths::workspace().join("SECURITY.md")).unwrap();
    let one_line = security.split_whitespace().collect::<Vec<_>>().join(" ");
    let (before, _) = one_line.split_once(words).expect("SECURITY.md states it");
    let number = before.split_whitespace().last().unwrap();
    number.parse().unwrap()
}

#[test]
fn it_is_made_of_as_many_crates_as_are_stated() {
    let found = Graph::new().product().len();
    let stated = stated("crates of others");
    assert_eq!(
        found, stated,
        "write the number into SECURITY.md, if each of them is needed"
    );
}

#[test]
fn as_much_of_it_is_unsafe_as_is_stated() {
    let product = ["api/src/", "devices/src/", "vmm/src/"];
    let ours = rust().filter(|source| product.iter().any(|part| source.name.starts_with(part)));
    let found: usize = ours
        .map(|source| {
            let tokens = source.tokens();
            tokens.iter().filter(|token| token.text == "unsafe").count()
        })
        .sum();
    let stated = stated("places of our own");
    assert_eq!(
        found, stated,
        "write the number into SECURITY.md, if each of them is needed"
    );
}
