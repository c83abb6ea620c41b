//! The same guest and load without us: what the kernel complains of then is not our doing.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::guest::at_work;
use super::{Guest, Scenario};
use crate::artifacts::Artifacts;
use crate::kernels::Kernel;
use crate::vm::SOON;

/// How often the kernel's log is read: before it forgets what is oldest, and so that the serial port is as busy as it is
/// when the guest is watched.
const SLICE: Duration = Duration::from_secs(1);
/// What the kernel says of a CPU that comes.
const COMES: &str = "Booting Node";

/// What a guest did by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alone {
    /// How often one of its CPUs came back.
    pub toggled: usize,
    /// The lines that its kernel wrote meanwhile, of the level of a warning or worse.
    pub complaints: Vec<String>,
    /// What the load printed last.
    pub load: String,
    /// How many processes do the work of the load.
    pub processes: u64,
    /// How many pages went to the swap device.
    pub swapped: u64,
}

/// Boots a guest with its load, and has it take its CPUs offline and bring them back itself, for so long.
///
/// # Errors
/// It does not come up, does not do it, or does not end.
pub fn alone(
    artifacts: &Artifacts,
    kernel: Kernel,
    scenario: &Scenario,
    time: Duration,
) -> Result<Alone> {
    let guest = Guest::boot(artifacts, kernel, scenario)?;
    let mut serial = guest.serial()?;
    serial.sh("dmesg -c >/dev/null", SOON)?;
    serial.sh("load toggle </dev/null >/dev/null 2>&1 &", SOON)?;
    let mut said = String::new();
    for _ in 0..time.as_secs().div_ceil(SLICE.as_secs()) {
        let command = format!("sleep {}; dmesg -r -c", SLICE.as_secs());
        said += &serial.sh(&command, 10 * SLICE + SOON)?;
        said.push('\n');
    }
    let count = |text: String| text.trim().parse::<u64>().unwrap_or(0);
    at_work(&mut serial, scenario)?;
    let processes = count(serial.sh("wc -l </sys/fs/cgroup/load/work/cgroup.procs", SOON)?);
    let swapped = count(serial.sh("sed -n 's/^pswpout //p' /proc/vmstat", SOON)?);
    // Its end: it may have talked for long, and a serial port is slow.
    let load = serial.sh("tail -n 20 /run/load 2>/dev/null || true", SOON)?;
    serial.sh("load stop", SOON)?;
    let toggled = said.matches(COMES).count();
    drop(serial);
    guest.end()?;
    ensure!(toggled > 0, "no CPU went and came back: {said}");
    Ok(Alone {
        toggled,
        complaints: said.lines().filter_map(complaint).collect(),
        load,
        processes,
        swapped,
    })
}

/// A line of the kernel's log that is a warning or worse, without its level.
fn complaint(line: &str) -> Option<String> {
    let (level, text) = line.strip_prefix('<')?.split_once('>')?;
    // The facility is in the higher bits, and the kernel's own is 0.
    let level: u32 = level.parse().ok()?;
    // What is bound to a CPU that goes is free to run on the others; it is said as loudly as a warning.
    let harmless = text.contains("no longer affine to cpu");
    (level <= 4 && !harmless).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_from_news() {
        assert_eq!(
            complaint("<4>[    1.0] WARNING: CPU: 1").as_deref(),
            Some("[    1.0] WARNING: CPU: 1")
        );
        assert_eq!(
            complaint("<6>[    1.0] smpboot: CPU 1 is now offline"),
            None
        );
        assert_eq!(complaint("<12>[    1.0] somebody's own"), None);
        assert_eq!(
            complaint("<4>[    1.0] process 7 (sh) no longer affine to cpu1"),
            None
        );
        assert_eq!(complaint("no level"), None);
    }
}
