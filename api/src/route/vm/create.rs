//! The JSON of `vm.create` and `vm.resize`. Cloud Hypervisor knows more of it than is served here, and its clients
//! may spell out what they do not use: such a field is passed over if it asks for nothing (null, false, an empty
//! list), and refused by its name if it does.

use super::super::input;
use super::super::trouble::Trouble;
use crate::wire::machine::{SerialConfig, SerialMode, VmConfig, VsockConfig};
use axum::extract::Request;
use hotvisor_vmm::Problem;
use hotvisor_vmm::config::{self, Cpus, Serial, Vsock};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The fields that `vm.create` serves.
const CREATE: &[&str] = &["cpus", "memory", "payload", "serial", "console", "vsock"];
/// The fields that `vm.resize` serves.
pub(super) const RESIZE: &[&str] = &["desired_vcpus", "desired_ram"];

/// The fields that are served of each object inside, by its path.
const SERVED: &[(&str, &[&str])] = &[
    ("cpus", &["boot_vcpus", "max_vcpus"]),
    ("memory", &["size"]),
    ("payload", &["kernel", "cmdline", "initramfs"]),
    ("serial", &["mode", "file", "socket"]),
    ("console", &["mode"]),
    ("vsock", &["cid", "socket"]),
];

/// Whether a value asks for nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Takes out what asks for nothing, and names the first field that asks for something which is not served.
fn strip(fields: &mut Map<String, Value>, path: &str, served: &[&str]) -> Result<(), String> {
    for (name, value) in fields.iter_mut() {
        let full = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if !served.contains(&name.as_str()) {
            if !is_nothing(value) {
                return Err(full);
            }
        } else if let Value::Object(fields) = value {
            let inside = SERVED.iter().find(|(of, _)| *of == full);
            strip(fields, &full, inside.map_or(&[], |(_, names)| names))?;
        }
    }
    fields.retain(|name, value| served.contains(&name.as_str()) && !value.is_null());
    Ok(())
}

/// Reads the JSON object that `request` carries, of which these fields are `served`; `remedy` says what to send
/// instead.
pub(super) async fn object<T: DeserializeOwned>(
    request: Request,
    served: &[&str],
    remedy: &str,
) -> Result<T, Trouble> {
    let asked = request
        .uri()
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut fields: Map<String, Value> = input::object(request, remedy).await?;
    strip(&mut fields, "", served).map_err(|field| {
        let found = format!("`{field}` is not served by Hotvisor");
        Trouble::Invalid(Problem::new(&asked, found, "leave it out"))
    })?;
    serde_json::from_value(Value::Object(fields))
        .map_err(|e| Trouble::Invalid(Problem::new(&asked, e, remedy)))
}

/// What `vm.create` is asked for.
pub(super) async fn config(request: Request) -> Result<config::VmConfig, Trouble> {
    let remedy =
        r#"send {"payload":{"kernel":"/boot/vmlinuz"}}, with cpus, memory and serial as wanted"#;
    let config: VmConfig = object(request, CREATE, remedy).await?;
    let serial = serial(config.serial)?;
    Ok(config::VmConfig {
        kernel: config.payload.kernel,
        initramfs: config.payload.initramfs,
        cmdline: config.payload.cmdline.unwrap_or_default(),
        cpus: Cpus {
            boot: config.cpus.boot_vcpus,
            max: config.cpus.max_vcpus,
        },
        memory: config.memory.size,
        serial,
        vsock: config
            .vsock
            .map(|VsockConfig { cid, socket }| Vsock { cid, socket }),
    })
}

fn serial(config: SerialConfig) -> Result<Serial, Trouble> {
    let SerialConfig { mode, file, socket } = config;
    let invalid =
        |found: &str, remedy: &str| Err(Trouble::Invalid(Problem::new("vm.create", found, remedy)));
    match (mode, file, socket) {
        (SerialMode::File, Some(file), None) => Ok(Serial::File(file)),
        (SerialMode::Socket, None, Some(socket)) => Ok(Serial::Socket(socket)),
        (SerialMode::File, ..) => invalid(
            "a serial port into a file",
            "name it in serial.file, and nothing in serial.socket",
        ),
        (SerialMode::Socket, ..) => invalid(
            "a serial port with a socket",
            "name it in serial.socket, and nothing in serial.file",
        ),
        (_, Some(_), _) | (_, _, Some(_)) => invalid(
            "a serial port with a path that its mode does not use",
            "leave serial.file and serial.socket out, or set serial.mode",
        ),
        (SerialMode::Off, ..) => Ok(Serial::Off),
        (SerialMode::Tty, ..) => Ok(Serial::Tty),
        (SerialMode::Null, ..) => Ok(Serial::Null),
    }
}

/// A path as far as JSON can say it: a name need not be text.
fn text(path: &Path) -> PathBuf {
    path.to_string_lossy().into_owned().into()
}

/// The other way round. `present` is how many vCPUs there are.
pub(super) fn described(config: &config::VmConfig, present: u32) -> VmConfig {
    use crate::wire::machine::{ConsoleConfig, CpusConfig, MemoryConfig, PayloadConfig};
    let (mode, file, socket) = match &config.serial {
        Serial::Tty => (SerialMode::Tty, None, None),
        Serial::File(path) => (SerialMode::File, Some(text(path)), None),
        Serial::Socket(path) => (SerialMode::Socket, None, Some(text(path))),
        Serial::Null => (SerialMode::Null, None, None),
        Serial::Off => (SerialMode::Off, None, None),
    };
    VmConfig {
        cpus: CpusConfig {
            boot_vcpus: present,
            max_vcpus: config.cpus.max,
        },
        memory: MemoryConfig {
            size: config.memory,
        },
        payload: PayloadConfig {
            kernel: text(&config.kernel),
            cmdline: Some(config.cmdline.clone()),
            initramfs: config.initramfs.as_deref().map(text),
        },
        serial: SerialConfig { mode, file, socket },
        console: ConsoleConfig::default(),
        vsock: config.vsock.as_ref().map(|vsock| VsockConfig {
            cid: vsock.cid,
            socket: text(&vsock.socket),
        }),
    }
}
