//! A machine in the JSON of Cloud Hypervisor's API, as far as it is served here. Other fields are not denied by the
//! types: those that ask for nothing are passed over, and the rest is refused by name (`route/vm/create.rs`).

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// What a machine is to be.
///
/// A field of Cloud Hypervisor's that is not here is passed over if it asks for nothing (null, false, an empty list or
/// object), and refused otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct VmConfig {
    #[serde(default)]
    pub(crate) cpus: CpusConfig,
    #[serde(default)]
    pub(crate) memory: MemoryConfig,
    pub(crate) payload: PayloadConfig,
    #[serde(default)]
    pub(crate) serial: SerialConfig,
    #[serde(default)]
    pub(crate) console: ConsoleConfig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vsock: Option<VsockConfig>,
}

/// Its vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CpusConfig {
    /// vCPUs at boot. Of a machine that runs, those that are plugged, as they are now.
    #[schema(minimum = 1, maximum = 1024)]
    pub(crate) boot_vcpus: u32,
    /// vCPUs that the guest can ever have.
    #[schema(minimum = 1, maximum = 1024)]
    pub(crate) max_vcpus: u32,
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self {
            boot_vcpus: 1,
            max_vcpus: 1,
        }
    }
}

/// Its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct MemoryConfig {
    /// Bytes; whole pages of 4 KiB.
    #[schema(minimum = 0)]
    pub(crate) size: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { size: 512 << 20 }
    }
}

/// What it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct PayloadConfig {
    /// A bzImage, or an ELF vmlinux with a PVH entry point.
    #[schema(value_type = String)]
    pub(crate) kernel: PathBuf,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cmdline: Option<String>,
    /// Initial RAM file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) initramfs: Option<PathBuf>,
}

/// Where its first serial port leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SerialConfig {
    pub(crate) mode: SerialMode,
    /// With the mode File: where output goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) file: Option<PathBuf>,
    /// With the mode Socket: the Unix socket to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) socket: Option<PathBuf>,
}

/// See [`SerialConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum SerialMode {
    /// No port.
    Off,
    /// Standard input and output.
    Tty,
    /// Output into a file.
    File,
    /// A Unix socket that one client at a time connects to.
    Socket,
    /// A port with nothing behind it.
    #[default]
    Null,
}

/// Its virtio console, of which there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConsoleConfig {
    pub(crate) mode: ConsoleMode,
}

/// See [`ConsoleConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum ConsoleMode {
    #[default]
    Off,
}

/// Its socket device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct VsockConfig {
    /// The guest's context id.
    // Most of them are more than an `int32` holds.
    #[schema(value_type = i64, minimum = 3, maximum = 4294967294_u32)]
    pub(crate) cid: u32,
    /// The Unix socket to make, by which programs on the host reach those in the guest.
    #[schema(value_type = String)]
    pub(crate) socket: PathBuf,
}

/// What a machine is, and what it is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct VmInfo {
    pub(crate) config: VmConfig,
    pub(crate) state: VmState,
    /// Bytes of memory that it has.
    pub(crate) memory_actual_size: u64,
}

/// What a machine is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum VmState {
    Created,
    Running,
    /// It is being stopped.
    Shutdown,
    Paused,
}

/// How large a machine is to be.
///
/// A field of Cloud Hypervisor's that is not here is passed over if it asks for nothing (null, false, an empty list or
/// object), and refused otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct VmResize {
    #[schema(minimum = 1, maximum = 1024)]
    pub(crate) desired_vcpus: Option<u32>,
    /// Bytes of memory; it has to be what it is.
    #[schema(minimum = 0)]
    pub(crate) desired_ram: Option<u64>,
}

/// Which program this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Ping {
    pub(crate) build_version: String,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) features: Vec<String>,
}
