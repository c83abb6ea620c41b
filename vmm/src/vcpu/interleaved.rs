//! A vCPU's thread and the one that owns it, in the interleavings of what each does (loom): with as many switches between
//! them as [`SWITCHES`] where none is forced. The orders and the thread's states are the real ones; KVM's part is played by
//! [`Kernel`], and that of the owner, who orders and kicks as `Handle` does, by [`World`]. No time passes, so that whoever waits for what never comes waits for ever, which the checker tells.
//!
//!     cargo test -p hotvisor-vmm --features loom --lib interleaved

use super::cpu::Cpu;
use super::orders::{Order, Orders};
use super::run::Vcpu;
use super::{Exit, Fault, Registers, Reports};
use crate::error::{Error, Result};
use crate::hotplug::view::VcpuRef;
use crate::sync::{Condvar, Mutex, MutexGuard, check, complaint};
use kvm_bindings::{KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED};
use loom::thread::{self, JoinHandle};
use std::sync::Arc;

/// How often a thread is switched away from that could go on; less where there is more to do.
const SWITCHES: usize = 3;

/// What KVM does with kicks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kicks {
    /// One that comes outside of `KVM_RUN` makes the next one return, until it is acknowledged.
    Kept,
    /// It ends a `KVM_RUN` that goes on, and that is all.
    OnlyInside,
    /// It is acknowledged by the next `KVM_RUN`, after the thread has looked what it was about.
    ClearedAtEntry,
}

/// KVM's side of a vCPU.
struct Kernel {
    kicks: Kicks,
    page: Mutex<Page>,
    changed: Condvar,
}

struct Page {
    immediate_exit: bool,
    in_guest: bool,
    /// How often the guest was entered.
    entries: u32,
    mp_state: u32,
    /// INIT or SIPI came, and `KVM_RUN` has not said so.
    woken: bool,
    /// How often it was put into the state of a new one.
    renewed: u32,
    /// That fails next time.
    fails: bool,
}

impl Kernel {
    fn new(kicks: Kicks) -> Arc<Self> {
        let page = Page {
            immediate_exit: false,
            in_guest: false,
            entries: 0,
            mp_state: KVM_MP_STATE_UNINITIALIZED,
            woken: false,
            renewed: 0,
            fails: false,
        };
        Arc::new(Self {
            kicks,
            page: Mutex::new(page),
            changed: Condvar::new(),
        })
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap()
    }

    /// The signal gets to the thread, and its handler runs.
    fn kick(&self) {
        let mut page = self.page();
        if page.in_guest || self.kicks != Kicks::OnlyInside {
            page.immediate_exit = true;
        }
        drop(page);
        self.changed.notify_all();
    }

    /// Another vCPU sends INIT or SIPI. Only after INIT does `KVM_RUN` come back.
    fn becomes(&self, mp_state: u32) {
        let mut page = self.page();
        page.mp_state = mp_state;
        page.woken |= mp_state == KVM_MP_STATE_INIT_RECEIVED;
        drop(page);
        self.changed.notify_all();
    }

    fn wait_until_in_guest(&self) {
        let mut page = self.page();
        while !page.in_guest {
            page = self.changed.wait(page).unwrap();
        }
    }

    fn assert_outside(&self) {
        assert!(!self.page().in_guest, "it is in the guest");
    }
}

struct Model(Arc<Kernel>);

impl Cpu for Model {
    fn make_new(&self) -> Result<()> {
        let mut page = self.0.page();
        assert!(!page.in_guest);
        if std::mem::take(&mut page.fails) {
            return Err(Error::host("it", "no room", "make room"));
        }
        page.renewed += 1;
        page.mp_state = KVM_MP_STATE_UNINITIALIZED;
        Ok(())
    }

    fn run(&mut self) -> Result<Result<(), Fault>, i32> {
        let mut page = self.0.page();
        if self.0.kicks == Kicks::ClearedAtEntry {
            page.immediate_exit = false;
        }
        if !page.immediate_exit {
            page.in_guest = true;
            page.entries += 1;
            self.0.changed.notify_all();
        }
        while !page.immediate_exit && !page.woken {
            page = self.0.changed.wait(page).unwrap();
        }
        page.in_guest = false;
        let woken = std::mem::take(&mut page.woken);
        // Where both come together it is the kick that is spoken of.
        let errno = match woken && !page.immediate_exit {
            true => libc::EAGAIN,
            false => libc::EINTR,
        };
        if self.0.kicks == Kicks::OnlyInside {
            page.immediate_exit = false;
        }
        Err(errno)
    }

    fn acknowledge(&mut self) {
        self.0.page().immediate_exit = false;
    }

    fn mp_state(&self) -> Result<u32, kvm_ioctls::Error> {
        let state = self.0.page().mp_state;
        if state == KVM_MP_STATE_INIT_RECEIVED {
            // It is asked until SIPI is there.
            thread::yield_now();
        }
        Ok(state)
    }

    fn tell_of_pause(&self) {}

