//! `cargo testbed demo`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use hotvisor_tests::artifacts::{Artifacts, Image};
use hotvisor_tests::host;
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::nested::{self, Clock, Input, Job};
use hotvisor_tests::vm::api::{Operation, Target};
use hotvisor_tests::vm::{SOON, Vm};

use crate::inner::{self, Need};
use crate::picture;
use crate::progress::Step;

/// The guest's memory in MiB.
const MEMORY: u32 = 512;
const KERNEL: Kernel = Kernel::V6_1Cloud;

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    if Job::is_running() {
        return show(&Artifacts::open()?);
    }
    host::ensure(host::BED)?;
    let artifacts = {
        let _step = Step::begin("building Hotvisor, fetching a Debian kernel");
        Artifacts::prepare(&[Image::BzImage(KERNEL)])?
    };
    if inner::is_here(&artifacts) {
        eprintln!("this machine's KVM runs 64-bit guests: using it directly");
        return show(&artifacts);
    }
    eprintln!("no KVM for 64-bit guests here: an emulated machine has one");
    let need = Need {
        artifacts: &artifacts,
        images: &[Image::BzImage(KERNEL)],
        files: Vec::new(),
        clock: Clock::Wall,
        alone: false,
        input: Input::Nothing,
    };
    let outcome = inner::run(inner::this_program(["demo".to_owned()])?, need)?;
    Ok(nested::exit_code(outcome.status))
}

fn show(artifacts: &Artifacts) -> Result<ExitCode> {
    let vm = {
        let _step = Step::begin("booting Debian's Linux 6.1 under Hotvisor with 4 vCPUs");
        let vm = Vm::hotvisor(artifacts.hotvisor())
            .kernel(artifacts.bzimage(KERNEL))
            .initramfs(artifacts.initramfs(KERNEL))
            .cpus(4, 8)
            .memory(MEMORY)
            .start()?;
        vm.wait_for_init(1)?;
        vm
    };
    let (init, uptime) = vm.wait_for_init(1)?;
    let cpus = |which: &str| vm.sh_ok(&format!("cat /sys/devices/system/cpu/{which}"));
    println!("guest");
    println!("  kernel            {}", vm.sh_ok("uname -r")?);
    println!("  hypervisor        {}", hypervisor(&vm)?);
    println!(
        "  CPUs online       {} (nproc {})",
        cpus("online")?,
        vm.sh_ok("nproc")?
    );
    println!("  CPUs present      {}", cpus("present")?);
    println!("  CPUs possible     {}", cpus("possible")?);
    println!("  init after        {uptime:.2} s on the guest's clock");
    println!("VMM");
    let since = init.duration_since(vm.started());
    println!("  start to init     {:.2} s", since.as_secs_f64());
    println!(
        "  its own memory    {} KiB, without the guest's {MEMORY} MiB",
        vm.own_memory(MEMORY)?
    );
    println!("  threads");
    for thread in vm.threads()? {
        println!("    {:<16} {}", thread.name, thread.state);
    }
    hotplug(&vm)?;
    vm.press_power_button()?;
    vm.wait_success(SOON)?;
    println!("the guest powered itself off when the VMM got SIGTERM; exit code 0");
    Ok(ExitCode::SUCCESS)
}

/// The vCPU that goes and comes back; not the highest.
const VCPU: u32 = 2;
/// Lets Linux refuse every ejection of a CPU, or not.
const SWITCH: &str = "/sys/firmware/acpi/hotplug/processor/enabled";

fn hotplug(vm: &Vm) -> Result<()> {
    let api = vm.api();
    for (what, target, timeline) in [
        ("unplug", Target::Offline, "unplug"),
        ("plug", Target::Online, "plug"),
    ] {
        println!("{what} of vCPU {VCPU}");
        let operation = api.vcpu_target(VCPU, target, SOON)?;
        println!("  {}", said(&operation)?);
        let vcpu = api.get(&format!("/api/v1/vcpus/{VCPU}"))?.body;
        print!("{}", picture::of(&vcpu["timeline"][timeline])?);
        let online = vm.sh_ok("cat /sys/devices/system/cpu/online")?;
        println!("  CPUs online in the guest: {online}");
    }
    println!("unplug of vCPU {VCPU}, and the guest says no (0 in {SWITCH})");
    vm.sh_ok(&format!("echo 0 >{SWITCH}"))?;
    let operation = api.vcpu_target(VCPU, Target::Offline, SOON)?;
    println!("  {}", said(&operation)?);
    vm.sh_ok(&format!("echo 1 >{SWITCH}"))?;
    let online = vm.sh_ok("cat /sys/devices/system/cpu/online")?;
    println!("  CPUs online in the guest: {online}");
    Ok(())
}

/// What became of an operation, as the API says it.
fn said(operation: &Operation) -> Result<String> {
    let outcome = operation.part(VCPU).and_then(|part| part.outcome.as_ref());
    let outcome = outcome.with_context(|| format!("it did not end: {operation:?}"))?;
    let ost = outcome.ost.map_or(String::new(), |[source, status]| {
        format!(" (_OST {source:#x}, {status:#x})")
    });
    Ok(format!("{:?}{ost}: {}", outcome.code, outcome.detail))
}

fn hypervisor(vm: &Vm) -> Result<String> {
    let line = vm.sh_ok("dmesg | grep -m 1 'Hypervisor detected' || echo ': none'")?;
    Ok(line.rsplit(": ").next().unwrap_or_default().to_owned())
}
