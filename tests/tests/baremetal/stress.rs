//! `hotvisor stress` against a guest that serves hotplug.

use std::fs;

use anyhow::{Context as _, Result};
use hotvisor_tests::environment;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::{Came, Vm};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::guest::{Guest, Machine, test};
use crate::hotplug::guest::Hotplug;
use crate::served;

/// What a run does that is not cut short, in steps.
const STEPS: u64 = 150;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("stress::a_run_finds_nothing", nothing),
        test("stress::a_seed_gives_the_same_steps", same),
        test("stress::another_client_is_a_contradiction", another),
        test("stress::a_thread_that_stands_still_is_one", stopped),
        test("stress::an_interrupt_puts_the_vcpus_back", interrupt),
        test("stress::a_vm_that_ends_is_told", ended),
        test("stress::what_cannot_be_is_bad_input", bad_input),
        test("stress::a_cpu_that_is_offline_is_bad_input", offline),
        test("stress::cycles", cycles),
    ]
}

fn boot(context: &Context) -> Result<Guest> {
    served::boot(Machine::new(context, 2, 6)?, 2)
}

fn expect(vm: &Vm, came: &Came, code: i32, words: &[&str]) -> Result<()> {
    let missing = words
        .iter()
        .find(|word| !came.out.contains(**word) && !came.err.contains(**word));
    if came.code == code && missing.is_none() {
        return Ok(());
    }
    Err(vm.evidence(format!(
        "expected code {code} and {words:?}, and there came code {}\n{}\n{}",
        came.code, came.out, came.err
    )))
}

fn summary(vm: &Vm, came: &Came) -> Result<Value> {
    serde_json::from_str(&came.out).with_context(|| vm.evidence(format!("no JSON in {came:#?}")))
}

/// The vCPUs that are plugged are those of the beginning.
fn as_before(guest: &Guest) -> Result<()> {
    for (id, phase) in [(0, "online"), (1, "online"), (2, "dormant")] {
        let vcpu = guest.vcpu(id)?;
        let fits = vcpu["phase"] == phase || (phase == "dormant" && vcpu["phase"] == "absent");
        guest.ensure(fits, || format!("vCPU {id} is {vcpu}"))?;
    }
    Ok(())
}

fn nothing(context: &Context) -> Result<()> {
    let guest = boot(context)?;
    let folder = tempfile::tempdir()?;
    let page = folder.path().join("run.html");
    let steps = STEPS.to_string();
    let came = guest.vm().cli(&[
        "stress",
        "--seed=42",
        "--cycles",
        &steps,
        "--json",
        "--report",
        &page.display().to_string(),
    ])?;
    expect(guest.vm(), &came, 0, &["seed 42, mix plug=4,unplug=4"])?;
    let summary = summary(guest.vm(), &came)?;
    let fits = summary["seed"] == 42
        && summary["steps"] == STEPS
        && summary["operations"].as_u64() > Some(STEPS / 2)
        && summary["outcomes"]["succeeded"].as_u64() > Some(STEPS / 3)
        && summary["latency"]["unplug"]["p50_us"].as_u64() > Some(0)
        && summary["phases"]["unplug"]["stopping"]["count"].as_u64() > Some(0)
        && summary["answers"]["409 paused"].as_u64() > Some(0)
        && summary["contradiction"].is_null();
    guest.ensure(fits, || format!("the summary is {summary:#}"))?;
    let page = fs::read_to_string(page)?;
    guest.ensure(page.contains("seed 42"), || {
        "the page lacks its seed".into()
    })?;
    as_before(&guest)?;
    served::end(&guest)?;
    guest.power_off()
}

/// All operations as they were asked for, without how they ended.
fn asked(guest: &Guest) -> Result<Vec<Value>> {
    let what = |o: &Value| json!([o["kind"], o["desired"]]);
    Ok(operations(guest)?.iter().map(what).collect())
}

fn operations(guest: &Guest) -> Result<Vec<Value>> {
    let operations = guest.vm().api().get("/api/v1/operations")?.body;
    let all = operations["operations"].as_array().cloned();
    all.with_context(|| format!("no operations in {operations}"))
}

/// The highest id of an operation so far.
fn last(guest: &Guest) -> Result<u64> {
    let ids = operations(guest)?;
    let ids = ids.iter().filter_map(|operation| operation["id"].as_u64());
    Ok(ids.max().unwrap_or(0))
}

fn same(context: &Context) -> Result<()> {
    let mut runs = Vec::new();
    for seed in ["7", "7", "8"] {
        let guest = boot(context)?;
        let mix = "plug,unplug,resize,set,cancel,abandon";
        let came = guest
            .vm()
            .cli(&["stress", "--seed", seed, "--cycles=60", "--mix", mix])?;
        expect(guest.vm(), &came, 0, &["no contradiction"])?;
        runs.push(asked(&guest)?);
        served::end(&guest)?;
        guest.power_off()?;
    }
    anyhow::ensure!(
        runs[0].len() > 60,
        "there were {} operations",
        runs[0].len()
    );
    anyhow::ensure!(
        runs[0] == runs[1],
        "one seed gave {:?} and {:?}",
        runs[0],
        runs[1]
    );
    anyhow::ensure!(runs[0] != runs[2], "two seeds gave {:?}", runs[0]);
    Ok(())
}