    fn registers(&self) -> Registers {
        Registers::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    Ready(u64),
    NotReady(u64),
    Started(u64),
    Parked(u64),
    Held(u64),
}

/// What the thread has said.
struct Said {
    kernel: Arc<Kernel>,
    all: Mutex<Vec<Report>>,
    more: Condvar,
}

impl Said {
    fn say(&self, report: Report) {
        self.all.lock().unwrap().push(report);
        self.more.notify_all();
    }

    fn wait_for(&self, report: Report) {
        let mut all = self.all.lock().unwrap();
        while !all.contains(&report) {
            all = self.more.wait(all).unwrap();
        }
    }

    /// All but what may be said more than once.
    fn once(&self) -> Vec<Report> {
        let all = self.all.lock().unwrap();
        let once = all.iter().filter(|said| !matches!(said, Report::Held(_)));
        once.copied().collect()
    }
}

impl Reports for Said {
    fn ready(&self, _: VcpuRef, run: u64) {
        self.say(Report::Ready(run));
    }
    fn not_ready(&self, _: VcpuRef, run: u64, _: Error) {
        self.kernel.assert_outside();
        self.say(Report::NotReady(run));
    }
    fn started(&self, _: VcpuRef, run: u64) {
        self.say(Report::Started(run));
    }
    fn parked(&self, _: VcpuRef, run: u64) {
        self.kernel.assert_outside();
        self.say(Report::Parked(run));
    }
    fn held(&self, _: VcpuRef, pause: u64) {
        self.kernel.assert_outside();
        self.say(Report::Held(pause));
    }
    fn ended(&self, _: VcpuRef, exit: Exit) {
        panic!("{exit:?} is said by its return");
    }
}

/// A vCPU's thread as its owner has it.
struct World {
    kernel: Arc<Kernel>,
    said: Arc<Said>,
    orders: Arc<Orders>,
    thread: JoinHandle<Exit>,
    /// Kicks on their way.
    signals: Vec<JoinHandle<()>>,
}

impl World {
    fn new(kicks: Kicks) -> Self {
        Self::of(Kernel::new(kicks), true)
    }

    /// A thread for a vCPU that is there, whose state was not used yet or was.
    fn of(kernel: Arc<Kernel>, fresh: bool) -> Self {
        let said = Arc::new(Said {
            kernel: kernel.clone(),
            all: Mutex::new(Vec::new()),
            more: Condvar::new(),
        });
        let orders = Arc::new(Orders::new(None));
        let (cpu, reports) = (Model(kernel.clone()), said.clone());
        let its_orders = orders.clone();
        let thread = thread::spawn(move || {
            let mut vcpu = Vcpu {
                me: VcpuRef {
                    id: 1,
                    generation: 1,
                },
                cpu,
                confined: true,
                fresh,
                orders: its_orders,
                reports,
            };
            vcpu.follow_orders()
        });
        Self {
            kernel,
            said,
            orders,
            thread,
            signals: Vec::new(),
        }
    }

    fn run(&self, run: u64) {
        self.orders.give(Order::Run(run), || ());
    }

    fn park(&self, run: u64) {
        self.orders.give(Order::Park(run), || self.kernel.kick());
    }

    /// The same, with a signal that takes its time.
    fn park_later(&mut self, run: u64) {
        let kernel = self.kernel.clone();
        let signal = || self.signals.push(thread::spawn(move || kernel.kick()));
        self.orders.give(Order::Park(run), signal);
    }

