//! What the machine tells its guest, and how it answers where nothing is.

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};

use crate::guest::{Guest, Machine, number, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("machine::answers", answers),
        test("machine::cmdline", cmdline),
        test("machine::tables_have_good_checksums", tables),
        test("machine::fadt_is_hardware_reduced_6_3", fadt),
        test("machine::memory_map_of_64m", |context| memory(context, 64)),
        test("machine::memory_map_of_4g", |context| memory(context, 4096)),
        test("machine::unclaimed_ports_read_all_ones", ports),
        test("machine::unclaimed_addresses_read_all_ones", addresses),
        test("machine::serial_input_interrupts", serial_interrupts),
        test("machine::more_vcpus_than_usual_descriptors", descriptors),
    ]
}

fn answers(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?.boot()?;
    guest.expect("ping", "pong")?;
    guest.power_off()
}

/// What is usual are 1,024 descriptors, and each vCPU has two.
fn descriptors(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 40, 40)?
        .with(|vm| vm.descriptors(64))
        .boot()?;
    guest.expect("ping", "pong")?;
    guest.power_off()
}

fn cmdline(context: &Context) -> Result<()> {
    let line = "one two=3 \"four five\"";
    let guest = Machine::new(context, 1, 1)?
        .with(|vm| vm.cmdline(line))
        .boot()?;
    guest.expect("cmdline", line)?;
    guest.power_off()
}

/// Every table is reached from the start info through RSDP and XSDT, as an operating system does.
fn tables(context: &Context) -> Result<()> {
    for (boot, max) in [(1, 1), (2, 4), (1, 255), (1, 256)] {
        let guest = Machine::new(context, boot, max)?.boot()?;
        let answer = guest.ok("tables")?;
        for table in ["RSDP", "XSDT", "FACP", "DSDT", "APIC"] {
            let wanted = format!("{table}=good");
            guest.ensure(answer.split(' ').any(|word| word == wanted), || {
                format!("max={max}: no {wanted} in {answer:?}")
            })?;
        }
        guest.ensure(!answer.contains("=bad"), || {
            format!("max={max}: a bad checksum in {answer:?}")
        })?;
        guest.power_off()?;
    }
    Ok(())
}

fn fadt(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?.boot()?;
    let answer = guest.ok("facp")?;
    for wanted in ["revision=6.3", "length=276", "hw-reduced=1"] {
        guest.ensure(answer.split(' ').any(|word| word == wanted), || {
            format!("no {wanted} in {answer:?}")
        })?;
    }
    guest.ensure(!answer.contains("=none"), || {
        format!("a power register is missing: {answer:?}")
    })?;
    guest.power_off()
}

/// A range of the memory map.
struct Range {
    start: u64,
    size: u64,
    kind: u64,
}

const RAM: u64 = 1;

impl Range {
    fn end(&self) -> u64 {
        self.start + self.size
    }

    /// Reads `START+SIZE:TYPE`.
    fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("{text:?} is no range");
        let (start, rest) = text.split_once('+').with_context(wrong)?;
        let (size, kind) = rest.split_once(':').with_context(wrong)?;
        Ok(Self {
            start: number(start)?,
            size: number(size)?,
            kind: kind.parse()?,
        })
    }
}

const HOLE: u64 = 3 << 30;
const HOLE_END: u64 = 4 << 30;

fn memory(context: &Context, mib: u32) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?
        .with(|vm| vm.memory(mib))
        .boot()?;
    let answer = guest.ok("mem")?;
    let map: Vec<Range> = answer
        .split(' ')
        .map(Range::parse)
        .collect::<Result<_>>()
        .with_context(|| guest.vm().evidence("the memory map cannot be read"))?;
    let size = u64::from(mib) << 20;
    let told: u64 = map.iter().map(|range| range.size).sum();
    guest.ensure(told == size, || {
        format!("{told:#x} bytes in all, and not {size:#x}: {answer}")
    })?;
    for pair in map.windows(2) {
        guest.ensure(pair[0].end() <= pair[1].start, || {
            format!("ranges out of order or on top of each other: {answer}")
        })?;
    }
    for range in &map {
        guest.ensure(range.end() <= HOLE || range.start >= HOLE_END, || {
            format!("a range among the devices: {answer}")
        })?;
    }
    let ram = |from: u64, to: u64| -> u64 {
        map.iter()
            .filter(|range| range.kind == RAM && range.start >= from && range.end() <= to)
            .map(|range| range.size)
            .sum()
    };
    let high = size.saturating_sub(HOLE);
    guest.ensure(ram(HOLE_END, u64::MAX) == high, || {
        format!("not {high:#x} bytes of RAM above 4 GiB: {answer}")
    })?;
    let lost = size - high - ram(0, HOLE);
    guest.ensure(lost <= 1 << 20, || {
        format!("{lost:#x} bytes below 3 GiB are no RAM: {answer}")
    })?;
    ends_of_ram_hold_what_is_written(&guest, &map)?;
    guest.power_off()
}

/// Writes into the last word of each range of RAM that the guest can reach without paging, and reads it.
fn ends_of_ram_hold_what_is_written(guest: &Guest, map: &[Range]) -> Result<()> {
    for range in map {
        if range.kind != RAM || range.end() > HOLE {
            continue;
        }
        let (last, value) = (range.end() - 4, 0x5eed_0000 | range.start >> 16);
        guest.ok(&format!("wr32 {last:#x} {value:#x}"))?;
        guest.expect(&format!("rd32 {last:#x}"), &format!("{value:#x}"))?;
    }
    Ok(())
}

/// A port and an address at which no machine of ours has anything.
const NO_PORT: u32 = 0x1234;
const NO_ADDRESS: u32 = 0xd000_0000;
const ALL_ONES: [(u32, &str); 3] = [(8, "0xff"), (16, "0xffff"), (32, "0xffffffff")];

fn ports(context: &Context) -> Result<()> {
    reads_all_ones(context, "in", "out", NO_PORT)
}

fn addresses(context: &Context) -> Result<()> {
    reads_all_ones(context, "rd", "wr", NO_ADDRESS)
}

/// At each width and from each CPU; a write changes nothing, and the machine goes on.
fn reads_all_ones(context: &Context, read: &str, write: &str, at: u32) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for on in ["", "on 1 "] {
        for (bits, ones) in ALL_ONES {
            guest.expect(&format!("{on}{read}{bits} {at:#x}"), ones)?;
            guest.expect(&format!("{on}{write}{bits} {at:#x} 0"), "")?;
            guest.expect(&format!("{on}{read}{bits} {at:#x}"), ones)?;
        }
    }
    guest.expect("ping", "pong")?;
    guest.power_off()
}

/// The whole way of an interrupt: UART, I/O APIC, local APIC, the guest's handler.
fn serial_interrupts(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?.boot()?;
    for byte in b'a'..=b'z' {
        guest.expect_interrupt("irq 4", byte, 0)?;
    }
    guest.power_off()
}
