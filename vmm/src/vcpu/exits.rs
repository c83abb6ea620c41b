//! What an exit from `KVM_RUN` means.

use super::{Fault, Registers, raw};
use crate::tally::{ExitKind, VcpuTally};
use hotvisor_devices::ratelimit::RateLimit;
use kvm_ioctls::{VcpuExit, VcpuFd};
use tracing::debug;
use vm_device::bus::{MmioAddress, PioAddress};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};

static UNCLAIMED: RateLimit = RateLimit::new(16);

fn unclaimed(what: &str, address: u64, len: usize) {
    if let Some(n) = UNCLAIMED.pass() {
        debug!(n, len, "{what} at {address:#x}, where nothing is");
    }
}

/// What a finished `KVM_RUN` asks for, owned so that the vCPU can be looked at again.
enum Ask {
    Nothing,
    TripleFault,
    InternalError,
    Unhandled(String),
}

fn kind(exit: &Result<VcpuExit<'_>, i32>) -> ExitKind {
    match exit {
        Ok(VcpuExit::IoIn(..)) => ExitKind::IoIn,
        Ok(VcpuExit::IoOut(..)) => ExitKind::IoOut,
        Ok(VcpuExit::MmioRead(..)) => ExitKind::MmioRead,
        Ok(VcpuExit::MmioWrite(..)) => ExitKind::MmioWrite,
        Ok(VcpuExit::IoapicEoi(_)) => ExitKind::Eoi,
        Ok(VcpuExit::Intr) | Err(libc::EINTR) => ExitKind::Signal,
        Err(libc::EAGAIN) => ExitKind::Wakeup,
        Ok(_) | Err(_) => ExitKind::Other,
    }
}

/// Serves one exit of `vcpu`, which is the answer of its `KVM_RUN`, and counts it.
///
/// A read that no device claims yields all ones, a write to nowhere is dropped, as on a bus.
/// A string input (`INS`) comes as one access of several elements; devices refuse the width.
pub(super) fn serve(
    vcpu: &mut VcpuFd,
    bus: &IoManager,
    tally: &VcpuTally,
) -> Result<Result<(), Fault>, i32> {
    let exit = vcpu.run().map_err(|e| e.errno());
    tally.exit(kind(&exit));
    let ask = match exit? {
        VcpuExit::IoOut(port, data) => {
            if bus.pio_write(PioAddress(port), data).is_err() {
                unclaimed("write to port", port.into(), data.len());
            }
            Ask::Nothing
        }
        VcpuExit::IoIn(port, data) => {
            data.fill(0xff);
            if bus.pio_read(PioAddress(port), data).is_err() {
                unclaimed("read from port", port.into(), data.len());
            }
            Ask::Nothing
        }
        VcpuExit::MmioWrite(address, data) => {
            if bus.mmio_write(MmioAddress(address), data).is_err() {
                unclaimed("write", address, data.len());
            }
            Ask::Nothing
        }
        VcpuExit::MmioRead(address, data) => {
            data.fill(0xff);
            if bus.mmio_read(MmioAddress(address), data).is_err() {
                unclaimed("read", address, data.len());
            }
            Ask::Nothing
        }
        // KVM has nothing to tell, or has handled it.
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::IoapicEoi(_) => Ask::Nothing,
        VcpuExit::Shutdown => Ask::TripleFault,
        VcpuExit::InternalError => Ask::InternalError,
        other => Ask::Unhandled(format!("{other:?}")),
    };
    let fault = match ask {
        Ask::Nothing => return Ok(Ok(())),
        Ask::TripleFault => Fault::TripleFault(Registers::read(vcpu)),
        Ask::InternalError => {
            let (suberror, data) = raw::internal_error(vcpu.get_kvm_run()).unwrap_or_default();
            Fault::InternalError {
                suberror,
                data,
                registers: Registers::read(vcpu),
            }
        }
        Ask::Unhandled(exit) => Fault::Unhandled {
            exit,
            registers: Registers::read(vcpu),
        },
    };
    Ok(Err(fault))
}
