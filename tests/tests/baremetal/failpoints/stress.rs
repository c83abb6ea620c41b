//! Calls that fail while everything comes and goes, and how often that was survived.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hotvisor_tests::environment;
use hotvisor_tests::harness::Context;
use hotvisor_tests::vm::SOON;
use hotvisor_tests::vm::failpoints::{NEW, USED};
use nix::errno::Errno;
use serde_json::Value;

use super::machine;
use crate::served;

/// Changes of vCPUs under stress, if nothing is said, and for how many of them each call is to fail once more.
const CYCLES: usize = 150;
const FOR_ONE: usize = 38;
/// Says how many, in place of [`CYCLES`].
const VARIABLE: &str = "HOTVISOR_FAULTS";

/// Calls fail again and again while everything comes and goes. Each does so as often as it says, so that at the end all is as at
/// the beginning.
pub(super) fn under_stress(context: &Context) -> Result<()> {
    let cycles = environment::number(VARIABLE)?.unwrap_or(CYCLES);
    let guest = served::boot(machine(context, 2, 6)?, 2)?;
    let starts = NEW
        .into_iter()
        .chain(USED)
        .map(|(point, errno, _)| (point, errno));
    let others = [
        ("kick", Errno::EAGAIN),
        ("see-start", Errno::EINTR),
        ("interrupt", Errno::EIO),
    ];
    // Some are in both tables. What a vCPU needs once comes seldom; the others are some calls apart, each as many as no other.
    let failing: BTreeMap<&str, Errno> = starts.chain(others).collect();
    let seldom = |point: &str| {
        NEW.iter().any(|new| new.0 == point) && USED.iter().all(|used| used.0 != point)
    };
    let times = cycles.div_ceil(FOR_ONE);
    for (apart, (point, errno)) in (1..).zip(&failing) {
        let apart = if seldom(point) { 1 } else { apart };
        let once = format!("{apart}*off->1*return({})", *errno as i32);
        guest.vm().fail(point, &vec![once; times].join("->"))?;
    }
    let stress = [
        "stress",
        "--seed=9",
        &format!("--cycles={cycles}"),
        "--allow=failed",
        "--json",
    ];
    // Some of them take a second, for a kick or an interrupt that is sent again.
    let patience = SOON + Duration::from_secs(1) * u32::try_from(cycles)?;
    let came = guest.vm().start_cli(&stress)?.end_within(patience)?;
    guest.ensure(came.code == 0, || format!("{came:#?}"))?;
    let summary: Value = serde_json::from_str(&came.out)?;
    let counts = guest.vm().failpoints()?;
    let failed = |point: &str| counts[point]["failed"].as_u64();
    guest.ensure(
        failing.keys().all(|point| failed(point) > Some(0))
            && summary["outcomes"]["failed"].as_u64() > Some(0)
            && summary["contradiction"].is_null(),
        || format!("{summary:#}\n{counts:#}"),
    )?;
    println!("{}", survived(&failing, &counts, &summary));
    served::end(&guest)?;
    guest.power_off()
}

/// What was made to fail how often, and what came of it, as the README has it.
fn survived(failing: &BTreeMap<&str, Errno>, counts: &Value, summary: &Value) -> String {
    let mut table = "| call | error | made | made to fail |\n|---|---|---:|---:|\n".to_owned();
    let mut all = 0;
    for (point, errno) in failing {
        let (passed, failed) = (&counts[point]["passed"], &counts[point]["failed"]);
        all += failed.as_u64().unwrap_or_default();
        table += &format!("| `{point}` | {errno:?} | {passed} | {failed} |\n");
    }
    let outcomes = &summary["outcomes"];
    format!("{table}\n{all} failures; operations: {outcomes}")
}
