//! What Linux makes of the CPUs and of the platform that it is given.

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::{SOON, Vm};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = Kernel::ALL
        .iter()
        .map(|&kernel| {
            Test::with_image(
                "cpus::topology_and_features",
                Image::quick(kernel),
                features,
            )
        })
        .collect();
    for &kernel in Kernel::ALL {
        tests.push(Test::with_image(
            "cpus::added_and_reserved",
            Image::quick(kernel),
            added_and_reserved,
        ));
    }
    for kernel in [Kernel::V6_1Cloud, Kernel::V6_12Cloud] {
        tests.push(Test::with_image(
            "cpus::possible_1024",
            Image::quick(kernel),
            possible_1024,
        ));
    }
    tests
}

/// The answer to a command must be this.
fn expect(vm: &Vm, command: &str, wanted: &str) -> Result<()> {
    let found = vm.sh_ok(command)?;
    if found == wanted {
        return Ok(());
    }
    Err(vm.evidence(format!("`{command}` gave {found:?}, expected {wanted:?}")))
}

fn features(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(3, 6).start()?;
    vm.wait_for_init(1)?;
    // APIC ids are CPU numbers; one package, a core for each CPU, no second thread in any.
    expect(
        &vm,
        "sed -n 's/^apicid.*: //p' /proc/cpuinfo | xargs",
        "0 1 2",
    )?;
    expect(
        &vm,
        "cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | xargs",
        "0 0 0",
    )?;
    expect(
        &vm,
        "cat /sys/devices/system/cpu/cpu*/topology/core_id | xargs",
        "0 1 2",
    )?;
    expect(
        &vm,
        "cat /sys/devices/system/cpu/cpu*/topology/thread_siblings_list | xargs",
        "0 1 2",
    )?;
    // KVM shows, MWAIT does not, and the timer is the one that needs no calibration.
    expect(&vm, "grep -c '^flags.* hypervisor' /proc/cpuinfo", "3")?;
    expect(&vm, "grep -c '^flags.* monitor' /proc/cpuinfo; true", "0")?;
    expect(
        &vm,
        "grep -c '^flags.* tsc_deadline_timer' /proc/cpuinfo",
        "3",
    )?;
    expect(
        &vm,
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
        "kvm-clock",
    )?;
    expect(&vm, "dmesg | grep -c 'Hypervisor detected: KVM'", "1")?;
    // Interrupts of both devices, by the pins that the DSDT names.
    expect(
        &vm,
        "grep -c 'IO-APIC *16-edge *ACPI:Ged' /proc/interrupts",
        "1",
    )?;
    expect(
        &vm,
        "grep -c 'IO-APIC *4-edge *ttyS0' /proc/interrupts",
        "1",
    )?;
    // Nothing in the tables or the time stamp counters that the kernel would complain of.
    expect(
        &vm,
        "dmesg | grep -cE 'ACPI (BIOS )?(Error|Warning)|Firmware Bug|TSC warp'; true",
        "0",
    )?;
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

/// The image does what tests of hotplug rely on: it starts CPUs that are added, and can make Linux keep one.
fn added_and_reserved(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 2).start()?;
    vm.wait_for_init(1)?;
    let cpu = "/sys/devices/system/cpu/cpu1";
    vm.sh_ok(&format!("echo 0 >{cpu}/online"))?;
    // As the kernel itself says it of a CPU that it has found.
    vm.sh_ok(&format!("echo add >{cpu}/uevent"))?;
    vm.wait_until("an added CPU to be started", || {
        Ok(vm.sh_ok(&format!("cat {cpu}/online"))? == "1")
    })?;
    vm.sh_ok(
        "for n in 1 2; do sleep 9999 >/dev/null 2>&1 & echo $! >>/run/reserved; done; \
         schedule deadline $(cat /run/reserved)",
    )?;
    let refused = vm.sh(&format!("echo 0 >{cpu}/online"), SOON)?;
    ensure!(refused.status != 0, "Linux gave a reserved CPU away");
    expect(&vm, &format!("cat {cpu}/online"), "1")?;
    vm.sh_ok("kill $(cat /run/reserved)")?;
    vm.sh_ok(&format!("echo 0 >{cpu}/online"))?;
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

/// Per-CPU areas for 1,024 CPUs take more memory than the default guest has.
fn possible_1024(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 1024).memory(1536).start()?;
    vm.wait_for_init(1)?;
    expect(&vm, "cat /sys/devices/system/cpu/possible", "0-1023")?;
    expect(&vm, "cat /sys/devices/system/cpu/online", "0-1")?;
    // Without x2APIC mode from the start, Linux ignores the ids above 254.
    expect(&vm, "dmesg | grep -c 'x2apic: enabled by BIOS'", "1")?;
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}
