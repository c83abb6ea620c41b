//! The socket device: registers, rings and packets of a guest's, and streams of the host's.

use super::{Access, steps};
use arbitrary::Arbitrary;
use hotvisor_devices::IrqLine;
use hotvisor_devices::virtio::link::Link;
use hotvisor_devices::virtio::mmio::Transport;
use hotvisor_devices::virtio::vsock::{
    HEADER_LEN, HOST_CID, Half, Header, Key, Kind, MOST_CONNECTIONS, Op, Ready, Stream, Streams,
    Vsock, Worker,
};
use hotvisor_devices::virtio::{Memory, Wake};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const GUEST: u32 = 3;
const MEMORY: usize = 256 << 10;
/// Entries of each queue.
const SIZE: u16 = 16;
/// The rings of queue n: descriptors, available, used.
const RINGS: u64 = 0x1000;
/// Buffers of queue n, each of this size.
const BUFFERS: u64 = 0x1_0000;
const BUFFER: u64 = 0x1000;
/// More pieces of work than any step can be worth.
const MOST_PIECES: u32 = 1000;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Any access to a register.
    Write(Access),
    Read(Access),
    /// As a driver does it, up to the queues' use, or without them.
    SetUp(bool),
    /// A packet of this operation, with that much data, cut there, about the connection with this number.
    Send(u8, u8, u16, u8, u32, u32, u8),
    /// A packet of these bytes.
    Bytes(Vec<u8>),
    /// A chain of two descriptors.
    Chain(u8, u32, u16, u16, u16),
    /// Buffers are offered, so many.
    Offer(u8),
    /// Any word among the rings.
    Scribble(u16, u16),
    /// A client of the host's, and what the connection with that number is ready for.
    Client,
    Ready(u8, bool, bool, bool),
    /// The host's streams send so much each time, and take so much.
    Streams(u8, u8),
    Late,
    Hold(bool),
}

#[derive(Clone)]
struct Ram(Arc<GuestMemoryMmap<()>>);

impl Memory for Ram {
    type Of = GuestMemoryMmap<()>;
    fn memory(&self) -> &Self::Of {
        &self.0
    }
}

struct Nobody;

impl IrqLine for Nobody {
    fn pulse(&self) {}
}

impl Wake for Nobody {
    fn wake(&self) {}
}

/// All streams alike: what each sends, and takes, and how many there are.
#[derive(Default)]
struct Ends {
    sends: Cell<usize>,
    takes: Cell<usize>,
    open: Cell<usize>,
}

struct End(Rc<Ends>);

impl End {
    fn new(ends: &Rc<Ends>) -> Self {
        ends.open.set(ends.open.get() + 1);
        assert!(ends.open.get() <= MOST_CONNECTIONS, "too many connections");
        Self(ends.clone())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

impl Read for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.sends.replace(0) {
            0 => Err(ErrorKind::WouldBlock.into()),
            n if n > 250 => Ok(0),
            n if n > 240 => Err(ErrorKind::ConnectionReset.into()),
            n => Ok(n.min(buf.len())),
        }
    }
}

