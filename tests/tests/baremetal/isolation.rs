//! What the VMM's threads may ask of the kernel, as a user starts it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use serde_json::json;

use crate::guest::{Guest, IMAGE, Machine, test};
use crate::hotplug::guest::{Hotplug, plug, unplug};
use crate::lifecycle::{Commands, config};

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
        test("isolation::nothing_is_left_of_privileges", privileges),
        test("isolation::files_that_it_was_not_started_with", other_files),
        test("isolation::files_that_rules_name", rules),
        test("isolation::any_file_where_nobody_knows_better", any_file),
        test("isolation::a_pipe_has_no_place", pipe),
        test("isolation::a_serial_file_that_is_gone", gone),
        test("isolation::a_socket_that_is_in_the_way", socket_in_the_way),
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

/// What the kernel says of each thread, by the thread's name. KVM has one that never leaves the kernel.
fn status(guest: &Guest, field: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{}/task", guest.vm().pid()))? {
        let folder = task?.path();
        let name = word(&folder, "Name")?;
        if !name.starts_with("kvm-") {
            found.insert(name, word(&folder, field)?);
        }
    }
    Ok(found)
}

/// The same of this process, which may be under a filter itself.
fn own(field: &str) -> Result<u32> {
    Ok(word(Path::new("/proc/self"), field)?.parse()?)
}

fn expect(guest: &Guest, field: &str, wanted: &[(&str, u32)]) -> Result<()> {
    let wanted = wanted
        .iter()
        .map(|(name, n)| ((*name).to_owned(), n.to_string()));
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

/// One of the limits of the guest's process, soft and hard (proc_pid_limits(5)).
fn limit(guest: &Guest, name: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{}/limits", guest.vm().pid()))?;
    let values = text.lines().find_map(|line| line.strip_prefix(name));
    let values = values.with_context(|| format!("no {name} in {text}"))?;
    Ok(values
        .split_whitespace()
        .take(2)
        .map(str::to_owned)
        .collect())
}

/// Of all threads, of a vCPU's that was plugged as well, and for good.
fn privileges(context: &Context) -> Result<()> {
    for dumpable in [false, true] {
        let machine = Machine::new(context, 1, 2)?;
        let guest = if dumpable {
            machine.with(|vm| vm.arg("--dumpable")).boot()?
        } else {
            machine.boot()?
        };
        plug(&guest, 1, 1)?;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let left = status(&guest, set)?;
            let none = left
                .values()
                .all(|set| set.bytes().all(|digit| digit == b'0'));
            guest.ensure(none && left.len() == 5, || format!("{set}: {left:?}"))?;
        }
        let cores = limit(&guest, "Max core file size")?;
        guest.ensure(dumpable || cores == ["0", "0"], || {
            format!("core files: {cores:?}")
        })?;
        let files = limit(&guest, "Max open files")?;
        guest.ensure(files == ["3072", "3072"], || {
            format!("descriptors: {files:?}")
        })?;
        guest.power_off()?;
    }
    Ok(())
}

/// A client makes a machine of something else in the place of the one that was named.
fn other_files(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 2)?;
    let (same, other) = (machine.path("guest.elf"), machine.path("other.elf"));
    let (log, made) = (machine.path("log"), machine.path("made"));
    fs::write(&other, IMAGE)?;
    let guest = machine
        .with(|vm| {
            vm.arg("--log-file")
                .arg(&log.display().to_string())
                .arg("--landlock")
                .arg("true")
        })
        .boot()?;
    guest.does("vm.delete")?;
    let refused = guest.create(&config(&other, 1, 2))?;
    guest.ensure(
        refused.status == 400 && refused.body.to_string().contains("--landlock-rules"),
        || format!("{refused:?}"),
    )?;
    let mut elsewhere = config(&same, 1, 2);
    elsewhere["serial"] = json!({"mode": "File", "file": made});
    let created = guest.create(&elsewhere)?;
    guest.ensure(created.status == 204, || format!("{created:?}"))?;
    let refused = guest.act("vm.boot")?;
    guest.ensure(
        refused.body.to_string().contains("--landlock-rules") && !made.exists(),
        || format!("{refused:?}"),
    )?;
    guest.does("vm.delete")?;
    let created = guest.create(&config(&same, 1, 2))?;
    guest.ensure(created.status == 204, || format!("{created:?}"))?;
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    plug(&guest, 1, 1)?;
    unplug(&guest, 1)?;
    guest.power_off()
}