    /// Has it end; returns what it has said.
    fn end(self) -> Vec<Report> {
        self.orders.give(Order::End, || self.kernel.kick());
        let exit = self.thread.join().unwrap();
        assert!(matches!(exit, Exit::Ordered), "{exit:?}");
        self.kernel.assert_outside();
        for signal in self.signals {
            signal.join().unwrap();
        }
        self.said.once()
    }
}

fn model(run: impl Fn() + Send + Sync + 'static) {
    check(Some(SWITCHES), run);
}

/// That the checker finds somebody who waits for ever.
fn hangs(run: impl Fn() + Send + Sync + 'static) {
    let said = complaint(Some(SWITCHES), run);
    assert!(said.contains("deadlock"), "{said}");
}

/// One run, ended from outside at any moment of it.
fn parked_once(kicks: Kicks) {
    let world = World::new(kicks);
    world.run(1);
    world.said.wait_for(Report::Ready(1));
    world.park(1);
    world.said.wait_for(Report::Parked(1));
    world.kernel.assert_outside();
    assert_eq!(world.end(), [Report::Ready(1), Report::Parked(1)]);
}

#[test]
fn a_thread_that_is_kicked_leaves_the_guest() {
    model(|| parked_once(Kicks::Kept));
}

#[test]
fn a_kick_that_is_not_kept_gets_lost() {
    hangs(|| parked_once(Kicks::OnlyInside));
}

#[test]
fn a_kick_that_is_acknowledged_after_the_look_gets_lost() {
    hangs(|| parked_once(Kicks::ClearedAtEntry));
}

/// An order may come before the thread has followed the one before.
#[test]
fn the_last_order_counts() {
    model(|| {
        let world = World::new(Kicks::Kept);
        world.run(1);
        world.park(1);
        world.said.wait_for(Report::Parked(1));
        world.run(2);
        world.kernel.wait_until_in_guest();
        let said = world.end();
        assert_eq!(said.last(), Some(&Report::Ready(2)), "{said:?}");
    });
}

#[test]
fn a_dormant_vcpu_runs_again_as_a_new_one() {
    model(|| {
        let mut world = World::new(Kicks::Kept);
        world.run(1);
        world.kernel.wait_until_in_guest();
        world.park_later(1);
        world.said.wait_for(Report::Parked(1));
        world.kernel.assert_outside();
        assert_eq!(world.kernel.page().renewed, 0, "it was new");
        world.run(2);
        // The kick that it was parked by may come as late as now, and is about nothing any more.
        world.said.wait_for(Report::Ready(2));
        assert_eq!(world.kernel.page().renewed, 1);
        world.kernel.wait_until_in_guest();
        world.park(2);
        world.said.wait_for(Report::Parked(2));
        let runs = [1, 2].map(|run| [Report::Ready(run), Report::Parked(run)]);
        assert_eq!(world.end(), runs.concat());
    });
}

/// A run that could not begin leaves a thread that is parked as any other, and runs the next.
#[test]
fn a_vcpu_that_cannot_run_runs_when_it_can() {
    model(|| {
        let world = World::new(Kicks::Kept);
        world.run(1);
        world.said.wait_for(Report::Ready(1));
        world.park(1);
        world.said.wait_for(Report::Parked(1));
        world.kernel.page().fails = true;
        world.run(2);
        world.said.wait_for(Report::NotReady(2));
        world.park(2);
        world.said.wait_for(Report::Parked(2));
        world.run(3);
        world.kernel.wait_until_in_guest();
        assert_eq!(world.kernel.page().renewed, 1);
        let said = [
            Report::Ready(1),
            Report::Parked(1),
            Report::NotReady(2),
            Report::Parked(2),
            Report::Ready(3),
        ];
        assert_eq!(world.end(), said);
    });
}

/// The thread of a dormant vCPU ends, and another one runs the vCPU, as a new one.
#[test]
fn a_vcpu_outlives_its_thread() {
    check(Some(SWITCHES - 1), || {
        let world = World::new(Kicks::Kept);
        let kernel = world.kernel.clone();
        world.run(1);
        world.kernel.wait_until_in_guest();
        world.park(1);
        world.said.wait_for(Report::Parked(1));
        assert_eq!(world.end(), [Report::Ready(1), Report::Parked(1)]);
        let world = World::of(kernel, false);
        world.run(2);
        world.kernel.wait_until_in_guest();
        assert_eq!(world.kernel.page().renewed, 1);
        world.park(2);
        world.said.wait_for(Report::Parked(2));
        assert_eq!(world.end(), [Report::Ready(2), Report::Parked(2)]);
    });
}

#[test]
fn a_pause_keeps_it_out_of_the_guest_until_it_is_over() {
    model(|| {
        let world = World::new(Kicks::Kept);
        world.run(1);
        world.orders.hold(7, || world.kernel.kick());
        world.said.wait_for(Report::Held(7));
        let entries = world.kernel.page().entries;
        world.said.wait_for(Report::Ready(1));
        world.kernel.assert_outside();
        assert_eq!(world.kernel.page().entries, entries);
        world.orders.release();
        world.kernel.wait_until_in_guest();
        world.park(1);
        world.said.wait_for(Report::Parked(1));
        assert_eq!(world.end(), [Report::Ready(1), Report::Parked(1)]);
    });
}

#[test]
fn orders_are_followed_in_a_pause() {
    model(|| {
        let world = World::new(Kicks::Kept);
        world.run(1);
        world.said.wait_for(Report::Ready(1));
        world.orders.hold(7, || world.kernel.kick());
        world.said.wait_for(Report::Held(7));
        world.park(1);
        world.said.wait_for(Report::Parked(1));
        let entries = world.kernel.page().entries;
        world.run(2);
        world.said.wait_for(Report::Ready(2));
        assert_eq!(world.kernel.page().entries, entries);
        let said = world.end();
        assert_eq!(
            said,
            [Report::Ready(1), Report::Parked(1), Report::Ready(2)]
        );
    });
}

/// Its INIT and SIPI may come together with a kick, between the two, or in a pause.
#[test]
fn its_start_is_seen_once() {
    check(Some(SWITCHES - 1), || {
        let world = World::new(Kicks::Kept);
        world.run(1);
        world.said.wait_for(Report::Ready(1));
        let kernel = world.kernel.clone();
        let guest = thread::spawn(move || {
            kernel.becomes(KVM_MP_STATE_INIT_RECEIVED);
            kernel.becomes(KVM_MP_STATE_RUNNABLE);
        });
        world.orders.hold(7, || world.kernel.kick());
        world.said.wait_for(Report::Held(7));
        world.orders.release();
        world.said.wait_for(Report::Started(1));
        guest.join().unwrap();
        world.park(1);
        world.said.wait_for(Report::Parked(1));
        let said = [Report::Ready(1), Report::Started(1), Report::Parked(1)];
        assert_eq!(world.end(), said);
    });
}
