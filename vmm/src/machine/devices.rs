//! A machine's devices and their places on the bus.

use super::HotplugRegisters;
use crate::arch::layout;
use crate::config::{self, GuestEject, VmConfig};
use crate::error::{Error, Result};
use crate::kvm::{Messages, Undelivered, Vm};
use crate::vsock::{self, GuestRam};
use hotvisor_devices::cpu_hotplug::{self, CpuHotplug, HotplugSink};
use hotvisor_devices::ged::{self, Ged};
use hotvisor_devices::ioapic::{self, IoApic, Pin};
use hotvisor_devices::power::{self, PowerRegisters, PowerSink};
use hotvisor_devices::serial::{self, Output, Serial, SerialSink};
use hotvisor_devices::virtio::link::Link;
use hotvisor_devices::virtio::mmio::{LEN as VIRTIO_LEN, Transport};
use hotvisor_devices::virtio::vsock::Vsock;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use vm_device::bus::{MmioAddress, MmioRange, PioAddress, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};

/// A machine's devices, as far as the host speaks to them.
pub(super) struct Devices {
    pub(super) bus: Arc<IoManager>,
    pub(super) ged: Arc<Ged>,
    ioapic: Arc<IoApic<Messages>>,
    undelivered: Undelivered,
    pub(super) hotplug: HotplugRegisters,
    pub(super) serial: Option<Arc<Serial>>,
    sockets: Option<Sockets>,
}

/// What a machine has on its board besides.
pub(super) struct OnBoard<'a> {
    /// The vCPUs that it starts with.
    pub(super) present: &'a BTreeSet<u32>,
    pub(super) guest_eject: GuestEject,
    pub(super) ram: GuestRam,
    /// Who serves the socket device, if it is to have one.
    pub(super) sockets: Option<vsock::Client>,
}

/// The socket device, as far as the host speaks to it.
struct Sockets {
    link: Arc<Link<GuestRam>>,
    server: vsock::Client,
}

impl Devices {
    /// The devices of a machine that starts with the vCPUs `present`.
    pub(super) fn new<P>(
        vm: &Arc<Vm>,
        config: &VmConfig,
        on_board: OnBoard<'_>,
        post: P,
        output: Arc<Output>,
    ) -> Result<Self>
    where
        P: PowerSink + SerialSink + HotplugSink + Clone + 'static,
    {
        let undelivered = Undelivered::default();
        let messages = Messages::new(vm.clone(), undelivered.clone());
        let ioapic = Arc::new(IoApic::new(messages));
        let pin = |gsi: u8| Arc::new(Pin::new(ioapic.clone(), gsi.into()));
        let ged = Arc::new(Ged::new(pin(layout::GSI_GED)));
        let power = Arc::new(Mutex::new(PowerRegisters::new(post.clone())));
        let hotplug = Arc::new(CpuHotplug::new(
            config.cpus.max,
            on_board.present.iter().copied(),
            on_board.guest_eject,
            Arc::new(post.clone()),
        ));
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
        bus.register_mmio(
            mmio(layout::CPU_HOTPLUG, cpu_hotplug::LEN)?,
            hotplug.clone(),
        )
        .map_err(overlap)?;
        bus.register_pio(pio(power::BASE, power::LEN)?, power)
            .map_err(overlap)?;
        if let Some(serial) = &serial {
            bus.register_pio(pio(serial::COM1, serial::LEN)?, serial.clone())
                .map_err(overlap)?;
        }
        let mut sockets = None;
        if let (Some(vsock), Some(server)) = (&config.vsock, on_board.sockets) {
            let link = Arc::new(Link::new(pin(layout::virtio_gsi(layout::VSOCK))));
            let device = Vsock { cid: vsock.cid };
            let registers = Transport::new(device, on_board.ram, link.clone(), server.waker());
            let window = mmio(layout::virtio_window(layout::VSOCK), VIRTIO_LEN)?;
            bus.register_mmio(window, Arc::new(registers))
                .map_err(overlap)?;
            server.attach(link.clone());
            sockets = Some(Sockets { link, server });
        }
        Ok(Self {
            bus: Arc::new(bus),
            ged,
            ioapic,
            undelivered,
            hotplug: HotplugRegisters::new(hotplug),
            serial,
            sockets,
        })
    }

    /// Why the guest was not notified, if its CPUs would take a notification.
    pub(super) fn untold(&self) -> Option<String> {
        let stuck = self.ioapic.is_stuck(layout::GSI_GED.into());
        stuck.then(|| self.undelivered.why())
    }

    /// Has the devices leave the guest's memory alone.
    pub(super) fn hold(&self) {
        if let Some(sockets) = &self.sockets {
            sockets.link.hold(true);
        }
    }

    /// Lets them go on.
    pub(super) fn release(&self) {
        if let Some(Sockets { link, server }) = &self.sockets {
            link.hold(false);
            server.wake();
        }
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // Before the memory goes.
        if let Some(sockets) = &self.sockets {
            sockets.link.unplug();
        }
    }
}
