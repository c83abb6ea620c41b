//! The command line beside a running VM: what it prints, and its exit codes.

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::{Came, Vm};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::guest::{Guest, test};
use crate::hotplug::guest::{BEGUN, Hotplug, REMOVE, machine};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("cli::vcpus_come_and_go", come_and_go),
        test("cli::a_resize_is_one_operation", resize),
        test("cli::several_are_asked_for_at_once", at_once),
        test("cli::a_refusal_is_a_sentence_and_a_code", refused),
        test("cli::a_silent_guest_is_timed_out", timed_out),
        test("cli::what_is_taken_back_has_its_code", taken_back),
        test("cli::mistakes_change_nothing", mistakes),
        test("cli::an_interrupt_ends_the_waiting_only", interrupt),
        test("cli::who_does_not_wait_is_told_at_once", no_wait),
        test("cli::a_vm_that_ends_is_told", ended),
        test("cli::events_and_tables_follow_what_happens", follow),
        test("cli::a_terminal_shows_progress_in_place", terminal),
    ]
}

/// A machine of so many CPUs at boot, all of them started, and more.
fn started(context: &Context, boot: u32, max: u32) -> Result<Guest> {
    let guest = machine(context, boot, max)?.boot()?;
    (1..boot).try_for_each(|cpu| guest.start_cpu(cpu, 1))?;
    Ok(guest)
}

/// The command has ended with this code, and has said these words.
fn expect(vm: &Vm, came: &Came, code: i32, words: &[&str]) -> Result<()> {
    let missing = words
        .iter()
        .find(|word| !came.out.contains(**word) && !came.err.contains(**word));
    if came.code == code && missing.is_none() {
        return Ok(());
    }
    Err(vm.evidence(format!(
        "expected code {code} and {words:?}, and there came {came:#?}"
    )))
}

fn json_of(vm: &Vm, came: &Came) -> Result<Value> {
    serde_json::from_str(&came.out).with_context(|| vm.evidence(format!("no JSON in {came:#?}")))
}

/// The guest waits until it is asked to give this CPU back, and reads that.
fn read_removal(guest: &Guest, cpu: u32) -> Result<()> {
    guest.expect_phase(cpu, "notifying")?;
    let events = guest.scan()?;
    guest.ensure(events == [(cpu, REMOVE)], || format!("found {events:?}"))
}

fn come_and_go(context: &Context) -> Result<()> {
    let guest = started(context, 2, 5)?;
    let vm = guest.vm();
    let unplug = vm.start_cli(&["unplug", "1"])?;
    read_removal(&guest, 1)?;
    guest.ost(1, BEGUN)?;
    guest.expect("ap 1 dead", "")?;
    guest.eject(1)?;
    let came = unplug.end()?;
    expect(vm, &came, 0, &["vCPU 1: draining -> notifying after "])?;
    let sentence = "the guest let go of it, and its thread is parked\n";
    guest.ensure(
        came.out.starts_with("vCPU 1 is offline after ") && came.out.ends_with(sentence),
        || format!("it printed {came:#?}"),
    )?;
    let last = "vCPU 1: stopping -> dormant";
    guest.ensure(
        came.err
            .lines()
            .last()
            .is_some_and(|line| line.starts_with(last)),
        || format!("the last change is missing in {came:#?}"),
    )?;
    expect(
        vm,
        &vm.cli(&["unplug", "1"])?,
        0,
        &["vCPU 1 is offline already"],
    )?;
    let table = vm.cli(&["vcpus"])?;
    let rows = [
        "1         dormant  offline  1",
        "2-4       absent   offline  0",
    ];
    expect(vm, &table, 0, &rows)?;
    expect(
        vm,
        &table,
        0,
        &["desired 1, plugged 1, online 1, of at most 5"],
    )?;
    let steps = ["notifying.asked  guest", "stopping         host", "total"];
    expect(vm, &vm.cli(&["timeline", "1"])?, 0, &steps)?;
    let timeline = json_of(vm, &vm.cli(&["timeline", "1", "--json"])?)?;
    let kept = guest.vcpu(1)?["timeline"]["unplug"].clone();
    guest.ensure(timeline == kept, || format!("{timeline}, and not {kept}"))?;
    guest.power_off()
}

fn resize(context: &Context) -> Result<()> {
    let guest = started(context, 1, 2)?;
    let vm = guest.vm();
    let resize = vm.start_cli(&["resize", "2", "--json"])?;
    guest.expect_phase(1, "announced")?;
    guest.obey_plug(1, 1)?;
    let came = resize.end()?;
    expect(vm, &came, 0, &[])?;
    let operation = json_of(vm, &came)?;
    guest.ensure(
        operation["kind"] == "resize" && operation["state"] == "succeeded",
        || format!("it is {operation}"),
    )?;
    expect(
        vm,
        &vm.cli(&["resize", "2"])?,
        0,
        &["the VM has 2 vCPUs already"],
    )?;
    let list = vm.cli(&["operations"])?;
    expect(vm, &list, 0, &["resize to 2 ", "succeeded"])?;
    guest.power_off()
}

