//! Why there is no answer, or one that says no.

use crate::wire::problem::Problem as Wire;
use hotvisor_vmm::Problem;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A request that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// What was asked for makes no sense; nobody was asked.
    Input(Problem),
    /// The VM could not be reached, or the connection to it broke.
    Reach(Problem),
    /// The VM's answer is a no.
    Said(Said),
}

/// A no of the API's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// What it says.
    pub(crate) problem: Wire,
    /// The same, as it came.
    pub(crate) body: Vec<u8>,
}

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(problem) | Self::Reach(problem) => problem.fmt(f),
            Self::Said(Said { problem, .. }) => write!(f, "{}; {}", problem.detail, problem.remedy),
        }
    }
}

impl Failure {
    /// What makes no sense.
    pub(crate) fn input(asked: &str, found: &str, remedy: &str) -> Self {
        Self::Input(Problem::new(asked, found, remedy))
    }

    /// A connection that does not go on.
    pub(super) fn broken(path: &Path, found: impl fmt::Display) -> Self {
        let remedy = "see whether the VM is still there";
        Self::Reach(Problem::new(socket(path), found, remedy))
    }

    /// An answer that no Hotvisor gives.
    pub(super) fn stranger(path: &Path, found: impl fmt::Display) -> Self {
        let found = format!("what answers there is not Hotvisor, or of another version: {found}");
        let remedy = "name the socket that `hotvisor run --api-socket PATH` was given";
        Self::Reach(Problem::new(socket(path), found, remedy))
    }

    /// What the API said with `status`, which is no success.
    pub(super) fn said(path: &Path, status: u16, body: Vec<u8>) -> Self {
        match serde_json::from_slice(&body) {
            Ok(problem) => Self::Said(Said { problem, body }),
            Err(_) => Self::stranger(path, format_args!("it said {status} and did not say why")),
        }
    }

    /// A socket that cannot be connected to.
    pub(super) fn unconnected(path: &Path, error: &io::Error) -> Self {
        let metadata = fs::metadata(path);
        let is_socket = metadata
            .as_ref()
            .is_ok_and(|metadata| metadata.file_type().is_socket());
        let (found, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (
                "there is no such socket".to_owned(),
                "start a VM with `hotvisor run --api-socket PATH`, or name the socket of one that runs",
            ),
            io::ErrorKind::ConnectionRefused if is_socket => (
                "nobody listens there any more".to_owned(),
                "its VM has ended: start it again, or name the socket of one that runs",
            ),
            io::ErrorKind::ConnectionRefused => (
                "it is not a socket".to_owned(),
                "name the socket that `hotvisor run --api-socket PATH` was given",
            ),
            io::ErrorKind::PermissionDenied => (
                match metadata {
                    Ok(metadata) => format!("it is for user {} only", metadata.uid()),
                    Err(_) => "the way to it is closed to this user".to_owned(),
                },
                "do it as the user that runs the VM, or as root",
            ),
            _ => (error.to_string(), "see whether the VM is still there"),
        };
        Self::Reach(Problem::new(socket(path), found, remedy))
    }
}

fn socket(path: &Path) -> String {
    format!("API socket {}", path.display())
}
