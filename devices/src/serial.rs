//! The 16550A serial port, and the bounded buffer that keeps a stalled reader away from the vCPUs.
//!
//! The UART itself is `vm-superio`'s. What a guest sends goes into an [`Output`] and is written to the host
//! by the control thread, so that a vCPU never waits for a terminal, a pipe or a socket. Input goes through
//! [`Serial::receive`], which takes what fits into the UART's FIFO; when the guest has emptied that, the
//! port posts once, and the rest can follow.
//!
//! | a hostile guest may | and then |
//! |---|---|
//! | send faster than the host can write | the oldest bytes beyond [`Output::CAPACITY`] are dropped and counted |
//! | never read its input | the input stays with the host's sender |
//! | access at another width than one byte | reads all ones, writes are ignored |

use crate::{IrqLine, lock};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use vm_device::DevicePio;
use vm_device::bus::{PioAddress, PioAddressOffset};
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial as Uart, Trigger};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Ports of a UART.
pub const LEN: u16 = 8;

/// What the port tells the host's side. Called with the port locked: it posts and returns.
pub trait SerialSink: Send + Sync {
    /// There is output, and nobody attends to it, or it ends a line: it is to be drained.
    fn output_ready(&self);
    /// The guest has read all of its input.
    fn input_wanted(&self);
}

/// Bytes from the guest that the host has not written yet.
pub struct Output {
    queue: Mutex<Queue>,
    sink: Arc<dyn SerialSink>,
}

#[derive(Default)]
struct Queue {
    bytes: VecDeque<u8>,
    dropped: u64,
    /// The host's side was told that there is something, and looks by itself whether more comes.
    attended: bool,
}

impl Queue {
    /// The first bytes, and how many were dropped before them.
    fn front(&self, len: usize) -> (Vec<u8>, u64) {
        (self.bytes.iter().take(len).copied().collect(), self.dropped)
    }

    /// Forgets the first `taken` bytes as they were when `dropped` were dropped.
    fn written(&mut self, taken: usize, dropped: u64) {
        // What was dropped meanwhile was at the front, and so among the bytes just written.
        let lost = usize::try_from(self.dropped - dropped).unwrap_or(usize::MAX);
        let gone = taken.saturating_sub(lost).min(self.bytes.len());
        self.bytes.drain(..gone);
        if self.bytes.is_empty() {
            self.bytes.shrink_to(Output::CHUNK);
        }
    }
}

impl Output {
    /// How many bytes are kept for a reader that stalls, before the oldest are dropped.
    pub const CAPACITY: usize = 1 << 20;
    /// How many bytes are written at a time, and how often in one go.
    const CHUNK: usize = 4096;
    const CHUNKS: usize = 16;

    /// An empty buffer that posts to `sink`. It may outlive the port that fills it.
    #[must_use]
    pub fn new(sink: Arc<dyn SerialSink>) -> Self {
        Self {
            queue: Mutex::default(),
            sink,
        }
    }

    /// The end of a line is posted in any case: who reads lines is not to wait for whoever looks again.
    fn push(&self, bytes: &[u8]) {
        let attended = {
            let mut queue = lock(&self.queue);
            queue.bytes.extend(bytes);
            let excess = queue.bytes.len().saturating_sub(Self::CAPACITY);
            queue.bytes.drain(..excess);
            queue.dropped += excess as u64;
            std::mem::replace(&mut queue.attended, true)
        };
        if !attended || bytes.contains(&b'\n') {
            self.sink.output_ready();
        }
    }

    /// Hands waiting bytes to `write`, in chunks, until all are taken, it answers with an error, or a budget
    /// is used up: vCPUs may send as fast as the host takes, and the caller has other things to do. What is
    /// left then is posted again. A short write is no error: the rest is offered again.
    ///
    /// # Errors
    /// What `write` answered, `WouldBlock` among it; what it took before is gone from the buffer.
    pub fn drain(&self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        for _ in 0..Self::CHUNKS {
            // The copy keeps the lock short: a vCPU may push while the host writes.
            let (chunk, dropped) = lock(&self.queue).front(Self::CHUNK);
            if chunk.is_empty() {
                return Ok(());
            }
            let taken = match write(&chunk) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            lock(&self.queue).written(taken, dropped);
        }
        if !self.is_empty() {
            self.sink.output_ready();
        }
        Ok(())
    }

