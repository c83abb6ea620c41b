//! The host's KVM: opening it, making a VM with the interrupt controllers that we want, and what it can do.

pub mod memory;
pub mod probe;

use crate::arch::layout;
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use hotvisor_devices::ioapic::{Message, MessageSink, PINS};
use hotvisor_devices::ratelimit::RateLimit;
use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CLOCK_HOST_TSC,
    KVM_MAX_CPUID_ENTRIES, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS,
    kvm_clock_data, kvm_enable_cap, kvm_msi,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use memory::Ram;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use tracing::warn;
use vm_memory::GuestMemoryMmap;

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// Capabilities without which no machine can be made, and what each is for.
pub const REQUIRED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "guest memory"),
    (Cap::SetTssAddr, "real mode"),
    (Cap::ExtCpuid, "CPUID"),
    (Cap::MpState, "application processors"),
    (
        Cap::SplitIrqchip,
        "local APICs in the kernel, the I/O APIC outside",
    ),
    (Cap::X2ApicApi, "APIC ids above 255"),
    (Cap::SignalMsi, "interrupt messages"),
    (Cap::ImmediateExit, "kicks that are never lost"),
];

/// Opens KVM, whatever it can do.
///
/// # Errors
/// [`Error::Input`] where there is none, or where it may not be used.
pub fn open_any() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|e| {
        let (found, remedy) = match e.errno() {
            libc::ENOENT => (
                "no such device".to_owned(),
                "load the module kvm_intel or kvm_amd, or enable virtualisation in the firmware",
            ),
            libc::EACCES | libc::EPERM => (
                "permission denied".to_owned(),
                "add the user to the group kvm (`usermod -aG kvm USER`) and log in again",
            ),
            errno => (
                std::io::Error::from_raw_os_error(errno).to_string(),
                "see whether another hypervisor holds the CPU, and whether this is a KVM device",
            ),
        };
        Error::input(DEVICE, found, remedy)
    })?;
    if u32::try_from(kvm.get_api_version()) != Ok(KVM_API_VERSION) {
        let found = format!("speaks version {} of KVM's API", kvm.get_api_version());
        return Err(Error::input(
            DEVICE,
            found,
            "use a device that is KVM's, version 12",
        ));
    }
    Ok(kvm)
}

/// Opens KVM and checks what no machine can do without.
///
/// # Errors
/// [`Error::Input`] where there is none, where it may not be used, or where it lacks something.
pub fn open() -> Result<Kvm> {
    let kvm = open_any()?;
    match REQUIRED
        .into_iter()
        .find(|(cap, _)| !kvm.check_extension(*cap))
    {
        None => Ok(kvm),
        Some((cap, what)) => Err(Error::input(
            DEVICE,
            format!("cannot do {cap:?} ({what})"),
            "use a host kernel of version 4.12 or later",
        )),
    }
}

/// The CPUID leaves that this KVM supports.
///
/// # Errors
/// [`Error::Host`] with KVM's answer.
pub fn supported_cpuid(kvm: &Kvm) -> Result<CpuId> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| Error::kvm("supported CPUID", e))
}

/// What kvm-clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Nanoseconds since it was made.
    ns: u64,
    /// The host's TSC at the same moment, where KVM derives the clock of all vCPUs from it.
    host_tsc: Option<u64>,
}

impl ClockReading {
    /// By how many ticks the TSC has gone on between two readings, beyond what the clock says. None where the clock
    /// does not come from the TSC.
    #[must_use]
    pub fn excess(self, later: Self, khz: u32) -> Option<u64> {
        let ticks = later.host_tsc?.checked_sub(self.host_tsc?)?;
        let ns = later.ns.saturating_sub(self.ns);
        let told = u128::from(ns) * u128::from(khz) / 1_000_000;
        ticks.checked_sub(u64::try_from(told).ok()?)
    }
}

/// A KVM VM and the memory that it maps. Everything that keeps the VM alive in the kernel (a vCPU's
/// descriptor among it) holds one of these, so that the memory outlives all of them.
pub struct Vm {
    fd: VmFd,
    ram: Arc<Ram>,
}

impl Vm {
    /// A VM with `ram`, local APICs in the kernel and the I/O APIC outside.
    ///
    /// # Errors
    /// [`Error::Host`] with KVM's answer.
    pub fn new(kvm: &Kvm, ram: Arc<Ram>) -> Result<Self> {
        let fd = kvm.create_vm().map_err(|e| Error::kvm("create VM", e))?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(|e| Error::kvm("set identity map address", e))?;
        fd.set_tss_address(layout::KVM_TSS)
            .map_err(|e| Error::kvm("set TSS address", e))?;
        let enable = |cap, arg| {
            let mut request = kvm_enable_cap {
                cap,
                ..kvm_enable_cap::default()
            };
            request.args[0] = arg;
            fd.enable_cap(&request)
                .map_err(|e| Error::kvm(&format!("enable capability {cap}"), e))
        };
        enable(KVM_CAP_SPLIT_IRQCHIP, PINS as u64)?;
        // 32-bit destinations, and 0xff an id like any other.
        let x2apic = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        enable(KVM_CAP_X2APIC_API, u64::from(x2apic))?;
        ram.map_into(&fd)?;
        Ok(Self { fd, ram })
    }

