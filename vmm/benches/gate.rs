//! What it costs to go in and out of a gate, beside what else keeps somebody from being taken away.
//!
//!     cargo bench -p hotvisor-vmm --bench gate
//!
//! All contestants take turns in one run, and of each the best turn counts: the host's other work can only add to it.
//! Where valgrind is on PATH, it counts the instructions as well, which no other work disturbs. Ends with 1 where a goal is
//! missed.
#![allow(missing_docs, reason = "a program")]

use arc_swap::ArcSwap;
use hotvisor_vmm::hotplug::gate::{Binding, Entrance, Gate};
use std::cell::Cell;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, LazyLock, RwLock};
use std::time::{Duration, Instant};

/// So often in and out to a turn, and so many turns.
const TIMES: u32 = 300_000;
const TURNS: usize = 25;
/// For how long a gate is closed again and again.
const CLOSING: Duration = Duration::from_secs(1);
/// How often in and out when instructions are counted: twice as often in a second run, and the difference counts.
const COUNTED: u32 = 100_000;
/// In valgrind: what to do, and how often.
const CHILD: &str = "--in-valgrind";

/// Something to go in and out of, `TIMES` times; each thread makes its own.
type Make = fn() -> Box<dyn FnMut(u32)>;

const CONTESTANTS: &[(&str, Make)] = &[
    ("a thread-local counter", counter),
    ("the gate, for a user", gate),
    ("the gate, for somebody who comes once", once),
    ("`std::sync::RwLock`", std_lock),
    ("`parking_lot::RwLock`", parking_lot_lock),
    ("`arc_swap::ArcSwap`", swap),
    ("`crossbeam_epoch::pin`", epoch),
];

/// How many of them, behind the gate's, are locks.
const LOCKS: usize = 2;

thread_local! {
    static COUNTER: Cell<u64> = const { Cell::new(0) };
}

static GATE: LazyLock<(Gate, Entrance)> = LazyLock::new(|| {
    let gate = Gate::new(|_| {});
    gate.open();
    let entrance = gate.entrance();
    (gate, entrance)
});
static STD: RwLock<u64> = RwLock::new(0);
static PARKING_LOT: parking_lot::RwLock<u64> = parking_lot::RwLock::new(0);
static SWAP: LazyLock<ArcSwap<u64>> = LazyLock::new(|| ArcSwap::from_pointee(0));

fn counter() -> Box<dyn FnMut(u32)> {
    Box::new(|times| {
        for _ in 0..times {
            COUNTER.with(|counter| {
                counter.set(black_box(counter.get() + 1));
                counter.set(black_box(counter.get() - 1));
            });
        }
    })
}

fn gate() -> Box<dyn FnMut(u32)> {
    let mut user = GATE.1.user("a benchmark");
    Box::new(move |times| {
        for _ in 0..times {
            let stay = user.enter(Binding::Pinned, Duration::ZERO);
            drop(stay.expect("the gate is open"));
        }
    })
}

fn once() -> Box<dyn FnMut(u32)> {
    Box::new(|times| {
        for _ in 0..times {
            let inside = GATE.1.enter(Binding::Pinned, "a benchmark", Duration::ZERO);
            drop(inside.expect("the gate is open"));
        }
    })
}

fn std_lock() -> Box<dyn FnMut(u32)> {
    Box::new(|times| {
        for _ in 0..times {
            drop(STD.read().expect("nobody panics"));
        }
    })
}

fn parking_lot_lock() -> Box<dyn FnMut(u32)> {
    Box::new(|times| {
        for _ in 0..times {
            drop(PARKING_LOT.read());
        }
    })
}

fn swap() -> Box<dyn FnMut(u32)> {
    Box::new(|times| {
        for _ in 0..times {
            drop(SWAP.load());
        }
    })
}

fn epoch() -> Box<dyn FnMut(u32)> {
    Box::new(|times| {
        for _ in 0..times {
            drop(crossbeam_epoch::pin());
        }
    })
}

/// Nanoseconds for once in and out, with so many threads at the same thing at once: of the slowest of them, in the best of
/// some turns.
fn at_once(make: Make, threads: usize, turns: usize) -> f64 {
    let start = Barrier::new(threads);
    let turn = |run: &mut dyn FnMut(u32)| {
        start.wait();
        let begun = Instant::now();
        run(TIMES);
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    };
    let thread = || {
        let mut run = make();
        (0..turns).map(|_| turn(&mut run)).collect::<Vec<f64>>()
    };
    let times: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(thread)).collect();
        let times = threads.into_iter().filter_map(|thread| thread.join().ok());
        times.collect()
    });
    let slowest = |turn: usize| times.iter().map(|times| times[turn]).fold(0.0, f64::max);
    (0..turns).map(slowest).fold(f64::INFINITY, f64::min)
}

