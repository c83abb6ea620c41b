//! The control thread's queue: anybody posts, one reads.

use crate::acpi::ost;
use crate::error::{Error, FILES, Result};
use crate::hotplug::client::{Call, Calls};
use crate::hotplug::guest::{Notice, What};
use crate::hotplug::machinery::Message;
use crate::hotplug::view::VcpuRef;
use crate::vcpu::{Exit, Reports};
use hotvisor_devices::cpu_hotplug::{self, HotplugSink};
use hotvisor_devices::power::{PowerRequest, PowerSink};
use hotvisor_devices::serial::SerialSink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How many events are taken at a time.
const BATCH: usize = 256;
/// How much of what a guest can say again and again waits in the queue at most. A guest that has more to say than
/// this before any of it was heard is not one that means it.
const CHATTER: usize = 16 << 10;

/// What is posted.
#[derive(Debug)]
pub(super) enum Event {
    /// The guest of this machine asks for power-off or reset.
    Power(PowerRequest),
    /// The thread of a vCPU of this machine has ended.
    VcpuEnded(VcpuRef, Exit),
    /// The thread of a vCPU of this machine holds, for the pause with this number.
    Held(VcpuRef, u64),
    /// The serial port has output, or may have more: it is to be looked at.
    OutputReady,
    /// The guest has read all of its input.
    InputWanted,
    /// Something happened to a vCPU of this machine.
    Hotplug(Message),
    /// A gate or a notifier has something to say.
    Coordinator(Message),
    /// A client calls.
    Call(Call),
    /// A deadline has passed.
    Tick,
}

/// An event, and the machine from which it comes.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) generation: u64,
    pub(super) event: Event,
}

/// The reading end.
pub(super) struct Queue {
    posted: Receiver<Posted>,
    sender: Sender<Posted>,
    wake: Arc<EventFd>,
    /// Whether [`Event::InputWanted`] is in the queue already.
    input_wanted: Arc<AtomicBool>,
    /// How much chatter is in the queue.
    chatter: Arc<AtomicUsize>,
}

/// The posting end of one machine.
#[derive(Clone)]
pub(super) struct Post {
    generation: u64,
    sender: Sender<Posted>,
    wake: Arc<EventFd>,
    /// Whether [`Event::InputWanted`] is in the queue already.
    input_wanted: Arc<AtomicBool>,
    /// How much chatter is in the queue.
    chatter: Arc<AtomicUsize>,
}

impl Queue {
    pub(super) fn new() -> Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(|e| Error::host("eventfd", e, FILES))?;
        let (sender, posted) = channel();
        Ok(Self {
            posted,
            sender,
            wake: Arc::new(wake),
            input_wanted: Arc::default(),
            chatter: Arc::default(),
        })
    }

    /// Readable while there is something to take.
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// A posting end for the machine `generation`.
    pub(super) fn post(&self, generation: u64) -> Post {
        Post {
            generation,
            sender: self.sender.clone(),
            wake: self.wake.clone(),
            input_wanted: self.input_wanted.clone(),
            chatter: self.chatter.clone(),
        }
    }

    /// What was posted so far, or the first part of it: the rest is as if posted again.
    pub(super) fn take(&self) -> Vec<Posted> {
        // Cleared first: what is posted from here on wakes again. Not readable means nothing posted.
        let _ = self.wake.read();
        let taken: Vec<Posted> = self.posted.try_iter().take(BATCH).collect();
        if taken.len() == BATCH {
            let _ = self.wake.write(1);
        }
        for posted in &taken {
            match &posted.event {
                Event::InputWanted => self.input_wanted.store(false, Ordering::Release),
                Event::Hotplug(Message::Notice(notice)) if is_chatter(notice) => {
                    self.chatter.fetch_sub(1, Ordering::AcqRel);
                }
                _ => {}
            }
        }
        taken
    }
}