    /// Attends to it no longer, if nothing waits: the next byte is posted. Returns whether that is so.
    ///
    /// After a [`Output::drain`] it is attended to, so that what follows soon is not posted byte by byte: whoever drains
    /// looks again after a while, until this is so.
    #[must_use]
    pub fn leave(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.attended &= !queue.bytes.is_empty();
        !queue.attended
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        lock(&self.queue).bytes.is_empty()
    }

    /// How many bytes were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        lock(&self.queue).dropped
    }
}

struct Irq(Arc<dyn IrqLine>);

impl Trigger for Irq {
    type E = std::convert::Infallible;
    fn trigger(&self) -> Result<(), Self::E> {
        self.0.pulse();
        Ok(())
    }
}

struct Events(Arc<dyn SerialSink>);

impl SerialEvents for Events {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.0.input_wanted();
    }
}

struct Out(Arc<Output>);

impl io::Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.push(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The port.
pub struct Serial {
    uart: Mutex<Uart<Irq, Events, Out>>,
}

impl Serial {
    /// A port that interrupts through `irq`, posts to `sink` and sends into `output`.
    #[must_use]
    pub fn new(irq: Arc<dyn IrqLine>, sink: Arc<dyn SerialSink>, output: Arc<Output>) -> Self {
        Self {
            uart: Mutex::new(Uart::with_events(Irq(irq), Events(sink), Out(output))),
        }
    }

    /// Gives the guest input; returns how many of `bytes` it took. The rest is for after
    /// [`SerialSink::input_wanted`].
    pub fn receive(&self, bytes: &[u8]) -> usize {
        // A full FIFO, or a guest in loop-back mode, takes nothing; the interrupt itself cannot fail.
        lock(&self.uart).enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}

impl DevicePio for Serial {
    fn pio_read(&self, _base: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        match (data, u8::try_from(offset)) {
            ([byte], Ok(offset)) => *byte = lock(&self.uart).read(offset),
            (data, _) => data.fill(0xff),
        }
    }

    fn pio_write(&self, _base: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        if let (&[byte], Ok(offset)) = (data, u8::try_from(offset)) {
            // Neither the buffer nor the interrupt can fail.
            let _ = lock(&self.uart).write(offset, byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counts {
        edges: AtomicUsize,
        ready: AtomicUsize,
        wanted: AtomicUsize,
    }
    impl IrqLine for Counts {
        fn pulse(&self) {
            self.edges.fetch_add(1, Ordering::Relaxed);
        }
    }
    impl SerialSink for Counts {
        fn output_ready(&self) {
            self.ready.fetch_add(1, Ordering::Relaxed);
        }
        fn input_wanted(&self) {
            self.wanted.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Port {
        serial: Serial,
        output: Arc<Output>,
        counts: Arc<Counts>,
    }

    fn port() -> Port {
        let counts = Arc::new(Counts::default());
        let output = Arc::new(Output::new(counts.clone()));
        Port {
            serial: Serial::new(counts.clone(), counts.clone(), output.clone()),
            output,
            counts,
        }
    }

    fn send(serial: &Serial, bytes: &[u8]) {
        for byte in bytes {
            serial.pio_write(PioAddress(COM1), 0, &[*byte]);
        }
    }

    fn drained(output: &Output) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.is_empty() {
            output
                .drain(|chunk| {
                    let n = chunk.len().min(701);
                    all.extend_from_slice(&chunk[..n]);
                    Ok(n)
                })
                .unwrap();
        }
        all
    }

    #[test]
    fn output_is_posted_once_and_survives_short_writes() {
        let Port {
            serial,
            output,
            counts,
        } = port();
        send(&serial, b"hello, world, and some more");
        assert_eq!(counts.ready.load(Ordering::Relaxed), 1);
        assert!(!output.leave());
        assert_eq!(drained(&output), b"hello, world, and some more");
        // Whoever has drained it looks again.
        send(&serial, b"!");
        assert_eq!(counts.ready.load(Ordering::Relaxed), 1);
        assert!(!output.leave());
        assert_eq!(drained(&output), b"!");
        assert!(output.leave());
        send(&serial, b"?");
        assert_eq!(counts.ready.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_end_of_a_line_is_posted_while_somebody_attends() {
        let Port {
            serial,
            output,
            counts,
        } = port();
        let posts_after = |text: &[u8]| {
            send(&serial, text);
            counts.ready.load(Ordering::Relaxed)
        };
        assert_eq!(posts_after(b"a li"), 1);
        assert_eq!(drained(&output), b"a li");
        assert_eq!(posts_after(b"ne"), 1);
        assert_eq!(posts_after(b"\r\n"), 2);
        assert_eq!(drained(&output), b"ne\r\n");
        assert_eq!(posts_after(b"x"), 2);
        assert_eq!(drained(&output), b"x");
        assert!(output.leave());
        assert_eq!(posts_after(b"y"), 3);
    }

    #[test]
    fn a_stalled_reader_gets_the_newest_bytes() {
        let Port { serial, output, .. } = port();
        let refused = output.drain(|_| Err(io::ErrorKind::WouldBlock.into()));
        assert!(refused.is_ok(), "nothing to write is no error");
        send(&serial, b"old");
        output.push(&vec![b'n'; Output::CAPACITY]);
        let refused = output.drain(|_| Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(
            refused.map_err(|e| e.kind()),
            Err(io::ErrorKind::WouldBlock)
        );
        assert_eq!(output.dropped(), 3);
        assert_eq!(drained(&output), vec![b'n'; Output::CAPACITY]);
    }

    #[test]
    fn bytes_pushed_and_dropped_during_a_write_are_accounted_for() {
        let Port { serial, output, .. } = port();
        send(&serial, b"abc");
        let mut first = true;
        let mut all = Vec::new();
        while !output.is_empty() {
            output
                .drain(|chunk| {
                    if std::mem::take(&mut first) {
                        // Overflows by one while "abc" is being written: "a" is dropped.
                        output.push(&vec![b'z'; Output::CAPACITY - 2]);
                    }
                    all.extend_from_slice(chunk);
                    Ok(chunk.len())
                })
                .unwrap();
        }
        assert_eq!(all.len(), 3 + Output::CAPACITY - 2);
        assert_eq!(&all[..4], b"abcz");
    }

    #[test]
    fn a_guest_that_never_stops_printing_does_not_hold_the_writer() {
        let Port { output, counts, .. } = port();
        output.push(b"x");
        let ready = counts.ready.load(Ordering::Relaxed);
        // Each write makes room for one more byte: without a budget this would not return.
        let endless = output.drain(|chunk| {
            output.push(b"y");
            Ok(chunk.len())
        });
        assert!(endless.is_ok() && !output.is_empty());
        assert_eq!(
            counts.ready.load(Ordering::Relaxed),
            ready + 1,
            "the rest is posted"
        );
    }

    #[test]
    fn input_stops_at_the_fifo_and_is_asked_for_again() {
        let Port { serial, counts, .. } = port();
        let took = serial.receive(&[b'x'; 100]);
        assert!(took > 0 && took < 100);
        for n in 0..took {
            assert_eq!(counts.wanted.load(Ordering::Relaxed), 0, "at {n}");
            let mut byte = [0];
            serial.pio_read(PioAddress(COM1), 0, &mut byte);
            assert_eq!(byte, [b'x']);
        }
        assert_eq!(counts.wanted.load(Ordering::Relaxed), 1);
        assert_eq!(serial.receive(&[b'y'; 3]), 3);
    }

    #[test]
    fn odd_widths_are_harmless() {
        let Port { serial, output, .. } = port();
        let mut word = [0; 4];
        serial.pio_read(PioAddress(COM1), 0, &mut word);
        assert_eq!(word, [0xff; 4]);
        serial.pio_write(PioAddress(COM1), 0, b"ab");
        assert_eq!(drained(&output), b"");
    }
}
