//! What this process can reach of the file system: of all files those that it was started for (Landlock; Linux,
//! Documentation/userspace-api/landlock.rst).
//!
//! A domain is a thread's, and its children's; it can become narrower and never wider. The first thread's holds what any
//! of them needs, the control thread's what machines are made of, the API's nothing.

use super::Role;
use crate::error::{Error, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, AddRuleError, AddRulesError, BitFlags, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tracing::{debug, info, warn};

/// The newest rights that are asked for; a kernel that knows fewer gives those.
const RIGHTS: ABI = ABI::V6;

/// What this process does at no path.
const NEVER: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    Execute | MakeBlock | MakeChar | MakeDir | MakeFifo | MakeSym | Refer | RemoveDir
});

/// Standard output, by its name.
const STDOUT: &str = "/proc/self/fd/1";

/// Whether paths are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// Where this kernel can do it, and as far as paths are known.
    Auto,
    /// Or the process does not start.
    Required,
    /// They are not.
    Off,
}

/// Something that may be done with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    path: PathBuf,
    rights: BitFlags<AccessFs>,
}

/// The folder that a name is in.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    }
}

impl Grant {
    fn new(path: impl Into<PathBuf>, rights: BitFlags<AccessFs>) -> Self {
        let path = path.into();
        Self { path, rights }
    }

    /// To read this file.
    pub fn read(path: impl Into<PathBuf>) -> Self {
        Self::new(path, AccessFs::ReadFile.into())
    }

    /// To write into this file, which is there.
    pub fn write(path: impl Into<PathBuf>) -> Self {
        let rights = make_bitflags!(AccessFs::{WriteFile | Truncate | IoctlDev});
        Self::new(path, rights)
    }

    /// To use this device.
    pub fn device(path: impl Into<PathBuf>) -> Self {
        let rights = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
        Self::new(path, rights)
    }

    /// To listen at a socket of this name, and to remove it.
    #[must_use]
    pub fn socket(path: &Path) -> Self {
        let rights = make_bitflags!(AccessFs::{MakeSock | RemoveFile});
        Self::new(folder_of(path), rights)
    }

    /// To remove this file. The right is its folder's.
    #[must_use]
    pub fn removal(path: &Path) -> Self {
        Self::new(folder_of(path), AccessFs::RemoveFile.into())
    }

    /// To read what is beneath this path, and to write, make and remove it.
    pub fn beneath(path: impl Into<PathBuf>, read: bool, write: bool) -> Self {
        let mut rights = BitFlags::EMPTY;
        if read {
            rights |= make_bitflags!(AccessFs::{ReadFile | ReadDir});
        }
        if write {
            rights |= make_bitflags!(AccessFs::{
                WriteFile | Truncate | IoctlDev | MakeReg | MakeSock | RemoveFile
            });
        }
        Self::new(path, rights)
    }

    /// To open standard output once more, where that is a device.
    #[must_use]
    pub fn stdout() -> Option<Self> {
        let there = Path::new(STDOUT).metadata().ok()?;
        there
            .file_type()
            .is_char_device()
            .then(|| Self::write(STDOUT))
    }
}

/// What this process reaches of the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What machines are made of; none if a client may name whatever it likes.
    pub machines: Option<Vec<Grant>>,
    /// What is removed when the process ends.
    pub removed: Vec<Grant>,
}

/// What holds for machines, once something is confined.
static CONFINED: OnceLock<Option<Vec<Grant>>> = OnceLock::new();

