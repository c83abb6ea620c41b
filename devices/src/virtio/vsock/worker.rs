//! Carries packets between the guest's rings and the host's streams.

use super::connection::{MOST_DATA, Ready};
use super::header::{Header, LEN};
use super::muxer::{Dropped, Key, Muxer, NoConnection, Streams};
use super::queue;
use crate::ratelimit::RateLimit;
use crate::virtio::Memory;
use crate::virtio::link::{Active, Broken, Found, Link, Time, Worked};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;
use tracing::warn;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Writer};
use vm_memory::GuestMemory;

/// Packets in each direction of one piece of work: what the driver's reset, or a pause, may have to wait for.
const PIECE: usize = 16;

/// Of all resets together.
static DROPPED: RateLimit = RateLimit::new(8);

/// Why a packet is dropped.
#[derive(Debug, thiserror::Error)]
enum NoPacket {
    #[error("no header, or not as much data as it says")]
    Short,
    #[error("{0} bytes of data, of which a packet has {MOST_DATA} at most")]
    Long(u32),
    #[error("it lies where there is no memory: {0}")]
    Nowhere(virtio_queue::Error),
    #[error("{0}")]
    Dropped(#[from] Dropped),
}

/// How time has passed for the guest since this was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It stands still.
    Not,
    /// It has stood still, and goes on: whoever has to answer begins anew.
    Again,
    /// It has gone on.
    On,
}

/// See the module.
pub struct Worker<M: Memory, B: Streams> {
    muxer: Muxer<B>,
    link: Option<Arc<Link<M>>>,
    /// The use of the device that the connections are of.
    of: u64,
    /// How often the machine had gone on when this was last looked at.
    resumes: u64,
    buffer: Vec<u8>,
}

impl<M: Memory, B: Streams> Worker<M, B> {
    /// A worker for the guest with the context id `cid`, without a device.
    pub fn new(cid: u32, streams: B) -> Self {
        Self {
            muxer: Muxer::new(cid, streams),
            link: None,
            of: 0,
            resumes: 0,
            buffer: Vec::new(),
        }
    }

    /// The guest's device, in place of the one of a guest before.
    pub fn attach(&mut self, link: Arc<Link<M>>) {
        self.muxer.clear();
        self.link = Some(link);
        self.of = 0;
        self.resumes = 0;
    }

    /// Asks the guest for a connection to its port `guest`, with the client that has the other end of what `stream` makes.
    ///
    /// # Errors
    /// [`NoConnection`] where nobody would answer, there are too many, or there is no stream.
    pub fn open(
        &mut self,
        guest: u32,
        stream: impl FnOnce(Key) -> io::Result<B::Stream>,
        now: Instant,
    ) -> Result<Key, NoConnection> {
        let link = self.link.as_ref();
        let uses = link.and_then(|link| link.present_use());
        self.belong_to(uses.ok_or(NoConnection::NoDriver)?);
        self.muxer.open(guest, stream, now)
    }

    /// Connections of another use of the device than this one are over.
    fn belong_to(&mut self, uses: u64) {
        if uses != self.of {
            self.muxer.clear();
            self.of = uses;
        }
    }

    /// The stream of a connection is ready for something.
    pub fn ready(&mut self, key: Key, ready: Ready, now: Instant) {
        self.muxer.ready(key, ready, now);
    }