/// Microseconds to close a gate with nobody inside, in ascending order. As in a VMM, there are other threads: as many
/// busy ones as are asked for, which run all the while, and one that sleeps.
fn closings(busy: usize) -> Vec<f64> {
    let over = AtomicBool::new(false);
    let turns: Vec<AtomicU64> = (0..busy).map(|_| AtomicU64::new(0)).collect();
    let gate = Gate::new(|_| {});
    let _users: Vec<_> = (0..8).map(|_| gate.entrance().user("outside")).collect();
    let (wake, sleeper) = std::sync::mpsc::channel::<()>();
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || sleeper.recv());
        for turns in &turns {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let all = || -> Vec<u64> {
            turns
                .iter()
                .map(|turns| turns.load(Ordering::Relaxed))
                .collect()
        };
        let mut before = vec![0; busy];
        let begun = Instant::now();
        while begun.elapsed() < CLOSING {
            gate.open();
            let begun = Instant::now();
            let empty = black_box(gate.close());
            let time = begun.elapsed().as_secs_f64() * 1e6;
            assert!(empty, "nobody is inside");
            let now = all();
            // One that none of them ran beside would tell less.
            if now.iter().zip(&before).any(|(now, before)| now > before) || busy == 0 {
                times.push(time);
            }
            before = now;
        }
        over.store(true, Ordering::Relaxed);
        drop(wake);
    });
    times.sort_by(f64::total_cmp);
    times
}

/// Instructions for once in and out; `None` without valgrind.
fn instructions(contestant: usize) -> Option<f64> {
    let count = |times: u32| -> Option<f64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(std::env::current_exe().ok()?)
            .args([CHILD, &contestant.to_string(), &times.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let collected = said.lines().find_map(|line| line.split_once("Collected :"));
        collected?.1.trim().parse().ok()
    };
    Some((count(2 * COUNTED)? - count(COUNTED)?) / f64::from(COUNTED))
}

/// In valgrind: one contestant, so often.
fn child(contestant: &str, times: &str) {
    let contestant: usize = contestant.parse().unwrap_or_default();
    CONTESTANTS[contestant].1()(times.parse().unwrap_or_default());
}

/// More instructions than that are a mistake.
const MOST_INSTRUCTIONS: f64 = 20.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mark, contestant, times] = arguments.as_slice()
        && mark == CHILD
    {
        child(contestant, times);
        return ExitCode::SUCCESS;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut times = vec![(f64::INFINITY, f64::INFINITY); CONTESTANTS.len()];
    for _ in 0..TURNS {
        for ((_, make), (alone, together)) in CONTESTANTS.iter().zip(&mut times) {
            *alone = alone.min(at_once(*make, 1, 2));
            *together = together.min(at_once(*make, cpus, 2));
        }
    }
    println!("| in and out | one thread | {cpus} threads at the same one | instructions |");
    println!("|---|---:|---:|---:|");
    let counts: Vec<_> = (0..CONTESTANTS.len()).map(instructions).collect();
    let rows = CONTESTANTS.iter().zip(&times).zip(&counts);
    for (((name, _), (alone, together)), count) in rows {
        let counted = count.map_or("–".to_owned(), |count| format!("{count:.1}"));
        println!("| {name} | {alone:.2} ns | {together:.2} ns | {counted} |");
    }
    println!("\n| closing a gate with nobody inside | median | p99 |\n|---|---:|---:|");
    let mut slowest: f64 = 0.0;
    for (what, busy) in [
        ("all other CPUs idle", 0),
        ("a busy thread on each other one", cpus - 1),
    ] {
        let times = closings(busy);
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!("| {what} | {:.1} µs | {:.1} µs |", at(50), at(99));
        slowest = slowest.max(at(99));
    }
    match goals(&times, counts[1], slowest) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What is wanted of the gate, and what came of it: of times alone and together, of its instructions, and of closing it.
/// Whether all of that is met.
fn goals(times: &[(f64, f64)], instructions: Option<f64>, closing: f64) -> bool {
    let [counter, gate, _, locks @ ..] = times else {
        return false;
    };
    let locks = locks[..LOCKS].iter();
    let lock = locks.map(|(alone, _)| *alone).fold(f64::INFINITY, f64::min);
    let kept = |(alone, together): &(f64, f64)| alone / together;
    println!("\n| goal | figure | met |\n|---|---:|---|");
    let mut all = true;
    let mut goal = |what: &str, figure: String, met: bool| {
        all &= met;
        println!("| {what} | {figure} | {} |", if met { "yes" } else { "no" });
    };
    let alone = gate.0;
    goal(
        "in and out: at most 3 ns",
        format!("{alone:.2} ns"),
        alone <= 3.0,
    );
    let ratio = alone / counter.0;
    goal(
        "at most 1.2 of a thread-local counter",
        format!("{ratio:.2}"),
        ratio <= 1.2,
    );
    if let Some(count) = instructions {
        goal(
            &format!("at most {MOST_INSTRUCTIONS} instructions"),
            format!("{count:.1}"),
            count <= MOST_INSTRUCTIONS,
        );
    }
    let faster = lock / alone;
    goal(
        "at least 4 times as fast as the faster lock",
        format!("{faster:.1}"),
        faster >= 4.0,
    );
    let (ours, theirs) = (kept(gate), kept(counter));
    goal(
        "with all CPUs at the same gate each thread has at least 0.9 of what it has alone",
        format!("{ours:.2}; the counter {theirs:.2}"),
        ours >= 0.9,
    );
    goal(
        "closed with nobody inside in less than 50 µs (p99)",
        format!("{closing:.1} µs"),
        closing < 50.0,
    );
    all
}
