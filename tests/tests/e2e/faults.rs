//! A host that is not as one would wish, and a guest that does not notice.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Place, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::SOON;
use hotvisor_tests::vm::api::{Operation, State, Target, VCPUS};
use nix::sys::signal::Signal;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::json;

/// Longest wait for the end of an operation.
const WAIT: Duration = Duration::from_secs(60);
/// Seconds by which the clock is set, one after the other.
const JUMPS: [i64; 4] = [7200, -14_400, 86_400, -79_200];

pub(crate) fn tests() -> Vec<Test> {
    let image = Image::BzImage(Kernel::V6_1Cloud);
    vec![
        Test {
            place: Place::Bed("sets the machine's clock"),
            ..Test::with_image("faults::the_clock_jumps", image, clock_jumps)
        },
        Test {
            place: Place::Bed("limits the memory of a control group"),
            ..Test::with_image("faults::too_little_memory", image, too_little_memory)
        },
        Test {
            place: Place::Bed("limits the processes of a control group"),
            ..Test::with_image("faults::too_few_processes", image, too_few_processes)
        },
    ]
}

/// A control group with a limit that the guest's memory does not fit in: that is said at once. The kernel kills the process when
/// the guest uses its memory, and the next one begins at the same socket.
fn too_little_memory(context: &Context, kernel: Kernel) -> Result<()> {
    let group = Path::new("/sys/fs/cgroup/limited");
    fs::create_dir(group)?;
    fs::write(group.join("memory.max"), (200 << 20).to_string())?;
    let in_group = |memory| {
        let vm = context.vm(kernel).cpus(1, 2).memory(memory);
        vm.control_group(group)
    };
    let warning = "a memory limit of 200 MiB (/sys/fs/cgroup/limited/memory.max)";
    let killed = in_group(512).start()?;
    killed.wait_for_init(1)?;
    let said = killed.stderr().text(0);
    ensure!(
        said.contains(warning),
        "it says nothing of the limit: {said}"
    );
    killed.api().vcpu_target(1, Target::Online, WAIT)?;
    killed.agree(&[0, 1])?;
    killed.sh_last("head -c 419430400 /dev/zero >/run/all")?;
    let status = killed.wait_exit(WAIT)?;
    let by = status.signal();
    ensure!(by == Some(Signal::SIGKILL as i32), "it ended with {status}");
    let events = fs::read_to_string(group.join("memory.events"))?;
    ensure!(events.lines().any(|line| line == "oom_kill 1"), "{events}");
    // At the same socket, which it has left behind.
    let socket = killed.api_socket();
    let again = in_group(128).without_api().arg("--api-socket");
    let vm = again.arg(&socket.display().to_string()).start()?;
    vm.wait_for_init(1)?;
    let said = vm.stderr().text(0);
    ensure!(
        !said.contains(warning),
        "there is enough, and it says {said}"
    );
    for (target, cpus) in [(Target::Online, "2"), (Target::Offline, "1")] {
        let ended = vm.api_at(&socket).vcpu_target(1, target, WAIT)?;
        ensure!(ended.state == State::Succeeded, "{ended:#?}");
        // It is started before its kernel is done with it.
        vm.wait_until(&format!("the guest to have {cpus} CPUs"), || {
            Ok(vm.sh_ok("nproc")?.trim() == cpus)
        })?;
    }
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)?;
    Ok(fs::remove_dir(group)?)
}

/// The host's kernel makes no thread more for this process: a plug says so and leaves nothing behind, and the next one
/// succeeds when there is room.
fn too_few_processes(context: &Context, kernel: Kernel) -> Result<()> {
    let group = Path::new("/sys/fs/cgroup/crowded");
    fs::create_dir(group)?;
    let vm = context.vm(kernel).cpus(1, 3).control_group(group).start()?;
    vm.wait_for_init(1)?;
    let file = |name| fs::read_to_string(group.join(name));
    let there = file("pids.current")?;
    let limit = |limit: &str| fs::write(group.join("pids.max"), limit);
    limit(there.trim())?;
    for _ in 0..3 {
        let ended = vm.api().vcpu_target(1, Target::Online, WAIT)?;
        let outcome = ended.vcpus[0].outcome.as_ref().context("no outcome")?;
        ensure!(
            ended.state == State::Failed
                && outcome.detail.contains("thread of vcpu-1")
                && outcome.detail.contains("pids.max"),
            "{ended:#?}"
        );
        let vcpus = vm.api().vcpus()?;
        ensure!((vcpus.plugged, vcpus.online) == (1, 1), "{vcpus:#?}");
        ensure!(vm.sh_ok("nproc")?.trim() == "1", "the guest has more");
        ensure!(file("pids.current")? == there, "something is left");
    }
    limit("max")?;
    for online in [&[0, 1][..], &[0, 1, 2], &[0, 2]] {
        let id = if online.len() == 3 { 2 } else { 1 };
        let target = if online.contains(&id) {
            Target::Online
        } else {
            Target::Offline
        };
        let ended = vm.api().vcpu_target(id, target, WAIT)?;
        ensure!(ended.state == State::Succeeded, "{ended:#?}");
        vm.agree(online)?;
    }
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)?;
    Ok(fs::remove_dir(group)?)
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
