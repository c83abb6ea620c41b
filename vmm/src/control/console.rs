//! The host's side of COM1: where its bytes go and come from. Used by the control thread only, which it
//! never makes wait: what the host does not take now waits in the port's bounded buffer.

use super::prepared::FarEnd;
use super::terminal::{self, RawMode};
use crate::error::{Error, Result};
use crate::socket::SocketFile;
use crate::stream::{self, Source, Target, wait_ready};
use event_manager::{EventOps, EventSet, Events};
use hotvisor_devices::ratelimit::RateLimit;
use hotvisor_devices::serial::{Output, Serial};
use nix::poll::PollFlags;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Tokens of the console's descriptors at the event manager.
pub(super) const TOKEN_IN: u32 = 16;
/// See [`TOKEN_IN`].
pub(super) const TOKEN_OUT: u32 = 17;
/// See [`TOKEN_IN`].
pub(super) const TOKEN_LISTEN: u32 = 18;

/// How long after output was written it is looked whether there is more, before the guest's next byte is posted. A guest sends
/// byte by byte, and each that is posted by itself costs a turn of the control thread. The first one never waits.
const LINGER: Duration = Duration::from_millis(4);

/// A guest may write faster than its reader reads for as long as it runs.
static DROPPED: RateLimit = RateLimit::new(8);

/// How much input is taken from the host at a time.
const CHUNK: usize = 4096;

/// A descriptor, and what the event manager watches it for.
struct Watched<T> {
    inner: T,
    token: u32,
    watched: Option<EventSet>,
}

impl<T: AsFd> Watched<T> {
    fn new(inner: T, token: u32) -> Self {
        Self {
            inner,
            token,
            watched: None,
        }
    }

    /// Watches it for `wanted` from now on; for an empty set, that it hangs up or fails. Returns whether it
    /// can be watched: a regular file cannot, and is always ready.
    fn watch(&mut self, wanted: Option<EventSet>, ops: &mut EventOps) -> bool {
        if self.watched == wanted {
            return true;
        }
        let fd = self.inner.as_fd().as_raw_fd();
        let events = |set| Events::with_data_raw(fd, self.token, set);
        let done = match (self.watched, wanted) {
            (None, Some(set)) => ops.add(events(set)),
            (Some(_), Some(set)) => ops.modify(events(set)),
            (Some(set), None) => ops.remove(events(set)),
            (None, None) => Ok(()),
        };
        self.watched = if done.is_ok() { wanted } else { None };
        done.is_ok()
    }
}

type Input = Watched<Box<dyn Source>>;
type Sink = Watched<Box<dyn Target>>;

/// The host's side of COM1.
pub(super) struct Console {
    input: Option<Input>,
    /// A client will send no more, but may still listen.
    input_ended: bool,
    output: Option<Sink>,
    listener: Option<Listener>,
    /// Read from the host, not yet taken by the guest.
    pending: Vec<u8>,
    /// When to look whether there is more output.
    look_again: Option<Instant>,
    /// Bytes dropped that were looked at, and those that somebody was told of.
    dropped: u64,
    told: u64,
    _raw: Option<RawMode>,
}

struct Listener {
    /// Removed before the socket is closed: from then on the name, and the inode, may be somebody else's.
    _file: SocketFile,
    socket: Watched<UnixListener>,
}

impl Console {
    /// A console with nothing behind it.
    pub(super) fn nowhere() -> Self {
        Self {
            input: None,
            input_ended: false,
            output: None,
            listener: None,
            pending: Vec::new(),
            look_again: None,
            dropped: 0,
            told: 0,
            _raw: None,
        }
    }

    /// Takes what it leads to into use: a file is emptied, a terminal is the guest's from now on.
    ///
    /// # Errors
    /// [`Error::Input`] for what cannot be used.
    pub(super) fn open(far: FarEnd) -> Result<Self> {
        let mut console = Self::nowhere();
        match far {
            FarEnd::Nothing => {}
            FarEnd::File(file) => {
                let regular = file.metadata().is_ok_and(|file| file.is_file());
                if regular {
                    let remedy = "name a file that may be written";
                    let emptied = file.set_len(0);
                    emptied.map_err(|e| Error::input("serial file", e, remedy))?;
                }
                console.set_output(Box::new(file));
            }
            FarEnd::Socket(file, socket) => {
                console.listener = Some(Listener {
                    _file: file,
                    socket: Watched::new(socket, TOKEN_LISTEN),
                });
            }
            FarEnd::Further(file) => console.set_output(Box::new(file)),
            FarEnd::Tty(output) => {
                let terminal = io::stdin().is_terminal();
                if terminal && terminal::is_ours() {
                    let raw = terminal::raw_mode();
                    console._raw = Some(raw.map_err(|e| {
                        Error::input("serial tty", e, "use a terminal, or serial file=PATH")
                    })?);
                }
                // To read from a terminal whose foreground is somebody else's would stop the process.
                if !terminal || terminal::is_ours() {
                    console.set_input(Box::new(stream::stdin()?));
                }
                console.set_output(output);
            }
        }
        Ok(console)
    }

    fn set_input(&mut self, source: Box<dyn Source>) {
        self.input = Some(Watched::new(source, TOKEN_IN));
        self.input_ended = false;
    }

    fn set_output(&mut self, target: Box<dyn Target>) {
        self.output = Some(Watched::new(target, TOKEN_OUT));
    }

    /// Starts watching what there is to watch.
    pub(super) fn start(&mut self, port: Option<&Serial>, ops: &mut EventOps) {
        if let Some(listener) = &mut self.listener {
            listener.socket.watch(Some(EventSet::IN), ops);
        }
        self.pump_input(port, ops);
    }

