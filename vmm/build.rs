//! Compiles the filters of `resources/seccomp` for the kernel, each in two forms: one that stops what it forbids, and
//! one that has the kernel log it.

#[path = "build/shrink.rs"]
mod shrink;

use seccompiler::{BpfMap, TargetArch, compile_from_json};
use serde_json::{Value, json};
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Each filter, and the files whose rules it has. A thread begins under the filters of the one that makes it, so that
/// the control thread's allows what a vCPU's does.
const FILTERS: [(&str, &[&str]); 5] = [
    ("main", &["common", "main"]),
    ("vmm", &["vcpu", "common", "vmm"]),
    ("vcpu", &["vcpu", "common"]),
    ("api", &["common", "api"]),
    ("vsock", &["common", "vsock"]),
];
/// What is added for a build with debug assertions, the standard library's among them, and is in no other.
const DEBUG: &str = "debug";
/// `ENOSYS`.
const NO_SUCH_CALL: u32 = 38;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../resources/seccomp");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut code = String::new();
    for (name, files) in FILTERS {
        for (build, more) in [
            ("debug_assertions", Some(DEBUG)),
            ("not(debug_assertions)", None),
        ] {
            let mut rules = Vec::new();
            for file in files.iter().copied().chain(more) {
                rules.extend(rules_of(&folder.join(format!("{file}.json")))?);
            }
            check(name, &rules)?;
            for (form, otherwise) in [("enforced", "trap"), ("logged", "log")] {
                let filter = json!({
                    "mismatch_action": otherwise, "match_action": "allow", "filter": rules
                });
                // The profile's word for it does not come to here, but to the crate that has these in it.
                writeln!(code, "#[cfg({build})]")?;
                constant(&mut code, &format!("{name}_{form}"), &filter)?;
            }
        }
    }
    let no_clone3 = json!({
        "mismatch_action": "allow",
        "match_action": {"errno": NO_SUCH_CALL},
        "filter": [{"syscall": "clone3"}],
    });
    constant(&mut code, "no_clone3", &no_clone3)?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("filters.rs"), code)?;
    Ok(())
}

/// The rules of one file. Each says what it is for.
fn rules_of(file: &Path) -> Result<Vec<Value>, Box<dyn Error>> {
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
    let text = fs::read_to_string(file).map_err(|e| wrong(&e))?;
    let mut content: Value = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
    let Value::Array(rules) = content["rules"].take() else {
        return Err(wrong(&"has no array `rules`").into());
    };
    match rules.iter().find(|rule| !rule["comment"].is_string()) {
        None => Ok(rules),
        Some(rule) => {
            Err(wrong(&format!("{rule} has no `comment` that says what it is for")).into())
        }
    }
}

/// What the compiler of filters would take without a word: a rule without conditions beside others for the same call,
/// which it drops, and bits that no argument has under its mask, which it does not look at.
fn check(name: &str, rules: &[Value]) -> Result<(), Box<dyn Error>> {
    for rule in rules {
        let call = &rule["syscall"];
        let mut others = rules.iter().filter(|other| other["syscall"] == *call);
        let bare = |rule: &Value| rule["args"].is_null();
        if others.any(|other| bare(other) != bare(rule)) {
            let what = "has rules with conditions and without";
            return Err(format!("{name}: {call} {what}").into());
        }
        for condition in rule["args"].as_array().into_iter().flatten() {
            let mask = condition["op"]["masked_eq"].as_u64().unwrap_or(u64::MAX);
            let value = condition["val"].as_u64().ok_or("no value")?;
            if value & !mask != 0 {
                return Err(format!("{name}: {condition} can never hold").into());
            }
        }
    }
    Ok(())
}

/// A filter as a constant: a quadruple for each instruction.
fn constant(code: &mut String, name: &str, filter: &Value) -> Result<(), Box<dyn Error>> {
    let map: BpfMap = compile_from_json(
        json!({ name: filter }).to_string().as_bytes(),
        TargetArch::x86_64,
    )?;
    let name = name.to_uppercase();
    writeln!(code, "pub(super) const {name}: &[(u16, u8, u8, u32)] = &[")?;
    for program in map.into_values() {
        for one in shrink::shrunk(&program)? {
            writeln!(code, "({}, {}, {}, {}),", one.code, one.jt, one.jf, one.k)?;
        }
    }
    writeln!(code, "];")?;
    Ok(())
}