    /// KVM's descriptor of the VM.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// What kvm-clock says to the guest.
    ///
    /// # Errors
    /// [`Error::Host`] where this KVM has no such clock.
    pub fn clock(&self) -> Result<ClockReading> {
        let data =
            failpoint!(GetClock, self.fd.get_clock()).map_err(|e| Error::kvm("get clock", e))?;
        let host_tsc = data.flags & KVM_CLOCK_HOST_TSC != 0;
        Ok(ClockReading {
            ns: data.clock,
            host_tsc: host_tsc.then_some(data.host_tsc),
        })
    }

    /// Has kvm-clock go on from `reading`. No vCPU is in the guest.
    ///
    /// # Errors
    /// [`Error::Host`] where this KVM has no such clock.
    pub fn set_clock(&self, reading: ClockReading) -> Result<()> {
        // Without flags: with them it would go on as if it had never been stopped.
        let data = kvm_clock_data {
            clock: reading.ns,
            ..kvm_clock_data::default()
        };
        failpoint!(SetClock, self.fd.set_clock(&data)).map_err(|e| Error::kvm("set clock", e))
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap<()> {
        self.ram.memory()
    }
}

/// What KVM said when the last message of the pin that notifies the guest was not delivered.
#[derive(Clone, Debug, Default)]
pub struct Undelivered(Arc<AtomicI32>);

impl Undelivered {
    /// KVM's answer, in words.
    #[must_use]
    pub fn why(&self) -> String {
        match self.0.load(Ordering::Relaxed) {
            // What KVM says of a message to nobody, by either of its ways to deliver one.
            0 | libc::EPERM => "no CPU of the guest's takes it".to_owned(),
            errno => std::io::Error::from_raw_os_error(errno).to_string(),
        }
    }
}

/// Delivers the I/O APIC's messages to KVM's local APICs.
pub struct Messages {
    vm: Arc<Vm>,
    undelivered: Undelivered,
}

/// Of all resets together.
static UNTAKEN: RateLimit = RateLimit::new(8);

impl Messages {
    /// Messages into `vm`; why the guest was not notified shows in `undelivered`.
    #[must_use]
    pub fn new(vm: Arc<Vm>, undelivered: Undelivered) -> Self {
        Self { vm, undelivered }
    }
}

/// Base of the addresses of interrupt messages, and the bit that makes the destination a logical one
/// (Intel SDM volume 3A, section 11.11).
const MSI_BASE: u32 = 0xfee0_0000;
const MSI_LOGICAL: u32 = 1 << 2;

impl MessageSink for Messages {
    fn send(&self, message: Message) -> bool {
        let logical = if message.logical { MSI_LOGICAL } else { 0 };
        let msi = kvm_msi {
            address_lo: MSI_BASE | (message.destination & 0xff) << 12 | logical,
            // With 32-bit ids: bits 8 to 31 of the destination.
            address_hi: message.destination & !0xff,
            data: message.data,
            ..kvm_msi::default()
        };
        let sent = failpoint!(Interrupt, self.vm.fd.signal_msi(msi));
        if message.pin == usize::from(layout::GSI_GED) {
            let errno = sent.err().map_or(0, |e| e.errno());
            self.undelivered.0.store(errno, Ordering::Relaxed);
        }
        // How many local APICs have taken it.
        let taken = matches!(sent, Ok(1..));
        if !taken && let Some(n) = UNTAKEN.pass() {
            warn!(?message, n, ?sent, "no local APIC took an interrupt");
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ns: u64, host_tsc: impl Into<Option<u64>>) -> ClockReading {
        ClockReading {
            ns,
            host_tsc: host_tsc.into(),
        }
    }

    #[test]
    fn the_excess_is_what_the_clock_has_not_told() {
        let stopped = reading(1_000, 50_000);
        // Three ticks a nanosecond, and the clock went on for 20 ns.
        let later = reading(1_020, 80_000);
        assert_eq!(stopped.excess(later, 3_000_000), Some(30_000 - 60));
        assert_eq!(stopped.excess(stopped, 3_000_000), Some(0));
    }

    #[test]
    fn there_is_none_without_the_tsc_or_where_it_went_back() {
        let stopped = reading(1_000, 50_000);
        assert_eq!(stopped.excess(reading(1_020, None), 3_000_000), None);
        assert_eq!(reading(1_000, None).excess(stopped, 3_000_000), None);
        assert_eq!(stopped.excess(reading(1_020, 49_999), 3_000_000), None);
        // A clock that was not stopped has told all of it.
        assert_eq!(stopped.excess(reading(11_020, 80_000), 3_000_000), None);
    }
}