    /// A descriptor of ours is ready.
    pub(super) fn ready(
        &mut self,
        events: Events,
        port: Option<&Serial>,
        output: &Output,
        ops: &mut EventOps,
    ) {
        match events.data() {
            TOKEN_IN => {
                self.pump_input(port, ops);
                let gone = EventSet::HANG_UP | EventSet::ERROR;
                if self.listener.is_some() && events.event_set().intersects(gone) {
                    self.client_gone(ops);
                }
            }
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
            if !self.pending.is_empty() || self.input_ended {
                // The guest asks for the rest when it has read what it has. That a client hangs up must be
                // seen meanwhile; a pipe that does so still holds what was sent before.
                let idle = self.listener.is_some().then(EventSet::empty);
                input.watch(idle, ops);
                return;
            }
            let watched = input.watch(Some(EventSet::IN), ops);
            if watched && !wait_ready(&input.inner, PollFlags::POLLIN, Duration::ZERO) {
                return;
            }
            let mut chunk = [0; CHUNK];
            match input.inner.read(&mut chunk) {
                Ok(0) => self.end_input(ops),
                Ok(n) => self.pending.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    debug!("serial input: {e}");
                    self.end_input(ops);
                }
            }
        }
    }

    /// There will be no more input from where it came until now.
    fn end_input(&mut self, ops: &mut EventOps) {
        self.input_ended = true;
        if self.listener.is_none()
            && let Some(mut input) = self.input.take()
        {
            input.watch(None, ops);
        }
    }

    /// The client is gone; the next one may come, and gets what this one did not take.
    fn client_gone(&mut self, ops: &mut EventOps) {
        debug!("serial: client gone");
        if let Some(mut input) = self.input.take() {
            input.watch(None, ops);
        }
        if let Some(mut output) = self.output.take() {
            output.watch(None, ops);
        }
    }

    /// Moves output from the guest to the host until one of them has no more or takes no more.
    pub(super) fn pump_output(&mut self, output: &Output, ops: &mut EventOps) {
        self.look_again = None;
        if output.leave() {
            return;
        }
        if self.write_output(output, ops) {
            // Not only where it is empty now: what came after the last look was not posted.
            self.look_again = Some(Instant::now() + LINGER);
        }
    }

    /// When output is to be moved although none was posted.
    pub(super) fn look_again(&self) -> Option<Instant> {
        self.look_again
    }

    /// Returns whether nothing else will have it write what comes next.
    fn write_output(&mut self, output: &Output, ops: &mut EventOps) -> bool {
        let dropped = output.dropped();
        if std::mem::replace(&mut self.dropped, dropped) < dropped
            && let Some(n) = DROPPED.pass()
        {
            warn!(
                n,
                "serial: {dropped} bytes dropped so far: the reader is too slow"
            );
            self.told = dropped;
        }
        let Some(sink) = &mut self.output else {
            // Kept for a client that may come; nobody else will.
            if self.listener.is_none() {
                let _ = output.drain(|bytes| Ok(bytes.len()));
            }
            return self.listener.is_none();
        };
        match output.drain(|bytes| sink.inner.write(bytes)) {
            Ok(()) => {
                sink.watch(None, ops);
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                sink.watch(Some(EventSet::OUT), ops);
                false
            }
            Err(_) if self.listener.is_some() => {
                self.client_gone(ops);
                false
            }
            Err(e) => {
                warn!("serial output is lost from here on: {e}");
                sink.watch(None, ops);
                self.output = None;
                true
            }
        }
    }

    fn accept(&mut self, port: Option<&Serial>, output: &Output, ops: &mut EventOps) {
        let Some(listener) = &mut self.listener else {
            return;
        };
        let both = match listener.socket.inner.accept() {
            Ok(_) if self.output.is_some() => {
                debug!("serial: a second client was turned away");
                return;
            }
            Ok((client, _)) => client
                .set_nonblocking(true)
                .and_then(|()| Ok((client.try_clone()?, client))),
            Err(e) => Err(e),
        };
        match both {
            Ok((reader, writer)) => {
                self.set_input(Box::new(reader));
                self.set_output(Box::new(writer));
                self.pump_output(output, ops);
                self.pump_input(port, ops);
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => {
                // Most likely there is no descriptor left; asking again would be all that we do.
                warn!("serial: no further client is served: {e}");
                listener.socket.watch(None, ops);
            }
        }
    }

    /// Lets go of all that is behind it. Which bytes of the output somebody was told of is still known.
    pub(super) fn stop(&mut self, ops: &mut EventOps) {
        self.client_gone(ops);
        if let Some(listener) = &mut self.listener {
            listener.socket.watch(None, ops);
        }
        *self = Self {
            dropped: self.dropped,
            told: self.told,
            ..Self::nowhere()
        };
    }

    /// How many bytes were dropped, if nobody was told of the last of them yet. Somebody is now.
    fn untold(&mut self, output: &Output) -> Option<u64> {
        let dropped = output.dropped();
        (std::mem::replace(&mut self.told, dropped) < dropped).then_some(dropped)
    }

    /// Writes what is left when the machine is over, and waits for a slow reader until `limit`.
    pub(super) fn finish(&mut self, output: &Output, limit: Duration) {
        let deadline = Instant::now() + limit;
        if let Some(dropped) = self.untold(output) {
            warn!("serial: {dropped} bytes dropped in all: the reader was too slow");
        }
        let Some(sink) = &mut self.output else { return };
        while !output.is_empty() {
            let written = output.drain(|bytes| sink.inner.write(bytes));
            let left = deadline.saturating_duration_since(Instant::now());
            match written {
                _ if left.is_zero() => return warn!("the end of the serial output is lost"),
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait_ready(&sink.inner, PollFlags::POLLOUT, left);
                }
                Err(e) => return warn!("the end of the serial output is lost: {e}"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
