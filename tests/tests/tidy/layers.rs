//! Which part may know of which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use hotvisor_tests::paths;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::report;
use crate::source::{Source, Token, rust};

/// Which packages of the workspace each may depend on. What is not listed here may not exist.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("hotvisor-devices", &[]),
    ("hotvisor-vmm", &["hotvisor-devices", "hotvisor-protocol"]),
    ("hotvisor", &["hotvisor-devices", "hotvisor-vmm"]),
    (
        "hotvisor-fuzz",
        &["hotvisor-devices", "hotvisor-protocol", "hotvisor-vmm"],
    ),
    ("hotvisor-protocol", &[]),
    ("hotvisor-agent", &["hotvisor-protocol"]),
    (
        "hotvisor-tests",
        &["hotvisor", "hotvisor-devices", "hotvisor-vmm"],
    ),
];

#[test]
fn dependencies_run_one_way() {
    let mut complaints = Vec::new();
    let allowed: BTreeMap<&str, &[&str]> = DEPENDENCIES.iter().copied().collect();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let Some(may) = allowed.get(name) else {
            complaints.push(format!(
                "{name}: a new package: add it to DEPENDENCIES in layers.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let manifest = package["manifest_path"].as_str().unwrap();
            if allowed.contains_key(on) && !may.contains(&on) {
                complaints.push(format!(
                    "{manifest}: {name} must not depend on {on}: api uses vmm, vmm uses devices, and \
                     never the other way round; move the shared part down, or pass it in as a trait"
                ));
            }
            if name == "hotvisor-devices" && on.starts_with("kvm") {
                complaints.push(format!(
                    "{manifest}: {name} must not depend on {on}: devices know nothing of KVM"
                ));
            }
        }
    }
    report(&complaints);
}

/// What cargo knows of the workspace.
pub(crate) fn metadata(how: &str) -> serde_json::Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--format-version=1", how])
        .current_dir(paths::workspace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The workspace's packages, as cargo describes them.
fn packages() -> Vec<serde_json::Value> {
    metadata("--no-deps")["packages"]
        .as_array()
        .unwrap()
        .clone()
}

/// Lines of the items that are compiled into tests only.
struct TestItems(BTreeSet<usize>);

impl<'ast> Visit<'ast> for TestItems {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = |attribute: &syn::Attribute| {
            attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|path| path.is_ident("test"))
        };
        if item.attrs.iter().any(is_test) {
            let span = item.span();
            self.0.extend(span.start().line..=span.end().line);
        }
        visit::visit_item_mod(self, item);
    }
}

#[test]
fn devices_know_neither_kvm_nor_threads_nor_unsafe() {
    let mut complaints = Vec::new();
    for source in rust().filter(|source| source.name.starts_with("devices/")) {
        let file = source.parse();
        let mut tests = TestItems(BTreeSet::new());
        tests.visit_file(&file);
        for Token { text, line } in source.tokens() {
            let outside = text.to_lowercase().starts_with("kvm") || text == "thread";
            if outside && !source.is_test() && !tests.0.contains(&line) {
                complaints.push(format!(
                    "{}:{line}: `{text}`: a device answers and posts; let the vmm crate do this \
                     behind a trait of this crate",
                    source.name
                ));
            }
        }
        let forbids = source
            .text
            .lines()
            .any(|line| line == "#![forbid(unsafe_code)]");
        if source.name == "devices/src/lib.rs" && !forbids {
            complaints.push(format!(
                "{}: lacks #![forbid(unsafe_code)]: put it back",
                source.name
            ));
        }
    }
    report(&complaints);
}

/// What is under hotplug, which must not know of it.
const UNDER_HOTPLUG: &[&str] = &[
    "kvm",
    "crate::machine",
    "crate::vcpu",
    "lapic",
    "x2apic",
    "madt",
    "acpi",
    "apic",
    "_ost",
    "_ej0",
    "_sta",
    "sipi",
    "ioctl",
    "hotvisor_devices",
    "crate::error::error",
    "crate::error::{error",
    "crate::error::result",
];

/// The names in a text, its comments included, of what is under hotplug, each with its line.
fn names_from_below(text: &str) -> Vec<(usize, &'static str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = |line: &str, name: &str| {
        let line = line.to_lowercase();
        if name.contains("::") {
            return line.contains(name);
        }
        let mut words = line.split(|c| !is_word(c));
        words.any(|word| word == name || word.starts_with(&format!("{name}_")))
    };
    let lines = (1..).zip(text.lines());
    let found = lines.flat_map(|(number, line)| {
        let names = UNDER_HOTPLUG.iter().filter(move |name| named(line, name));
        names.map(move |name| (number, *name))
    });
    found.collect()
}

/// Gate and coordinator can be had without them: whoever has another backend puts it under the same traits.
#[test]
fn hotplug_knows_neither_kvm_nor_acpi() {
    let mut complaints = Vec::new();
    let mut seen = 0;
    for source in rust().filter(|source| source.name.starts_with("vmm/src/hotplug/")) {
        if source.is_test() {
            continue;
        }
        seen += 1;
        for (line, name) in names_from_below(&source.text) {
            complaints.push(format!(
                "{}:{line}: `{name}`: hotplug knows no backend: say it in words of its own (hotplug::guest), and translate where \
                 the backend is",
                source.name
            ));
        }
    }
    assert!(seen > 20, "{seen} files");
    report(&complaints);
}

#[test]
fn names_from_below_are_found() {
    let found = names_from_below(
        "use crate::vcpu::Fault;\nuse kvm_ioctls::Kvm; // ACPI\nthe guest's _OST\nlet fast = ost;\n",
    );
    assert_eq!(
        found,
        [(1, "crate::vcpu"), (2, "kvm"), (2, "acpi"), (3, "_ost")]
    );
}

#[test]
fn modules_of_tests_are_told_apart() {
    let source =
        Source::sample("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\nfn h() {}\n");
    let mut tests = TestItems(BTreeSet::new());
    tests.visit_file(&source.parse());
    assert_eq!(tests.0, BTreeSet::from([2, 3, 4, 5]));
}
