//! ACPI tables of a hardware-reduced platform: RSDP, XSDT, FADT, MADT, DSDT.

mod cpu_aml;
mod dsdt;
mod fadt;
mod madt;
pub mod ost;

pub(crate) use madt::needs_x2apic;

use crate::arch::layout::{self, LOW_RAM_END, PAGE};
use crate::config::{Serial, VmConfig};
use crate::error::{Error, Result};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use std::collections::BTreeSet;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

const OEM_ID: [u8; 6] = *b"HOTVIS";
const OEM_TABLE_ID: [u8; 8] = *b"HOTVISOR";
const OEM_REVISION: u32 = 1;
/// Bytes of the header that all tables share.
const HEADER: u64 = 36;

/// What the tables are generated from.
///
/// How many and which CPUs are present changes no table's size.
#[derive(Clone, Debug)]
pub struct Machine {
    /// vCPUs that the guest can ever have: ids 0 up to, but not including, this.
    pub max: u32,
    /// Those that are there when the guest starts. The boot CPU, 0, is always among them.
    pub present: BTreeSet<u32>,
    /// Whether there is a COM1.
    pub serial: bool,
    /// Whether there is a socket device.
    pub vsock: bool,
}

impl Machine {
    /// The part of `config` that the tables tell of, for a guest's first start.
    #[must_use]
    pub fn of(config: &VmConfig) -> Self {
        Self {
            max: config.cpus.max,
            present: (0..config.cpus.boot).collect(),
            serial: config.serial != Serial::Off,
            vsock: config.vsock.is_some(),
        }
    }
}

/// The tables whose contents do not depend on where they lie.
#[derive(Clone, Debug)]
pub struct Tables {
    /// DSDT.
    pub dsdt: Vec<u8>,
    /// MADT.
    pub madt: Vec<u8>,
}

/// All tables, with their addresses.
pub struct Placed {
    tables: Vec<(u64, Vec<u8>)>,
    start: u64,
}

/// AML that was generated already.
struct Raw<'a>(&'a [u8]);

impl Aml for Raw<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

impl Tables {
    /// Generates the tables of `machine`.
    #[must_use]
    pub fn build(machine: &Machine) -> Self {
        Self {
            dsdt: dsdt::build(machine),
            madt: madt::build(machine),
        }
    }

    /// Lays them out at the end of the RAM below the hole of a machine with `memory` bytes.
    #[must_use]
    pub fn place(self, memory: u64) -> Placed {
        const ALIGN: u64 = 64;
        let fadt_len = acpi_tables::fadt::FADT::len() as u64;
        let xsdt_len = HEADER + 2 * 8;
        let lens = [
            xsdt_len,
            fadt_len,
            self.madt.len() as u64,
            self.dsdt.len() as u64,
        ];
        let total: u64 = lens.iter().map(|len| len.next_multiple_of(ALIGN)).sum();
        let start = memory.min(LOW_RAM_END) - total.next_multiple_of(PAGE);
        let mut at = start;
        let [xsdt_at, fadt_at, madt_at, dsdt_at] = lens.map(|len| {
            let here = at;
            at += len.next_multiple_of(ALIGN);
            here
        });
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        xsdt.add_entry(fadt_at);
        xsdt.add_entry(madt_at);
        let tables = vec![
            (layout::RSDP.0, bytes(&Rsdp::new(OEM_ID, xsdt_at))),
            (xsdt_at, bytes(&xsdt)),
            (fadt_at, fadt::build(dsdt_at)),
            (madt_at, self.madt),
            (dsdt_at, self.dsdt),
        ];
        Placed { tables, start }
    }
}

impl Placed {
    /// Where the tables start; they reach to the end of the RAM below the hole.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Address and contents of each table, the RSDP first.
    #[must_use]
    pub fn tables(&self) -> &[(u64, Vec<u8>)] {
        &self.tables
    }

    /// Writes them into guest memory.
    ///
    /// # Errors
    /// [`Error::Host`] where the memory is not there, which the memory map rules out.
    pub fn write<M: GuestMemoryBackend>(&self, memory: &M) -> Result<()> {
        for (at, table) in &self.tables {
            memory
                .write_slice(table, GuestAddress(*at))
                .map_err(|e| Error::bug("ACPI tables", e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
