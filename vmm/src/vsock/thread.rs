//! The thread's loop: events in, packets carried, until it is told to end.

use super::greeting::{Greeting, Said};
use super::host::{Agent, Host, HostStream, NOBODY, changes, mark, marked};
use super::{GuestRam, Order, Waker};
use crate::agent::Presence;
use crate::error::{Error, FILES, Result};
use hotvisor_devices::virtio::vsock::{self, Key, Passed, Ready};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};
use tracing::debug;

/// Events at a time.
const BATCH: usize = 64;
/// How long nobody is accepted when somebody could not be, for want of descriptors, say.
const RESPITE: Duration = Duration::from_millis(100);
/// Clients at a time that have not said yet where they want to go.
const MOST_GREETINGS: usize = 32;

const WAKE: Key = special(0);
const LISTENER: Key = special(1);
const FIRST_GREETING: u32 = 2;

const fn special(guest: u32) -> Key {
    Key {
        host: NOBODY,
        guest,
    }
}

/// What there is while there is a machine.
struct Open {
    devices: vsock::Worker<GuestRam, Host>,
    agent: Rc<RefCell<Agent>>,
    listener: UnixListener,
    /// When it is heard again, if it is not.
    deaf: Option<Instant>,
    /// By the guest's half of their marks.
    greetings: BTreeMap<u32, Greeting<UnixStream>>,
    /// Counts the greetings.
    next: u32,
}

/// The thread to be.
pub(super) struct Worker {
    epoll: Epoll,
    waker: Arc<Waker>,
    orders: Receiver<Order>,
    presence: Presence,
}

/// It was told to end.
struct End;

/// The thread.
struct Running {
    epoll: Rc<Epoll>,
    waker: Arc<Waker>,
    orders: Receiver<Order>,
    presence: Presence,
    open: Option<Open>,
}

fn failed(errno: Errno) -> Error {
    Error::host("events of the guest's sockets", errno.desc(), FILES)
}

fn level(key: Key) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, mark(key))
}

impl Worker {
    pub(super) fn new(
        epoll: Epoll,
        waker: Arc<Waker>,
        orders: Receiver<Order>,
        presence: Presence,
    ) -> Result<Self> {
        epoll.add(&waker.0, level(WAKE)).map_err(failed)?;
        Ok(Self {
            epoll,
            waker,
            orders,
            presence,
        })
    }

    /// Runs until nobody can tell it anything any more.
    pub(super) fn run(self) -> Result<()> {
        let Self {
            epoll,
            waker,
            orders,
            presence,
        } = self;
        let mut running = Running {
            epoll: Rc::new(epoll),
            waker,
            orders,
            presence,
            open: None,
        };
        running.run()
    }
}

