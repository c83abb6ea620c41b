//! What the files of rules say, read anew: without the compiler that makes the filters out of them.

use crate::isolation::Role;
use serde_json::Value;
use std::process;
use std::str::FromStr;
use syscalls::Sysno;

/// The files of rules, as they were when this was built.
macro_rules! file {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../resources/seccomp/",
            $name,
            ".json"
        ))
    };
}

/// What an argument has to be: `value`, in those of its bits that are in `mask`.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) index: usize,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// A system call that is allowed where all the conditions hold.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) number: u32,
    pub(super) conditions: Vec<Condition>,
}

impl Condition {
    fn holds(&self, args: &[u64; 6]) -> bool {
        args[self.index] & self.mask == self.value
    }

    /// Has it hold, and leaves the bits that it does not look at.
    pub(super) fn satisfy(&self, args: &mut [u64; 6]) {
        args[self.index] = args[self.index] & !self.mask | self.value;
    }
}

/// Whether one of the rules allows this call.
pub(super) fn allow(rules: &[Rule], number: u32, args: &[u64; 6]) -> bool {
    let mut of_call = rules.iter().filter(|rule| rule.number == number);
    of_call.any(|rule| rule.conditions.iter().all(|one| one.holds(args)))
}

/// The rules of a role.
pub(super) fn of(role: Role) -> Vec<Rule> {
    let own: &[&str] = match role {
        Role::Main => &[file!("main")],
        // A vCPU's thread begins under its filter.
        Role::Vmm => &[file!("vmm"), file!("vcpu")],
        Role::Vcpu => &[file!("vcpu")],
        Role::Api => &[file!("api")],
        Role::Vsock => &[file!("vsock")],
    };
    let debug = cfg!(debug_assertions).then_some(file!("debug"));
    let all = own.iter().copied().chain([file!("common")]).chain(debug);
    all.flat_map(rules).collect()
}

fn rules(text: &str) -> Vec<Rule> {
    let content: Value = serde_json::from_str(text).expect("JSON");
    let rules = content["rules"].as_array().expect("an array `rules`");
    rules.iter().map(rule).collect()
}

fn rule(of: &Value) -> Rule {
    let name = of["syscall"].as_str().expect("the name of a system call");
    let call = Sysno::from_str(name).expect("a system call of this architecture");
    let conditions = of["args"].as_array().into_iter().flatten();
    Rule {
        number: u32::try_from(call.id()).expect("a number of a system call"),
        conditions: conditions.map(condition).collect(),
    }
}

fn condition(of: &Value) -> Condition {
    let width = match of["type"].as_str() {
        Some("dword") => u64::from(u32::MAX),
        Some("qword") => u64::MAX,
        other => panic!("how wide is {other:?}?"),
    };
    let mask = match (of["op"].as_str(), of["op"]["masked_eq"].as_u64()) {
        (Some("eq"), None) => width,
        (None, Some(mask)) => mask & width,
        _ => panic!("an operator that no rule has had so far: teach it here: {of}"),
    };
    let value = match of["val"].as_u64().expect("a number") {
        // As the rules' own comments say: the number is put in when the filter is.
        0xffff_fffe => process::id().into(),
        value => value,
    };
    let index = of["index"].as_u64().expect("a number");
    Condition {
        index: usize::try_from(index).expect("of one of six"),
        mask,
        value,
    }
}
