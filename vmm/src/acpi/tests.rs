//! The tables, looked at as bytes and through ACPICA's compiler.

use super::*;
use std::path::PathBuf;
use std::process::Command;

fn machine(boot: u32, max: u32) -> Machine {
    Machine {
        max,
        present: (0..boot).collect(),
        serial: true,
        vsock: true,
    }
}

fn placed(machine: &Machine) -> Placed {
    Tables::build(machine).place(512 << 20)
}

fn signature(table: &[u8]) -> String {
    String::from_utf8_lossy(&table[..4]).into_owned()
}

#[test]
fn every_table_sums_to_zero_and_says_its_length() {
    for machine in [machine(1, 1), machine(4, 254), machine(2, 1024)] {
        let placed = placed(&machine);
        for (at, table) in placed.tables() {
            let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "{} at {at:#x}", signature(table));
            if !table.starts_with(b"RSD PTR ") {
                let len = u32::from_le_bytes(table[4..8].try_into().unwrap());
                assert_eq!(len as usize, table.len(), "{}", signature(table));
            }
        }
    }
}

#[test]
fn tables_do_not_overlap_and_end_with_the_ram() {
    let placed = placed(&machine(2, 1024));
    let mut ranges: Vec<_> = placed.tables()[1..]
        .iter()
        .map(|(at, table)| (*at, at + table.len() as u64))
        .collect();
    ranges.sort_unstable();
    assert_eq!(ranges[0].0, placed.start());
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{ranges:x?}"
    );
    assert!(ranges.last().unwrap().1 <= 512 << 20);
}

/// (APIC id, flags) of every CPU in a MADT.
fn cpus_of(madt: &[u8]) -> Vec<(u32, u32)> {
    let mut cpus = Vec::new();
    let mut rest = &madt[44..];
    while let [kind, len, ..] = *rest {
        let structure = &rest[..usize::from(len)];
        let word = |at: usize| u32::from_le_bytes(structure[at..at + 4].try_into().unwrap());
        match kind {
            0 => cpus.push((u32::from(structure[3]), word(4))),
            9 => cpus.push((word(4), word(8))),
            _ => {}
        }
        rest = &rest[usize::from(len)..];
    }
    cpus
}

#[test]
fn the_madt_lists_every_possible_cpu_once() {
    for (boot, max) in [(1, 1), (2, 8), (1, 254), (3, 255), (3, 256), (1024, 1024)] {
        let cpus = cpus_of(&Tables::build(&machine(boot, max)).madt);
        let expected: Vec<(u32, u32)> = (0..max)
            .map(|id| (id, if id < boot { 1 } else { 2 }))
            .collect();
        assert_eq!(cpus, expected, "boot={boot},max={max}");
    }
}

#[test]
fn which_cpus_are_present_changes_their_status_and_no_size() {
    let before = Tables::build(&machine(2, 8));
    let after = Tables::build(&Machine {
        present: [0, 3, 7].into(),
        ..machine(1, 8)
    });
    let status: Vec<_> = cpus_of(&after.madt).iter().map(|cpu| cpu.1).collect();
    assert_eq!(status, [1, 2, 2, 1, 2, 2, 2, 1]);
    assert_eq!(before.madt.len(), after.madt.len());
    assert_eq!(before.dsdt, after.dsdt);
}

#[test]
fn the_fadt_is_hardware_reduced_6_3() {
    let placed = placed(&machine(1, 2));
    let (_, fadt) = placed
        .tables()
        .iter()
        .find(|(_, t)| t.starts_with(b"FACP"))
        .unwrap();
    assert_eq!((fadt[8], fadt[131], fadt.len()), (6, 3, 276));
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
}

/// Runs `iasl`, which the machine must have, and returns what it printed.
fn iasl(dir: &std::path::Path, args: &[&str]) -> String {
    let run = Command::new("iasl").args(args).current_dir(dir).output();
    let run = run.expect("iasl is needed for this test: `apt-get install acpica-tools`");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(run.status.success(), "iasl {args:?}: {text}");
    text
}

#[test]
fn iasl_disassembles_and_recompiles_them_without_error_or_warning() {
    for machine in [
        machine(1, 1),
        Machine {
            present: [0, 3, 7].into(),
            ..machine(1, 16)
        },
        Machine {
            serial: false,
            vsock: false,
            ..machine(2, 300)
        },
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (_, table) in &placed(&machine).tables()[1..] {
            let name = signature(table).to_lowercase();
            let file: PathBuf = format!("{name}.dat").into();
            std::fs::write(dir.path().join(&file), table).unwrap();
            let read = iasl(dir.path(), &["-d", file.to_str().unwrap()]);
            assert!(
                !read.contains("Warning") && !read.contains("Error"),
                "{name}: {read}"
            );
            let made = iasl(dir.path(), &["-we", "-oa", &format!("{name}.dsl")]);
            assert!(made.contains("0 Errors, 0 Warnings"), "{name}: {made}");
            if name == "dsdt" {
                let again = std::fs::read(dir.path().join("dsdt.aml")).unwrap();
                assert_eq!(again[36..], table[36..], "recompiled to something else");
            }
        }
    }
}

/// The DSDT in the words of ACPICA's disassembler.
fn disassembled(machine: &Machine) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dsdt.dat"), Tables::build(machine).dsdt).unwrap();
    iasl(dir.path(), &["-d", "dsdt.dat"]);
    std::fs::read_to_string(dir.path().join("dsdt.dsl")).unwrap()
}

#[test]
fn the_dsdt_tells_of_a_socket_device_where_there_is_one() {
    let with = disassembled(&machine(1, 2));
    let (_, device) = with.split_once("Device (VIO0)").unwrap();
    // Its only interrupt is the first after its name, and the disassembler spreads it over lines.
    let (device, _) = device.split_once("})").unwrap();
    let words: Vec<_> = device.split_whitespace().collect();
    let device = words.join(" ");
    for said in [
        r#"Name (_HID, "LNRO0005")"#,
        "Name (_UID, Zero)",
        "Name (_CCA, One)",
        "Memory32Fixed (ReadWrite, 0xFEB02000, // Address Base 0x00001000, // Address Length )",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x00000011, }",
    ] {
        assert!(device.contains(said), "{said}: {device}");
    }
    let without = Machine {
        vsock: false,
        ..machine(1, 2)
    };
    assert!(!disassembled(&without).contains("LNRO0005"));
}
