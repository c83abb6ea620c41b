//! vCPUs come and go: asked for through the API, done by the guest, checked from three sides.

mod boot;
mod counted;
mod failpoints;
mod hogged;
mod order;
mod plug;
mod refusal;
mod stopped;
mod stubborn;
mod unplug;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{Operation, State, Vcpu};
use hotvisor_tests::vm::{SOON, Vm};

pub(crate) use order::run_if_vmm;

/// Longest wait for the end of an operation. A guest in the nested bed needs a second or two.
const WAIT: Duration = Duration::from_secs(60);

/// Kernel parameters of a guest that leaves added CPUs offline.
const NO_UDEV: &str = "console=ttyS0 quiet hotvisor.online=no";
/// Time for an operation that shall run out of it.
const SHORT: Duration = Duration::from_secs(5);

pub(crate) fn tests() -> Vec<Test> {
    [
        plug::tests(),
        unplug::tests(),
        refusal::tests(),
        stubborn::tests(),
        hogged::tests(),
        stopped::tests(),
        boot::tests(),
        counted::tests(),
        failpoints::tests(),
        order::tests(),
    ]
    .concat()
}

/// A test for each kernel.
fn everywhere(
    name: &str,
    run: impl Fn(&Context, Kernel) -> Result<()> + Copy + Send + Sync + 'static,
) -> Vec<Test> {
    with(Kernel::ALL, name, run)
}

/// A test for each of these kernels: it takes its time, or the others do something else.
fn with(
    kernels: &[Kernel],
    name: &str,
    run: impl Fn(&Context, Kernel) -> Result<()> + Copy + Send + Sync + 'static,
) -> Vec<Test> {
    kernels
        .iter()
        .map(|&kernel| Test::with_image(&format!("hotplug::{name}"), Image::quick(kernel), run))
        .collect()
}

/// A guest at its init.
fn start(context: &Context, kernel: Kernel, boot: u32, max: u32) -> Result<Vm> {
    let vm = context.vm(kernel).cpus(boot, max).start()?;
    vm.wait_for_init(1)?;
    Ok(vm)
}

/// A guest at its init that leaves added CPUs offline.
fn start_without_udev(context: &Context, kernel: Kernel, boot: u32, max: u32) -> Result<Vm> {
    let vm = context.vm(kernel).cpus(boot, max).cmdline(NO_UDEV);
    let vm = vm.start()?;
    vm.wait_for_init(1)?;
    Ok(vm)
}

/// The guest can still be told to end, and does.
fn end(vm: &Vm) -> Result<()> {
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

/// The operation, and each part of it, is in this state.
fn expect(vm: &Vm, operation: &Operation, state: State) -> Result<()> {
    let mut outcomes = operation.vcpus.iter().map(|part| &part.outcome);
    let same = outcomes.all(|outcome| outcome.as_ref().is_some_and(|end| end.code == state));
    if operation.state == state && same {
        return Ok(());
    }
    Err(vm.evidence(format!("expected {state:?} of {operation:#?}")))
}

/// The operation has succeeded for exactly these vCPUs.
fn succeeded(vm: &Vm, operation: &Operation, ids: &[u32]) -> Result<()> {
    expect(vm, operation, State::Succeeded)?;
    let mut changed: Vec<u32> = operation.vcpus.iter().map(|part| part.id).collect();
    changed.sort_unstable();
    ensure!(
        changed == ids,
        "expected the vCPUs {ids:?} to change: {operation:#?}"
    );
    Ok(())
}

/// The guest's last word about one vCPU was this.
fn last_ost(vm: &Vm, operation: &Operation, id: u32, ost: &[[u32; 2]]) -> Result<()> {
    let outcome = operation.part(id).and_then(|part| part.outcome.as_ref());
    let said = outcome.and_then(|outcome| outcome.ost);
    if said.is_some_and(|said| ost.contains(&said)) {
        return Ok(());
    }
    let what =
        format!("expected one of {ost:?} as the guest's last word about vCPU {id}: {operation:#?}");
    Err(vm.evidence(what))
}

/// The outcome of one vCPU's part says this, among other things.
fn explains(vm: &Vm, operation: &Operation, id: u32, text: &str) -> Result<()> {
    let outcome = operation.part(id).and_then(|part| part.outcome.as_ref());
    if outcome.is_some_and(|outcome| outcome.detail.contains(text)) {
        return Ok(());
    }
    Err(vm.evidence(format!(
        "expected {text:?} in what is said of vCPU {id}: {operation:#?}"
    )))
}

/// One vCPU, as the API shows it.
fn vcpu(vm: &Vm, id: u32) -> Result<Vcpu> {
    let vcpus = vm.api().vcpus()?.vcpus;
    let found = vcpus.into_iter().find(|vcpu| vcpu.id == id);
    found.with_context(|| format!("there is no vCPU {id}"))
}

/// A task of the guest runs on this CPU.
fn runs_tasks(vm: &Vm, cpu: u32) -> Result<()> {
    // The 39th word of `stat` is the CPU; the name of `cut` has no space in it.
    let command = format!(
        "taskset {:x} cut -d ' ' -f 39 /proc/self/stat",
        1_u64 << cpu
    );
    let found = vm.sh_ok(&command)?;
    ensure!(
        found == cpu.to_string(),
        "a task for CPU {cpu} ran on CPU {found}"
    );
    Ok(())
}

/// These vCPUs, without which the guest has all of the others, can be had again, and are as good as before.
fn comes_back(vm: &Vm, ids: &[u32], all: &[u32]) -> Result<()> {
    let operation = vm.api().set_online(all.iter().copied(), WAIT)?;
    succeeded(vm, &operation, ids)?;
    vm.agree(all)?;
    ids.iter().try_for_each(|&id| runs_tasks(vm, id))
}

/// A file of the guest's in `/sys/devices/system/cpu`.
fn cpus(vm: &Vm, which: &str) -> Result<String> {
    vm.sh_ok(&format!("cat /sys/devices/system/cpu/{which}"))
}

/// Lists of CPUs in the guest, both at once.
fn expect_cpus(vm: &Vm, present: &str, online: &str) -> Result<()> {
    let found = (cpus(vm, "present")?, cpus(vm, "online")?);
    if (found.0.as_str(), found.1.as_str()) == (present, online) {
        return Ok(());
    }
    Err(vm.evidence(format!(
        "CPUs present and online: {found:?}, expected {present} and {online}"
    )))
}
