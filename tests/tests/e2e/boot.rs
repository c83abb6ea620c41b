//! Guests boot, see what they were given, and talk.

use anyhow::{Result, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::SOON;

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for &kernel in Kernel::ALL {
        tests.push(Test::with_image(
            "boot::four_vcpus",
            Image::BzImage(kernel),
            four_vcpus,
        ));
        tests.push(Test::with_image(
            "boot::through_pvh",
            Image::Vmlinux(kernel),
            through_pvh,
        ));
    }
    let image = Image::BzImage(Kernel::V6_1Cloud);
    tests.push(Test::with_image(
        "boot::serial_both_ways",
        image,
        serial_both_ways,
    ));
    tests.push(Test::with_image(
        "boot::memory_above_4_gib",
        image,
        memory_above_4_gib,
    ));
    tests
}

/// What a file in the guest's sysfs holds.
fn cpus(vm: &hotvisor_tests::vm::Vm, which: &str) -> Result<String> {
    vm.sh_ok(&format!("cat /sys/devices/system/cpu/{which}"))
}

fn four_vcpus(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(4, 8).start()?;
    vm.wait_for_init(1)?;
    ensure!(
        vm.sh_ok("nproc")? == "4",
        "nproc says {}",
        vm.sh_ok("nproc")?
    );
    for (which, expected) in [("online", "0-3"), ("present", "0-3"), ("possible", "0-7")] {
        let found = cpus(&vm, which)?;
        if found != expected {
            return Err(vm.evidence(format!("CPUs {which}: {found}, expected {expected}")));
        }
    }
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

fn through_pvh(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).cpus(2, 2).start()?;
    vm.wait_for_init(1)?;
    ensure!(
        cpus(&vm, "online")? == "0-1",
        "CPUs online: {}",
        cpus(&vm, "online")?
    );
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

fn serial_both_ways(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).start()?;
    vm.wait_for_init(1)?;
    // Longer than any buffer of the port, so that both directions must wait for the other end.
    let long: String = (0..3000_u32)
        .map(|n| char::from(b'a' + (n % 26) as u8))
        .collect();
    let echoed = vm.sh_ok(&format!("echo {long}"))?;
    ensure!(
        echoed == long,
        "sent {} characters, got back {}",
        long.len(),
        echoed.len()
    );
    let output = vm.sh("ls /nowhere; exit 7", SOON)?;
    ensure!(
        output.status == 7 && output.text.contains("/nowhere"),
        "{output:?}"
    );
    // What a command leaves behind belongs to the first process, and that is not the shell that answers: the end
    // of a child would interrupt an answer, which would be lost.
    let shell = vm.sh_ok("read -r _ _ _ parent _ </proc/self/stat; echo $parent")?;
    vm.sh_ok("sleep 99 >/dev/null 2>&1 & echo $! >/run/left")?;
    let parent = vm.sh_ok("cut -d ' ' -f 4 /proc/$(cat /run/left)/stat")?;
    ensure!(
        shell != "1" && parent == "1",
        "process {shell} answers, and process {parent} has what commands leave behind"
    );
    // Each byte is an exit or more, and an exit costs up to a millisecond in the nested bed.
    let lines = vm.sh_ok("yes 0123456789 | head -n 700")?;
    ensure!(lines.lines().count() == 700 && lines.lines().all(|line| line == "0123456789"));
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}

fn memory_above_4_gib(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).memory(4608).start()?;
    vm.wait_for_init(1)?;
    let total: u64 = vm
        .sh_ok("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")?
        .parse()?;
    ensure!(total > 4300 << 10, "the guest has {total} KiB of 4608 MiB");
    // Linux gives out the highest zone first: these files lie above 4 GiB.
    let write = "for n in 1 2 3 4; do head -c 8388608 /dev/urandom >/tmp/$n; md5sum /tmp/$n; done";
    let (first, second) = (
        vm.sh_ok(write)?,
        vm.sh_ok("md5sum /tmp/1 /tmp/2 /tmp/3 /tmp/4")?,
    );
    ensure!(
        first == second && first.lines().count() == 4,
        "wrote\n{first}\nread\n{second}"
    );
    let above = vm.sh_ok("grep -c '^ *1[0-9a-f]\\{8\\}-.*System RAM' /proc/iomem")?;
    ensure!(above != "0", "no RAM above 4 GiB");
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)
}
