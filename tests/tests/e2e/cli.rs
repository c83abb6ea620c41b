//! The command line beside a VM whose guest is Linux: what it prints, and its exit codes.

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::{Came, SOON, Vm};

/// What makes Linux refuse every eject.
const SWITCH: &str = "/sys/firmware/acpi/hotplug/processor/enabled";

pub(crate) fn tests() -> Vec<Test> {
    // What the command line adds does not depend on the kernel.
    let image = Image::BzImage(Kernel::V6_1Cloud);
    vec![Test::with_image("cli::a_session", image, session)]
}

/// Runs a command, which must end with this code and say these words.
fn expect(vm: &Vm, args: &[&str], code: i32, words: &[&str]) -> Result<Came> {
    let came = vm.cli(args)?;
    let said = |word: &&&str| came.out.contains(**word) || came.err.contains(**word);
    let missing = words.iter().find(|word| !said(word));
    if came.code == code && missing.is_none() {
        return Ok(came);
    }
    Err(vm.evidence(format!(
        "expected code {code} and {words:?} of {args:?}, and there came {came:#?}"
    )))
}

fn session(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(4, 8).start()?;
    vm.wait_for_init(1)?;
    let down = [
        "vCPU 1 is offline after ",
        "vCPU 3 is offline after ",
        "vCPU 3: draining -> notifying after ",
    ];
    expect(&vm, &["unplug", "3", "1"], 0, &down)?;
    vm.agree(&[0, 2])?;
    let bars = expect(&vm, &["timeline", "3"], 0, &["notifying.begun  guest"])?;
    ensure!(
        bars.out.matches('\u{2588}').count() > 10 && bars.out.contains("\ntotal "),
        "no bars in {bars:#?}"
    );
    let up = ["vCPU 3 is online after ", ": the guest has started it"];
    expect(&vm, &["plug", "3"], 0, &up)?;
    vm.agree(&[0, 2, 3])?;

    vm.sh_ok(&format!("echo 0 >{SWITCH}"))?;
    let refusal = "hotvisor: vCPU 2 stays: the guest refused: ejection not supported (0x80); the guest does not \
                   support it; see /sys/firmware/acpi/hotplug/processor/enabled in the guest\n";
    expect(&vm, &["unplug", "2"], 3, &[refusal])?;
    let online = vm.sh_ok("cat /sys/devices/system/cpu/online")?;
    ensure!(online == "0,2-3", "the guest has {online} after a refusal");
    vm.sh_ok(&format!("echo 1 >{SWITCH}"))?;
    expect(&vm, &["unplug", "2"], 0, &["vCPU 2 is offline after "])?;

    expect(&vm, &["resize", "1"], 0, &["vCPU 3 is offline after "])?;
    vm.agree(&[0])?;
    let table = [
        "desired 1, plugged 1, online 1, of at most 8\n",
        "0 (boot)  online   online   1           vcpu-0 ",
        "3         dormant  offline  2           vcpu-3 ",
    ];
    expect(&vm, &["vcpus"], 0, &table)?;
    expect(&vm, &["operations"], 0, &["resize to 1 ", "refused"])?;
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}
