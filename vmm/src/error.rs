//! Errors for people: what was asked, what was found, what to do next.

use std::fmt;

use nix::errno::Errno;

/// What helps when there is no descriptor left.
pub const FILES: &str = "raise the limit of open files (`ulimit -n`)";

/// One sentence in three parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What was asked for, as the user spelt it.
    pub asked: String,
    /// What was found instead.
    pub found: String,
    /// What to do next.
    pub remedy: String,
}

impl Problem {
    /// A sentence of these parts.
    pub fn new(
        asked: impl fmt::Display,
        found: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self {
            asked: asked.to_string(),
            found: found.to_string(),
            remedy: remedy.to_string(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.asked, self.found, self.remedy)
    }
}

/// Why a machine could not be made or kept running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request cannot be met as it stands; nothing was changed.
    #[error("{0}")]
    Input(Problem),
    /// The host failed us.
    #[error("{0}")]
    Host(Problem),
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A request that cannot be met.
    pub fn input(
        asked: impl fmt::Display,
        found: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::Input(Problem::new(asked, found, remedy))
    }

    /// A failure of the host.
    pub fn host(
        asked: impl fmt::Display,
        found: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::Host(Problem::new(asked, found, remedy))
    }

    /// The same problem as a failure of the host: nobody asked for anything just now.
    #[must_use]
    pub fn into_host(self) -> Self {
        match self {
            Self::Input(problem) | Self::Host(problem) => Self::Host(problem),
        }
    }

    /// Something that our own code rules out, or that leaves the user nothing to do.
    pub fn bug(asked: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::host(asked, found, "this is a bug in Hotvisor: please report it")
    }

    /// A KVM request that the host's kernel answered with an error.
    #[must_use]
    pub fn kvm(request: &str, errno: kvm_ioctls::Error) -> Self {
        let remedy = match Errno::from_raw(errno.errno()) {
            Errno::EMFILE => FILES,
            Errno::ENFILE => "raise the host's limit of open files (`sysctl fs.file-max`)",
            Errno::ENOMEM => "leave the host, or this process's control group, more memory",
            _ => "see what this host's KVM can do with `hotvisor check`",
        };
        Self::host(
            format!("KVM {request}"),
            std::io::Error::from_raw_os_error(errno.errno()),
            remedy,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_too_little_of_is_named() {
        let told = |errno: Errno| {
            Error::kvm("create vCPU 1", kvm_ioctls::Error::new(errno as i32)).to_string()
        };
        assert_eq!(
            told(Errno::EMFILE),
            "KVM create vCPU 1: Too many open files (os error 24); raise the limit of open files (`ulimit -n`)"
        );
        assert!(told(Errno::ENFILE).ends_with("(`sysctl fs.file-max`)"));
        assert!(told(Errno::ENOMEM).ends_with("more memory"));
        assert!(told(Errno::EINVAL).ends_with("`hotvisor check`"));
    }
}
