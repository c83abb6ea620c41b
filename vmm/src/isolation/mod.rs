//! What this process can still do once it has what it needs: less than a guest or a client would want of it.
//!
//! ```text
//! hide_memory()?;                      // first of all
//! seccomp::choose(…)?;                 // what a forbidden system call comes to
//! …                                    // open what the machine is made of
//! give_up()?;                          // privileges, for good and for every thread
//! confinement::enforce(…)?;            // paths
//! …                                    // make threads, each of which begins with
//! confine(role)?;                      // what this one needs, and no more
//! ```

pub mod confinement;
mod forbidden;
mod privileges;
pub mod seccomp;

use crate::error::Result;
pub(crate) use forbidden::begin_the_end_with;
pub use forbidden::{EXIT_CODE, tell_also};
pub use privileges::{give_up, hide_memory};

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has started the others, and waits for their end.
    Main,
    /// The control thread.
    Vmm,
    /// A vCPU.
    Vcpu,
    /// The API.
    Api,
    /// The guest's sockets.
    Vsock,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Main, Self::Vmm, Self::Vcpu, Self::Api, Self::Vsock];
}

/// Leaves the calling thread what this role needs, for good.
///
/// # Errors
/// [`crate::Error::Host`] where the kernel does not take it.
pub fn confine(role: Role) -> Result<()> {
    // A filter forbids what the other is done with.
    confinement::narrow(role)?;
    seccomp::filter(role)
}