impl Write for End {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.0.takes.get() {
            0 => Err(ErrorKind::WouldBlock.into()),
            n if n > 240 => Err(ErrorKind::BrokenPipe.into()),
            n if n > 100 => Ok(buf.len()),
            n => {
                self.0.takes.set(0);
                Ok(n.min(buf.len()))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for End {
    fn end(&mut self, _half: Half) {}
}

struct Host(Rc<Ends>);

impl Streams for Host {
    type Stream = End;
    fn connect(&mut self, key: Key) -> io::Result<End> {
        match key.host % 4 {
            0 => Err(ErrorKind::ConnectionRefused.into()),
            _ => Ok(End::new(&self.0)),
        }
    }
}

struct Machine {
    registers: Transport<Vsock, Ram>,
    link: Arc<Link<Ram>>,
    worker: Worker<Ram, Host>,
    ends: Rc<Ends>,
    ram: Ram,
    now: Instant,
    keys: RefCell<Vec<Key>>,
    /// The next entry of each available ring.
    next: [u16; 3],
    held: bool,
}

pub(crate) fn run(bytes: &[u8]) {
    let Ok(memory) = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]) else {
        return;
    };
    let mut machine = Machine::new(Ram(Arc::new(memory)));
    steps(bytes, |step| {
        machine.take(&step);
        machine.work();
    });
    machine.still_serves();
}

impl Machine {
    fn new(ram: Ram) -> Self {
        let link = Arc::new(Link::new(Arc::new(Nobody)));
        let device = Vsock { cid: GUEST };
        let registers = Transport::new(device, ram.clone(), link.clone(), Arc::new(Nobody));
        let ends = Rc::new(Ends::default());
        let mut worker = Worker::new(GUEST, Host(ends.clone()));
        worker.attach(link.clone());
        Self {
            registers,
            link,
            worker,
            ends,
            ram,
            now: Instant::now(),
            keys: RefCell::new(vec![Key { host: 1, guest: 1 }, Key { host: 4, guest: 2 }]),
            next: [0; 3],
            held: false,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Write(access) => {
                let at = access.offset(0x110);
                self.registers
                    .mmio_write(MmioAddress(0), at, &access.data());
            }
            Step::Read(access) => {
                let mut data = vec![0xaa; access.width()];
                let at = access.offset(0x110);
                self.registers.mmio_read(MmioAddress(0), at, &mut data);
                assert!(!data.contains(&0xaa), "{at:#x} leaves something out");
            }
            Step::SetUp(whole) => self.set_up(whole),
            Step::Send(which, op, len, cut, room, passed, flags) => {
                let mut packet = self.packet(which, Op::Data, len.into());
                (packet.buf_alloc, packet.fwd_cnt) = (room, passed);
                packet.flags = flags.into();
                let mut bytes = packet.write();
                bytes[30] = op % 10;
                bytes.resize(HEADER_LEN + usize::from(len), op);
                self.send(&bytes, cut.into());
            }
            Step::Bytes(ref bytes) => self.send(bytes, 0),
            Step::Chain(queue, at, len, flags, next) => {
                let queue = usize::from(queue % 3);
                let slot = self.next[queue] % SIZE;
                self.describe(queue, slot, u64::from(at), len.into(), flags, next);
                self.offer(queue, slot);
            }
            Step::Offer(count) => self.offer_buffers(count.into()),
            Step::Scribble(at, value) => {
                let at = RINGS + u64::from(at) % (3 * 0x1000);
                self.store(at, &value.to_le_bytes());
            }
            Step::Client => self.client(),
            Step::Ready(which, readable, writable, hung) => {
                let ready = Ready {
                    readable,
                    writable,
                    hung,
                };
                self.worker.ready(self.key(which), ready, self.now);
            }
            Step::Streams(sends, takes) => {
                self.ends.sends.set(sends.into());
                self.ends.takes.set(takes.into());
            }
            Step::Late => {
                self.now = self
                    .worker
                    .deadline()
                    .map_or(self.now, |at| at.max(self.now));
                self.worker.tick(self.now);
                assert!(self.worker.deadline().is_none_or(|at| at > self.now));
            }
            Step::Hold(held) => {
                self.link.hold(held);
                self.held = held;
            }
        }
    }

    /// All that there is to do: it comes to an end, and nothing is touched while the machine stands still.
    fn work(&mut self) {
        let before = self.held.then(|| self.image());
        let mut pieces = 0;
        while self.worker.work(self.now) {
            pieces += 1;
            assert!(pieces < MOST_PIECES, "it goes on for ever");
        }
        assert!(before.is_none_or(|before| before == self.image()));
    }

    fn image(&self) -> Vec<u8> {
        let mut all = vec![0; MEMORY];
        let read = self.ram.0.read_slice(&mut all, GuestAddress(0));
        assert!(read.is_ok());
        all
    }

