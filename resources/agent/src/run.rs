//! The agent's only thread: it waits for the host, the kernel, signals and time, all at once.

use std::os::fd::AsFd;
use std::time::Duration;

use hotvisor_protocol::FromHost;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId as Clock, clock_gettime};

use crate::agent::Agent;
use crate::guard::Guard;
use crate::link::{Address, Link, News};
use crate::root::Root;
use crate::trouble::{Result, Trouble};
use crate::uevent::Uevents;

/// Everything that the thread waits for.
struct Loop {
    root: Root,
    agent: Agent,
    link: Link,
    guard: Option<Guard>,
    signals: SignalFd,
    timer: TimerFd,
    uevents: Option<Uevents>,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    signal: bool,
    uevent: bool,
    link: bool,
    trace: bool,
}

fn failed(tried: &'static str) -> impl Fn(Errno) -> Trouble {
    move |errno| {
        Trouble::new(
            tried,
            errno.desc(),
            "run the agent where the kernel lets it do that",
        )
    }
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(Clock::CLOCK_MONOTONIC)
        .map(Duration::from)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Is the agent until a signal ends it, and puts back then what it has changed.
///
/// # Errors
/// Where another agent runs, or the kernel does not let this one do what it has to; and what could not be put back.
pub fn run(root: &Root, address: Address) -> Result<()> {
    let ends: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    ends.thread_block()
        .map_err(failed("keeping signals for later"))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&ends, flags).map_err(failed("waiting for signals"))?;
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(failed("making a timer"))?;
    // Before anything is looked at, so that nothing is missed in between. What the kernel tells is not of a picture.
    let uevents = if root.is_real() {
        Some(Uevents::open().map_err(failed("listening to the kernel's events"))?)
    } else {
        None
    };
    let agent = Agent::start(root, now_ns())?;
    let (root, link) = (root.clone(), Link::new(address));
    let mut this = Loop {
        root,
        agent,
        link,
        guard: None,
        signals,
        timer,
        uevents,
    };
    let ended = this.turn();
    let restored = this.agent.end();
    ended.and(restored)
}

impl Loop {
    fn turn(&mut self) -> Result<()> {
        loop {
            let now = now_ns();
            self.link.tick(now);
            self.agent.tick(now);
            self.speak();
            let ready = self.wait().map_err(failed("waiting"))?;
            if ready.signal {
                return Ok(());
            }
            if ready.trace {
                self.agent.trace_ready();
            }
            if ready.uevent {
                self.hear_kernel()
                    .map_err(failed("listening to the kernel's events"))?;
            }
            if ready.link {
                self.hear_host();
            }
        }
    }

    /// Waits until there is something to do: with a deadline where there is one, and otherwise for the host, the kernel or a
    /// signal, for as long as that takes.
    fn wait(&self) -> nix::Result<Ready> {
        let next = [self.agent.wakes_at(), self.link.wakes_at()]
            .into_iter()
            .flatten()
            .min();
        match next {
            // Zero would be never.
            Some(at) => self.timer.set(
                Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at.max(1)))),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )?,
            None => self.timer.unset()?,
        }
        let fd = |fd, flags| PollFd::new(fd, flags);
        let mut fds = vec![
            fd(self.timer.as_fd(), PollFlags::POLLIN),
            fd(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        let mut place = |source: Option<(_, PollFlags)>| {
            source.map(|(source, flags)| {
                fds.push(fd(source, flags));
                fds.len() - 1
            })
        };
        let uevents = self
            .uevents
            .as_ref()
            .map(|uevents| (uevents.as_fd(), PollFlags::POLLIN));
        let uevents = place(uevents);
        let trace = place(self.agent.trace().map(|trace| (trace, PollFlags::POLLIN)));
        let link = place(self.link.waits_for());
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let is_ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        Ok(Ready {
            signal: is_ready(1),
            uevent: uevents.is_some_and(is_ready),
            trace: trace.is_some_and(is_ready),
            link: link.is_some_and(is_ready),
        })
    }

    fn hear_kernel(&mut self) -> nix::Result<()> {
        while let Some(event) = self
            .uevents
            .as_ref()
            .map(Uevents::next)
            .transpose()?
            .flatten()
        {
            self.agent.uevent(event, now_ns());
            // To bring a CPU up takes a while, and the host may wait for what came of it.
            self.speak();
        }
        Ok(())
    }

    fn hear_host(&mut self) {
        for news in self.link.ready(now_ns()) {
            match news {
                News::Connected => {
                    self.ensure_guard();
                    self.agent.connected();
                }
                News::Heard(message) => {
                    let is_welcome = matches!(*message, FromHost::Welcome(_));
                    if !self.agent.host(*message, now_ns()) {
                        self.speak();
                        self.link.part(now_ns());
                        self.agent.lost();
                        return;
                    }
                    if is_welcome {
                        self.link.agreed();
                    }
                    self.speak();
                }
                News::Garbled(fault) => eprintln!("hotvisor-agent: the host says {fault}"),
                News::Lost => self.agent.lost(),
            }
        }
    }

    fn speak(&mut self) {
        let said = self.agent.take_said();
        if !self.link.say(said, now_ns()) {
            self.agent.lost();
        }
    }

    /// Has a guard before there is anything to guard.
    fn ensure_guard(&mut self) {
        if self.guard.as_mut().is_some_and(Guard::is_alive) {
            return;
        }
        match Guard::start(&self.root) {
            Ok(guard) => self.guard = Some(guard),
            Err(trouble) => eprintln!("hotvisor-agent: {trouble}"),
        }
    }
}
