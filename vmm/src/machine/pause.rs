//! Holding a machine where it is, and letting it go on from there.

use super::Machine;
use crate::error::Result;
use crate::kvm::ClockReading;
use std::collections::BTreeSet;
use tracing::debug;

impl Machine {
    /// Has every vCPU thread stay out of the guest for the pause with this number; each reports when it does.
    pub(crate) fn hold(&mut self, pause: u64) {
        self.devices.hold();
        self.vcpus.hold(pause);
    }

    /// Kicks the threads of these vCPUs.
    pub(crate) fn kick(&self, vcpus: &BTreeSet<u32>) {
        self.vcpus.kick(vcpus);
    }

    /// Stops the guest's kvm-clock and its TSC. Every vCPU thread holds.
    pub(crate) fn stop_clock(&mut self) {
        self.stopped_at = self.vm.clock().map_or_else(
            |error| {
                debug!("the guest's clock goes on in the pause: {error}");
                None
            },
            Some,
        );
    }

    /// Lets the guest's clocks go on from where they were stopped, if they were, and then the vCPU threads.
    pub(crate) fn release(&mut self) {
        if let Some(reading) = self.stopped_at.take()
            && let Err(error) = self.set_clocks(reading)
        {
            debug!("a clock of the guest's went on in the pause: {error}");
        }
        self.devices.release();
        self.vcpus.release();
    }

    /// Has kvm-clock go on from `reading`, and the TSC from what it was then.
    ///
    /// Guests watch each of the two by the other. So the TSC is put back by what it has gone on beyond kvm-clock, as
    /// KVM reads both at one moment after that was set, and not by how long the pause seemed to be. Where KVM does not
    /// derive the clock from the TSC, a guest does not either, and its TSC goes on.
    fn set_clocks(&self, reading: ClockReading) -> Result<()> {
        self.vm.set_clock(reading)?;
        let Some(khz) = self.vcpus.tsc_khz() else {
            return Ok(());
        };
        match reading.excess(self.vm.clock()?, khz) {
            Some(ticks) => self.vcpus.put_back(ticks),
            None => Ok(()),
        }
    }
}
