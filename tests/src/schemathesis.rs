//! [Schemathesis](https://schemathesis.io): makes requests out of an OpenAPI document, good and bad ones, and
//! checks that each answer is as the document says.
//!
//! It comes from PyPI into a virtual environment of its own, once, as those files whose hashes stand in
//! `tests/schemathesis/requirements.txt`. It speaks TCP, and the API does not: see [`Forwarder`].

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{host, installed, paths, process};

/// What a virtual environment is made with.
const PACKAGES: &[&str] = &["python3", "python3-venv"];
/// Debian's Python, whatever else is on the path.
const PYTHON: &str = "/usr/bin/python3";
/// The virtual environment, in the bed's folder.
const VENV: &str = "venv";

/// The folder of what is ours about it.
fn folder() -> PathBuf {
    paths::workspace().join("tests/schemathesis")
}

/// The executable, installed if it was not yet.
///
/// # Errors
/// A Debian package is missing, or PyPI cannot be reached.
fn install() -> Result<PathBuf> {
    host::ensure(PACKAGES)?;
    let requirements = folder().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    let installed = installed::folder("schemathesis", "PyPI", &wanted, |bed| {
        let venv = bed.join(VENV);
        let mut make = Command::new(PYTHON);
        process::output(make.args(["-m", "venv", "--clear"]).arg(&venv))?;
        let mut fill = Command::new(venv.join("bin/python"));
        fill.args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--require-hashes"])
            // To build one would run what has no hash.
            .args(["--only-binary=:all:", "--requirement"]);
        process::output(fill.arg(&requirements)).map(drop)
    })?;
    Ok(installed.join(VENV).join("bin/schemathesis"))
}

/// Checks the API at `socket` against the document that it serves, with all checks, on `examples` requests for each
/// operation and more; returns what schemathesis printed. The same requests every time, as far as the answers are
/// the same.
///
/// # Errors
/// It cannot be installed, found something, or was not done within `patience`.
pub fn check(socket: &Path, examples: u32, patience: Duration, more: &[&str]) -> Result<String> {
    let program = install()?;
    let forwarder = Forwarder::start(socket)?;
    let scratch = tempfile::Builder::new().prefix("schemathesis-").tempdir()?;
    let document = format!("http://{}/openapi.json", forwarder.address);
    let mut command = Command::new("timeout");
    command
        .arg(patience.as_secs().to_string())
        .arg(program)
        .arg("--config-file")
        .arg(folder().join("schemathesis.toml"))
        .args(["run", &document])
        .args(["--max-examples", &examples.to_string()])
        .args(more)
        .env("SCHEMATHESIS_HOOKS", folder().join("hooks.py"))
        .env("NO_COLOR", "1")
        .current_dir(&scratch)
        .stdin(std::process::Stdio::null());
    let output = command.output().context("cannot start schemathesis")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{} ended with {} ({patience:?} are the most):\n{said}{}",
        process::spelled(&command),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// A TCP port of this host, each connection to which is one to a Unix socket. It is gone with the process.
struct Forwarder {
    address: SocketAddr,
}

impl Forwarder {
    fn start(socket: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let socket = socket.to_owned();
        let accept = move || {
            for client in listener.incoming().flatten() {
                // A server that has gone closes the connection to it, which is what its client then sees.
                if let Ok(server) = UnixStream::connect(&socket) {
                    let _ = forward(&client, &server);
                }
            }
        };
        thread::Builder::new()
            .name("forwarder".into())
            .spawn(accept)?;
        Ok(Self { address })
    }
}

/// Copies both ways, each until its end.
fn forward(client: &TcpStream, server: &UnixStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::Builder::new().spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    })?;
    thread::Builder::new().spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    })?;
    Ok(())
}
