//! The command line of L1.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Bed, Clock};

/// The files that QEMU reads and writes.
pub(super) struct Files {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// What L1's kernel says.
    pub(super) console: PathBuf,
    /// The files that come back.
    pub(super) results: PathBuf,
}

/// Nothing that protects against anybody is of use here, and all of it costs time when emulated; a
/// fixed layout makes runs with [`Clock::Instructions`] repeatable.
const KERNEL_PARAMETERS: &str = "console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr no5lvl \
                                 norandmaps audit=0 nmi_watchdog=0 workqueue.power_efficient=0";

/// A tick that never stops, and no timer of L1 between two ticks. QEMU (seen in 7.2) wants both.
///
/// With [`Clock::Wall`] L1 once stood still as a whole while its CPU was busy in a guest: no timer interrupt of
/// its own came through any more. VMRUN notes a virtual interrupt in the CPU's word of pending interrupts without
/// the lock under which timers note theirs (`helper_vmrun` and `tcg_handle_interrupt`, both a plain `|=`), so that
/// of two at the same moment one can get lost; and L1, which sets its next timer when the last one came, sets none.
/// A periodic tick comes again, four milliseconds later.
///
/// With [`Clock::Instructions`] guests of more than one vCPU came to a stand: QEMU delivered an interrupt to
/// them twice. VMRUN with an interrupt to inject (`helper_vmrun`, `SVM_EVTINJ_TYPE_INTR`) delivers it, and leaves
/// its vector in `exception_index` until the guest leaves, or takes an exception. If the emulator is to leave
/// its loop before that (the end of `cpu_handle_interrupt` writes there only if it is empty), it delivers the
/// vector again, as an exception and so where interrupts are disabled too: a second timer interrupt while the
/// first one held a lock, for which it then waited. With instructions for a clock, the emulator leaves its loop
/// whenever a timer is due, and one of L1's often was a few microseconds after a tick, when the guest was in the
/// handler of its own. With ticks alone the handler has left the guest long before the next one. It stays
/// possible for interrupts whose handler does not leave the guest, because KVM lets it acknowledge them in
/// memory: one of 25 boots, with four vCPUs, stood still, and none of 17 with that feature hidden from the guest.
/// So it still ends one of some hundred guests of a long run of the benchmark: its CPU is halted for ever by `kvm_wait`, with
/// interrupts off, for a lock that it alone can have, and the last vector that KVM injected is that of its timer. Another
/// seed has it elsewhere, or not at all.
const PERIODIC_TICK: &str = "highres=off nohz=off";

/// A PAUSE in a guest leaves the guest, so that KVM runs another vCPU. The emulated CPU does not offer this,
/// because it cannot count, but does it when told: each PAUSE then counts. Without it a vCPU that waits for
/// another one spins until the next tick, and as each PAUSE makes the emulator leave its loop, the millions of
/// them that a tick has room for with [`Clock::Instructions`] take seconds.
const PAUSE_EXITS: &str = "x-force-features=on,pause-filter=on,pfthreshold=on";

/// All that can be emulated, but for XSAVE and what needs it: that a guest of L1's sets XCR0 does not leave that guest, as it
/// does on hardware, so that KVM goes on to say how large its state was before. Linux warns of that at its boot, under any VMM,
/// and does without; and a kernel that has warned once does not show in its taint when it does so again. What becomes of XCR0 when
/// a vCPU comes again is seen on hardware alone.
const CPU: &str = "max,-xsave,-avx,-avx2,-f16c,-fma,-vaes,-pku";

/// How many CPUs L1 has where its clock is the host's.
pub(super) fn cpus() -> usize {
    let said = std::env::var("HOTVISOR_L1_CPUS").ok();
    said.and_then(|cpus| cpus.parse().ok())
        .filter(|&cpus| cpus > 0)
        .unwrap_or(1)
}

/// QEMU, which ends when the thread ends that starts it, even if that is killed.
pub(super) fn command(bed: &Bed, files: &Files) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    command.args([
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    let cpu = match bed.clock {
        Clock::Wall => CPU.to_owned(),
        Clock::Instructions { .. } => format!("{CPU},{PAUSE_EXITS}"),
    };
    command.args(["-machine", "q35", "-cpu", &cpu]);
    command.args(["-m", &bed.memory.to_string()]);
    match bed.clock {
        // One CPU, and with it one thread of the emulator. With two, on QEMU 7.2 and a busy host, a guest
        // that patches code which its other vCPU runs now and then went on with the half-patched
        // instruction: an oops of int3, a triple fault, a loop. With one, none of that was seen.
        Clock::Wall => command.args(["-accel", "tcg,thread=multi", "-smp", &cpus().to_string()]),
        Clock::Instructions { seed } => {
            command.args(["-accel", "tcg,thread=single", "-smp", "1"]);
            command.args([
                "-icount",
                "shift=0,sleep=off",
                "-rtc",
                "base=2026-01-01,clock=vm",
            ]);
            // RDRAND, and the seeds that the firmware hands to L1: of its hashes, names, delays.
            command.args(["-seed", &seed.to_string()])
        }
    };
    command
        .arg("-kernel")
        .arg(&files.kernel)
        .arg("-initrd")
        .arg(&files.initramfs);
    let parameters = format!("{KERNEL_PARAMETERS} {PERIODIC_TICK}");
    command.args(["-append", &parameters]);
    // ttyS0, ttyS1, ttyS2
    command.args(["-serial", &to_file(&files.console)]);
    command.args([
        "-chardev",
        "stdio,id=job,signal=off",
        "-serial",
        "chardev:job",
    ]);
    command.args(["-serial", &to_file(&files.results)]);
    command
}

fn to_file(path: &Path) -> String {
    format!("file:{}", path.display())
}
