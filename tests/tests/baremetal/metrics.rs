//! What is counted, beside what the test and the guest did.

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Place, Test};
use hotvisor_tests::promtool;
use hotvisor_tests::vm::metrics::Metrics;
use serde_json::json;

use crate::guest::{Guest, Machine, test};
use crate::hotplug::guest::{BEGUN, Hotplug};
use crate::served;

const EXITS: &str = "hotvisor_vcpu_exits_total";
const RUN: &str = "hotvisor_vcpu_run_seconds_total";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("metrics::times_are_those_of_the_timeline", times),
        test("metrics::a_refusal_is_counted_as_one", refusal),
        test("metrics::exits_are_counted_by_kind", exits),
        test("metrics::counts_of_a_vcpu_go_on", go_on),
        test("metrics::a_scrape_of_1024_vcpus_is_whole", many),
        Test {
            place: Place::Host("needs Debian's promtool"),
            ..test("metrics::promtool_finds_nothing", promtool)
        },
    ]
}

fn metrics(guest: &Guest) -> Result<Metrics> {
    guest.vm().api().metrics()
}

/// The sums of a first plug and a first unplug are the timeline's, whose times are cut to whole microseconds.
fn times(context: &Context) -> Result<()> {
    let guest = served::boot(Machine::new(context, 1, 2)?, 1)?;
    for (target, direction) in [("online", "plug"), ("offline", "unplug")] {
        let path = "/api/v1/vcpus/1?wait=20";
        guest.put(path, &json!({ "target": target }))?;
        let timeline = guest.vcpu(1)?["timeline"][direction].clone();
        let metrics = metrics(&guest)?;
        let same = |(sum, count): (f64, f64), us: &serde_json::Value| {
            let cut = sum * 1e6 - us.as_f64().unwrap_or(f64::NAN);
            count == 1.0 && (-0.01..1.01).contains(&cut)
        };
        let stages = timeline["phases"].as_array().context("no timeline")?;
        for stage in stages {
            let phase = stage["phase"].as_str().context("no name")?;
            let labels = format!("direction=\"{direction}\",phase=\"{phase}\"");
            let found = metrics.histogram("hotvisor_phase_duration_seconds", &labels);
            guest.ensure(same(found, &stage["us"]), || {
                format!("{labels}: {found:?}, and not {stage}")
            })?;
        }
        let labels = format!("direction=\"{direction}\",outcome=\"succeeded\"");
        let found = metrics.histogram("hotvisor_hotplug_duration_seconds", &labels);
        guest.ensure(same(found, &timeline["total_us"]), || {
            format!("{labels}: {found:?}, and not {timeline}")
        })?;
        let labels = format!("target=\"{target}\",outcome=\"succeeded\"");
        let changes = metrics.value(&format!("hotvisor_vcpu_changes_total{{{labels}}}"));
        guest.ensure(changes == 1.0, || format!("{labels}: {changes}"))?;
    }
    let metrics = metrics(&guest)?;
    for (name, value) in [
        (
            r#"hotvisor_operations_total{kind="vcpu",state="succeeded"}"#,
            2.0,
        ),
        (r#"hotvisor_guest_ost_total{source="1",status="0"}"#, 1.0),
        (r#"hotvisor_guest_ost_total{source="3",status="0x84"}"#, 1.0),
        ("hotvisor_gate_close_wait_seconds_count", 1.0),
        ("hotvisor_gate_user_wait_seconds_count", 0.0),
        ("hotvisor_vcpus_desired", 1.0),
        ("hotvisor_vcpus_plugged", 1.0),
        ("hotvisor_vcpus_online", 1.0),
        ("hotvisor_vcpus_max", 2.0),
        ("hotvisor_operations_running", 0.0),
    ] {
        let found = metrics.value(name);
        guest.ensure(found == value, || {
            format!("{name}: {found}\n{}", metrics.text)
        })?;
    }
    served::end(&guest)?;
    guest.power_off()
}

fn refusal(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let operation = guest.request(1, "offline")?;
    guest.scan()?;
    guest.ost(1, BEGUN)?;
    guest.ost(1, (3, 0x82))?;
    // A number that ACPI does not have, and that makes no label of its own.
    guest.ost(1, (3, 0x1234))?;
    guest.expect_state(&operation, "refused")?;
    let metrics = metrics(&guest)?;
    for (name, value) in [
        (
            r#"hotvisor_vcpu_changes_total{target="offline",outcome="refused"}"#,
            1.0,
        ),
        (
            r#"hotvisor_vcpu_changes_total{target="offline",outcome="succeeded"}"#,
            0.0,
        ),
        (
            r#"hotvisor_operations_total{kind="vcpu",state="refused"}"#,
            1.0,
        ),
        (
            r#"hotvisor_hotplug_duration_seconds_count{direction="unplug",outcome="refused"}"#,
            1.0,
        ),
        (r#"hotvisor_guest_ost_total{source="3",status="0x82"}"#, 1.0),
        (
            r#"hotvisor_guest_ost_total{source="3",status="other"}"#,
            1.0,
        ),
    ] {
        let found = metrics.value(name);
        guest.ensure(found == value, || {
            format!("{name}: {found}\n{}", metrics.text)
        })?;
    }
    guest.power_off()
}

fn count(metrics: &Metrics, vcpu: u32, kind: &str) -> f64 {
    metrics.value(&format!("{EXITS}{{vcpu=\"{vcpu}\",kind=\"{kind}\"}}"))
}

/// Each command that the guest gets makes one exit of its kind, beside those of its serial port.
fn exits(context: &Context) -> Result<()> {
    const TIMES: u32 = 20;
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let before = metrics(&guest)?;
    for _ in 0..TIMES {
        guest.flags(1)?;
    }
    let after = metrics(&guest)?;
    let grown = |vcpu, kind| count(&after, vcpu, kind) - count(&before, vcpu, kind);
    let (reads, writes) = (grown(0, "mmio_read"), grown(0, "mmio_write"));
    guest.ensure((reads, writes) == (TIMES.into(), TIMES.into()), || {
        format!("{reads} reads and {writes} writes")
    })?;
    let ports = (grown(0, "io_in"), grown(0, "io_out"));
    guest.ensure(ports.0 > 0.0 && ports.1 > 0.0, || format!("{ports:?}"))?;
    let other = (grown(1, "mmio_read"), grown(1, "mmio_write"));
    guest.ensure(other == (0.0, 0.0), || format!("CPU 1 has {other:?}"))?;
    guest.power_off()
}

/// Nothing of what a vCPU counts is ever less than before, whatever becomes of its thread and of the machine.
fn go_on(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 2, 2)?.with(|vm| vm.arg("--dormant-timeout").arg("0"));
    let guest = machine.boot()?;
    guest.start_cpu(1, 1)?;
    let last = std::cell::RefCell::new(metrics(&guest)?);
    let grows = |what: &str| -> Result<()> {
        let now = metrics(&guest)?;
        for name in [EXITS, RUN] {
            for (labels, before) in last.borrow().all(name) {
                let value = now.value(&format!("{name}{{{labels}}}"));
                guest.ensure(value >= before, || {
                    format!("{what}: {name} {labels} was {before} and is {value}")
                })?;
            }
        }
        let exits = |metrics: &Metrics| count(metrics, 1, "io_out") + count(metrics, 1, "signal");
        let more = exits(&now) + count(&now, 1, "wakeup");
        guest.ensure(more > 0.0, || format!("{what}: CPU 1 has no exits"))?;
        last.replace(now);
        Ok(())
    };
    guest.expect("ap 1 spin", "")?;
    grows("spinning")?;
    for starts in 2..4 {
        let operation = guest.request(1, "offline")?;
        guest.scan()?;
        guest.eject(1)?;
        guest.expect_state(&operation, "succeeded")?;
        guest
            .vm()
            .wait_until("the thread to end", || Ok(guest.tid(1)?.is_none()))?;
        grows("ended")?;
        let operation = guest.request(1, "online")?;
        guest.obey_plug(1, starts)?;
        guest.expect_state(&operation, "succeeded")?;
        grows("back")?;
    }
    guest.tell("reset")?;
    guest.wait_ready()?;
    grows("reset")?;
    let now = last.borrow();
    let run = now.value(&format!("{RUN}{{vcpu=\"1\"}}"));
    guest.ensure(run > 0.0, || format!("it ran for {run} s"))?;
    guest.power_off()
}

fn many(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1024, 1024)?.boot()?;
    let connection = guest.vm().api().connect()?;
    let api = guest.vm().api().over(&connection);
    let metrics = api.metrics()?;
    let labels = metrics.all(EXITS).count();
    guest.ensure(labels == 8 * 1024, || format!("exits of {labels} kinds"))?;
    guest.ensure(metrics.all(RUN).count() == 1024, || metrics.text.clone())?;
    guest.power_off()
}

fn promtool(context: &Context) -> Result<()> {
    let guest = served::boot(Machine::new(context, 2, 4)?, 2)?;
    for count in [4, 1] {
        guest.put("/api/v1/vcpus?wait=20", &json!({ "desired": count }))?;
    }
    let metrics = metrics(&guest)?;
    promtool::check(&metrics.text).with_context(|| metrics.text.clone())?;
    // It does find something where there is something.
    let bad = promtool::check("# TYPE requests counter\nrequests 1\n");
    guest.ensure(bad.is_err(), || "promtool finds nothing, ever".to_owned())?;
    served::end(&guest)?;
    guest.power_off()
}