/// Confines the process, in its only thread.
///
/// # Errors
/// [`Error::Host`] where it is required and this kernel does not do it.
pub fn enforce(landlock: Landlock, paths: Paths) -> Result<()> {
    if landlock == Landlock::Off {
        return Ok(());
    }
    let status = match &paths.machines {
        Some(machines) => restrict(
            &[&machines[..], &paths.removed].concat(),
            AccessFs::from_all(RIGHTS),
        )?,
        None => restrict(&[], NEVER)?,
    };
    match (status, landlock) {
        (RulesetStatus::NotEnforced, Landlock::Required) => {
            let remedy = "start the host with `lsm=landlock,…`, or use --landlock auto";
            let found = "this kernel has no Landlock, or has it off";
            return Err(Error::host("--landlock true", found, remedy));
        }
        (RulesetStatus::NotEnforced, _) => {
            warn!("paths are not confined: this kernel has no Landlock, or has it off");
            return Ok(());
        }
        (how, _) => debug!("paths are confined ({how:?})"),
    }
    if paths.machines.is_none() {
        info!("machines may be made of any file of this user's; --landlock-rules confines them");
    }
    CONFINED
        .set(paths.machines)
        .map_err(|_| Error::bug("confinement", "there is one already"))
}

/// Leaves the calling thread what it needs, of what the process may.
pub(super) fn narrow(role: Role) -> Result<()> {
    let all = AccessFs::from_all(RIGHTS);
    match (role, CONFINED.get()) {
        (Role::Vmm, Some(Some(machines))) => restrict(machines, all).map(drop),
        (Role::Api | Role::Vsock, Some(_)) => restrict(&[], all).map(drop),
        // A vCPU's is the control thread's, and the first thread's is the process's.
        _ => Ok(()),
    }
}

/// What can be done about `error`, where `usual` is what could be done without confinement.
#[must_use]
pub fn remedy(error: &io::Error, usual: &str) -> String {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    if denied && matches!(CONFINED.get(), Some(Some(_))) {
        format!(
            "{usual}; one that Hotvisor was not started with, or that was replaced since, must be beneath a folder \
             of its --landlock-rules"
        )
    } else {
        usual.to_owned()
    }
}

fn refused(error: &dyn fmt::Display) -> Error {
    Error::host("confinement to paths", error, "use --landlock false")
}

/// Leaves the calling thread, of what is `handled`, what `grants` say; and no network, and nobody outside to signal.
fn restrict(grants: &[Grant], handled: BitFlags<AccessFs>) -> Result<RulesetStatus> {
    let no_rules = || {
        Ruleset::default()
            .handle_access(handled)?
            .handle_access(AccessNet::from_all(RIGHTS))?
            .scope(Scope::from_all(RIGHTS))?
            .create()
    };
    let mut rules = no_rules().map_err(|e| refused(&e))?;
    for Grant { path, rights } in grants {
        let there = match PathFd::new(path) {
            Ok(there) => PathBeneath::new(there, *rights),
            // Whoever opens it says so.
            Err(error) => {
                debug!("no way to {}: {error}", path.display());
                continue;
            }
        };
        // The same rules: one more is added to them in any case.
        let before = rules.try_clone().map_err(|e| refused(&e))?;
        rules = match rules.add_rule(there) {
            Ok(more) => more,
            Err(error) if needs_no_rule(&error) => before,
            Err(error) => return Err(refused(&error)),
        };
    }
    let status = rules.restrict_self().map_err(|e| refused(&e))?;
    Ok(status.ruleset)
}

/// What has no place in the file system, as a pipe by its name in /proc, is not confined either (landlock_add_rule(2),
/// EBADFD).
fn needs_no_rule(error: &RulesetError) -> bool {
    match error {
        RulesetError::AddRules(AddRulesError::Fs(AddRuleError::AddRuleCall { source, .. })) => {
            source.raw_os_error() == Some(libc::EBADFD)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_name() {
        for (name, folder) in [("vm.sock", "."), ("a/b", "a"), ("/x", "/"), ("/", "/")] {
            assert_eq!(folder_of(Path::new(name)), Path::new(folder), "{name}");
        }
    }

    #[test]
    fn what_is_never_done_is_in_no_grant() {
        let path = Path::new("/tmp/x");
        let grants = [
            Grant::read(path),
            Grant::write(path),
            Grant::device(path),
            Grant::socket(path),
            Grant::removal(path),
            Grant::beneath(path, true, true),
        ];
        for grant in grants {
            assert!(!grant.rights.is_empty());
            assert!(!grant.rights.intersects(NEVER), "{grant:?}");
        }
    }
}
