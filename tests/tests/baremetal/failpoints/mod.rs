//! Every call that hotplug needs made to fail, in a build of the VMM that lets tests do so: what was begun is undone, the
//! error names the step, and the machine goes on.

mod phases;
mod stress;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::paths;
use hotvisor_tests::vm::failpoints::{CLOCKS, Failure, NEW, OTHERS, UNNEEDED, USED};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::guest::{Guest, Machine, test};
use crate::hotplug::guest::{Hotplug, INSERT, plug, unplug};
use crate::lifecycle::Commands;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("failpoints::a_release_has_none", none),
        test("failpoints::every_call_is_made_to_fail", covered),
        test("failpoints::a_new_vcpu", new_vcpu),
        test("failpoints::a_dormant_vcpu", dormant_vcpu),
        test("failpoints::a_vcpu_without_a_thread", threadless_vcpu),
        test("failpoints::one_of_several", one_of_several),
        test("failpoints::a_kick_that_gets_lost", lost_kick),
        test("failpoints::no_kick_gets_through", no_kick),
        test(
            "failpoints::a_kick_where_a_plug_is_undone",
            kick_of_an_undone_plug,
        ),
        test(
            "failpoints::a_kick_that_gets_lost_at_the_end",
            lost_kick_at_the_end,
        ),
        test("failpoints::a_clock_that_goes_on", clock_goes_on),
        test(
            "failpoints::a_start_that_is_not_seen_at_first",
            unseen_start,
        ),
        test("failpoints::an_interrupt_that_gets_lost", lost_interrupt),
        test("failpoints::no_interrupt_gets_through", no_interrupt),
        test("failpoints::under_stress", stress::under_stress),
    ];
    tests.extend(phases::tests());
    tests
}

/// A machine whose calls can be made to fail.
fn machine(context: &Context, boot: u32, max: u32) -> Result<Machine> {
    Machine::of(context.artifacts.failing_hotvisor()?, boot, max)
}

/// A request that may not take longer than this many seconds.
fn request_within(guest: &Guest, cpu: u32, target: &str, timeout: f64) -> Result<Value> {
    let path = format!("/api/v1/vcpus/{cpu}?timeout={timeout}");
    guest.put(&path, &json!({ "target": target }))
}

/// The machine is as it was before a request for vCPU 1 that came to nothing. The guest is at once; the vCPU's thread is on its
/// way back for a moment after the operation's end.
fn expect_nothing_changed(guest: &Guest) -> Result<()> {
    let vcpus = guest.vm().api().get("/api/v1/vcpus")?.body;
    let counts = [&vcpus["plugged"], &vcpus["online"]];
    guest.ensure(counts == [1, 1], || format!("not as before: {vcpus}"))?;
    guest.vm().wait_until("its thread to have stopped", || {
        let phase = &guest.vcpu(1)?["phase"];
        Ok(phase == "dormant" || phase == "absent")
    })?;
    let flags = guest.flags(1)?;
    guest.ensure(flags == 0, || format!("the guest sees {flags:#x}"))?;
    let events = guest.scan()?;
    guest.ensure(events.is_empty(), || format!("the guest found {events:?}"))
}

/// How often each call fails: more often than there could be connections that are about to end.
const FAILURES: u64 = 5;

/// A plug of vCPU 1 fails at a call, again and again, and then succeeds. The guest has started it so many times.
fn fails(guest: &Guest, (point, errno, says): Failure, starts: u32) -> Result<()> {
    guest
        .vm()
        .fail(point, &format!("return({})", errno as i32))?;
    let mut first = None;
    for _ in 0..FAILURES {
        let operation = guest.put("/api/v1/vcpus/1", &json!({ "target": "online" }))?;
        let outcome = guest.expect_state(&operation, "failed")?;
        let detail = outcome["detail"].as_str().unwrap_or_default();
        let why = io::Error::from(errno).to_string();
        guest.ensure(detail.contains(says) && detail.contains(&why), || {
            format!("{point} with {why:?}: it was said {detail:?}")
        })?;
        expect_nothing_changed(guest)?;
        // The first one may leave what KVM makes once. Connections end a moment after their answer.
        let first = *first.get_or_insert(guest.vm().footprint()?);
        let what = format!("{point} to leave nothing behind: {first:?}");
        guest.vm().wait_until(&what, || {
            let now = guest.vm().footprint()?;
            Ok(now.threads <= first.threads && now.files <= first.files)
        })?;
    }
    let failed = guest.vm().failpoints()?[point]["failed"].as_u64();
    guest.ensure(failed >= Some(FAILURES), || {
        format!("{point} failed {failed:?} times")
    })?;
    guest.vm().fail(point, "off")?;
    plug(guest, 1, starts + 1)?;
    unplug(guest, 1)
}

