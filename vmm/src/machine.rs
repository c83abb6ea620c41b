//! A machine: memory, KVM VM, devices and vCPU threads, made together and gone together.
//!
//! A restart makes a new one: memory is zero, every device is in its reset state, and every vCPU is as KVM
//! creates it, with nothing left over from the guest before.

use crate::acpi::{self, needs_x2apic};
use crate::arch::cpuid::{self, Topology};
use crate::arch::{layout, regs};
use crate::boot::BootFiles;
use crate::config::{self, VmConfig};
use crate::error::{Error, Result};
use crate::kvm::memory::Ram;
use crate::kvm::{self, Messages, Vm};
use crate::vcpu::{Handle, PATIENCE, Reports, Spec, VcpuRef};
use hotvisor_devices::ged::{self, Ged};
use hotvisor_devices::ioapic::{self, IoApic, Pin};
use hotvisor_devices::power::{self, PowerRegisters, PowerSink};
use hotvisor_devices::serial::{self, Output, Serial, SerialSink};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use std::sync::Arc;
use std::time::Instant;
use vm_device::bus::{MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};

/// A machine's devices, as far as the host speaks to them.
struct Devices {
    bus: Arc<IoManager>,
    ged: Arc<Ged>,
    serial: Option<Arc<Serial>>,
}

/// Where a machine's posts go.
pub struct Posts<P> {
    /// Power requests and reports of the vCPU threads.
    pub post: P,
    /// Output of the serial port; it outlives the machine.
    pub output: Arc<Output>,
}

/// A machine.
pub struct Machine {
    // Threads first: they use all the rest.
    vcpus: Vec<Handle>,
    devices: Devices,
}

impl Machine {
    /// Makes the machine that `config` describes, with its vCPU threads parked.
    ///
    /// # Errors
    /// [`Error::Input`] for what cannot be had on this host, [`Error::Host`] where the host fails.
    pub fn new<P>(
        kvm: &Kvm,
        config: &VmConfig,
        files: &BootFiles,
        generation: u64,
        posts: Posts<P>,
    ) -> Result<Self>
    where
        P: PowerSink + Reports + SerialSink + Clone + 'static,
    {
        let leaves = kvm::supported_cpuid(kvm)?;
        check_limits(kvm, config, cpuid::physical_address_bits(&leaves))?;
        let ram = Arc::new(Ram::new(config.memory)?);
        let vm = Arc::new(Vm::new(kvm, ram)?);
        let entry = files.load(vm.memory(), config, &acpi::Machine::of(config))?;
        let devices = Devices::new(&vm, config, posts.post.clone(), posts.output)?;
        let reports: Arc<dyn Reports> = Arc::new(posts.post);
        let topology = Topology {
            max: config.cpus.max,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        };
        let mut vcpus = Vec::new();
        for id in 0..config.cpus.boot {
            let fd = create_vcpu(&vm, id)?;
            let own = cpuid::for_vcpu(&leaves, id, topology);
            fd.set_cpuid2(&own)
                .map_err(|e| Error::kvm("set CPUID", e))?;
            regs::set_msrs(&fd)?;
            if id == 0 {
                regs::enter(&fd, entry, needs_x2apic(config.cpus.max))?;
            }
            vcpus.push(Handle::spawn(Spec {
                vcpu: VcpuRef { id, generation },
                fd,
                vm: vm.clone(),
                bus: devices.bus.clone(),
                reports: reports.clone(),
            })?);
        }
        Ok(Self { vcpus, devices })
    }

    /// Lets every vCPU run.
    pub fn run(&self) {
        self.vcpus.iter().for_each(Handle::run);
    }

    /// Tells every vCPU thread to end. Each reports when it has.
    pub fn stop(&self) {
        self.vcpus.iter().for_each(Handle::end);
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

impl Drop for Machine {
    fn drop(&mut self) {
        // All at once, and one deadline for all.
        self.stop();
        let deadline = Instant::now() + PATIENCE;
        for vcpu in &mut self.vcpus {
            vcpu.finish(deadline);
        }
    }
}

/// Checks the configuration against what this KVM can do.
fn check_limits(kvm: &Kvm, config: &VmConfig, address_bits: u32) -> Result<()> {
    let max = config.cpus.max as usize;
    let limit = kvm.get_max_vcpus().min(kvm.get_max_vcpu_id());
    if max > limit {
        return Err(Error::input(
            format!("--cpus boot={},max={max}", config.cpus.boot),
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
            format!("--memory size={}M", config.memory >> 20),
            format!("this host's CPUs have {address_bits} bits of physical address"),
            format!("ask for {}M at the most", most >> 20),
        ));
    }
    Ok(())
}

fn create_vcpu(vm: &Vm, id: u32) -> Result<VcpuFd> {
    vm.fd()
        .create_vcpu(id.into())
        .map_err(|e| Error::kvm(&format!("create vCPU {id}"), e))
}

impl Devices {
    fn new<P>(vm: &Arc<Vm>, config: &VmConfig, post: P, output: Arc<Output>) -> Result<Self>
    where
        P: PowerSink + SerialSink + Clone + 'static,
    {
        let ioapic = Arc::new(IoApic::new(Messages::new(vm.clone())));
        let pin = |gsi: u8| Arc::new(Pin::new(ioapic.clone(), gsi.into()));
        let ged = Arc::new(Ged::new(pin(layout::GSI_GED)));
        let power = Arc::new(std::sync::Mutex::new(PowerRegisters::new(post.clone())));
        let serial = (config.serial != config::Serial::Off)
            .then(|| Arc::new(Serial::new(pin(layout::GSI_SERIAL), Arc::new(post), output)));

        let mut bus = IoManager::new();
        let overlap = |e: vm_device::bus::Error| Error::bug("devices", e);
        let mmio = |base, len| MmioRange::new(MmioAddress(base), len).map_err(overlap);
        let pio = |base, len| PioRange::new(PioAddress(base), len).map_err(overlap);
        bus.register_mmio(mmio(ioapic::BASE, ioapic::LEN)?, ioapic.clone())
            .map_err(overlap)?;
        bus.register_mmio(mmio(layout::GED, ged::LEN)?, ged.clone())
            .map_err(overlap)?;
        bus.register_pio(pio(power::BASE, power::LEN)?, power)
            .map_err(overlap)?;
        if let Some(serial) = &serial {
            bus.register_pio(pio(serial::COM1, serial::LEN)?, serial.clone())
                .map_err(overlap)?;
        }
        Ok(Self {
            bus: Arc::new(bus),
            ged,
            serial,
        })
    }
}
