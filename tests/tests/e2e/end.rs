//! Guests power off and reboot, from inside and by the power button.

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::SOON;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for &kernel in Kernel::ALL {
        tests.push(Test::with_image(
            "end::power_button",
            Image::quick(kernel),
            power_button,
        ));
    }
    let image = Image::BzImage(Kernel::V6_1Cloud);
    tests.push(Test::with_image("end::power_off", image, power_off));
    tests.push(Test::with_image("end::reboot", image, reboot));
    tests.push(Test::with_image("end::no_reboot", image, no_reboot));
    tests
}

fn power_off(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context
        .vm(kernel)
        .cpus(2, 2)
        .cmdline("console=ttyS0 quiet hotvisor.action=poweroff");
    let vm = vm.start()?;
    vm.wait_success(hotvisor_tests::vm::BOOT)
}

fn reboot(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 4).start()?;
    vm.wait_for_init(1)?;
    let first = vm.sh_ok("cat /proc/sys/kernel/random/boot_id")?;
    vm.sh_last("reboot -f")?;
    vm.wait_for_init(2)?;
    let second = vm.sh_ok("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(first != second, "the guest did not start anew: {first}");
    ensure!(
        vm.sh_ok("nproc")? == "2",
        "after the reboot nproc says {}",
        vm.sh_ok("nproc")?
    );
    ensure!(vm.is_running(), "the VMM's process has ended");
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

fn no_reboot(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).no_reboot().start()?;
    vm.wait_for_init(1)?;
    vm.sh_last("reboot -f")?;
    vm.wait_success(SOON)
}

fn power_button(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 2).start()?;
    vm.wait_for_init(1)?;
    vm.press_power_button()?;
    vm.wait_success(SOON)
}