fn none(context: &Context) -> Result<()> {
    let has = |path| -> Result<bool> {
        let program = fs::read(path)?;
        let name = b"duplicate-descriptor";
        Ok(program.windows(name.len()).any(|part| part == name))
    };
    ensure!(has(context.artifacts.failing_hotvisor()?)?);
    ensure!(
        !has(context.artifacts.hotvisor())?,
        "a release has failpoints"
    );
    let guest = Machine::new(context, 1, 1)?.boot()?;
    let answer = guest.vm().api().get("/failpoints")?;
    guest.ensure(answer.status == 404, || {
        format!("it answers {}", answer.body)
    })?;
    guest.power_off()
}

fn covered(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 1)?.boot()?;
    let counts = guest.vm().failpoints()?;
    let there: BTreeSet<&str> = counts
        .as_object()
        .context("no failpoints")?
        .keys()
        .map(String::as_str)
        .collect();
    let failures = NEW.iter().chain(&USED).map(|(point, ..)| *point);
    let starts: BTreeSet<&str> = failures.clone().collect();
    let stated = format!("any of the {} calls to the host fails", starts.len());
    let readme = fs::read_to_string(paths::workspace().join("README.md"))?;
    guest.ensure(readme.contains(&stated), || {
        format!("README.md does not say {stated:?}")
    })?;
    let tried: BTreeSet<&str> = failures
        .chain(CLOCKS)
        .chain(OTHERS)
        .chain(UNNEEDED)
        .collect();
    guest.ensure(there == tried, || {
        format!("there are {there:?}, and {tried:?} are tried")
    })?;
    guest.power_off()
}

fn new_vcpu(context: &Context) -> Result<()> {
    for failure in NEW {
        let guest = machine(context, 1, 2)?.boot()?;
        fails(&guest, failure, 0)?;
        guest.power_off()?;
    }
    Ok(())
}

fn dormant_vcpu(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    plug(&guest, 1, 1)?;
    unplug(&guest, 1)?;
    for (starts, failure) in (1..).zip(USED) {
        fails(&guest, failure, starts)?;
    }
    guest.power_off()
}

fn threadless_vcpu(context: &Context) -> Result<()> {
    let machine = machine(context, 1, 2)?.with(|vm| vm.arg("--dormant-timeout").arg("0"));
    let guest = machine.boot()?;
    plug(&guest, 1, 1)?;
    unplug(&guest, 1)?;
    let its_own = |(point, ..): &Failure| ["spawn-thread", "confine-thread"].contains(point);
    let failures = NEW.into_iter().filter(its_own).chain(USED);
    for (starts, failure) in (1..).zip(failures) {
        let gone = || Ok(guest.tid(1)?.is_none());
        guest.vm().wait_until("the thread to end", gone)?;
        fails(&guest, failure, starts)?;
    }
    guest.power_off()
}

/// One request for three vCPUs, and there is no room for the second of them.
fn one_of_several(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 4)?.boot()?;
    guest.vm().fail(
        "spawn-thread",
        &format!("1*off->1*return({})->off", Errno::EAGAIN as i32),
    )?;
    let operation = guest.put("/api/v1/vcpus", &json!({ "online": [0, 1, 2, 3] }))?;
    for cpu in [1, 3] {
        guest.expect_phase(cpu, "announced")?;
    }
    let events = guest.scan()?;
    guest.ensure(events == [(1, INSERT), (3, INSERT)], || {
        format!("found {events:?}")
    })?;
    for cpu in [1, 3] {
        guest.ost(cpu, (1, 0))?;
        guest.start_cpu(cpu, 1)?;
    }
    let ended = guest.ended(&operation)?;
    guest.ensure(ended["state"] == "failed", || format!("it is {ended}"))?;
    let parts = ended["vcpus"].as_array().context("no parts")?;
    for part in parts {
        let wanted = if part["id"] == 2 {
            "failed"
        } else {
            "succeeded"
        };
        guest.ensure(part["outcome"]["code"] == wanted, || {
            format!("not {wanted}: {part}")
        })?;
    }
    plug(&guest, 2, 1)?;
    guest.power_off()
}