    /// When [`Worker::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.muxer.deadline().filter(|_| !self.time().stands)
    }

    /// How the machine's time goes.
    #[must_use]
    pub fn time(&self) -> Time {
        let link = self.link.as_ref();
        link.map_or_else(Time::default, |link| link.time())
    }

    /// Time has passed; returns how, for the guest. What it has stood still does not count.
    pub fn tick(&mut self, now: Instant) -> Passed {
        let time = self.time();
        let resumed = std::mem::replace(&mut self.resumes, time.resumes) != time.resumes;
        if resumed {
            self.muxer.resumed(now);
        }
        if time.stands {
            return Passed::Not;
        }
        self.muxer.tick(now);
        if resumed { Passed::Again } else { Passed::On }
    }

    /// One piece of work; returns whether there may be more.
    pub fn work(&mut self, now: Instant) -> bool {
        let Some(link) = self.link.clone() else {
            return false;
        };
        match link.work(|uses, active| self.piece(uses, active, now)) {
            Ok(Found::Work(more)) => more,
            Ok(Found::Later) => true,
            Ok(Found::Nothing) => {
                // Not that of a machine that only stands still.
                if link.present_use().is_none() {
                    self.muxer.clear();
                }
                false
            }
            Err(broken) => {
                warn!("the guest's socket device is not used until it was reset: {broken}");
                self.muxer.clear();
                false
            }
        }
    }

    fn piece(&mut self, uses: u64, active: &mut Active<M>, now: Instant) -> Result<Worked, Broken> {
        self.belong_to(uses);
        let Active { memory, queues } = active;
        let memory = memory.memory();
        let mut heard = Worked::default();
        let mut told = Worked::default();
        if let Some(tx) = queues.get_mut(queue::TX).filter(|queue| queue.ready()) {
            heard = self.hear(tx, memory, now)?;
        }
        if let Some(rx) = queues.get_mut(queue::RX).filter(|queue| queue.ready()) {
            told = self.tell(rx, memory, now)?;
        }
        Ok(Worked {
            used: heard.used | told.used,
            // Where no more can be taken, answers wait for a buffer, and the driver says when there is one.
            more: heard.more && self.muxer.takes_more() || told.more,
        })
    }

    /// Takes what the guest sends.
    fn hear<G: GuestMemory>(
        &mut self,
        tx: &mut Queue,
        memory: &G,
        now: Instant,
    ) -> Result<Worked, Broken> {
        let mut taken = 0;
        let mut used = false;
        while taken < PIECE && self.muxer.takes_more() {
            tx.disable_notification(memory)?;
            let Some(chain) = tx.iter(memory)?.next() else {
                if tx.enable_notification(memory)? {
                    continue;
                }
                return Ok(Worked {
                    used: used && tx.needs_notification(memory)?,
                    more: false,
                });
            };
            let head = chain.head_index();
            if let Err(error) = self.packet(memory, chain, now)
                && let Some(n) = DROPPED.pass()
            {
                warn!(n, "a packet of the guest's is dropped: {error}");
            }
            tx.add_used(memory, head, 0)?;
            (taken, used) = (taken + 1, true);
        }
        Ok(Worked {
            used: used && tx.needs_notification(memory)?,
            more: true,
        })
    }

    fn packet<G: GuestMemory>(
        &mut self,
        memory: &G,
        chain: DescriptorChain<&G>,
        now: Instant,
    ) -> Result<(), NoPacket> {
        let mut reader = chain.reader(memory).map_err(NoPacket::Nowhere)?;
        let mut header = [0; LEN];
        reader
            .read_exact(&mut header)
            .map_err(|_| NoPacket::Short)?;
        let header = Header::read(&header);
        let len = header.len as usize;
        if len > MOST_DATA {
            return Err(NoPacket::Long(header.len));
        }
        self.buffer.resize(len, 0);
        reader
            .read_exact(&mut self.buffer)
            .map_err(|_| NoPacket::Short)?;
        Ok(self.muxer.hear(&header, &self.buffer, now)?)
    }

    /// Fills buffers with what there is for the guest.
    fn tell<G: GuestMemory>(
        &mut self,
        rx: &mut Queue,
        memory: &G,
        now: Instant,
    ) -> Result<Worked, Broken> {
        let mut used = false;
        for _ in 0..PIECE {
            if !self.muxer.has_more() {
                break;
            }
            rx.disable_notification(memory)?;
            let Some(chain) = rx.iter(memory)?.next() else {
                if rx.enable_notification(memory)? {
                    continue;
                }
                return Ok(Worked {
                    used: used && rx.needs_notification(memory)?,
                    more: false,
                });
            };
            let head = chain.head_index();
            match self.fill(memory, chain, now) {
                Some(len) => {
                    rx.add_used(memory, head, len)?;
                    used = true;
                }
                None => rx.go_to_previous_position(),
            }
        }
        Ok(Worked {
            used: used && rx.needs_notification(memory)?,
            more: self.muxer.has_more(),
        })
    }

    /// Fills one buffer; returns how much of it, or `None` where there is nothing for it.
    fn fill<G: GuestMemory>(
        &mut self,
        memory: &G,
        chain: DescriptorChain<&G>,
        now: Instant,
    ) -> Option<u32> {
        let mut writer: Writer<'_, _> = match chain.writer(memory) {
            Ok(writer) if writer.available_bytes() >= LEN => writer,
            // Given back unused.
            Ok(_) | Err(_) => return Some(0),
        };
        let most = writer.available_bytes() - LEN;
        let header = self.muxer.tell(&mut self.buffer, most, now)?;
        let wrote = writer
            .write_all(&header.write())
            .and_then(|()| writer.write_all(&self.buffer));
        debug_assert!(wrote.is_ok(), "it was asked for its size");
        u32::try_from(writer.bytes_written()).ok()
    }
}