impl Running {
    fn run(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            let now = Instant::now();
            let more = self.open.as_mut().is_some_and(|open| open.work(now));
            // What has come already is heard before anybody is too late with it.
            self.tick(Instant::now())?;
            let limit = self.until(now, more);
            let ready = match self.epoll.wait(&mut events, limit) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(errno) => return Err(failed(errno)),
            };
            let now = Instant::now();
            for event in &events[..ready] {
                if let Some(End) = self.happened(event, now)? {
                    return Ok(());
                }
            }
        }
    }

    /// How long there is nothing to do without an event.
    fn until(&self, now: Instant, more: bool) -> EpollTimeout {
        if more {
            return EpollTimeout::ZERO;
        }
        let deadline = self.open.as_ref().and_then(|open| {
            let greetings = open.greetings.values().map(|greeting| greeting.by);
            let agent = open.agent.borrow().with(|session| session.deadline());
            let agent = agent.flatten().filter(|_| !open.devices.time().stands);
            let others = [open.devices.deadline(), open.deaf, agent];
            greetings.chain(others.into_iter().flatten()).min()
        });
        deadline.map_or(EpollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(now).as_millis();
            // Rounded up, so that it is over then.
            let left = u32::try_from(left).unwrap_or(u32::MAX).saturating_add(1);
            EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
        })
    }

    fn tick(&mut self, now: Instant) -> Result<()> {
        if let Some(open) = &mut self.open {
            let passed = open.devices.tick(now);
            open.agent.borrow().with(|session| match passed {
                Passed::Not => {}
                Passed::Again => session.resumed(now),
                Passed::On => session.tick(now),
            });
            open.greetings.retain(|_, greeting| greeting.by > now);
            if open.deaf.is_some_and(|until| until <= now) {
                open.deaf = None;
                let heard = self.epoll.add(&open.listener, level(LISTENER));
                heard.map_err(failed)?;
            }
        }
        Ok(())
    }

    fn happened(&mut self, event: &EpollEvent, now: Instant) -> Result<Option<End>> {
        let key = marked(event.data());
        if key == WAKE {
            // It has counted how often it was woken, and begins anew.
            let _ = self.waker.0.read();
            return self.obey(now);
        }
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        match key {
            LISTENER => open.accept(&self.epoll, now),
            Key {
                host: NOBODY,
                guest: number,
            } => open.greeted(&self.epoll, number, now),
            key => open.devices.ready(key, readiness(event.events()), now),
        }
        Ok(None)
    }

    /// Does all that it was told.
    fn obey(&mut self, now: Instant) -> Result<Option<End>> {
        loop {
            match (self.orders.try_recv(), &mut self.open) {
                (Ok(Order::Open(cid, listener, base)), open) => {
                    let added = self.epoll.add(&listener, level(LISTENER));
                    added.map_err(failed)?;
                    let agent = Rc::new(RefCell::new(Agent {
                        presence: self.presence.clone(),
                        session: None,
                    }));
                    let host = Host {
                        epoll: self.epoll.clone(),
                        agent: agent.clone(),
                        base,
                    };
                    *open = Some(Open {
                        devices: vsock::Worker::new(cid, host),
                        agent,
                        listener,
                        deaf: None,
                        greetings: BTreeMap::new(),
                        next: FIRST_GREETING,
                    });
                }
                (Ok(Order::Close), open) => *open = None,
                (Ok(Order::Attach(link)), Some(open)) => open.devices.attach(link),
                (Ok(Order::AgentBegin(begin, waits)), Some(open)) => {
                    let agent = open.agent.borrow();
                    agent.with(|session| session.begin(begin, waits, now));
                }
                (Ok(Order::AgentEnd(end)), Some(open)) => {
                    open.agent.borrow().with(|session| session.end(end));
                }
                // Without an agent nobody waits for one.
                (Ok(_), None) => {}
                (Err(TryRecvError::Empty), _) => return Ok(None),
                (Err(TryRecvError::Disconnected), _) => return Ok(Some(End)),
            }
        }
    }
}

fn readiness(events: EpollFlags) -> Ready {
    let any = |flags| events.intersects(flags);
    let over = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
    Ready {
        readable: any(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | over),
        writable: any(EpollFlags::EPOLLOUT | over),
        hung: any(over),
    }
}

impl Open {
    /// Carries what there is to carry, a piece of it; returns whether there may be more.
    fn work(&mut self, now: Instant) -> bool {
        let told = self.agent.borrow().has_more();
        if let Some(key) = told {
            let readable = Ready {
                readable: true,
                ..Ready::default()
            };
            self.devices.ready(key, readable, now);
        }
        self.devices.work(now)
    }

    /// Somebody connects.
    fn accept(&mut self, epoll: &Epoll, now: Instant) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(e) => {
                debug!("a client of the guest's sockets has to wait: {e}");
                let removed = epoll.delete(&self.listener);
                self.deaf = removed.is_ok().then_some(now + RESPITE);
                return;
            }
        };
        if self.greetings.len() >= MOST_GREETINGS {
            return debug!("a client of the guest's sockets is one too many");
        }
        let number = self.next;
        self.next = self.next.checked_add(1).unwrap_or(FIRST_GREETING);
        let watched = stream.set_nonblocking(true).and_then(|()| {
            let added = epoll.add(&stream, level(special(number)));
            added.map_err(Into::into)
        });
        match watched {
            Ok(()) => {
                let greeting = Greeting::new(stream, now);
                self.greetings.insert(number, greeting);
            }
            Err(e) => debug!("a client of the guest's sockets: {e}"),
        }
    }

    /// A client says where it wants to go.
    fn greeted(&mut self, epoll: &Epoll, number: u32, now: Instant) {
        match self.greetings.remove(&number).map(Greeting::hear) {
            Some(Said::Waits(greeting)) => {
                self.greetings.insert(number, greeting);
            }
            Some(Said::Port(stream, port)) => self.connect(epoll, stream, port, now),
            Some(Said::Nothing) | None => {}
        }
    }

    fn connect(&mut self, epoll: &Epoll, stream: UnixStream, port: u32, now: Instant) {
        let stream = |key| {
            epoll.modify(&stream, &mut changes(key))?;
            Ok(HostStream::Program(stream))
        };
        if let Err(why) = self.devices.open(port, stream, now) {
            debug!("a client is not connected to port {port} of the guest: {why}");
        }
    }
}