/// A thread that is to leave the guest is kicked until it has.
fn lost_kick(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.vm().fail("kick", "3*return->off")?;
    unplug(&guest, 1)?;
    let count = guest.vm().failpoints()?["kick"].clone();
    guest.ensure(
        count["failed"] == 3 && count["passed"].as_u64() >= Some(1),
        || format!("kicks: {count}"),
    )?;
    plug(&guest, 1, 2)?;
    guest.vm().fail("kick", "3*return->off")?;
    guest.vm().api().pause()?;
    let failed = guest.vm().failpoints()?["kick"]["failed"].as_u64();
    guest.ensure(failed == Some(6), || format!("kicks lost: {failed:?}"))?;
    guest.vm().api().resume()?;
    unplug(&guest, 1)?;
    guest.power_off()
}

/// The guest has let go of the CPU, so that there is no way back; it goes when it can.
fn no_kick(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.vm().fail("kick", "return")?;
    let operation = request_within(&guest, 1, "offline", 2.0)?;
    guest.obey_unplug(1)?;
    let outcome = guest.expect_state(&operation, "timed_out")?;
    let detail = outcome["detail"].as_str().unwrap_or_default();
    guest.ensure(detail.contains("thread has not left the guest"), || {
        format!("it was said {detail:?}")
    })?;
    guest.expect_phase(1, "stopping")?;
    guest.vm().fail("kick", "off")?;
    guest.expect_phase(1, "dormant")?;
    plug(&guest, 1, 2)?;
    guest.power_off()
}

/// The same on the way back from a plug: it is taken back before the guest has noticed it.
fn kick_of_an_undone_plug(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    for lasts in [false, true] {
        let operation = guest.request(1, "online")?;
        guest.expect_phase(1, "announced")?;
        let times = if lasts { "return" } else { "3*return->off" };
        guest.vm().fail("kick", times)?;
        let path = format!("/api/v1/operations/{}", operation["id"]);
        let answer = guest.vm().api().delete(&path)?;
        guest.ensure(answer.status < 300, || format!("{answer:?}"))?;
        guest.expect_state(&operation, "cancelled")?;
        if lasts {
            guest.expect_phase(1, "stopping")?;
            guest.vm().fail("kick", "off")?;
        }
        guest.expect_phase(1, "dormant")?;
        expect_nothing_changed(&guest)?;
    }
    let failed = guest.vm().failpoints()?["kick"]["failed"].as_u64();
    guest.ensure(failed > Some(3), || format!("kicks lost: {failed:?}"))?;
    plug(&guest, 1, 1)?;
    guest.power_off()
}

/// So also when all are to end, whatever comes then.
fn lost_kick_at_the_end(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    for (number, order) in (1..).zip(["vm.reboot", "vm.shutdown"]) {
        guest.start_cpu(1, 1)?;
        guest.expect("ap 1 spin", "")?;
        guest.vm().fail("kick", "5*return->off")?;
        let asked = Instant::now();
        guest.does(order)?;
        // Far from the time after which the process would give up and end.
        guest.ensure(asked.elapsed() < Duration::from_secs(5), || {
            format!("{order} took {:?}", asked.elapsed())
        })?;
        let failed = guest.vm().failpoints()?["kick"]["failed"].as_u64();
        guest.ensure(failed == Some(5 * number), || {
            format!("{order}: kicks lost: {failed:?}")
        })?;
        if order == "vm.reboot" {
            guest.wait_ready()?;
        }
    }
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    guest.power_off()
}

