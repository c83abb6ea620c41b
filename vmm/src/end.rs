//! How a machine ends, what is said about it, and the exit code that goes with it.

use crate::error::Error;
use crate::vcpu::{Fault, VcpuRef};
use std::fmt;

/// How a machine ended.
#[derive(Clone, Debug)]
pub enum End {
    /// The guest powered off.
    PoweredOff,
    /// The guest reset, and a reset ends this machine.
    Reset,
    /// A vCPU could not go on.
    Fault(VcpuRef, Fault),
    /// It was ended from outside before the guest had powered off; why.
    Abandoned(String),
    /// It could not be made or kept running.
    Failed(Error),
}

impl End {
    /// The exit code of the process.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Reset => 0,
            Self::Failed(Error::Host(_)) | Self::Fault(_, Fault::Run { .. } | Fault::Panic(_)) => 1,
            Self::Failed(Error::Input(_)) => 2,
            Self::Fault(_, Fault::TripleFault(_)) => 3,
            Self::Fault(_, Fault::InternalError { .. }) => 4,
            Self::Fault(_, Fault::Unhandled { .. }) => 5,
            Self::Abandoned(_) => 6,
        }
    }
}

/// KVM's internal errors (`include/uapi/linux/kvm.h`).
fn suberror_name(suberror: u32) -> &'static str {
    match suberror {
        1 => "an instruction that it cannot emulate",
        2 => "two exceptions at once",
        3 => "an event that it could not deliver",
        4 => "an exit reason that it does not know",
        _ => "an error without a name",
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest reset"),
            Self::Abandoned(why) => write!(f, "ended before the guest had powered off: {why}"),
            Self::Failed(error) => write!(f, "{error}"),
            Self::Fault(vcpu, fault) => match fault {
                Fault::TripleFault(registers) => write!(
                    f,
                    "{vcpu}: triple fault: the guest's kernel crashed without a handler; \
                     look at the end of its console\n{registers}"
                ),
                Fault::InternalError {
                    suberror,
                    data,
                    registers,
                } => write!(
                    f,
                    "{vcpu}: internal error of KVM: {} (suberror {suberror}, data {data:x?}); \
                     see what this host's KVM can do with `hotvisor check`\n{registers}",
                    suberror_name(*suberror)
                ),
                Fault::Unhandled { exit, registers } => write!(
                    f,
                    "{vcpu}: unhandled exit {exit}: the guest or KVM asks for something that \
                     Hotvisor does not do; please report it\n{registers}"
                ),
                Fault::Run { errno, registers } => write!(
                    f,
                    "{vcpu}: KVM_RUN: {}; see the host's kernel log\n{registers}",
                    std::io::Error::from_raw_os_error(*errno)
                ),
                Fault::Panic(text) => write!(
                    f,
                    "{vcpu}: its thread panicked: {text}; this is a bug in Hotvisor: please report it"
                ),
            },
        }
    }
}
