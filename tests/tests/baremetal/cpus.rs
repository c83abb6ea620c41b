//! CPUs: what the MADT says of them, and that they start, stop and start again.

use std::time::Instant;

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::SOON;

use crate::guest::{Guest, Machine, number, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("cpus::madt_tells_boot_from_capable", madt),
        test("cpus::madt_of_1024", madt_of_1024),
        test("cpus::all_of_boot_start", all_start),
        test("cpus::those_beyond_boot_do_not_start", absent),
        test("cpus::x2apic_ids_above_255_start", x2apic),
        test("cpus::x2apic_ids_above_255_take_interrupts", far_interrupts),
        test("cpus::a_dead_one_starts_again", restart),
        test("cpus::run_at_the_same_time", run_at_the_same_time),
        test("cpus::exceptions_reach_the_guest", exceptions),
    ]
}

/// Narrow structures as long as all APIC ids fit into them, otherwise x2APIC structures only.
fn madt(context: &Context) -> Result<()> {
    for (boot, max, wanted) in [
        (1, 1, "0-0:enabled:0 total=1 uid-differs=0"),
        (2, 4, "0-1:enabled:0 2-3:capable:0 total=4 uid-differs=0"),
        (
            1,
            255,
            "0-0:enabled:0 1-254:capable:0 total=255 uid-differs=0",
        ),
        (
            1,
            256,
            "0-0:enabled:9 1-255:capable:9 total=256 uid-differs=0",
        ),
    ] {
        let guest = Machine::new(context, boot, max)?.boot()?;
        guest.expect("cpus", wanted)?;
        guest.power_off()?;
    }
    Ok(())
}

fn madt_of_1024(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 1024)?.boot()?;
    guest.expect(
        "cpus",
        "0-1:enabled:9 2-1023:capable:9 total=1024 uid-differs=0",
    )?;
    guest.start_cpu(1, 1)?;
    guest.power_off()
}

fn all_start(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 4, 4)?.boot()?;
    for id in 1..4 {
        guest.start_cpu(id, 1)?;
    }
    for id in 0..4 {
        ids_agree(&guest, id)?;
    }
    guest.power_off()
}

/// A CPU has one APIC id, wherever it looks for it: its local APIC, CPUID leaves 1 and 0xB.
fn ids_agree(guest: &Guest, id: u32) -> Result<()> {
    guest.expect(
        &format!("on {id} rd32 0xfee00020"),
        &format!("{:#x}", id << 24),
    )?;
    let leaf_1 = number(&guest.field(&format!("on {id} cpuid 1 0"), "ebx")?)?;
    guest.ensure(leaf_1 >> 24 == u64::from(id), || {
        format!("CPU {id} is {} in CPUID 1", leaf_1 >> 24)
    })?;
    let leaves = number(&guest.field(&format!("on {id} cpuid 0 0"), "eax")?)?;
    if leaves >= 0xb {
        let leaf_b = number(&guest.field(&format!("on {id} cpuid 0xb 0"), "edx")?)?;
        guest.ensure(leaf_b == u64::from(id), || {
            format!("CPU {id} is {leaf_b} in CPUID 0xB")
        })?;
    }
    Ok(())
}

fn absent(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 4)?.boot()?;
    guest.ok("patience 28")?;
    for id in [2, 3, 4, 200] {
        guest.expect_err(&format!("sipi {id}"), "timeout")?;
    }
    guest.ok("patience 33")?;
    guest.start_cpu(1, 1)?;
    guest.power_off()
}

fn x2apic(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 258, 300)?.boot()?;
    for id in [1, 254, 255, 256, 257] {
        guest.start_cpu(id, 1)?;
        guest.expect(&format!("on {id} rdmsr 0x802"), &format!("{id:#x}"))?;
    }
    guest.power_off()
}

/// An I/O APIC entry names them by the extended destination id. Eight bits of it would be CPU 0's or 1's.
fn far_interrupts(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 258, 258)?.boot()?;
    for (id, byte) in [
        (1, b'a'),
        (254, b'b'),
        (255, b'c'),
        (256, b'd'),
        (257, b'e'),
    ] {
        guest.start_cpu(id, 1)?;
        // A CPU above 255 is in x2APIC mode only when it has looked at its id.
        guest.expect(&format!("on {id} rdmsr 0x802"), &format!("{id:#x}"))?;
        guest.expect_interrupt(&format!("irq 4 {id}"), byte, id)?;
    }
    guest.power_off()
}

/// As Linux leaves a CPU that it took down, and takes it up again.
fn restart(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    for starts in 1..=20 {
        guest.start_cpu(1, starts)?;
        guest.expect("ap 1 dead", "")?;
    }
    guest.ok("patience 28")?;
    guest.expect_err("ap 1 idle", "timeout")?;
    guest.power_off()
}

fn run_at_the_same_time(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 3, 3)?.boot()?;
    for id in [1, 2] {
        guest.start_cpu(id, 1)?;
        guest.expect(&format!("ap {id} count"), "")?;
    }
    let beats = |id: u32| -> Result<u64> {
        let text = guest.field(&format!("ap {id}"), "beats")?;
        text.parse()
            .with_context(|| format!("{text:?} is no count"))
    };
    for _ in 0..3 {
        let before = [beats(1)?, beats(2)?];
        let end = Instant::now() + SOON;
        while beats(1)? == before[0] || beats(2)? == before[1] {
            guest.ensure(Instant::now() < end, || {
                format!("in {SOON:?} not both CPUs got on from {before:?}")
            })?;
        }
    }
    guest.power_off()
}

fn exceptions(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for on in ["", "on 1 "] {
        guest.expect_err(&format!("{on}ud"), "trap=6")?;
        guest.expect(&format!("{on}in8 0x1234"), "0xff")?;
    }
    guest.power_off()
}