/// What clients create is made of what is beneath a folder, and of nothing else.
fn rules(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 2)?;
    let (image, outside) = (machine.path("guest.elf"), tempfile::tempdir()?);
    let (console, other) = (machine.path("console"), outside.path().join("other.elf"));
    fs::write(&other, IMAGE)?;
    let folder = image.parent().context("no folder")?.display().to_string();
    let guest = machine
        .with(|vm| {
            vm.without_machine()
                .arg("--landlock-rules")
                .arg(&format!("path={folder},access=rw"))
        })
        .start()?;
    guest.wait_said("waiting for a machine to be created")?;
    let refused = guest.create(&config(&other, 1, 2))?;
    guest.ensure(
        refused.status == 400 && refused.body.to_string().contains("--landlock-rules"),
        || format!("{refused:?}"),
    )?;
    let mut wanted = config(&image, 1, 2);
    wanted["serial"] = json!({"mode": "File", "file": console});
    let created = guest.create(&wanted)?;
    guest.ensure(created.status == 204, || format!("{created:?}"))?;
    guest.does("vm.boot")?;
    guest.does("vm.shutdown")?;
    guest.ensure(console.is_file(), || "no file of the serial port".into())?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

/// It says so, and does what it is asked for.
fn any_file(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let image = machine.path("guest.elf");
    let guest = machine.with(|vm| vm.without_machine()).start()?;
    guest.wait_said("--landlock-rules confines them")?;
    let created = guest.create(&config(&image, 1, 1))?;
    guest.ensure(created.status == 204, || format!("{created:?}"))?;
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    guest.power_off()
}

/// A pipe by its name is not of the file system, and needs no right.
fn pipe(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let guest = machine
        .with(|vm| vm.serial("file=/dev/stdout").arg("--landlock").arg("true"))
        .boot()?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

/// The serial port's file is made where a link leads. When it is rotated away, the machine boots again all the same.
fn gone(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let (link, file, rotated) = (
        machine.path("link"),
        machine.path("file"),
        machine.path("1"),
    );
    symlink(&file, &link)?;
    let serial = format!("file={}", link.display());
    let guest = machine.with(|vm| vm.serial(serial)).start()?;
    let holds = |path: &Path, times: usize| {
        guest.vm().wait_until("the guest's output", || {
            let text = fs::read_to_string(path).unwrap_or_default();
            Ok(text.matches("ready apic=0").count() == times)
        })
    };
    holds(&file, 1)?;
    guest.does("vm.shutdown")?;
    guest.does("vm.boot")?;
    // It was emptied.
    holds(&file, 1)?;
    guest.does("vm.shutdown")?;
    fs::rename(&file, &rotated)?;
    guest.does("vm.boot")?;
    holds(&rotated, 2)?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

/// The control thread connects to nobody, so that it cannot know whether somebody listens there.
fn socket_in_the_way(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let (image, path) = (machine.path("guest.elf"), machine.path("serial"));
    let guest = machine.with(|vm| vm.without_machine()).start()?;
    guest.wait_said("waiting for a machine to be created")?;
    drop(UnixListener::bind(&path)?);
    let mut wanted = config(&image, 1, 1);
    wanted["serial"] = json!({"mode": "Socket", "socket": path});
    let created = guest.create(&wanted)?;
    guest.ensure(created.status == 204, || format!("{created:?}"))?;
    let refused = guest.act("vm.boot")?;
    guest.ensure(
        refused.status == 400 && refused.body.to_string().contains("remove that socket"),
        || format!("{refused:?}"),
    )?;
    fs::remove_file(&path)?;
    for _ in 0..2 {
        guest.does("vm.boot")?;
        drop(UnixStream::connect(&path)?);
        guest.does("vm.shutdown")?;
    }
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}
