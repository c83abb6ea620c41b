//! The thread `vsock`: the host's side of the guest's socket device, by a Unix socket as Firecracker has it.
//!
//! | who connects | and how |
//! |---|---|
//! | a program on the host, to a port of the guest's | connects to the socket, sends `CONNECT PORT` and a newline, and gets `OK` with the host's port and a newline when the guest has accepted; if not, the connection ends |
//! | a program in the guest, to a port of the host's (context id 2) | is connected to whoever listens at the socket's path with `_PORT` behind it; if nobody does, it is reset |
//!
//! The thread is there before there is a machine, because it may connect, which the control thread that makes machines may
//! not. It never waits but for events, and what it does between two of them is bounded.

mod greeting;
mod host;
mod thread;

use crate::agent::{Presence, Waits};
use crate::error::{Error, FILES, Result};
use crate::isolation::{Role, confine};
use crate::kvm::memory::Ram;
use hotvisor_devices::virtio::link::Link;
use hotvisor_devices::virtio::{Memory, Wake};
use hotvisor_protocol::{Begin, End};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};
use thread::Worker;
use tracing::error;
use vm_memory::GuestMemoryMmap;

/// The thread's stack: packets are not on it.
const STACK: usize = 128 << 10;

/// A guest's memory, as its devices have it.
#[derive(Clone)]
pub struct GuestRam(pub Arc<Ram>);

impl Memory for GuestRam {
    type Of = GuestMemoryMmap<()>;

    fn memory(&self) -> &Self::Of {
        self.0.memory()
    }
}

/// What the thread is told.
enum Order {
    /// A machine is made: its guest's context id, where clients connect, and what the paths of others begin with.
    Open(u32, UnixListener, PathBuf),
    /// The guest has this device, and not one that it had before.
    Attach(Arc<Link<GuestRam>>),
    /// The machine is no more.
    Close,
    /// The agent in the guest is to hear that an operation begins, and who waits for its answer.
    AgentBegin(Begin, Option<Waits>),
    /// It is to hear that one has ended.
    AgentEnd(End),
}

/// Wakes the thread.
struct Waker(EventFd);

impl Wake for Waker {
    fn wake(&self) {
        // A counter that is at its limit wakes as well.
        let _ = self.0.write(1);
    }
}

/// The thread, and its end.
pub struct Thread {
    client: Client,
    thread: JoinHandle<()>,
}

/// Tells the thread what to do.
#[derive(Clone)]
pub struct Client {
    orders: Sender<Order>,
    waker: Arc<Waker>,
    presence: Presence,
}

impl Thread {
    /// Starts it, without a machine. It is confined when this returns.
    ///
    /// # Errors
    /// [`Error::Host`] where the host has no thread, or no descriptors for it, or cannot confine it.
    pub fn start() -> Result<Self> {
        let asked = "the thread `vsock`";
        let no_more = |e: Errno| Error::host(asked, e.desc(), FILES);
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let waker = Arc::new(Waker(wake.map_err(no_more)?));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(no_more)?;
        let (orders, told) = channel();
        let presence = Presence::default();
        let worker = Worker::new(epoll, waker.clone(), told, presence.clone())?;
        let (ready, confined) = sync_channel(1);
        let body = move || {
            let done = confine(Role::Vsock);
            let good = done.is_ok();
            // The other end waits for this.
            let _ = ready.send(done);
            if good && let Err(error) = worker.run() {
                error!("the guest's sockets are not served any more: {error}");
            }
        };
        let builder = Builder::new().name("vsock".into()).stack_size(STACK);
        let thread = builder
            .spawn(body)
            .map_err(|e| Error::host(asked, e, "raise the limit of threads (`ulimit -u`)"))?;
        let gone = |_| Err(Error::bug(asked, "it ended before it began"));
        confined.recv().unwrap_or_else(gone)?;
        Ok(Self {
            client: Client {
                orders,
                waker,
                presence,
            },
            thread,
        })
    }

    /// By which it is told what to do.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Ends it. Nobody else may have a client any more.
    pub fn stop(self) {
        let Self {
            client: Client { orders, waker, .. },
            thread,
        } = self;
        drop(orders);
        waker.wake();
        if thread.join().is_err() {
            error!("the thread `vsock` panicked");
        }
    }
}

impl Client {
    /// There is a machine, whose guest has the context id `cid`. Programs on the host connect to `listener`; those
    /// in the guest to what has the path `base` with `_PORT` behind it.
    pub fn open(&self, cid: u32, listener: UnixListener, base: PathBuf) {
        self.tell(Order::Open(cid, listener, base));
    }

    /// The guest has this device, and not one that it had before.
    pub fn attach(&self, link: Arc<Link<GuestRam>>) {
        self.tell(Order::Attach(link));
    }

    /// The guest goes on after a pause.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// There is no machine any more.
    pub fn close(&self) {
        self.tell(Order::Close);
    }

    /// Whether the guest has an agent that answers.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Tells the agent that an operation begins. Who waits goes on when it has answered, or nothing is to be hoped for.
    pub fn agent_begin(&self, begin: Begin, waits: Option<Waits>) {
        self.tell(Order::AgentBegin(begin, waits));
    }

    /// Tells it that one has ended.
    pub fn agent_end(&self, end: End) {
        self.tell(Order::AgentEnd(end));
    }

    /// Wakes the thread: for the device.
    #[must_use]
    pub fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn tell(&self, order: Order) {
        // A thread that is gone has said so.
        let _ = self.orders.send(order);
        self.waker.wake();
    }
}