/// A pause is one all the same, and the next may stop it again.
fn clock_goes_on(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    let begins = CLOCKS.map(|point| (point, "1*return->off"));
    // The clock is read as a pause begins, and as it ends.
    let ends = [("get-clock", "1*off->1*return->off")];
    for (point, when) in begins.into_iter().chain(ends) {
        guest.vm().fail(point, when)?;
        for _ in 0..2 {
            guest.vm().api().pause()?;
            guest.vm().api().resume()?;
            guest.scan()?;
        }
    }
    // Whether the TSCs are asked for depends on what this host's KVM can do.
    let counts = guest.vm().failpoints()?;
    for (point, times) in [("get-clock", 2), ("set-clock", 1)] {
        let failed = counts[point]["failed"].as_u64();
        guest.ensure(failed == Some(times), || format!("{point}: {counts}"))?;
    }
    guest.power_off()
}

fn unseen_start(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    guest.vm().fail("see-start", "3*return->off")?;
    plug(&guest, 1, 1)?;
    let count = guest.vm().failpoints()?["see-start"].clone();
    guest.ensure(count["failed"] == 3, || {
        format!("looks at the state: {count}")
    })?;
    unplug(&guest, 1)?;
    // As long as KVM does not say it, nobody knows; and then it is known.
    guest.vm().fail("see-start", "return")?;
    let operation = request_within(&guest, 1, "online", 2.0)?;
    guest.expect_phase(1, "announced")?;
    guest.scan()?;
    guest.ost(1, (1, 0))?;
    guest.ok("patience 28")?;
    guest.expect_err("sipi 1", "timeout")?;
    guest.ok("patience 33")?;
    guest.expect_state(&operation, "timed_out")?;
    guest.vm().api().pause()?;
    guest.vm().api().resume()?;
    guest.wait_said("does not say whether the guest has started it")?;
    guest.vm().fail("see-start", "off")?;
    guest.expect_phase(1, "online")?;
    unplug(&guest, 1)?;
    guest.power_off()
}

/// Has the guest wait for the interrupt of its hotplug controller.
fn await_interrupt(guest: &Guest) -> Result<()> {
    let armed = guest.ask("irq 16")?;
    guest.ensure(armed == "waiting", || format!("`irq 16` gave {armed:?}"))
}

/// Takes the interrupt, and does what is asked of vCPU 1, for the n-th time.
fn obey_interrupted(guest: &Guest, operation: &Value, target: &str, n: u32) -> Result<()> {
    let answer = guest.line()?;
    guest.ensure(answer.starts_with("ok pin=16"), || {
        format!("gave {answer:?}")
    })?;
    guest.expect("rd32 0xfeb00000", "0x1")?;
    match target {
        "online" => guest.obey_plug(1, n)?,
        _ => guest.obey_unplug(1)?,
    }
    guest.expect_state(operation, "succeeded").map(drop)
}

/// Nobody asks again: the guest is reminded of what it has not read.
fn lost_interrupt(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    for (n, target) in [(1, "online"), (1, "offline"), (2, "online")] {
        await_interrupt(&guest)?;
        guest.vm().fail("interrupt", "1*return->off")?;
        let operation = guest.request(1, target)?;
        obey_interrupted(&guest, &operation, target, n)?;
    }
    let count = guest.vm().failpoints()?["interrupt"].clone();
    guest.ensure(count["failed"] == 3, || format!("interrupts: {count}"))?;
    guest.power_off()
}

fn no_interrupt(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    for (n, target, other) in [(1, "online", "dormant"), (1, "offline", "online")] {
        await_interrupt(&guest)?;
        guest
            .vm()
            .fail("interrupt", &format!("return({})", Errno::EIO as i32))?;
        let operation = request_within(&guest, 1, target, 2.0)?;
        let outcome = guest.expect_state(&operation, "timed_out")?;
        let detail = outcome["detail"].as_str().unwrap_or_default();
        let why = io::Error::from(Errno::EIO).to_string();
        guest.ensure(
            detail.contains("not delivered") && detail.contains(&why),
            || format!("it was said {detail:?}"),
        )?;
        guest.expect_phase(1, other)?;
        guest.vm().fail("interrupt", "off")?;
        let operation = guest.request(1, target)?;
        obey_interrupted(&guest, &operation, target, n)?;
    }
    guest.power_off()
}
