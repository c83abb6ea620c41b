//! System calls that each thread may make (`seccomp(2)`), and what becomes of the others.
//!
//! The rules are in `resources/seccomp`, and were compiled when this was built. A thread puts itself under its filter
//! as the first thing that it does, but for the process's first, which makes others; one that another makes is under the
//! filter of that one before. No filter can be taken off.

use super::{Role, forbidden};
use crate::error::{Error, Result};
use crate::failpoint::failpoint;
use seccompiler::{BpfProgram, apply_filter, sock_filter};
use std::io;
use std::panic;
use std::process;
use std::sync::OnceLock;
use std::thread;

#[cfg(test)]
mod tests;

mod filters {
    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

/// What becomes of a system call that a thread may not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// It ends the process, which says which thread it was and which call.
    Enforce,
    /// It is made, and the kernel logs it.
    Log,
    /// It is made: there are no filters.
    Off,
}

/// What holds for this process.
static CHOSEN: OnceLock<Seccomp> = OnceLock::new();

/// What stands for this process's id in the rules.
const OWN_PID: u32 = u32::MAX - 1;

/// Chooses for this process, once, before there are threads. Until then no thread gets a filter.
///
/// # Errors
/// [`Error::Host`] where the kernel does not take the handler that says which call was forbidden.
pub fn choose(seccomp: Seccomp) -> Result<()> {
    if seccomp == Seccomp::Enforce {
        forbidden::install()?;
        // The usual one opens files where RUST_BACKTRACE is set, and no thread may.
        panic::set_hook(Box::new(|info| {
            let name = thread::current().name().unwrap_or("?").to_owned();
            eprintln!("thread {name:?}: {info}");
        }));
    }
    CHOSEN
        .set(seccomp)
        .map_err(|_| Error::bug("system call filters", "they were chosen before"))
}

/// Puts the calling thread under the filter of this role.
pub(super) fn filter(role: Role) -> Result<()> {
    let seccomp = CHOSEN.get().copied().unwrap_or(Seccomp::Off);
    for program in programs(seccomp, role) {
        failpoint!(Confine, apply(&program)).map_err(refused)?;
    }
    Ok(())
}

/// What a thread of this role loads into the kernel, in this order.
fn programs(seccomp: Seccomp, role: Role) -> Vec<BpfProgram> {
    let own = match (seccomp, role) {
        (Seccomp::Off, _) => return Vec::new(),
        (Seccomp::Enforce, Role::Main) => filters::MAIN_ENFORCED,
        (Seccomp::Enforce, Role::Vmm) => filters::VMM_ENFORCED,
        (Seccomp::Enforce, Role::Vcpu) => filters::VCPU_ENFORCED,
        (Seccomp::Enforce, Role::Api) => filters::API_ENFORCED,
        (Seccomp::Enforce, Role::Vsock) => filters::VSOCK_ENFORCED,
        (Seccomp::Log, Role::Main) => filters::MAIN_LOGGED,
        (Seccomp::Log, Role::Vmm) => filters::VMM_LOGGED,
        (Seccomp::Log, Role::Vcpu) => filters::VCPU_LOGGED,
        (Seccomp::Log, Role::Api) => filters::API_LOGGED,
        (Seccomp::Log, Role::Vsock) => filters::VSOCK_LOGGED,
    };
    // It makes threads: by `clone`, whose flags a filter can see, and not by `clone3`, whose it cannot.
    let first = (role == Role::Vmm).then_some(filters::NO_CLONE3);
    first
        .into_iter()
        .chain([own])
        .map(for_this_process)
        .collect()
}

/// A program as the kernel takes it, with this process's id where the rules speak of it.
fn for_this_process(program: &[(u16, u8, u8, u32)]) -> BpfProgram {
    let instructions = program.iter().map(|&(code, jt, jf, k)| {
        let k = if k == OWN_PID { process::id() } else { k };
        sock_filter { code, jt, jf, k }
    });
    instructions.collect()
}

fn refused(error: io::Error) -> Error {
    let remedy = "use a host kernel with CONFIG_SECCOMP_FILTER, or --seccomp false";
    Error::host("filter of system calls", error, remedy)
}

fn apply(program: &BpfProgram) -> io::Result<()> {
    apply_filter(program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        other => io::Error::other(other),
    })
}