/// Whether a guest can say this as often as it likes. It reads a request to eject, answers it, and ejects a CPU, only after the
/// host has asked or plugged. A request to insert it can bring back by itself: who ejects a CPU before it has acknowledged it, and
/// sees that it is gone, is shown it anew. What of that is not heard is made up for when the guest is told again, some
/// seconds later.
fn is_chatter(notice: &Notice) -> bool {
    matches!(
        notice.what,
        What::Said { kept: None, .. } | What::SeenEmpty | What::InsertRead
    )
}

impl Post {
    /// Posts that a deadline has passed.
    pub(super) fn tick(&self) {
        self.event(Event::Tick);
    }

    /// Posts what a gate or a notifier has to say.
    pub(super) fn coordinator(&self, message: Message) {
        self.event(Event::Coordinator(message));
    }

    fn event(&self, event: Event) {
        // Nobody reads any more only when the process ends.
        let _ = self.sender.send(Posted {
            generation: self.generation,
            event,
        });
        // The counter cannot overflow: the reader takes all of it at once.
        let _ = self.wake.write(1);
    }
}

impl PowerSink for Post {
    fn request(&self, request: PowerRequest) {
        self.event(Event::Power(request));
    }
}

impl Calls for Post {
    fn call(&self, call: Call) {
        self.event(Event::Call(call));
    }
}

impl HotplugSink for Post {
    fn notice(&self, notice: cpu_hotplug::Notice) {
        let Some(notice) = ost::notice(notice) else {
            return;
        };
        if is_chatter(&notice) {
            let waiting = self.chatter.fetch_add(1, Ordering::AcqRel);
            if waiting >= CHATTER {
                self.chatter.fetch_sub(1, Ordering::AcqRel);
                return;
            }
        }
        self.event(Event::Hotplug(Message::Notice(notice)));
    }
}

impl Reports for Post {
    fn ready(&self, vcpu: VcpuRef, run: u64) {
        self.event(Event::Hotplug(Message::Ready(vcpu.id, run)));
    }

    fn not_ready(&self, vcpu: VcpuRef, run: u64, why: Error) {
        self.event(Event::Hotplug(Message::NotReady(
            vcpu.id,
            run,
            why.to_string(),
        )));
    }

    fn started(&self, vcpu: VcpuRef, run: u64) {
        self.event(Event::Hotplug(Message::Started(vcpu.id, run)));
    }

    fn parked(&self, vcpu: VcpuRef, run: u64) {
        self.event(Event::Hotplug(Message::Parked(vcpu.id, run)));
    }

    fn held(&self, vcpu: VcpuRef, pause: u64) {
        self.event(Event::Held(vcpu, pause));
    }

    fn ended(&self, vcpu: VcpuRef, exit: Exit) {
        self.event(Event::VcpuEnded(vcpu, exit));
    }
}

impl SerialSink for Post {
    fn output_ready(&self) {
        self.event(Event::OutputReady);
    }

    fn input_wanted(&self) {
        // A guest that reads an empty port again and again asks each time; once is enough.
        if !self.input_wanted.swap(true, Ordering::AcqRel) {
            self.event(Event::InputWanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu_hotplug::{Notice, What};

    #[test]
    fn a_guest_that_talks_all_the_time_is_cut_short_and_what_matters_gets_through() {
        let queue = Queue::new().unwrap();
        let post = queue.post(1);
        let say = |what| {
            post.notice(Notice {
                cpu: 1,
                plug: 0,
                what,
            });
        };
        let status = What::Status {
            source: 3,
            status: 0x84,
            kept: None,
        };
        for chatter in [What::SeenEmpty, What::InsertRead, status] {
            (0..4 * CHATTER).for_each(|_| say(chatter));
        }
        say(What::EjectRead(1));
        // A no that answers the host: there are as many as it has asked.
        say(What::Status {
            source: 3,
            status: 0x82,
            kept: Some(1),
        });
        let taken = || std::iter::repeat_with(|| queue.take()).take_while(|t| !t.is_empty());
        assert_eq!(taken().flatten().count(), CHATTER + 2);
        // And is heard again once it was heard.
        say(status);
        assert_eq!(taken().flatten().count(), 1);
    }
}
