//! What the coordinator does to a machine.

use super::Machine;
use crate::error::Result;
use crate::hotplug::guest::Withdrawn;
use crate::hotplug::machinery::Machinery;
use crate::hotplug::view::ThreadView;
use hotvisor_devices::cpu_hotplug::CpuHotplug;
use hotvisor_devices::ged;
use std::sync::Arc;

/// The controller's registers, and whether the guest has yet to be told of something in them.
pub(super) struct HotplugRegisters {
    registers: Arc<CpuHotplug>,
    untold: bool,
}

impl HotplugRegisters {
    pub(super) fn new(registers: Arc<CpuHotplug>) -> Self {
        Self {
            registers,
            untold: false,
        }
    }

    /// The registers, to put something in that the guest is to be told of.
    fn telling(&mut self) -> &CpuHotplug {
        self.untold = true;
        &self.registers
    }
}

impl Machinery for Machine {
    fn start(&mut self, vcpu: u32, run: u64) -> Result<(), String> {
        self.vcpus.run(vcpu, run).map_err(|error| error.to_string())
    }

    fn park(&mut self, vcpu: u32) {
        self.vcpus.park(vcpu);
    }

    fn end_thread(&mut self, vcpu: u32) {
        self.vcpus.end_thread(vcpu);
    }

    fn thread(&self, vcpu: u32) -> Option<ThreadView> {
        self.vcpus.thread(vcpu)
    }

    fn insert(&mut self, vcpu: u32) -> u32 {
        self.devices.hotplug.telling().insert(vcpu)
    }

    fn announce(&mut self, vcpu: u32) {
        self.devices.hotplug.telling().announce(vcpu);
    }

    fn remind(&mut self) {
        self.devices.hotplug.untold = true;
    }

    fn untold(&self) -> Option<String> {
        self.devices.untold()
    }

    fn withdraw_insert(&mut self, vcpu: u32) -> bool {
        self.devices.hotplug.registers.withdraw_insert(vcpu)
    }

    fn discard(&mut self, vcpu: u32) -> bool {
        self.devices.hotplug.registers.discard(vcpu)
    }

    fn request_eject(&mut self, vcpu: u32) -> u32 {
        self.devices.hotplug.telling().request_eject(vcpu)
    }

    fn withdraw_eject(&mut self, vcpu: u32) -> Withdrawn {
        self.devices.hotplug.registers.withdraw_eject(vcpu).into()
    }

    fn acknowledge(&mut self, vcpu: u32) {
        self.devices.hotplug.registers.acknowledge(vcpu);
    }
}

impl Machine {
    /// Raises the guest's notification, once for everything that it was to be told since the last time.
    pub(crate) fn ring(&mut self) {
        if std::mem::take(&mut self.devices.hotplug.untold) {
            self.devices.ged.raise(ged::Event::CpuHotplug);
        }
    }
}
