//! Where `unsafe` may be, and what it must come with.

use std::collections::BTreeSet;

use crate::report;
use crate::source::{Source, rust};

/// The modules that may use `unsafe`.
const UNSAFE_MODULES: &[&str] = &[
    "vmm/src/heap.rs",
    "vmm/src/hotplug/gate/fence.rs",
    "vmm/src/isolation/forbidden.rs",
    "vmm/src/kvm/memory.rs",
    "vmm/src/socket/inherited.rs",
    "vmm/src/vcpu/kick.rs",
    "vmm/src/vcpu/raw.rs",
];

/// Complaints about `unsafe` in a module that may use it: each needs its own argument right above.
fn unsafe_without_argument(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let unsafes: BTreeSet<usize> = unsafe_lines(source);
    let argued = |at: &usize| {
        (1..*at)
            .rev()
            .take_while(|line| !unsafes.contains(line) && !lines[line - 1].trim().is_empty())
            .any(|line| {
                ["SAFETY: ", "/// # Safety"]
                    .iter()
                    .any(|mark| lines[line - 1].contains(mark))
            })
    };
    unsafes
        .iter()
        .filter(|line| !argued(line))
        .map(|line| {
            format!(
                "{}:{line}: `unsafe` without a SAFETY comment of its own: say above it why it is sound",
                source.name
            )
        })
        .collect()
}

fn unsafe_lines(source: &Source) -> BTreeSet<usize> {
    let tokens = source.tokens();
    let unsafes = tokens.into_iter().filter(|token| token.text == "unsafe");
    unsafes.map(|token| token.line).collect()
}

#[test]
fn unsafe_is_in_few_places_and_argued() {
    let mut complaints = Vec::new();
    let mut unused: BTreeSet<&str> = UNSAFE_MODULES.iter().copied().collect();
    for source in rust() {
        let Some(&line) = unsafe_lines(&source).first() else {
            continue;
        };
        if unused.remove(source.name.as_str()) {
            complaints.extend(unsafe_without_argument(&source));
        } else {
            complaints.push(format!(
                "{}:{line}: `unsafe` here: use a safe wrapper, or move it into one of {UNSAFE_MODULES:?}",
                source.name
            ));
        }
    }
    complaints.extend(unused.iter().map(|module| {
        format!("{module}: has no `unsafe`, or is gone: take it off UNSAFE_MODULES in layers.rs")
    }));
    report(&complaints);
}

#[test]
fn each_unsafe_is_seen_and_wants_an_argument_of_its_own() {
    let text = "fn f() {\n    // SAFETY: once.\n    unsafe { a() };\n    unsafe { b() };\n}\n";
    assert_eq!(unsafe_without_argument(&Source::sample(text)).len(), 1);
    let in_macro = Source::sample("m!(unsafe { a() });\n");
    assert_eq!(unsafe_lines(&in_macro), BTreeSet::from([1]));
    let only_named = Source::sample("// unsafe\n#![deny(unsafe_code)]\n");
    assert_eq!(unsafe_lines(&only_named), BTreeSet::new());
}
