//! Plugs while the guest boots, and guests that boot again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::environment;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::{BOOT, INIT_MARKER, Vm};

use super::{WAIT, end, everywhere, start, succeeded};

/// What the kernel says before it has read the list of CPUs, after it has started those of the list, when it
/// looks for others; and what the first process says. The real-time kernel prints late and out of turn, so that
/// only the last one tells something there.
const MOMENTS: &[(&str, &str)] = &[
    ("start", "Linux version"),
    ("smp", "smp: Brought up"),
    ("scan", "ACPI: Interpreter enabled"),
    ("init", INIT_MARKER),
];

pub(super) fn tests() -> Vec<Test> {
    let mut tests = [
        everywhere("reboot_keeps_the_set", reboot_keeps_the_set),
        everywhere("reboot_after_an_unplug", reboot_after_an_unplug),
    ]
    .concat();
    for kernel in [Kernel::V6_1Cloud, Kernel::V6_12Cloud] {
        let image = Image::quick(kernel);
        tests.push(Test::with_image(
            "hotplug::during_boot::sweep",
            image,
            sweep,
        ));
    }
    for &kernel in Kernel::ALL {
        for &(name, text) in MOMENTS {
            if kernel == Kernel::V6_1Rt && text != INIT_MARKER {
                continue;
            }
            tests.push(Test::with_image(
                &format!("hotplug::during_boot::{name}"),
                Image::quick(kernel),
                move |context, kernel| during_boot(context, kernel, text),
            ));
        }
    }
    tests
}

/// Whatever the guest makes of the request at this moment, in the end it has the CPUs and uses them.
fn during_boot(context: &Context, kernel: Kernel, moment: &str) -> Result<()> {
    let vm = context
        .vm(kernel)
        .cpus(1, 3)
        .cmdline(if moment == INIT_MARKER {
            "console=ttyS0 quiet"
        } else {
            "console=ttyS0"
        })
        .start()?;
    vm.wait_for(moment, 0, BOOT)?;
    plug_now(&vm)?;
    end(&vm)
}

/// Asks a guest that boots with one vCPU for two more; when it is at its init, it gets them.
fn plug_now(vm: &Vm) -> Result<()> {
    let operation = vm.api().timeout(WAIT).resize(3, Duration::ZERO)?;
    vm.wait_for_init(1)?;
    let operation = vm.api().operation(operation.id, WAIT)?;
    succeeded(vm, &operation, &[1, 2])?;
    vm.agree(&[0, 1, 2])
}

/// Plugs in every so many milliseconds of the guest's own clock, as the kernel's messages tell it, from the first
/// one to the guest's init. `HOTVISOR_BOOT_STEP=50` makes it a fine sieve.
fn sweep(context: &Context, kernel: Kernel) -> Result<()> {
    let step = environment::number("HOTVISOR_BOOT_STEP")?.unwrap_or(3000);
    for moment in (0..).step_by(step) {
        let vm = context
            .vm(kernel)
            .cpus(1, 3)
            .cmdline("console=ttyS0")
            .start()?;
        let booting = comes_to(&vm, moment)?;
        plug_now(&vm).with_context(|| format!("plugged at {moment} ms of the boot"))?;
        end(&vm)?;
        if !booting {
            return Ok(());
        }
    }
    Ok(())
}

/// Waits for a message of the kernel's of that time or later, or for the boot to be over; returns which of the two
/// came.
fn comes_to(vm: &Vm, moment: usize) -> Result<bool> {
    let deadline = Instant::now() + BOOT;
    let mut from = 0;
    loop {
        let found = vm.console().wait_for("\n", from, deadline);
        let found = found.map_err(|why| vm.evidence(format!("{moment} ms of the boot: {why}")))?;
        let line = vm.console().between(from, found.start);
        from = found.end;
        if line.contains(INIT_MARKER) {
            return Ok(false);
        }
        if time_of(&line).is_some_and(|seconds| seconds * 1000.0 >= moment as f64) {
            return Ok(true);
        }
    }
}

/// The time of a kernel's message, in seconds.
fn time_of(line: &str) -> Option<f64> {
    let (time, _) = line.strip_prefix('[')?.split_once(']')?;
    time.trim().parse().ok()
}

fn reboot_keeps_the_set(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 1, 4)?;
    let operation = vm.api().set_online([0, 1, 3], WAIT)?;
    succeeded(&vm, &operation, &[1, 3])?;
    vm.agree(&[0, 1, 3])?;
    vm.sh_last("reboot -f")?;
    vm.wait_for_init(2)?;
    vm.agree(&[0, 1, 3])?;
    // The guest's tables are as good as those of the first boot.
    let operation = vm.api().set_online([0, 2], WAIT)?;
    succeeded(&vm, &operation, &[1, 2, 3])?;
    vm.agree(&[0, 2])?;
    end(&vm)
}

/// A vCPU that was given back is reset with the others, although its thread is parked.
fn reboot_after_an_unplug(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = start(context, kernel, 3, 3)?;
    let operation = vm.api().set_online([0, 2], WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.sh_last("reboot -f")?;
    vm.wait_for_init(2)?;
    vm.agree(&[0, 2])?;
    let operation = vm.api().resize(3, WAIT)?;
    succeeded(&vm, &operation, &[1])?;
    vm.agree(&[0, 1, 2])?;
    end(&vm)
}
