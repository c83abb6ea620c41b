//! A guest's driver of the device: it sets it up by its registers, and keeps rings in the guest's memory.

use crate::IrqLine;
use crate::virtio::link::Link;
use crate::virtio::mmio::Transport;
use crate::virtio::vsock::header::{Header, LEN};
use crate::virtio::vsock::{Key, NoConnection, Ready, Streams, Vsock, Worker};
use crate::virtio::{Memory, Wake};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use vm_device::DeviceMmio;
use vm_device::bus::MmioAddress;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(super) const GUEST: u32 = 52;
pub(super) const SIZE: u16 = 16;
const MEMORY: usize = 4 << 20;
/// Where the rings of queue n lie, and its buffers.
const RINGS: u64 = 0x1_0000;
const BUFFERS: u64 = 0x10_0000;
/// Room of one buffer.
pub(super) const BUFFER: u64 = 0x1_1000;

#[derive(Clone)]
pub(super) struct Ram(pub(super) Arc<GuestMemoryMmap<()>>);

impl Memory for Ram {
    type Of = GuestMemoryMmap<()>;
    fn memory(&self) -> &Self::Of {
        &self.0
    }
}

#[derive(Default)]
pub(super) struct Counter(pub(super) AtomicU32);

impl Counter {
    pub(super) fn take(&self) -> u32 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl IrqLine for Counter {
    fn pulse(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Wake for Counter {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The far end of a stream of the host's.
#[derive(Default)]
pub(super) struct Peer {
    /// What it has sent and nobody has read.
    pub(super) sends: VecDeque<u8>,
    /// It sends no more.
    pub(super) ended: bool,
    /// What it has got.
    pub(super) got: Vec<u8>,
    /// How much more it takes.
    pub(super) takes: usize,
    /// It is gone.
    pub(super) gone: bool,
    /// It was told that it gets no more, and that nobody reads what it sends.
    pub(super) told: Vec<super::super::Half>,
    /// Nobody has the near end any more.
    pub(super) dropped: bool,
}

#[derive(Clone)]
pub(super) struct Far(pub(super) Rc<RefCell<Peer>>);

impl Far {
    pub(super) fn new() -> Self {
        Self(Rc::new(RefCell::new(Peer {
            takes: usize::MAX,
            ..Peer::default()
        })))
    }
}

/// The near end.
pub(super) struct Near(pub(super) Far);

impl Drop for Near {
    fn drop(&mut self) {
        self.0.0.borrow_mut().dropped = true;
    }
}

impl Read for Near {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut peer = self.0.0.borrow_mut();
        if peer.sends.is_empty() && !peer.ended && !peer.gone {
            return Err(ErrorKind::WouldBlock.into());
        }
        peer.sends.read(buf)
    }
}

impl Write for Near {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut peer = self.0.0.borrow_mut();
        if peer.gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let n = buf.len().min(peer.takes);
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        if peer.takes != usize::MAX {
            peer.takes -= n;
        }
        peer.got.extend(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl super::super::Stream for Near {
    fn end(&mut self, half: super::super::Half) {
        self.0.0.borrow_mut().told.push(half);
    }
}

/// Those who listen on the host's ports.
#[derive(Clone, Default)]
pub(super) struct Listeners(pub(super) Rc<RefCell<HashMap<u32, Far>>>);

impl Streams for Listeners {
    type Stream = Near;
    fn connect(&mut self, key: Key) -> io::Result<Near> {
        let there = self.0.borrow().get(&key.host).cloned();
        there.map(Near).ok_or(ErrorKind::NotFound.into())
    }
}

/// See the module.
pub(super) struct Driver {
    pub(super) transport: Transport<Vsock, Ram>,
    pub(super) link: Arc<Link<Ram>>,
    pub(super) worker: Worker<Ram, Listeners>,
    pub(super) listeners: Listeners,
    pub(super) ram: Ram,
    pub(super) interrupts: Arc<Counter>,
    pub(super) wakes: Arc<Counter>,
    pub(super) now: Instant,
    /// Per queue: the next entry of the available ring, and of the used one.
    next: [(u16, u16); 3],
}

impl Driver {
    /// A device that nobody has set up.
    pub(super) fn unset() -> Self {
        let ranges = [(GuestAddress(0), MEMORY)];
        let ram = Ram(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()));
        let interrupts = Arc::new(Counter::default());
        let wakes = Arc::new(Counter::default());
        let link = Arc::new(Link::new(interrupts.clone()));
        let device = Vsock { cid: GUEST };
        let transport = Transport::new(device, ram.clone(), link.clone(), wakes.clone());
        let listeners = Listeners::default();
        let mut worker = Worker::new(GUEST, listeners.clone());
        worker.attach(link.clone());
        Self {
            transport,
            link,
            worker,
            listeners,
            ram,
            interrupts,
            wakes,
            now: Instant::now(),
            next: [(0, 0); 3],
        }
    }

    /// One that is in use, with buffers for what comes.
    pub(super) fn new() -> Self {
        let mut driver = Self::unset();
        driver.set_up();
        driver.offer_all();
        driver
    }

    pub(super) fn write(&self, offset: u64, value: u32) {
        let (base, value) = (MmioAddress(0), value.to_le_bytes());
        self.transport.mmio_write(base, offset, &value);
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        let mut data = [0xaa; 4];
        self.transport.mmio_read(MmioAddress(0), offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn rings(queue: u64) -> [u64; 3] {
        let base = RINGS + queue * 0x4000;
        [base, base + 0x1000, base + 0x2000]
    }

    /// As section 3.1.1 has it.
    pub(super) fn set_up(&mut self) {
        self.set_up_with(Self::rings);
    }

    /// The same with the rings of all queues in one place, where there may be no memory.
    pub(super) fn set_up_at(&mut self, place: u64) {
        self.set_up_with(|_| [place; 3]);
    }

    fn set_up_with(&mut self, rings: impl Fn(u64) -> [u64; 3]) {
        self.write(0x070, 0);
        self.write(0x070, 1);
        self.write(0x070, 3);
        self.write(0x024, 1);
        self.write(0x020, 1);
        self.write(0x024, 0);
        self.write(0x020, 1);
        self.write(0x070, 11);
        for queue in 0..3u32 {
            self.write(0x030, queue);
            self.write(0x038, SIZE.into());
            for (at, ring) in [0x080, 0x090, 0x0a0].into_iter().zip(rings(queue.into())) {
                self.write(at, u32::try_from(ring).unwrap());
                self.write(at + 4, 0);
                // Nowhere is as good.
                let _ = self.ram.0.write_slice(&[0; 0x800], GuestAddress(ring));
            }
            self.write(0x044, 1);
        }
        self.next = [(0, 0); 3];
        self.write(0x070, 15);
    }

    /// A chain of descriptors from `first` on, each with address, length and whether the device writes it.
    pub(super) fn chain(&mut self, queue: usize, first: u16, parts: &[(u64, u32, bool)]) {
        let [table, available, _] = Self::rings(queue as u64);
        for (n, &(at, len, writes)) in parts.iter().enumerate() {
            let index = first + u16::try_from(n).unwrap();
            let last = n + 1 == parts.len();
            let flags = u16::from(!last) | if writes { 2 } else { 0 };
            let entry = GuestAddress(table + 16 * u64::from(index % SIZE));
            self.ram.0.write_obj(at, entry).unwrap();
            self.ram
                .0
                .write_obj(len, GuestAddress(entry.0 + 8))
                .unwrap();
            self.ram
                .0
                .write_obj(flags, GuestAddress(entry.0 + 12))
                .unwrap();
            let next = (index + 1) % SIZE;
            self.ram
                .0
                .write_obj(next, GuestAddress(entry.0 + 14))
                .unwrap();
        }
        let at = self.next[queue].0;
        let slot = GuestAddress(available + 4 + 2 * u64::from(at % SIZE));
        self.ram.0.write_obj(first % SIZE, slot).unwrap();
        self.next[queue].0 = at.wrapping_add(1);
        let index = GuestAddress(available + 2);
        self.ram.0.write_obj(at.wrapping_add(1), index).unwrap();
        self.write(0x050, u32::try_from(queue).unwrap());
    }

    pub(super) fn buffer(queue: usize, n: u16) -> u64 {
        BUFFERS + 0x18_0000 * queue as u64 + u64::from(n % SIZE) * BUFFER
    }

    /// A buffer for what comes.
    pub(super) fn offer(&mut self, n: u16) {
        let at = Self::buffer(0, n);
        self.chain(0, n, &[(at, u32::try_from(BUFFER).unwrap(), true)]);
    }

    pub(super) fn offer_all(&mut self) {
        (0..SIZE).for_each(|n| self.offer(n));
    }

    /// Sends bytes as they are, cut at `cuts`.
    pub(super) fn send_bytes(&mut self, bytes: &[u8], cuts: &[usize]) {
        let n = self.next[1].0;
        let at = Self::buffer(1, n);
        self.ram.0.write_slice(bytes, GuestAddress(at)).unwrap();
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let mut parts = Vec::new();
        let mut from = 0;
        for end in ends {
            parts.push((at + from as u64, u32::try_from(end - from).unwrap(), false));
            from = end;
        }
        self.chain(1, n, &parts);
        self.run();
    }

    pub(super) fn send(&mut self, header: Header, data: &[u8]) {
        let mut bytes = header.write();
        bytes.extend(data);
        self.send_bytes(&bytes, &[LEN]);
    }

    /// Has the worker do what there is to do, and says how many pieces that took.
    pub(super) fn run(&mut self) -> usize {
        let mut pieces = 1;
        while self.worker.work(self.now) {
            pieces += 1;
            assert!(pieces < 100, "the worker does not come to an end");
        }
        pieces
    }

    /// Chains that were used since: the head, and how much was written.
    pub(super) fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let [_, _, used] = Self::rings(queue as u64);
        let index: u16 = self.ram.0.read_obj(GuestAddress(used + 2)).unwrap();
        let mut chains = Vec::new();
        while self.next[queue].1 != index {
            let at = used + 4 + 8 * u64::from(self.next[queue].1 % SIZE);
            let head = self.ram.0.read_obj(GuestAddress(at)).unwrap();
            let len = self.ram.0.read_obj(GuestAddress(at + 4)).unwrap();
            chains.push((head, len));
            self.next[queue].1 = self.next[queue].1.wrapping_add(1);
        }
        chains
    }

    /// Packets that have come; their buffers are offered again.
    pub(super) fn receive(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        loop {
            self.run();
            let used = self.used(0);
            if used.is_empty() {
                return packets;
            }
            for (head, len) in used {
                let head = u16::try_from(head).unwrap();
                let mut bytes = vec![0; len as usize];
                let at = GuestAddress(Self::buffer(0, head));
                self.ram.0.read_slice(&mut bytes, at).unwrap();
                let (header, data) = bytes.split_first_chunk::<LEN>().unwrap();
                packets.push((Header::read(header), data.to_vec()));
                self.offer(head);
            }
        }
    }

    /// A client of the host's connects to a port of the guest's.
    pub(super) fn client(&mut self, port: u32) -> Result<(Far, Key), NoConnection> {
        let far = Far::new();
        let key = self
            .worker
            .open(port, |_| Ok(Near(far.clone())), self.now)?;
        Ok((far, key))
    }

    pub(super) fn ready(&mut self, key: Key, readable: bool, writable: bool, hung: bool) {
        let ready = Ready {
            readable,
            writable,
            hung,
        };
        self.worker.ready(key, ready, self.now);
    }
}