fn another(context: &Context) -> Result<()> {
    let guest = boot(context)?;
    let stress = guest
        .vm()
        .start_cli(&["stress", "--duration=60", "--mix=cancel", "--seed=1"])?;
    stress.said("stress: seed 1")?;
    for target in ["online", "offline"] {
        let body = json!({ "target": target });
        guest.vm().api().put("/api/v1/vcpus/5?wait=5", &body)?;
    }
    let came = stress.end()?;
    let words = [
        "is not ours: somebody else asked for a change",
        "CONTRADICTION in step",
        "--- the last events ---",
        "--- what each says ---",
        "vcpu-0",
    ];
    expect(guest.vm(), &came, 6, &words)?;
    served::end(&guest)?;
    guest.power_off()
}

fn stopped(context: &Context) -> Result<()> {
    let guest = boot(context)?;
    let stopped = guest.vm().stop_vcpu(1)?;
    let came = guest.vm().cli(&[
        "stress",
        "--cycles=1",
        "--mix=resize",
        "--most=2",
        "--seed=2",
        "--timeout=1",
    ])?;
    stopped.release()?;
    expect(guest.vm(), &came, 6, &["CONTRADICTION in step 1", "vCPU 1"])
}

fn interrupt(context: &Context) -> Result<()> {
    let guest = boot(context)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let before = last(&guest)?;
        let stress = guest
            .vm()
            .start_cli(&["stress", "--duration=10m", "--seed=3"])?;
        stress.said("stress: seed 3")?;
        guest
            .vm()
            .wait_until("some operations", || Ok(last(&guest)? > before + 40))?;
        stress.signal(signal)?;
        let came = stress.end()?;
        expect(guest.vm(), &came, 7, &["seed 3, mix", "no contradiction"])?;
        as_before(&guest)?;
    }
    served::end(&guest)?;
    guest.power_off()
}

fn ended(context: &Context) -> Result<()> {
    let guest = boot(context)?;
    let stress = guest
        .vm()
        .start_cli(&["stress", "--duration=10m", "--seed=4"])?;
    stress.said("stress: seed 4")?;
    guest
        .vm()
        .wait_until("some operations", || Ok(asked(&guest)?.len() > 20))?;
    guest.vm().signal(Signal::SIGKILL)?;
    let came = stress.end()?;
    expect(
        guest.vm(),
        &came,
        1,
        &[
            "seed 4, mix",
            "THE VM WAS LOST in step",
            "--- the last events ---",
        ],
    )?;
    anyhow::ensure!(!came.out.contains("no contradiction"), "{came:?}");
    Ok(())
}

fn bad_input(context: &Context) -> Result<()> {
    let guest = boot(context)?;
    for (args, words) in [
        (&["--mix=plugg"][..], "there is no step \"plugg\""),
        (&["--mix=refuse"], "refuse is not possible here"),
        (&["--most=1"], "the machine has 2 already"),
        (&["--duration=0"], "it is not a time"),
        (&["--report=/nowhere/x.html"], "--report /nowhere/x.html"),
        (&["--guest-serial=/nowhere"], "/nowhere"),
        (&["--console=/nowhere"], "/nowhere"),
    ] {
        let came = guest
            .vm()
            .cli(&[&["stress", "--cycles=1"], args].concat())?;
        expect(guest.vm(), &came, 2, &[words])?;
    }
    guest.vm().api().pause()?;
    let came = guest.vm().cli(&["stress", "--cycles=1"])?;
    expect(guest.vm(), &came, 2, &["its machine is Paused"])?;
    guest.vm().api().resume()?;
    served::end(&guest)?;
    guest.power_off()
}

/// A guest that has a CPU offline before anything was asked of it is no contradiction, but bad input. The files of a Linux guest
/// are here, and its shell is the host's.
fn offline(context: &Context) -> Result<()> {
    let guest = boot(context)?;
    let files = tempfile::tempdir()?;
    let at = files.path().display();
    for (name, text) in [
        ("present", "0-1\n"),
        ("online", "0\n"),
        ("cpuinfo", "apicid\t\t: 0\n"),
    ] {
        fs::write(files.path().join(name), text)?;
    }
    let shell = files.path().join("shell");
    let elsewhere = format!("s,/sys/devices/system/cpu,{at},g; s,/proc/cpuinfo,{at}/cpuinfo,g");
    fs::write(
        &shell,
        format!("line=$(printf '%s\\n' \"$1\" | sed '{elsewhere}')\neval \"$line\"\n"),
    )?;
    let command = format!("--guest-command=sh {}", shell.display());
    let before = asked(&guest)?;
    let args = ["stress", "--cycles=1", "--mix=plug=1", &command];
    let came = guest.vm().cli(&args)?;
    let words = ["has the CPUs {0} online", "--guest-online theirs"];
    expect(guest.vm(), &came, 2, &words)?;
    anyhow::ensure!(asked(&guest)? == before, "something was asked for");
    served::end(&guest)?;
    guest.power_off()
}

/// As many operations as the environment says, in runs of a length that ends in time.
fn cycles(context: &Context) -> Result<()> {
    let wanted: u64 = environment::number("HOTVISOR_CYCLES")?.unwrap_or(300);
    let guest = boot(context)?;
    let (mut done, mut seed) = (0, 1000);
    while done < wanted {
        seed += 1;
        let seed = format!("--seed={seed}");
        let came = guest
            .vm()
            .cli(&["stress", "--json", "--cycles=300", &seed])?;
        expect(guest.vm(), &came, 0, &[])?;
        let operations = summary(guest.vm(), &came)?["operations"].as_u64();
        done += operations
            .filter(|count| *count > 0)
            .context("no operations")?;
    }
    as_before(&guest)?;
    served::end(&guest)?;
    guest.power_off()
}
