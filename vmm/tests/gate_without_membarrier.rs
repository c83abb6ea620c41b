//! The gate where membarrier(2) is missing or forbidden: both sides have a real fence then. A test of its own program,
//! because it is looked for once in a process.

use hotvisor_vmm::hotplug::gate::{Binding, Gate};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything here takes.
const SOON: Duration = Duration::from_secs(30);
/// How often the gate is closed with somebody inside.
const WAITED: u32 = 200;

/// Has the call fail in this thread and in those that it makes.
fn forbid_membarrier() {
    let rules = BTreeMap::from([(libc::SYS_membarrier, Vec::new())]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        TargetArch::x86_64,
    )
    .expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    apply_filter(&program).expect("a kernel that filters system calls");
}

#[test]
fn nothing_is_taken_from_under_a_user() {
    forbid_membarrier();
    let (tell, told) = channel();
    let gate = Arc::new(Gate::new(move |_| {
        // Nobody listens any more only at the end.
        let _ = tell.send(());
    }));
    gate.open();
    let there = Arc::new(AtomicBool::new(true));
    let (over, uses) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let users: Vec<_> = (0..2)
        .map(|_| {
            let entrance = gate.entrance();
            let (there, over, uses) = (there.clone(), over.clone(), uses.clone());
            thread::spawn(move || {
                let mut user = entrance.user("a test");
                while !over.load(Ordering::Relaxed) {
                    let stay = user.enter(Binding::Pinned, SOON);
                    let stay = stay.expect("it opens again");
                    for _ in 0..100 {
                        assert!(there.load(Ordering::Relaxed), "taken from under a user");
                    }
                    uses.fetch_add(1, Ordering::Relaxed);
                    drop(stay);
                }
            })
        })
        .collect();
    let (mut waited, begun) = (0, Instant::now());
    while waited < WAITED {
        let before = uses.load(Ordering::Relaxed);
        while uses.load(Ordering::Relaxed) == before {
            assert!(begun.elapsed() < SOON, "{waited} times only");
            thread::yield_now();
        }
        // Were it relied on, the fence would find now that it does not work any more.
        if !gate.close() {
            told.recv_timeout(SOON).expect("the last user says so");
            waited += 1;
        }
        there.store(false, Ordering::Relaxed);
        there.store(true, Ordering::Relaxed);
        gate.open();
    }
    over.store(true, Ordering::Relaxed);
    for user in users {
        user.join().expect("a user");
    }
}