/// The guest finds both requests in one scan, so that the second did not wait for the end of the first.
fn at_once(context: &Context) -> Result<()> {
    let guest = started(context, 3, 3)?;
    let vm = guest.vm();
    let unplug = vm.start_cli(&["unplug", "2", "1"])?;
    guest.expect_phase(1, "notifying")?;
    guest.expect_phase(2, "notifying")?;
    let events = guest.scan()?;
    guest.ensure(events == [(1, REMOVE), (2, REMOVE)], || {
        format!("found {events:?}")
    })?;
    guest.ost(1, BEGUN)?;
    guest.ost(1, (3, 0x83))?;
    guest.expect("ap 2 dead", "")?;
    guest.eject(2)?;
    let words = [
        "vCPU 2 is offline",
        "vCPU 1 stays: the guest refused: ejection dependency is busy (0x83); ",
    ];
    expect(vm, &unplug.end()?, 3, &words)?;
    guest.power_off()
}

fn refused(context: &Context) -> Result<()> {
    let guest = started(context, 2, 2)?;
    let vm = guest.vm();
    for json in [false, true] {
        let args = ["unplug", "1", "--json"];
        let unplug = vm.start_cli(if json { &args } else { &args[..2] })?;
        read_removal(&guest, 1)?;
        guest.ost(1, (3, 0x82))?;
        let came = unplug.end()?;
        if json {
            expect(vm, &came, 3, &[])?;
            let outcome = json_of(vm, &came)?["operations"][0]["vcpus"][0]["outcome"].clone();
            guest.ensure(outcome["ost"] == json!([3, 0x82]), || format!("{outcome}"))?;
            guest.ensure(came.err.is_empty(), || format!("it said {came:#?}"))?;
        } else {
            let sentence = "hotvisor: vCPU 1 stays: the guest refused: device busy (0x82); the guest could not \
                 offline the CPU; its kernel log says";
            expect(vm, &came, 3, &[sentence])?;
            guest.ensure(came.out.is_empty(), || format!("it printed {came:#?}"))?;
        }
    }
    guest.power_off()
}

fn timed_out(context: &Context) -> Result<()> {
    let guest = started(context, 2, 3)?;
    let vm = guest.vm();
    let came = vm.cli(&["unplug", "1", "--timeout", "0.2"])?;
    let words = ["vCPU 1 is not offline in time (now online): the guest never read"];
    expect(vm, &came, 4, &words)?;
    let came = vm.cli(&["plug", "2", "--timeout", "0.2"])?;
    expect(vm, &came, 4, &["vCPU 2 is not online in time"])?;
    guest.power_off()
}

fn taken_back(context: &Context) -> Result<()> {
    let guest = started(context, 2, 2)?;
    let vm = guest.vm();
    let unplug = vm.start_cli(&["unplug", "1"])?;
    guest.expect_phase(1, "notifying")?;
    let came = vm.cli(&["cancel", "1"])?;
    expect(vm, &came, 0, &["operation 1 (vCPU 1 offline): cancelled"])?;
    expect(vm, &unplug.end()?, 5, &["vCPU 1 is online, cancelled: "])?;
    let unplug = vm.start_cli(&["unplug", "1"])?;
    guest.expect_phase(1, "notifying")?;
    expect(vm, &vm.cli(&["plug", "1"])?, 0, &["vCPU 1 is online"])?;
    expect(vm, &unplug.end()?, 5, &[", superseded: "])?;
    expect(vm, &vm.cli(&["cancel", "1"])?, 2, &["it has ended"])?;
    guest.power_off()
}

fn mistakes(context: &Context) -> Result<()> {
    let guest = started(context, 3, 4)?;
    let vm = guest.vm();
    for (args, words) in [
        (&["unplug", "1", "2", "0"][..], "vCPU 0 is the boot CPU"),
        (
            &["unplug", "1", "4"],
            "vCPU 4: there is none: this machine can have 4",
        ),
        (
            &["plug", "3", "4000000000"],
            "vCPU 4000000000: there is none",
        ),
        (&["unplug", "1", "1"], "it is named twice"),
        (&["unplug", "one"], "hotvisor vcpus"),
        (&["unplug"], "<ID>..."),
        (&["unplug", "1", "--timeout", "1e3"], "as in 2.5"),
        (
            &["unplug", "1", "--timeout", "90000"],
            "to 86400, as in 2.5",
        ),
        (&["resize", "0"], "ask for 1 to 4"),
        (&["resize", "5"], "ask for 1 to 4"),
        (&["wait", "1"], "operation 1"),
        (&["cancel", "1"], "there is none"),
        (&["timeline", "9"], "there is none"),
        (&["timeline", "1"], "it was not unplugged"),
        (&["timeline", "1", "--plug"], "it was not plugged"),
        (
            &["events", "--since", "999999"],
            "the last event of this process",
        ),
    ] {
        expect(vm, &vm.cli(args)?, 2, &[words]).with_context(|| args.join(" "))?;
    }
    let came = vm.cli(&["unplug", "1", "4", "--json"])?;
    expect(vm, &came, 2, &[])?;
    let problem = json_of(vm, &came)?;
    guest.ensure(
        problem["code"] == "unknown" && problem["status"] == 404,
        || format!("it is {problem}"),
    )?;
    for (socket, code, words) in [
        ("path=", 2, "no path"),
        ("none", 1, "there is no such socket"),
        ("/dev/null", 1, "it is not a socket"),
    ] {
        let came = vm.cli(&["vcpus", "--api-socket", socket])?;
        expect(vm, &came, code, &[words])?;
    }
    vm.api().pause()?;
    expect(vm, &vm.cli(&["unplug", "1"])?, 2, &["resume it first"])?;
    vm.api().resume()?;
    let operations = vm.api().get("/api/v1/operations")?.body;
    guest.ensure(operations == json!({"operations": []}), || {
        format!("a mistake became one of {operations}")
    })?;
    guest.power_off()
}

