//! How much memory a VMM needs for itself.

use std::fs;

use anyhow::{Context, Result, ensure};

/// The name that Hotvisor gives to its guest's RAM, where the kernel has names for such mappings.
const GUEST_RAM: &str = "[anon:guest-ram]";

/// Resident memory of a process in KiB, without the guest's RAM, whose size is given in MiB.
///
/// # Errors
/// The process has ended, or the guest's RAM cannot be told from the rest.
pub fn own_memory(pid: u32, guest: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    without_guest(&mappings(&smaps), u64::from(guest) * 1024)
        .with_context(|| format!("cannot tell the VMM's own memory in {path}"))
}

#[derive(Debug, Default)]
struct Mapping {
    named: bool,
    size: u64,
    resident: u64,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let field = line.split_whitespace().next().unwrap_or_default();
        // The head of a mapping begins with its addresses, every other line with a field's name.
        if !field.ends_with(':') {
            let named = line.ends_with(GUEST_RAM);
            mappings.push(Mapping {
                named,
                ..Mapping::default()
            });
        }
        let value = || {
            line.split_whitespace()
                .nth(1)
                .and_then(|value| value.parse().ok())
        };
        match (field, mappings.last_mut()) {
            ("Size:", Some(mapping)) => mapping.size = value().unwrap_or_default(),
            ("Rss:", Some(mapping)) => mapping.resident = value().unwrap_or_default(),
            _ => {}
        }
    }
    mappings
}

/// The RAM is what has its name; or else the largest mapping, if it has the guest's size, or the
/// two largest, if they have it together: RAM is split around the hole below 4 GiB.
fn without_guest(mappings: &[Mapping], guest: u64) -> Result<u64> {
    let total: u64 = mappings.iter().map(|mapping| mapping.resident).sum();
    let named = mappings.iter().filter(|mapping| mapping.named);
    let (size, resident) = named.fold((0, 0), |(size, rss), next| {
        (size + next.size, rss + next.resident)
    });
    if size == guest {
        return Ok(total - resident);
    }
    let mut largest: Vec<&Mapping> = mappings.iter().collect();
    largest.sort_by_key(|mapping| std::cmp::Reverse(mapping.size));
    let sizes: Vec<u64> = largest.iter().take(2).map(|mapping| mapping.size).collect();
    let parts = match sizes.as_slice() {
        [one, ..] if *one == guest => 1,
        [one, two] if one + two == guest => 2,
        _ => 0,
    };
    ensure!(
        parts > 0,
        "no mapping has the size of the guest's RAM, {guest} KiB; the largest have {sizes:?} KiB"
    );
    Ok(total
        - largest
            .iter()
            .take(parts)
            .map(|mapping| mapping.resident)
            .sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f00-7f10 rw-p 00000000 00:00 0 [anon:guest-ram]
Size:               1024 kB
Rss:                 300 kB
VmFlags: rd wr
7f20-7f30 rw-p 00000000 00:00 0 
Size:                100 kB
Rss:                  40 kB
7f40-7f50 r-xp 00000000 00:00 0 /usr/bin/hotvisor
Size:                 10 kB
Rss:                   2 kB
";

    #[test]
    fn guest_ram_is_known_by_its_name_or_else_by_its_size() {
        for smaps in [SMAPS.to_owned(), SMAPS.replace(GUEST_RAM, "")] {
            assert_eq!(without_guest(&mappings(&smaps), 1024).unwrap(), 42);
        }
        let split = without_guest(&mappings(&SMAPS.replace(GUEST_RAM, "")), 1124).unwrap();
        assert_eq!(split, 2);
    }

    #[test]
    fn memory_of_an_unknown_size_is_not_guessed() {
        let error = without_guest(&mappings(SMAPS), 2048)
            .unwrap_err()
            .to_string();
        assert!(error.contains("[1024, 100]"), "{error}");
    }
}
