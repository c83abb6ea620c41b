//! What nobody needs any more once everything is open: privileges, others that read this process's memory, descriptors
//! without end.

use crate::config::MAX_CPUS;
use crate::error::{Error, Result};
use caps::CapSet;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::debug;

/// Most descriptors: two for each vCPU, and more than enough for the rest, connections included.
const DESCRIPTORS: u64 = 2 * MAX_CPUS as u64 + 1024;

/// Lets nobody else of the same user read this process's memory, which is to be its guest's, and has no core file
/// (`PR_SET_DUMPABLE`): before anybody can know that it is there, because who has opened it keeps it open.
///
/// # Errors
/// [`Error::Host`] where the kernel does not do it.
pub fn hide_memory() -> Result<()> {
    prctl::set_dumpable(false).map_err(|e| Error::bug("memory of our own", e.desc()))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| Error::bug("no core files", e.desc()))
}

/// Gives up, in the process's only thread: every capability (`capabilities(7)`), new privileges by programs
/// (`PR_SET_NO_NEW_PRIVS`), and descriptors beyond those that a machine can need.
///
/// # Errors
/// [`Error::Host`] where the kernel does not do it.
pub fn give_up() -> Result<()> {
    prctl::set_no_new_privs().map_err(|e| Error::bug("no new privileges", e.desc()))?;
    limit_descriptors();
    // Dropping those of the bounding set takes a capability itself.
    let sets = [
        CapSet::Bounding,
        CapSet::Ambient,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ];
    for set in sets {
        match caps::clear(None, set) {
            Ok(()) => {}
            // It is what a program could get that is started, and none gets anything, by the above.
            Err(error) if matches!(set, CapSet::Bounding) => {
                debug!("the bounding set stays: {error}")
            }
            Err(error) => return Err(Error::bug("no capabilities", error)),
        }
    }
    Ok(())
}

/// Lets this process have the descriptors that it can need, if the host allows it as many, and no more: each vCPU has two,
/// and the 1,024 that are usual at first are for programs that `select`.
fn limit_descriptors() {
    let limited = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| {
        let most = most.min(DESCRIPTORS);
        setrlimit(Resource::RLIMIT_NOFILE, most, most)
    });
    if let Err(error) = limited {
        debug!("the limit of descriptors stays: {error}");
    }
}
