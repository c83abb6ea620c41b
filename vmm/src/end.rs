//! How a machine ends, what is said about it, and the exit code that goes with it.

use crate::error::Error;
use crate::hotplug::view::VcpuRef;
use crate::vcpu::Fault;
use std::fmt;

/// How a machine ended.
#[derive(Clone, Debug)]
pub enum End {
    /// The guest powered off.
    PoweredOff,
    /// The guest reset, and a reset ends this machine.
    Reset,
    /// The API or a signal asked for it, whose name this is, when nothing was lost by it or none of that mattered.
    Asked(&'static str),
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
            Self::PoweredOff | Self::Reset | Self::Asked(_) => 0,
            Self::Failed(Error::Host(_))
            | Self::Fault(_, Fault::Run { .. } | Fault::Host(_) | Fault::Panic(_)) => 1,
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
            Self::Asked(who) => write!(f, "ended by {who}"),
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
                Fault::Host(error) => write!(f, "{vcpu}: {error}"),
                Fault::Panic(text) => write!(
                    f,
                    "{vcpu}: its thread panicked: {text}; this is a bug in Hotvisor: please report it"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::Registers;

    /// Each end, its exit code, and words that it must say.
    #[test]
    fn every_end_has_its_own_words_and_a_code() {
        let vcpu = VcpuRef {
            id: 3,
            generation: 1,
        };
        let fault = |fault| End::Fault(vcpu, fault);
        let registers = Registers::default;
        let internal = Fault::InternalError {
            suberror: 1,
            data: vec![0x10],
            registers: registers(),
        };
        let unhandled = Fault::Unhandled {
            exit: "Hyperv".into(),
            registers: registers(),
        };
        let ends: [(End, u8, &[&str]); 11] = [
            (End::PoweredOff, 0, &["powered off"]),
            (End::Reset, 0, &["reset"]),
            (End::Asked("SIGTERM"), 0, &["ended by SIGTERM"]),
            (
                fault(Fault::TripleFault(registers())),
                3,
                &["vcpu-3: triple fault", "rip", "cr3"],
            ),
            (
                fault(internal),
                4,
                &["vcpu-3: internal error", "cannot emulate", "[10]", "rip"],
            ),
            (
                fault(unhandled),
                5,
                &["vcpu-3: unhandled exit Hyperv", "rip"],
            ),
            (
                fault(Fault::Run {
                    errno: libc::EFAULT,
                    registers: registers(),
                }),
                1,
                &["Bad address"],
            ),
            (
                fault(Fault::Host(Error::host("a thing", "none", "get one"))),
                1,
                &["vcpu-3: a thing: none; get one"],
            ),
            (
                fault(Fault::Panic("at once".into())),
                1,
                &["panicked: at once"],
            ),
            (
                End::Abandoned("a second SIGTERM".into()),
                6,
                &["a second SIGTERM"],
            ),
            (End::Failed(Error::input("a", "b", "c")), 2, &["a: b; c"]),
        ];
        for (end, code, words) in ends {
            assert_eq!(end.code(), code, "{end}");
            let said = end.to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
    }
}
