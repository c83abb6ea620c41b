//! What a user gets who is nobody on the host but one who may use KVM, and what systemd's unit gives such a one.

mod instead;
mod unit;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::nested::Job;
use hotvisor_tests::vm::SOON;
use hotvisor_tests::vm::api::State;

pub(crate) use instead::run_if_instead;

const KVM: &str = "/dev/kvm";
/// Nobody's.
const USER: u32 = 64_321;
/// The bed has no group for KVM: this is it.
const GROUP: u32 = 64_322;

/// Longest wait for the end of an operation.
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn tests() -> Vec<Test> {
    let image = Image::BzImage(Kernel::V6_1Cloud);
    let ours = Test::with_image("isolation::an_ordinary_user", image, ordinary_user);
    [vec![ours], unit::tests()].concat()
}

/// The group whose members may use KVM; in the bed, whose device is nobody else's, it is made.
fn group() -> Result<u32> {
    if Job::is_running() {
        chown(KVM, Some(0), Some(GROUP))?;
        fs::set_permissions(KVM, fs::Permissions::from_mode(0o660))?;
    }
    let device = Path::new(KVM).metadata()?;
    ensure!(
        device.mode() & 0o060 == 0o060,
        "no group may use {KVM}: `chgrp kvm {KVM} && chmod 660 {KVM}`"
    );
    Ok(device.gid())
}

/// vCPUs come and go without any privilege.
fn ordinary_user(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(1, 3).user(USER, group()?).start()?;
    vm.wait_for_init(1)?;
    let process = format!("/proc/{}", vm.pid());
    let status = fs::read_to_string(format!("{process}/status"))?;
    let uids = format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n");
    ensure!(status.contains(&uids), "it runs as somebody else: {status}");
    // What the kernel does with a process that its user may not read (proc(5), "/proc/pid").
    let owner = Path::new(&process).join("maps").metadata()?.uid();
    ensure!(owner == 0, "user {owner} may read the guest's memory");
    for (desired, all) in [(3, vec![0, 1, 2]), (1, vec![0]), (2, vec![0, 1])] {
        let operation = vm.api().resize(desired, WAIT)?;
        ensure!(operation.state == State::Succeeded, "{operation:#?}");
        vm.agree(&all)?;
    }
    vm.sh_last("reboot -f")?;
    vm.wait_for_init(2)?;
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}
