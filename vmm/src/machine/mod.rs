//! A machine: memory, KVM VM, devices and vCPU threads, made together and gone together.
//!
//! A restart makes a new one: memory is zero, every device is in its reset state, and every vCPU is as KVM
//! creates it, with nothing left over from the guest before.

mod devices;
mod hotplug;
mod pause;
mod vcpus;

use crate::acpi::{self, needs_x2apic};
use crate::arch::cpuid::{self, Topology};
use crate::arch::{layout, regs};
use crate::boot::BootFiles;
use crate::config::{GuestEject, VmConfig};
use crate::error::{Error, Result};
use crate::kvm::memory::Ram;
use crate::kvm::{self, ClockReading, Vm};
use crate::tally::Tally;
use crate::vcpu::Reports;
use crate::vsock::{self, GuestRam};
use devices::{Devices, OnBoard};
use hotplug::HotplugRegisters;
use hotvisor_devices::cpu_hotplug::HotplugSink;
use hotvisor_devices::ged;
use hotvisor_devices::power::PowerSink;
use hotvisor_devices::serial::{Output, Serial, SerialSink};
use kvm_ioctls::{Cap, Kvm};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vcpus::{Model, Vcpus};

/// Where a machine's posts go.
pub struct Posts<P> {
    /// Power requests and reports of the vCPU threads.
    pub post: P,
    /// Output of the serial port; it outlives the machine.
    pub output: Arc<Output>,
    /// Which ejections are posted.
    pub guest_eject: GuestEject,
    /// What the vCPU threads count; it outlives the machine.
    pub tally: Arc<Tally>,
    /// Who serves the socket device, if it is to have one.
    pub sockets: Option<vsock::Client>,
}

/// A machine.
pub struct Machine {
    // Threads first: they use all the rest.
    vcpus: Vcpus,
    devices: Devices,
    vm: Arc<Vm>,
    /// What the guest's clock said when it was stopped.
    stopped_at: Option<ClockReading>,
    /// The vCPUs that it starts with, each with the number of its run.
    first: BTreeMap<u32, u64>,
}

impl Machine {
    /// Makes the machine that `config` describes, with the vCPUs of `first`, their threads parked. Vcpu 0 is
    /// always one of them.
    ///
    /// # Errors
    /// [`Error::Input`] where a file is not any more what it was, [`Error::Host`] where the host fails. What this host
    /// cannot have was refused by [`check_limits`].
    pub fn new<P>(
        kvm: &Kvm,
        config: &VmConfig,
        files: &BootFiles,
        (generation, first): (u64, BTreeMap<u32, u64>),
        posts: Posts<P>,
    ) -> Result<Self>
    where
        P: PowerSink + Reports + SerialSink + HotplugSink + Clone + 'static,
    {
        let leaves = kvm::supported_cpuid(kvm)?;
        let ram = Arc::new(Ram::new(config.memory)?);
        let vm = Arc::new(Vm::new(kvm, ram.clone())?);
        let present: BTreeSet<u32> = first.keys().copied().collect();
        let tables = acpi::Machine {
            present: present.clone(),
            ..acpi::Machine::of(config)
        };
        let entry = files.load(vm.memory(), config, &tables)?;
        let on_board = OnBoard {
            present: &present,
            guest_eject: posts.guest_eject,
            ram: GuestRam(ram),
            sockets: posts.sockets,
        };
        let devices = Devices::new(&vm, config, on_board, posts.post.clone(), posts.output)?;
        let model = Model {
            vm: vm.clone(),
            bus: devices.bus.clone(),
            reports: Arc::new(posts.post),
            tally: posts.tally,
            leaves,
            topology: Topology {
                max: config.cpus.max,
                tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            },
            generation,
        };
        let mut vcpus = Vcpus::new(model, config.cpus.max);
        for &id in &present {
            vcpus.make(id, |fd| match id {
                0 => regs::enter(fd, entry, needs_x2apic(config.cpus.max)),
                _ => Ok(()),
            })?;
        }
        Ok(Self {
            vcpus,
            devices,
            vm,
            stopped_at: None,
            first,
        })
    }

    /// Lets every vCPU run that it starts with.
    ///
    /// # Errors
    /// None: their threads are there.
    pub fn run(&mut self) -> Result<()> {
        let first = std::mem::take(&mut self.first);
        first
            .into_iter()
            .try_for_each(|(id, run)| self.vcpus.run(id, run))
    }

    /// Tells every vCPU thread to end, but for these, which leave the guest and stay. Each reports when it has ended.
    pub fn stop(&mut self, stay: &BTreeSet<u32>) {
        self.vcpus.stop(stay);
    }

    /// Tells one of those that stayed to end.
    pub fn stop_one(&self, id: u32) {
        self.vcpus.stop_one(id);
    }

    /// The vCPUs that have threads.
    pub fn with_threads(&self) -> impl Iterator<Item = u32> {
        self.vcpus.with_threads()
    }

    /// Takes note that a vCPU's thread has ended; returns whether it was told to while the machine goes on.
    pub fn thread_ended(&mut self, id: u32) -> bool {
        self.vcpus.thread_ended(id)
    }

    /// Presses the guest's power button.
    pub fn press_power_button(&self) {
        self.devices.ged.raise(ged::Event::PowerButton);
    }

    /// COM1, if there is one.
    #[must_use]
    pub fn serial(&self) -> Option<&Serial> {
        self.devices.serial.as_deref()
    }
}

/// Checks the configuration against what this KVM can do.
///
/// # Errors
/// [`Error::Input`] for what cannot be had on this host.
pub fn check_limits(kvm: &Kvm, config: &VmConfig) -> Result<()> {
    let address_bits = cpuid::physical_address_bits(&kvm::supported_cpuid(kvm)?);
    let max = config.cpus.max as usize;
    let limit = kvm.get_max_vcpus().min(kvm.get_max_vcpu_id());
    if max > limit {
        return Err(Error::input(
            format!("cpus boot={},max={max}", config.cpus.boot),
            format!("{max} possible CPUs, and this host's KVM allows {limit}"),
            format!("lower max to {limit}"),
        ));
    }
    let end = layout::ram_ranges(config.memory)
        .iter()
        .map(|(start, len)| start + len)
        .max();
    if end.is_some_and(|end| end > 1 << address_bits) {
        let most = (1u64 << address_bits) - (layout::HIGH_RAM_START - layout::LOW_RAM_END);
        return Err(Error::input(
            format!("memory size={}M", config.memory >> 20),
            format!("this host's CPUs have {address_bits} bits of physical address"),
            format!("ask for {}M at the most", most >> 20),
        ));
    }
    Ok(())
}
