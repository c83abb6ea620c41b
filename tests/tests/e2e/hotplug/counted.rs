//! What Hotvisor counts and tells of a real guest's plugs and unplugs, beside what it shows.

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::Vm;
use hotvisor_tests::vm::api::{State, Target, VCPUS};
use hotvisor_tests::vm::metrics::Metrics;
use serde_json::Value;

use super::{WAIT, end, expect, start, succeeded, with};

pub(super) fn tests() -> Vec<Test> {
    with(&[Kernel::V6_1Cloud], "is_counted_and_told", counted)
}

fn counted(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 2, 2)?;
    let mut stream = vm.api().events(None)?;
    let mut last = 0;
    for (target, name) in [(Target::Offline, "unplug"), (Target::Online, "plug")] {
        let operation = vm.api().vcpu_target(1, target, WAIT)?;
        succeeded(&vm, &operation, &[1])?;
        agrees(&vm, name)?;
        last = operation.id;
    }
    let before = vm.api().metrics()?;
    vm.sh_ok("echo 0 >/sys/firmware/acpi/hotplug/processor/enabled")?;
    let refused = vm.api().vcpu_target(1, Target::Offline, WAIT)?;
    expect(&vm, &refused, State::Refused)?;
    let after = vm.api().metrics()?;
    for name in [
        r#"hotvisor_vcpu_changes_total{target="offline",outcome="refused"}"#,
        r#"hotvisor_operations_total{kind="vcpu",state="refused"}"#,
        r#"hotvisor_hotplug_duration_seconds_count{direction="unplug",outcome="refused"}"#,
        r#"hotvisor_guest_ost_total{source="3",status="0x80"}"#,
    ] {
        let values = (before.value(name), after.value(name));
        ensure!(values == (0.0, 1.0), "{name}: {values:?}");
    }
    // As many succeeded as before: a refusal is nothing else besides.
    let succeeded = r#"hotvisor_vcpu_changes_total{target="offline",outcome="succeeded"}"#;
    ensure!(after.value(succeeded) == 1.0, "{}", after.text);
    counts_vcpus(&before, &after)?;
    let ended = |id: u64| {
        move |event: &hotvisor_tests::vm::events::Event| {
            let operation = &event.data["operation"];
            operation["id"] == id && operation["state"] != "running"
        }
    };
    let told = stream.until(ended(last))?;
    ensure!(told.iter().all(|event| event.kind != "gap"), "{told:#?}");
    let told = stream.until(ended(refused.id))?;
    let back = told.iter().rfind(|event| event.kind == "phase");
    let back = back.context("the refusal was told without a phase")?;
    let phases = (&back.data["from"], &back.data["phase"]);
    ensure!(
        phases == (&"notifying".into(), &"online".into()),
        "{back:?}"
    );
    end(&vm)
}

/// The first of its kind: the sums are the timeline's, whose times are cut to whole microseconds.
fn agrees(vm: &Vm, direction: &str) -> Result<()> {
    let vcpu = vm.api().get(&format!("{VCPUS}/1"))?.body;
    let timeline = &vcpu["timeline"][direction];
    let metrics = vm.api().metrics()?;
    let same = |labels: &str, name: &str, us: &Value| -> Result<()> {
        let (sum, count) = metrics.histogram(name, labels);
        let cut = sum * 1e6 - us.as_f64().context("no time")?;
        let right = count == 1.0 && (-0.01..1.01).contains(&cut);
        ensure!(right, "{name} {labels}: {sum} s, {count} times: {timeline}");
        Ok(())
    };
    for stage in timeline["phases"].as_array().context("no timeline")? {
        let phase = stage["phase"].as_str().context("no name")?;
        let labels = format!("direction=\"{direction}\",phase=\"{phase}\"");
        same(&labels, "hotvisor_phase_duration_seconds", &stage["us"])?;
    }
    let labels = format!("direction=\"{direction}\",outcome=\"succeeded\"");
    let whole = &timeline["total_us"];
    same(&labels, "hotvisor_hotplug_duration_seconds", whole)
}

/// Both vCPUs have run and come out for something, and their counts go on.
fn counts_vcpus(before: &Metrics, after: &Metrics) -> Result<()> {
    for vcpu in 0..2 {
        let run = format!("hotvisor_vcpu_run_seconds_total{{vcpu=\"{vcpu}\"}}");
        let times = (before.value(&run), after.value(&run));
        ensure!(times.0 > 0.0 && times.1 >= times.0, "{run}: {times:?}");
        let of = format!("vcpu=\"{vcpu}\"");
        let exits = |metrics: &Metrics| -> f64 {
            let all = metrics.all("hotvisor_vcpu_exits_total");
            all.filter(|(labels, _)| labels.starts_with(&of))
                .map(|(_, count)| count)
                .sum()
        };
        let exits = (exits(before), exits(after));
        ensure!(exits.0 > 0.0 && exits.1 >= exits.0, "{of}: {exits:?}");
    }
    Ok(())
}