fn interrupt(context: &Context) -> Result<()> {
    let guest = started(context, 2, 2)?;
    let vm = guest.vm();
    let unplug = vm.start_cli(&["unplug", "1"])?;
    // It waits by now, and has taken the signal over.
    unplug.said("draining -> notifying")?;
    unplug.signal(Signal::SIGINT)?;
    let words = ["operation 1 (vCPU 1 offline) goes on: `hotvisor wait 1` follows it"];
    expect(vm, &unplug.end()?, 7, &words)?;
    let wait = vm.start_cli(&["wait", "1"])?;
    guest.obey_unplug(1)?;
    expect(vm, &wait.end()?, 0, &["vCPU 1 is offline after "])?;
    guest.power_off()
}

fn no_wait(context: &Context) -> Result<()> {
    let guest = started(context, 2, 2)?;
    let vm = guest.vm();
    let came = vm.cli(&["unplug", "1", "--no-wait", "--json"])?;
    expect(vm, &came, 0, &[])?;
    let operation = json_of(vm, &came)?["operations"][0].clone();
    guest.ensure(operation["state"] == "running", || format!("{operation}"))?;
    let came = vm.cli(&["plug", "1", "--no-wait"])?;
    expect(vm, &came, 0, &["operation 2 (vCPU 1 online)"])?;
    guest.expect_state(&operation, "superseded")?;
    guest.power_off()
}

fn ended(context: &Context) -> Result<()> {
    let guest = started(context, 2, 2)?;
    let vm = guest.vm();
    let unplug = vm.start_cli(&["unplug", "1"])?;
    let events = vm.start_cli(&["events", "--since", "0"])?;
    unplug.said("draining -> notifying")?;
    events.printed("draining -> notifying")?;
    guest.power_off()?;
    let came = unplug.end()?;
    expect(vm, &came, 6, &["the machine has ended"])?;
    expect(vm, &events.end()?, 0, &["the VM has ended"])?;
    expect(vm, &vm.cli(&["vcpus"])?, 1, &["there is no such socket"])
}

fn follow(context: &Context) -> Result<()> {
    let guest = started(context, 2, 2)?;
    let vm = guest.vm();
    let watch = vm.start_cli(&["watch"])?;
    let lines = vm.start_cli(&["events", "--since", "0", "--json"])?;
    watch.printed("desired 2, plugged 2, online 2")?;
    let unplug = vm.start_cli(&["unplug", "1"])?;
    guest.expect_phase(1, "notifying")?;
    guest.obey_unplug(1)?;
    expect(vm, &unplug.end()?, 0, &[])?;
    watch.printed("desired 1, plugged 1, online 1")?;
    watch.printed("1 succeeded")?;
    lines.printed(r#""state":"succeeded""#)?;
    guest.power_off()?;
    expect(vm, &watch.end()?, 0, &["GENERATION"])?;
    let came = lines.end()?;
    let mut ids = Vec::new();
    for line in came.out.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ids.push(event["id"].as_u64().context("an event without an id")?);
    }
    let without_hole = ids.iter().copied().eq(1..=ids.len() as u64);
    ensure!(without_hole && ids.len() > 5, "the ids are {ids:?}");
    Ok(())
}

fn terminal(context: &Context) -> Result<()> {
    let guest = started(context, 2, 2)?;
    let vm = guest.vm();
    let unplug = vm.start_cli_on_terminal(&["unplug", "1"])?;
    unplug.printed("notifying")?;
    guest.obey_unplug(1)?;
    let came = unplug.end()?;
    // In place: the line is moved up to and drawn again, with all phases in the end.
    expect(
        vm,
        &came,
        0,
        &[
            "\u{1b}[",
            " > stopping ",
            " > dormant",
            "vCPU 1 is offline after",
        ],
    )?;
    guest.ensure(!came.out.contains(" -> "), || format!("{came:#?}"))?;
    guest.power_off()
}
