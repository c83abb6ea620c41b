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

/// A tick that never stops, beside [`Clock::Wall`]. Once L1 stood still as a whole while its CPU was busy in a
/// guest: no timer interrupt of its own came through any more, with nothing left that would make the emulator
/// look at its interrupts again. A periodic tick makes it look, four milliseconds later.
const PERIODIC_TICK: &str = "highres=off nohz=off";

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
    command.args([
        "-machine",
        "q35",
        "-cpu",
        "max",
        "-m",
        &bed.memory.to_string(),
    ]);
    match bed.clock {
        // One CPU, and with it one thread of the emulator. With two, on QEMU 7.2 and a busy host, a guest
        // that patches code which its other vCPU runs now and then went on with the half-patched
        // instruction: an oops of int3, a triple fault, a loop. With one, none of that was seen. And not
        // `thread=single`: there, as with `-icount`, guests with more than one vCPU hang.
        Clock::Wall => {
            let cpus = std::env::var("HOTVISOR_L1_CPUS").unwrap_or_else(|_| "1".to_owned());
            command.args(["-accel", "tcg,thread=multi", "-smp", &cpus])
        }
        Clock::Instructions => {
            command.args(["-accel", "tcg,thread=single", "-smp", "1"]);
            command.args([
                "-icount",
                "shift=0,sleep=off",
                "-rtc",
                "base=2026-01-01,clock=vm",
            ])
        }
    };
    command
        .arg("-kernel")
        .arg(&files.kernel)
        .arg("-initrd")
        .arg(&files.initramfs);
    let tick = match bed.clock {
        Clock::Wall => PERIODIC_TICK,
        Clock::Instructions => "",
    };
    command.args(["-append", &format!("{KERNEL_PARAMETERS} {tick}")]);
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
