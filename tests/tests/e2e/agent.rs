//! A guest with an agent: the host is told of it, and unplugs and plugs as it does without, only faster.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{Operation, State, Target};
use hotvisor_tests::vm::{Builder, SOON, Vm};

/// How long the host waits for an agent that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn tests() -> Vec<Test> {
    let (old, new) = (Kernel::V6_1Cloud, Kernel::V6_12Cloud);
    let [old, new] = [old, new].map(Image::Connected);
    vec![
        Test::with_image("agent::plugs_and_unplugs", new, plugs_and_unplugs),
        Test::with_image("agent::in_trouble", old, in_trouble),
    ]
}

fn machine(context: &Context, kernel: Kernel, folder: &Path) -> Builder {
    let device = format!("cid=3,socket={}", folder.join("vsock").display());
    context
        .vm(kernel)
        .initramfs(context.artifacts.connected(kernel))
        // Nobody but the agent brings up what is added.
        .cmdline("console=ttyS0 quiet hotvisor.online=no")
        .cpus(2, 4)
        .arg("-v")
        .arg("--vsock")
        .arg(&device)
}

/// Starts the agent, and waits until the host has heard of it once more.
fn start_agent(vm: &Vm) -> Result<()> {
    let from = vm.stderr().length();
    vm.sh_ok("hotvisor-agent >>/run/agent.log 2>&1 & echo $! >/run/agent.pid")?;
    heard(vm, "the guest has an agent", from)
}

fn heard(vm: &Vm, words: &str, from: usize) -> Result<()> {
    let end = Instant::now() + SOON;
    let found = vm.stderr().wait_for(words, from, end);
    found
        .map(drop)
        .map_err(|why| vm.evidence(format!("waited for {words:?} in the log: {why}")))
}

fn set(vm: &Vm, id: u32, target: Target) -> Result<Operation> {
    let operation = vm.api().vcpu_target(id, target, SOON)?;
    ensure!(
        operation.state == State::Succeeded,
        vm.evidence(format!("{operation:#?}"))
    );
    Ok(operation)
}

/// All masks that an operation might lose: of tasks that are bound to several CPUs, and of interrupts.
fn masks(vm: &Vm) -> Result<String> {
    vm.sh_ok(
        "for task in $(cat /run/tasks); do grep Cpus_allowed_list /proc/$task/status; done; \
         cat /proc/irq/default_smp_affinity; cat /sys/devices/virtual/workqueue/cpumask",
    )
}

/// The agent hears of the end of an operation after whoever has asked for it.
fn unhurried(vm: &Vm) -> Result<()> {
    vm.wait_until("grace periods as before", || {
        Ok(vm.sh_ok("cat /sys/kernel/rcu_expedited")? == "0")
    })
}

fn plugs_and_unplugs(context: &Context, kernel: Kernel) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let vm = machine(context, kernel, folder.path()).start()?;
    vm.wait_for_init(1)?;
    start_agent(&vm)?;
    // Nobody else is there to bring it up.
    set(&vm, 2, Target::Online)?;
    vm.agree(&[0, 1, 2])?;
    let tasks =
        "for cpus in 1,2 0-2 2 0; do taskset -c $cpus sleep 1000 & echo $!; done >/run/tasks";
    vm.sh_ok(tasks)?;
    let before = masks(&vm)?;
    set(&vm, 2, Target::Offline)?;
    vm.agree(&[0, 1])?;
    unhurried(&vm)?;
    set(&vm, 2, Target::Online)?;
    vm.agree(&[0, 1, 2])?;
    let after = masks(&vm)?;
    // Linux itself takes the one away that was bound to it alone: it may run anywhere now.
    let expected = before.replacen(":\t2\n", ":\t0-2\n", 1);
    let known = [before.clone(), expected];
    vm.wait_until("the masks to be as before", || {
        let now = masks(&vm)?;
        Ok(known.contains(&now))
    })
    .with_context(|| format!("before: {before}\nafter: {after}"))?;
    // What refuses does so with an agent as well, and all is put back.
    vm.sh_ok("echo 0 >/sys/firmware/acpi/hotplug/processor/enabled")?;
    let refused = vm.api().vcpu_target(2, Target::Offline, SOON)?;
    ensure!(refused.state == State::Refused, "{refused:#?}");
    vm.wait_until("the masks to be put back", || {
        Ok(known.contains(&masks(&vm)?))
    })?;
    unhurried(&vm)?;
    let online = vm.sh_ok("cat /sys/devices/system/cpu/online")?;
    ensure!(online == "0-2", "{online}");
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

/// An agent that hangs, is killed, or has gone with a reset holds up nobody for long.
fn in_trouble(context: &Context, kernel: Kernel) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let vm = machine(context, kernel, folder.path())
        .cmdline("console=ttyS0 quiet")
        .start()?;
    vm.wait_for_init(1)?;
    start_agent(&vm)?;
    // It hangs: the first operation waits for it, and none after that.
    vm.sh_ok("kill -STOP $(cat /run/agent.pid)")?;
    let begin = Instant::now();
    set(&vm, 1, Target::Offline)?;
    ensure!(begin.elapsed() >= PATIENCE, "it was not waited for");
    heard(&vm, "the guest's agent does not answer", 0)?;
    set(&vm, 1, Target::Online)?;
    let from = vm.stderr().length();
    vm.sh_ok("kill -CONT $(cat /run/agent.pid)")?;
    // It dies in the middle of whatever it does.
    vm.sh_ok("kill -9 $(cat /run/agent.pid)")?;
    heard(&vm, "the guest's agent is gone", from)?;
    set(&vm, 1, Target::Offline)?;
    set(&vm, 1, Target::Online)?;
    unhurried(&vm)?;
    start_agent(&vm)?;
    set(&vm, 1, Target::Offline)?;
    set(&vm, 1, Target::Online)?;
    // It goes with its guest.
    let from = vm.stderr().length();
    vm.sh_last("reboot -f")?;
    heard(&vm, "the guest's agent is gone", from)?;
    vm.wait_for_init(2)?;
    set(&vm, 1, Target::Offline)?;
    start_agent(&vm)?;
    set(&vm, 1, Target::Online)?;
    vm.agree(&[0, 1])?;
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}
