//! The host's side of COM1: where its bytes go and come from. Used by the control thread only, which it
//! never makes wait: what the host does not take now waits in the port's bounded buffer.

use super::endpoint::{self, Source, Target, wait_ready};
use super::terminal::{self, RawMode};
use crate::config::Serial as Config;
use crate::error::{Error, Result};
use event_manager::{EventOps, EventSet, Events};
use hotvisor_devices::serial::{Output, Serial};
use nix::poll::PollFlags;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Tokens of the console's descriptors at the event manager.
pub(super) const TOKEN_IN: u32 = 16;
/// See [`TOKEN_IN`].
pub(super) const TOKEN_OUT: u32 = 17;
/// See [`TOKEN_IN`].
pub(super) const TOKEN_LISTEN: u32 = 18;

/// How much input is taken from the host at a time.
const CHUNK: usize = 4096;

/// A descriptor, and whether the event manager watches it.
struct Watched<T> {
    inner: T,
    token: u32,
    events: EventSet,
    watched: bool,
}

impl<T: AsFd> Watched<T> {
    fn new(inner: T, token: u32, events: EventSet) -> Self {
        Self {
            inner,
            token,
            events,
            watched: false,
        }
    }

    /// Watches it or not. Returns whether it can be watched: a regular file cannot, and is always ready.
    fn watch(&mut self, on: bool, ops: &mut EventOps) -> bool {
        if self.watched == on {
            return true;
        }
        let events = Events::with_data_raw(self.inner.as_fd().as_raw_fd(), self.token, self.events);
        let done = if on {
            ops.add(events)
        } else {
            ops.remove(events)
        };
        self.watched = on && done.is_ok();
        done.is_ok()
    }
}

type Input = Watched<Box<dyn Source>>;
type Sink = Watched<Box<dyn Target>>;

/// The host's side of COM1.
pub(super) struct Console {
    input: Option<Input>,
    output: Option<Sink>,
    listener: Option<Listener>,
    /// Read from the host, not yet taken by the guest.
    pending: Vec<u8>,
    /// Whether output that nobody takes is kept for a client that may come.
    keep: bool,
    /// Bytes dropped that were already told of.
    told_dropped: u64,
    _raw: Option<RawMode>,
}

struct Listener {
    socket: Watched<UnixListener>,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Console {
    /// A console with nothing behind it.
    pub(super) fn nowhere() -> Self {
        Self {
            input: None,
            output: None,
            listener: None,
            pending: Vec::new(),
            keep: false,
            told_dropped: 0,
            _raw: None,
        }
    }

    /// Opens what `config` names.
    ///
    /// # Errors
    /// [`Error::Input`] for a path that cannot be used.
    pub(super) fn open(config: &Config) -> Result<Self> {
        let mut console = Self::nowhere();
        match config {
            Config::Null | Config::Off => {}
            Config::File(path) => {
                let asked = format!("--serial file={}", path.display());
                let remedy = "name a file in a folder that exists and may be written";
                let file = File::create(path).map_err(|e| Error::input(asked, e, remedy))?;
                console.set_output(Box::new(file));
            }
            Config::Socket(path) => {
                let socket = Watched::new(endpoint::listen(path)?, TOKEN_LISTEN, EventSet::IN);
                console.listener = Some(Listener {
                    socket,
                    path: path.clone(),
                });
                console.keep = true;
            }
            Config::Tty => {
                if terminal::is_ours() {
                    let asked = "--serial tty";
                    let raw = terminal::raw_mode();
                    console._raw = Some(raw.map_err(|e| {
                        Error::input(asked, e, "use a terminal, or --serial file=PATH")
                    })?);
                }
                console.set_input(Box::new(endpoint::stdin()?));
                console.set_output(endpoint::stdout()?);
            }
        }
        Ok(console)
    }

    fn set_input(&mut self, source: Box<dyn Source>) {
        self.input = Some(Watched::new(source, TOKEN_IN, EventSet::IN));
    }

    fn set_output(&mut self, target: Box<dyn Target>) {
        self.output = Some(Watched::new(target, TOKEN_OUT, EventSet::OUT));
    }

    /// Starts watching what there is to watch.
    pub(super) fn start(&mut self, port: Option<&Serial>, ops: &mut EventOps) {
        if let Some(listener) = &mut self.listener {
            listener.socket.watch(true, ops);
        }
        self.pump_input(port, ops);
    }

    /// A descriptor of ours is ready.
    pub(super) fn ready(
        &mut self,
        token: u32,
        port: Option<&Serial>,
        output: &Output,
        ops: &mut EventOps,
    ) {
        match token {
            TOKEN_IN => self.pump_input(port, ops),
            TOKEN_OUT => self.pump_output(output, ops),
            TOKEN_LISTEN => self.accept(port, output, ops),
            _ => {}
        }
    }

    /// Moves input from the host to the guest until one of them has no more or takes no more.
    pub(super) fn pump_input(&mut self, port: Option<&Serial>, ops: &mut EventOps) {
        loop {
            if let Some(port) = port {
                let taken = port.receive(&self.pending);
                self.pending.drain(..taken);
            }
            let Some(input) = &mut self.input else { return };
            if !self.pending.is_empty() {
                // The guest asks for the rest when it has read what it has.
                input.watch(false, ops);
                return;
            }
            if input.watch(true, ops)
                && !wait_ready(&input.inner, PollFlags::POLLIN, Duration::ZERO)
            {
                return;
            }
            let mut chunk = [0; CHUNK];
            match input.inner.read(&mut chunk) {
                Ok(0) => return self.input_ended(ops),
                Ok(n) => self.pending.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    debug!("serial input: {e}");
                    return self.input_ended(ops);
                }
            }
        }
    }

