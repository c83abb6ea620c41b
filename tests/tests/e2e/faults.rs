//! A host that is not as one would wish, and a guest that does not notice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Place, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::SOON;
use hotvisor_tests::vm::api::{Operation, State, VCPUS};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::json;

/// Longest wait for the end of an operation.
const WAIT: Duration = Duration::from_secs(60);
/// Seconds by which the clock is set, one after the other.
const JUMPS: [i64; 4] = [7200, -14_400, 86_400, -79_200];

pub(crate) fn tests() -> Vec<Test> {
    let image = Image::BzImage(Kernel::V6_1Cloud);
    vec![Test {
        place: Place::Bed("sets the machine's clock"),
        ..Test::with_image("faults::the_clock_jumps", image, clock_jumps)
    }]
}

/// Deadlines and durations are of a clock that nobody sets.
fn clock_jumps(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(1, 2).start()?;
    vm.wait_for_init(1)?;
    for (n, jump) in (0_u32..).zip(JUMPS) {
        let (desired, all) = if n % 2 == 0 {
            (2, vec![0, 1])
        } else {
            (1, vec![0])
        };
        let accepted = vm.api().put(VCPUS, &json!({ "desired": desired }))?;
        let operation: Operation = serde_json::from_value(accepted.body)?;
        let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
        clock_settime(ClockId::CLOCK_REALTIME, now + TimeSpec::seconds(jump))?;
        let ended = vm.api().operation(operation.id, WAIT)?;
        ensure!(ended.state == State::Succeeded, "{jump} s: {ended:#?}");
        vm.agree(&all)?;
        let vcpu = vm.api().get(&format!("{VCPUS}/1"))?.body;
        let way = if desired == 2 { "plug" } else { "unplug" };
        let phases = vcpu["timeline"][way]["phases"]
            .as_array()
            .context("no timeline")?;
        let took: u64 = phases.iter().filter_map(|phase| phase["us"].as_u64()).sum();
        ensure!(
            !phases.is_empty() && u128::from(took) < WAIT.as_micros(),
            "{jump} s: it says that it took {took} us: {vcpu}"
        );
    }
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}