    /// Whatever it was: after a reset, the device serves.
    fn still_serves(&mut self) {
        self.take(&Step::Hold(false));
        self.set_up(true);
        self.offer_buffers(1);
        self.work();
        assert_eq!(self.ends.open.get(), 0, "what is left of before");
        self.client();
        self.work();
        let mut bytes = [0; HEADER_LEN];
        let read = self.ram.0.read_slice(&mut bytes, GuestAddress(BUFFERS));
        let header = Header::read(&bytes);
        assert!(read.is_ok() && header.op == Ok(Op::Request), "{header:?}");
    }

    fn client(&mut self) {
        let ends = self.ends.clone();
        if let Ok(key) = self.worker.open(7, |_| Ok(End::new(&ends)), self.now) {
            self.keys.borrow_mut().push(key);
        }
    }

    fn key(&self, which: u8) -> Key {
        let keys = self.keys.borrow();
        keys[usize::from(which) % keys.len()]
    }

    fn packet(&self, which: u8, op: Op, len: u32) -> Header {
        let key = self.key(which);
        Header {
            src_cid: GUEST.into(),
            dst_cid: HOST_CID,
            src_port: key.guest,
            dst_port: key.host,
            len,
            kind: Kind::Stream,
            op: Ok(op),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    fn write(&self, at: u64, value: u64) {
        let value = value.to_le_bytes();
        self.registers.mmio_write(MmioAddress(0), at, &value[..4]);
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        let stored = self.ram.0.write_slice(bytes, GuestAddress(at));
        assert!(stored.is_ok(), "{at:#x}");
    }

    /// Section 3.1.1.
    fn set_up(&mut self, whole: bool) {
        for (at, value) in [
            (0x70, 0),
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x24, 0),
            (0x20, 1),
        ] {
            self.write(at, value);
        }
        self.write(0x20, 1 | u64::from(whole) << 29);
        self.write(0x70, 11);
        self.next = [0; 3];
        for queue in 0..3 {
            self.write(0x30, queue);
            self.write(0x38, SIZE.into());
            let rings = RINGS + 0x1000 * queue;
            self.store(rings, &[0; 0x1000]);
            for (at, ring) in [(0x80, rings), (0x90, rings + 0x400), (0xa0, rings + 0x800)] {
                self.write(at, ring);
                self.write(at + 4, 0);
            }
            self.write(0x44, whole.into());
        }
        self.write(0x70, 15);
    }

    fn describe(&self, queue: usize, slot: u16, at: u64, len: u32, flags: u16, next: u16) {
        let entry = RINGS + 0x1000 * queue as u64 + 16 * u64::from(slot);
        self.store(entry, &at.to_le_bytes());
        self.store(entry + 8, &len.to_le_bytes());
        self.store(entry + 12, &flags.to_le_bytes());
        self.store(entry + 14, &next.to_le_bytes());
    }

    /// One more entry of the available ring.
    fn offer(&mut self, queue: usize, head: u16) {
        let available = RINGS + 0x1000 * queue as u64 + 0x400;
        let at = self.next[queue];
        self.store(
            available + 4 + 2 * u64::from(at % SIZE),
            &head.to_le_bytes(),
        );
        self.next[queue] = at.wrapping_add(1);
        self.store(available + 2, &self.next[queue].to_le_bytes());
        self.write(0x50, queue as u64);
    }

    fn offer_buffers(&mut self, count: u16) {
        for _ in 0..count % (SIZE + 1) {
            let slot = self.next[0] % SIZE;
            let at = BUFFERS + BUFFER * u64::from(slot);
            self.describe(0, slot, at, 0x1000, 2, 0);
            self.offer(0, slot);
        }
    }

    /// A packet in one descriptor, or cut into two.
    fn send(&mut self, bytes: &[u8], cut: usize) {
        let slot = self.next[1] % SIZE;
        let at = BUFFERS + BUFFER * u64::from(SIZE + slot);
        let bytes = &bytes[..bytes.len().min(0x1000)];
        self.store(at, bytes);
        let len = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let cut = cut.min(bytes.len());
        let other = (slot + 1) % SIZE;
        self.describe(1, slot, at, len(cut), 1, other);
        self.describe(1, other, at + cut as u64, len(bytes.len() - cut), 0, 0);
        self.offer(1, slot);
    }
}
