//! What the VMM's threads may ask of the kernel, as a user starts it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};

use crate::guest::{Guest, Machine, test};
use crate::hotplug::guest::{Hotplug, plug, unplug};

/// The exit code after a forbidden system call.
const FORBIDDEN: i32 = 7;
/// What the kernel says of a thread that has a filter (proc_pid_status(5)).
const FILTERED: u32 = 2;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("isolation::every_thread_has_its_filters", filters),
        test("isolation::without_filters", without),
        test("isolation::a_forbidden_call_is_the_end", forbidden),
        test("isolation::a_plugged_vcpu_is_under_its_filter", plugged),
        test("isolation::a_forbidden_call_that_is_logged", logged),
    ]
}

/// What the kernel says of a thread or a process, in one of its lines.
fn word(folder: &Path, name: &str) -> Result<String> {
    let text = fs::read_to_string(folder.join("status"))?;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.with_context(|| format!("no {name} in {text}"))?;
    Ok(value.trim().to_owned())
}

/// A number of each thread's, by the thread's name. KVM has one that never leaves the kernel.
fn status(guest: &Guest, field: &str) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", guest.vm().pid()))? {
        let folder = task?.path();
        let name = word(&folder, "Name")?;
        if !name.starts_with("kvm-") {
            found.insert(name, word(&folder, field)?.parse()?);
        }
    }
    Ok(found)
}

/// The same of this process, which may be under a filter itself.
fn own(field: &str) -> Result<u32> {
    Ok(word(Path::new("/proc/self"), field)?.parse()?)
}

fn expect(guest: &Guest, field: &str, wanted: &[(&str, u32)]) -> Result<()> {
    let wanted = wanted.iter().map(|(name, n)| ((*name).to_owned(), *n));
    let (found, wanted) = (status(guest, field)?, wanted.collect());
    guest.ensure(found == wanted, || {
        format!("{field}: {found:?}, expected {wanted:?}")
    })
}

/// The control thread makes threads and has one filter more for that, and a vCPU's has its own besides.
fn filters(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 2)?.boot()?;
    let own = own("Seccomp_filters")?;
    let before =
        [("hotvisor", 1), ("api", 1), ("vmm", 2), ("vcpu-0", 3)].map(|(name, n)| (name, own + n));
    expect(&guest, "Seccomp_filters", &before)?;
    let with_another = [&before[..], &[("vcpu-1", own + 3)]].concat();
    for starts in 1..3 {
        plug(&guest, 1, starts)?;
        expect(&guest, "Seccomp_filters", &with_another)?;
        unplug(&guest, 1)?;
    }
    let all = |value| with_another.iter().map(move |(name, _)| (*name, value));
    expect(&guest, "Seccomp", &all(FILTERED).collect::<Vec<_>>())?;
    expect(&guest, "NoNewPrivs", &all(1).collect::<Vec<_>>())?;
    guest.power_off()
}

fn without(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let guest = machine.with(|vm| vm.arg("--seccomp").arg("false")).boot()?;
    let own = own("Seccomp_filters")?;
    let none = ["hotvisor", "api", "vmm", "vcpu-0"].map(|name| (name, own));
    expect(&guest, "Seccomp_filters", &none)?;
    guest.power_off()
}

/// What is said of a thread that has opened a file.
fn end_of(thread: &str) -> String {
    format!("hotvisor: thread {thread}: forbidden system call openat (257)")
}

fn forbidden(context: &Context) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    for thread in ["api", "vmm"] {
        let machine = Machine::of(context.artifacts.failing_hotvisor()?, 1, 2)?;
        let guest = machine
            .with(|vm| vm.arg("--log-file").arg(&log.display().to_string()))
            .boot()?;
        guest.vm().misbehave(thread)?;
        if thread == "vmm" {
            // Its next call that can be made to fail. The process ends before it can answer.
            let _ = guest.request(1, "online");
        }
        guest.wait_code(FORBIDDEN, &[&end_of(thread)])?;
        let said = fs::read_to_string(&log)?;
        guest.ensure(said.contains(&end_of(thread)), || {
            format!("the log file has {said:?}")
        })?;
    }
    Ok(())
}

/// A thread of a vCPU that is made while the guest runs, and one that was dormant.
fn plugged(context: &Context) -> Result<()> {
    for dormant in [false, true] {
        let guest = Machine::of(context.artifacts.failing_hotvisor()?, 1, 2)?.boot()?;
        if dormant {
            plug(&guest, 1, 1)?;
            unplug(&guest, 1)?;
        }
        guest.vm().misbehave("vcpu-1")?;
        let _ = guest.request(1, "online");
        guest.wait_code(FORBIDDEN, &[&end_of("vcpu-1")])?;
    }
    Ok(())
}

fn logged(context: &Context) -> Result<()> {
    let machine = Machine::of(context.artifacts.failing_hotvisor()?, 1, 2)?;
    let guest = machine.with(|vm| vm.arg("--seccomp").arg("log")).boot()?;
    for (starts, thread) in (0..).zip(["api", "vmm", "vcpu-1"]) {
        guest.vm().misbehave(thread)?;
        if starts > 0 {
            plug(&guest, 1, starts)?;
            unplug(&guest, 1)?;
        }
        let misdeeds = guest.vm().api().get("/misbehaves")?.body;
        guest.ensure(misdeeds == starts + 1, || {
            format!("{misdeeds} misdeeds after that of {thread}")
        })?;
    }
    guest.power_off()
}
