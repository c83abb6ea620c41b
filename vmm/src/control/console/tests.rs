//! What the console says and when it looks.

use super::*;
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use hotvisor_devices::IrqLine;
use hotvisor_devices::serial::{COM1, SerialSink};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vm_device::DevicePio;
use vm_device::bus::PioAddress;

/// Counts how often output is posted.
#[derive(Default)]
struct Posts(AtomicUsize);

impl SerialSink for Posts {
    fn output_ready(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn input_wanted(&self) {}
}

impl IrqLine for Posts {
    fn pulse(&self) {}
}

/// The host's side, where the guest sends another byte while each of its first `more` is written.
struct Talk {
    port: Arc<Serial>,
    file: File,
    more: usize,
}

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.more > 0 {
            self.more -= 1;
            self.port.pio_write(PioAddress(COM1), 0, b"x");
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Talk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Comes to its end.
struct Stops(Console);

impl MutEventSubscriber for Stops {
    fn init(&mut self, ops: &mut EventOps) {
        self.0.stop(ops);
    }
    fn process(&mut self, _: Events, _: &mut EventOps) {}
}

/// Moves output once.
struct Once(Console, Arc<Output>);

impl MutEventSubscriber for Once {
    fn init(&mut self, ops: &mut EventOps) {
        self.0.pump_output(&self.1, ops);
    }
    fn process(&mut self, _: Events, _: &mut EventOps) {}
}

/// What comes while it writes, or right after it, is not posted; so it has to come back.
#[test]
fn it_looks_again_after_it_has_written_whatever_is_left() {
    for more in [0, 1, 1000] {
        let posts = Arc::<Posts>::default();
        let output = Arc::new(Output::new(posts.clone()));
        let port = Arc::new(Serial::new(posts.clone(), posts.clone(), output.clone()));
        port.pio_write(PioAddress(COM1), 0, b"x");
        let file = File::open("/dev/null").unwrap();
        let mut console = Console::nowhere();
        console.set_output(Box::new(Talk { port, file, more }));
        let mut manager = EventManager::new().unwrap();
        let id = manager.add_subscriber(Once(console, output.clone()));
        let once = manager.subscriber_mut(id).unwrap();
        assert!(once.0.look_again().is_some(), "{more} more");
        assert_eq!(output.is_empty(), more < 1000);
    }
}

#[test]
fn where_there_is_nothing_to_write_the_next_byte_is_posted() {
    let posts = Arc::<Posts>::default();
    let output = Arc::new(Output::new(posts.clone()));
    let mut manager = EventManager::new().unwrap();
    let id = manager.add_subscriber(Once(Console::nowhere(), output.clone()));
    assert_eq!(manager.subscriber_mut(id).unwrap().0.look_again(), None);
    let port = Serial::new(posts.clone(), posts.clone(), output);
    port.pio_write(PioAddress(COM1), 0, b"x");
    port.pio_write(PioAddress(COM1), 0, b"x");
    assert_eq!(posts.0.load(Ordering::Relaxed), 1);
}

/// The machine may be stopped long before the process ends, which looks once more.
#[test]
fn somebody_is_told_of_lost_bytes_once() {
    const LOST: usize = 3;
    let posts = Arc::<Posts>::default();
    let output = Arc::new(Output::new(posts.clone()));
    let port = Serial::new(posts.clone(), posts.clone(), output.clone());
    let send = |n: usize| (0..n).for_each(|_| port.pio_write(PioAddress(COM1), 0, b"x"));
    send(Output::CAPACITY + LOST);
    let mut console = Console::nowhere();
    console.finish(&output, Duration::ZERO);
    let mut manager = EventManager::new().unwrap();
    let id = manager.add_subscriber(Stops(console));
    let stopped = &mut manager.subscriber_mut(id).unwrap().0;
    assert_eq!(output.dropped(), LOST as u64);
    assert_eq!(stopped.untold(&output), None);
    send(1);
    assert_eq!(stopped.untold(&output), Some(LOST as u64 + 1));
}