    fn input_ended(&mut self, ops: &mut EventOps) {
        if let Some(mut input) = self.input.take() {
            input.watch(false, ops);
        }
        if self.listener.is_some() {
            debug!("serial: client gone");
            if let Some(mut output) = self.output.take() {
                output.watch(false, ops);
            }
        }
    }

    /// Moves output from the guest to the host until one of them has no more or takes no more.
    pub(super) fn pump_output(&mut self, output: &Output, ops: &mut EventOps) {
        let dropped = output.dropped();
        if dropped > self.told_dropped {
            warn!(
                "serial: {} bytes dropped: the reader is too slow",
                dropped - self.told_dropped
            );
            self.told_dropped = dropped;
        }
        let Some(sink) = &mut self.output else {
            if !self.keep {
                let _ = output.drain(|bytes| Ok(bytes.len()));
            }
            return;
        };
        match output.drain(|bytes| sink.inner.write(bytes)) {
            Ok(()) => {
                sink.watch(false, ops);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                sink.watch(true, ops);
            }
            Err(e) => {
                warn!("serial output is lost from here on: {e}");
                sink.watch(false, ops);
                self.output = None;
            }
        }
    }

    fn accept(&mut self, port: Option<&Serial>, output: &Output, ops: &mut EventOps) {
        let Some(listener) = &self.listener else {
            return;
        };
        let Ok((client, _)) = listener.socket.inner.accept() else {
            return;
        };
        if self.input.is_some() {
            debug!("serial: a second client was turned away");
            return;
        }
        let both = client
            .set_nonblocking(true)
            .and_then(|()| client.try_clone());
        match both {
            Ok(reader) => {
                self.set_input(Box::new(reader));
                self.set_output(Box::new(client));
                self.pump_output(output, ops);
                self.pump_input(port, ops);
            }
            Err(e) => warn!("serial: a client could not be served: {e}"),
        }
    }

    /// Writes what is left when the machine is over, and waits for a slow reader until `limit`.
    pub(super) fn finish(&mut self, output: &Output, limit: Duration) {
        let deadline = Instant::now() + limit;
        let Some(sink) = &mut self.output else { return };
        while let Err(e) = output.drain(|bytes| sink.inner.write(bytes)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if e.kind() != io::ErrorKind::WouldBlock || left.is_zero() {
                warn!("the end of the serial output is lost: {e}");
                return;
            }
            wait_ready(&sink.inner, PollFlags::POLLOUT, left);
        }
    }
}
