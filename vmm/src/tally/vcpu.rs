//! What is counted of one vCPU, through all of its threads, runs and machines.

use nix::time::{ClockId, clock_gettime};
use std::array;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

/// Why `KVM_RUN` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// The guest reads a port.
    IoIn,
    /// The guest writes a port.
    IoOut,
    /// The guest reads a device's memory.
    MmioRead,
    /// The guest writes a device's memory.
    MmioWrite,
    /// The guest has handled a level-triggered interrupt of the I/O APIC.
    Eoi,
    /// A signal, most likely a kick.
    Signal,
    /// A vCPU that waits to be started was woken: INIT came, or nothing did.
    Wakeup,
    /// Anything else. After most of it, the machine ends.
    Other,
}

impl ExitKind {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 8] = [
        Self::IoIn,
        Self::IoOut,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Eoi,
        Self::Signal,
        Self::Wakeup,
        Self::Other,
    ];

    /// Its name in the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoIn => "io_in",
            Self::IoOut => "io_out",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
            Self::Eoi => "eoi",
            Self::Signal => "signal",
            Self::Wakeup => "wakeup",
            Self::Other => "other",
        }
    }
}

/// What is counted of one vCPU. Its thread writes; anybody reads, and nobody waits.
#[derive(Debug, Default)]
pub struct VcpuTally {
    exits: Exits,
    time: RunTime,
}

/// Exits by kind, in a cache line of their own: vCPUs that exit at the same time do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Exits([AtomicU64; ExitKind::ALL.len()]);

#[derive(Debug, Default)]
struct RunTime {
    /// The thread that lives now; 0 for none.
    tid: AtomicI32,
    /// Nanoseconds of the threads that have ended.
    ended: AtomicU64,
    /// The most that was ever read: in the moment in which a thread ends, its time is neither here nor there.
    read: AtomicU64,
}

impl VcpuTally {
    /// Counts an exit.
    pub fn exit(&self, kind: ExitKind) {
        self.exits.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many exits there were, by kind.
    #[must_use]
    pub fn exits(&self) -> [(ExitKind, u64); ExitKind::ALL.len()] {
        let count = |kind: ExitKind| self.exits.0[kind as usize].load(Ordering::Relaxed);
        array::from_fn(|n| (ExitKind::ALL[n], count(ExitKind::ALL[n])))
    }

    /// The calling thread is the vCPU's from now on.
    pub fn thread_begins(&self) {
        let tid = nix::unistd::gettid().as_raw();
        self.time.tid.store(tid, Ordering::SeqCst);
    }

    /// The calling thread is not any more.
    pub fn thread_ends(&self) {
        // First of all: who finds it still there afterwards has read a time that is not counted as ended.
        self.time.tid.store(0, Ordering::SeqCst);
        let time = thread_time(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default();
        self.time.ended.fetch_add(time, Ordering::SeqCst);
    }

    /// How long its threads have run so far, in the guest and out of it. Never less than was read before.
    #[must_use]
    pub fn run_time(&self) -> Duration {
        let RunTime { tid, ended, read } = &self.time;
        let id = tid.load(Ordering::SeqCst);
        let mut nanos = ended.load(Ordering::SeqCst);
        let alive = Some(id).filter(|id| *id != 0);
        if let Some(time) = alive.and_then(|id| thread_time(clock_of(id)))
            && tid.load(Ordering::SeqCst) == id
        {
            nanos += time;
        }
        let most = read.fetch_max(nanos, Ordering::SeqCst);
        Duration::from_nanos(nanos.max(most))
    }
}

/// The clock of a thread's CPU time (`include/linux/posix-timers_types.h`: the thread's id, inverted, above a bit
/// for "of a thread" and 2 for "as the scheduler counts it").
fn clock_of(tid: i32) -> ClockId {
    ClockId::from_raw((!tid << 3) | 4 | 2)
}

/// How long a thread of this process has run so far, if there is one of that id.
pub(crate) fn run_time_of(tid: i32) -> Option<Duration> {
    thread_time(clock_of(tid)).map(Duration::from_nanos)
}

/// Nanoseconds.
fn thread_time(clock: ClockId) -> Option<u64> {
    let time = Duration::from(clock_gettime(clock).ok()?);
    u64::try_from(time.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32};
    use std::thread;

    #[test]
    fn exits_are_counted_by_kind_in_a_line_of_their_own() {
        assert_eq!(align_of::<VcpuTally>(), 64);
        assert_eq!(size_of::<Exits>(), 64);
        let tally = VcpuTally::default();
        for (n, kind) in (1..).zip(ExitKind::ALL) {
            (0..n).for_each(|_| tally.exit(kind));
        }
        assert_eq!(
            tally.exits(),
            array::from_fn(|n| (ExitKind::ALL[n], n as u64 + 1))
        );
    }

    /// Uses up some CPU time of the calling thread.
    fn work(enough: Duration) {
        let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
        let end = thread_time(clock).unwrap() + u64::try_from(enough.as_nanos()).unwrap();
        while thread_time(clock).unwrap() < end {}
    }

    #[test]
    fn run_time_is_that_of_all_threads_and_never_runs_backwards() {
        const MS: Duration = Duration::from_millis(1);
        const LIVES: u32 = 20;
        let tally = VcpuTally::default();
        assert_eq!(tally.run_time(), Duration::ZERO);
        let (done, steps) = (AtomicBool::new(false), AtomicU32::new(0));
        let lived: u64 = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = Duration::ZERO;
                    while !done.load(Ordering::SeqCst) {
                        let now = tally.run_time();
                        assert!(now >= last, "{now:?} after {last:?}");
                        steps.fetch_add(u32::from(now > last), Ordering::SeqCst);
                        last = now;
                    }
                });
            }
            let lives = (0..LIVES).map(|_| {
                let thread = scope.spawn(|| {
                    let before = steps.load(Ordering::SeqCst);
                    tally.thread_begins();
                    work(MS);
                    // They see it in between, and not only at the ends.
                    while steps.load(Ordering::SeqCst) < before + 3 {
                        work(MS / 1000);
                        thread::yield_now();
                    }
                    tally.thread_ends();
                    thread_time(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap()
                });
                thread.join().unwrap()
            });
            let lived = lives.sum();
            done.store(true, Ordering::SeqCst);
            lived
        });
        let all = tally.run_time();
        assert!(all >= LIVES * MS, "{all:?}");
        assert!(all <= Duration::from_nanos(lived), "{all:?} of {lived} ns");
    }
}
