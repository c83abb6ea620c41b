//! Holding a machine where it is, and letting it go on from there.

use super::Machine;
use std::collections::BTreeSet;
use tracing::debug;

impl Machine {
    /// Has every vCPU thread stay out of the guest for the pause with this number; each reports when it does.
    pub(crate) fn hold(&mut self, pause: u64) {
        self.vcpus.hold(pause);
    }

    /// Kicks the threads of these vCPUs.
    pub(crate) fn kick(&self, vcpus: &BTreeSet<u32>) {
        self.vcpus.kick(vcpus);
    }

    /// Stops the guest's kvm-clock. Every vCPU thread holds.
    pub(crate) fn stop_clock(&mut self) {
        self.stopped_at = self.vm.clock().map_or_else(
            |error| {
                debug!("the guest's clock goes on in the pause: {error}");
                None
            },
            Some,
        );
    }

    /// Lets the guest's clock go on from where it was stopped, if it was, and then the vCPU threads.
    pub(crate) fn release(&mut self) {
        if let Some(reading) = self.stopped_at.take()
            && let Err(error) = self.vm.set_clock(reading)
        {
            debug!("the guest's clock went on in the pause: {error}");
        }
        self.vcpus.release();
    }
}
