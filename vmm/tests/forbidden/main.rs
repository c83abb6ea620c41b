//! What each thread may not do, tried in processes of its own, because it ends them; and what it may.

mod misdeeds;

use hotvisor_vmm::heap;
use hotvisor_vmm::isolation::seccomp::{Seccomp, choose};
use hotvisor_vmm::isolation::{EXIT_CODE, Role, confine};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What the process is to try, if it is one that tries.
const TRY: &str = "HOTVISOR_TRY";

/// What no thread does but the control thread's, and a program is started by none.
const BIRTHS: &[&str] = &["makes a thread", "starts a program"];

/// A thread's name, as the product gives it.
fn name(role: Role) -> &'static str {
    match role {
        Role::Main => "hotvisor",
        Role::Vmm => "vmm",
        Role::Vcpu => "vcpu-7",
        Role::Api => "api",
        Role::Vsock => "vsock",
    }
}

/// Does something as a thread of this role. A vCPU's is made by the control thread's, in its filter.
fn on_thread(role: Role, body: impl FnOnce() + Send + 'static) {
    let outer = if role == Role::Vcpu { Role::Vmm } else { role };
    let confined = |role: Role, body: Box<dyn FnOnce() + Send>| {
        let body = move || {
            confine(role).expect("a kernel that filters system calls");
            body();
        };
        let thread = thread::Builder::new().name(name(role).into()).spawn(body);
        thread.expect("a thread").join().expect("its end");
    };
    confined(
        outer,
        Box::new(move || match role {
            Role::Vcpu => confined(role, Box::new(body)),
            Role::Main | Role::Vmm | Role::Api | Role::Vsock => body(),
        }),
    );
}

/// Runs this program once more, for that one attempt.
fn attempt(what: &str, seccomp: &str, role: Role) -> Output {
    let program = env::current_exe().expect("this program");
    Command::new(program)
        .args(["--exact", "the_one_that_tries", "--nocapture"])
        .stdin(openpty(None, None).expect("a terminal").slave)
        .env("RUST_BACKTRACE", "1")
        .env(TRY, format!("{what}/{seccomp}/{}", name(role)))
        .output()
        .expect("this program once more")
}

/// No test by itself: what the others start.
#[test]
fn the_one_that_tries() {
    let Ok(what) = env::var(TRY) else {
        return;
    };
    let mut words = what.split('/');
    let mut word = || words.next().expect("three words");
    let (what, seccomp, thread) = (word(), word(), word());
    heap::share_arena();
    choose(match seccomp {
        "true" => Seccomp::Enforce,
        "log" => Seccomp::Log,
        _ => Seccomp::Off,
    })
    .expect("a handler");
    let role = Role::ALL.into_iter().find(|&role| name(role) == thread);
    let role = role.expect("a role");
    match (what, misdeeds::all().find(|misdeed| misdeed.name == what)) {
        (_, Some(misdeed)) => on_thread(role, (misdeed.prepare)()),
        ("makes a thread", _) => on_thread(role, || {
            let made = thread::Builder::new().spawn(|| ());
            eprintln!("did it: {}", made.is_ok());
        }),
        ("starts a program", _) => on_thread(role, || {
            let made = Command::new("/bin/true").spawn();
            eprintln!("did it: {}", made.is_ok());
        }),
        _ => on_thread(role, work),
    }
}

/// What any thread does.
fn work() {
    let heap: Vec<Vec<u8>> = (0..12).map(|power| vec![1; 1 << (power + 10)]).collect();
    assert_eq!(heap.iter().map(Vec::len).sum::<usize>(), (1 << 22) - 1024);
    let mut large = vec![0_u8; 1 << 22];
    large.resize(1 << 24, 1);
    drop((heap, large));
    let (lock, change) = (Mutex::new(0), Condvar::new());
    let short = Duration::from_millis(1);
    let waited = change.wait_timeout(lock.lock().expect("a lock"), short);
    assert!(waited.expect("a lock").1.timed_out());
    assert!(Instant::now().elapsed() < Duration::from_secs(60));
    let map = std::collections::HashMap::from([(1, Arc::new(2))]);
    eprintln!("worked: {map:?}");
    // As where a terminal is put back.
    let now = tcgetattr(std::io::stdin()).expect("a terminal");
    tcsetattr(std::io::stdin(), SetArg::TCSANOW, &now).expect("a terminal");
    let unwound = std::panic::catch_unwind(|| assert_eq!(1, 2, "as any thread may"));
    assert!(unwound.is_err());
}

#[test]
fn a_forbidden_call_ends_the_process_which_names_thread_and_call() {
    for role in Role::ALL {
        for misdeed in misdeeds::all().filter(|misdeed| misdeed.roles.contains(&role)) {
            let output = attempt(misdeed.name, "true", role);
            let said = String::from_utf8_lossy(&output.stderr);
            let expected = format!(
                "hotvisor: thread {}: forbidden system call {} (",
                name(role),
                misdeed.call
            );
            assert!(
                output.status.code() == Some(EXIT_CODE) && said.contains(&expected),
                "{} {}: {:?}, expected {expected:?}: {said}",
                name(role),
                misdeed.name,
                output.status,
            );
        }
    }
}

/// The C library blocks all signals while it makes a thread or a process, so that the kernel ends this one without a word.
#[test]
fn neither_a_thread_nor_a_program_is_made() {
    for role in Role::ALL {
        for what in BIRTHS {
            if *what == "makes a thread" && role == Role::Vmm {
                continue;
            }
            let output = attempt(what, "true", role);
            let how = output.status.signal();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                how == Some(libc::SIGSYS) && !said.contains("did it"),
                "{} {what}: {:?}: {said}",
                name(role),
                output.status,
            );
        }
    }
}

#[test]
fn what_a_thread_needs_it_may_do() {
    for role in Role::ALL {
        let output = attempt("works", "true", role);
        let said = String::from_utf8_lossy(&output.stderr);
        let worked = output.status.success() && said.contains("worked: {1: 2}");
        assert!(worked, "{}: {:?}: {said}", name(role), output.status);
    }
}

#[test]
fn where_nothing_is_enforced_nothing_ends() {
    for seccomp in ["log", "false"] {
        for role in Role::ALL {
            let output = attempt("reads a file", seccomp, role);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && !said.contains("forbidden"),
                "{seccomp} {}: {:?}: {said}",
                name(role),
                output.status
            );
        }
    }
}
