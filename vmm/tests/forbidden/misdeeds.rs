//! What threads must not do: calls that no thread of theirs makes, and calls that it makes with other arguments.

use hotvisor_vmm::isolation::Role;
use kvm_bindings::{kvm_create_device, kvm_regs};
use kvm_ioctls::{Kvm, VmFd};
use memmap2::{Advice, MmapMut};
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::prctl;
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, SockFlag, UnixAddr, accept4, connect, sendto};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use nix::unistd::{getpid, setsid, tcgetpgrp, tcsetpgrp};
use rustix::thread::{MembarrierCommand, futex, membarrier};
use seccompiler::{apply_filter_all_threads, sock_filter};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{IoSlice, Write, stdin};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::AtomicU32;
use vm_memory::{FileOffset, MmapRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

/// A misdeed, and the system call by which it is noticed.
pub(crate) struct Misdeed {
    pub(crate) name: &'static str,
    pub(crate) call: &'static str,
    /// To whom it is forbidden.
    pub(crate) roles: &'static [Role],
    /// Fetches what it takes, while that is still allowed.
    pub(crate) prepare: fn() -> Deed,
}

/// What a thread does that is under its filter.
pub(crate) type Deed = Box<dyn FnOnce() + Send>;

const ALL: &[Role] = &Role::ALL;
/// All but the control thread.
const OTHERS: &[Role] = &[Role::Main, Role::Vcpu, Role::Api, Role::Vsock];
/// All but those who listen for clients that are not the API's.
const NOT_CALLED: &[Role] = &[Role::Main, Role::Vcpu, Role::Api];
/// All but the one that connects programs.
const NOT_VSOCK: &[Role] = &[Role::Main, Role::Vmm, Role::Vcpu, Role::Api];
/// All but the API's.
const NOT_API: &[Role] = &[Role::Main, Role::Vmm, Role::Vcpu, Role::Vsock];
/// Those who have nothing to do with vCPUs.
const APART: &[Role] = &[Role::Main, Role::Api, Role::Vsock];

macro_rules! misdeeds {
    ($($name:literal: $call:literal, $roles:expr, $prepare:expr;)*) => {
        &[$(Misdeed { name: $name, call: $call, roles: $roles, prepare: $prepare },)*]
    };
}

/// A deed that has no result worth a look: nobody lives to see it.
fn deed<T>(deed: impl FnOnce() -> T + Send + 'static) -> Deed {
    Box::new(|| drop(deed()))
}

/// Calls that threads do not make.
const CALLS: &[Misdeed] = misdeeds! {
    "makes a folder": "mkdir", ALL, || deed(|| fs::create_dir("/tmp/hotvisor-forbidden"));
    "connects to somebody": "connect", NOT_VSOCK, || deed(|| connect(0, &somebody()));
    "sends a signal": "kill", ALL, || deed(|| kill(getpid(), Signal::SIGUSR1));
    "takes a limit off": "prlimit64", ALL, || deed(|| setrlimit(Resource::RLIMIT_CORE, 0, 0));
    "leaves its session": "setsid", ALL, || deed(setsid);
};

/// Calls that there are rules about, for one thread or all, with arguments that these do not allow.
const ARGUMENTS: &[Misdeed] = misdeeds! {
    // Files and what is done with descriptors.
    "reads a file": "openat", ALL, || deed(|| File::open("/proc/version"));
    "writes a file": "openat", ALL, || deed(|| File::create_new("/tmp/hotvisor-forbidden"));
    "appends to a file": "openat", ALL, || deed(|| OpenOptions::new().append(true).open("/dev/null"));
    "opens a file of a folder that is open": "openat", ALL, || {
        let folder = File::open("/dev").expect("a folder");
        deed(move || openat(folder, "null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()))
    };
    "has a file grow": "ftruncate", ALL, || {
        let file = tempfile::tempfile().expect("a file");
        deed(move || file.set_len(1 << 32))
    };
    "lets others use a file": "fchmod", ALL, || {
        let file = tempfile::tempfile().expect("a file");
        deed(move || file.set_permissions(Permissions::from_mode(0o666)))
    };
    "has others wait at a descriptor": "fcntl", ALL, || {
        deed(|| fcntl(stdin(), FcntlArg::F_SETFL(OFlag::empty())))
    };
    "has a descriptor that a program keeps": "fcntl", ALL, || {
        deed(|| fcntl(stdin(), FcntlArg::F_DUPFD(0)))
    };
    "has one more descriptor": "fcntl", OTHERS, || deed(|| stdin().as_fd().try_clone_to_owned());
    "waits for two descriptors": "poll", ALL, || deed(|| {
        let (terminal, none) = (stdin(), PollFlags::empty());
        let mut both = [PollFd::new(terminal.as_fd(), none), PollFd::new(terminal.as_fd(), none)];
        poll(&mut both, PollTimeout::ZERO)
    });
    "has a set of descriptors that a program keeps": "epoll_create1", ALL, || {
        deed(|| Epoll::new(EpollCreateFlags::empty()))
    };

    // Sockets.
    "listens on the network": "socket", ALL, || deed(|| TcpListener::bind("127.0.0.1:0"));
    "sends a datagram": "socket", ALL, || deed(UnixDatagram::unbound);
    "sends to somebody": "sendto", ALL, || {
        deed(|| sendto(0, b"word", &somebody(), MsgFlags::empty()))
    };
    "is called, and may have to wait": "accept4", NOT_CALLED, || {
        deed(|| accept4(0, SockFlag::SOCK_CLOEXEC))
    };
    "is called, and never waits": "accept4", NOT_API, || {
        deed(|| accept4(0, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK))
    };
    "never waits for a connection": "ioctl", NOT_CALLED, || {
        let (connection, _) = UnixStream::pair().expect("a connection");
        deed(move || connection.set_nonblocking(true))
    };
    "answers a client": "writev", NOT_API, || {
        let (mut connection, _) = UnixStream::pair().expect("a connection");
        deed(move || connection.write_vectored(&[IoSlice::new(b"no"), IoSlice::new(b"thing")]))
    };

    // The terminal.
    "takes the terminal": "ioctl", ALL, || deed(|| tcsetpgrp(stdin(), getpid()));
    "asks whose the terminal is": "ioctl", OTHERS, || deed(|| tcgetpgrp(stdin()));
    "waits for the terminal": "ioctl", ALL, || deed(|| {
        let now = tcgetattr(stdin()).expect("a terminal");
        tcsetattr(stdin(), SetArg::TCSADRAIN, &now)
    });

    // KVM.
    "makes a machine": "ioctl", OTHERS, || {
        let kvm = kvm();
        deed(move || kvm.create_vm())
    };
    "makes a vCPU": "ioctl", OTHERS, || {
        let machine = machine();
        deed(move || machine.create_vcpu(0))
    };
    "runs a vCPU": "ioctl", APART, || {
        let mut vcpu = machine().create_vcpu(0).expect("a vCPU");
        deed(move || drop(vcpu.run()))
    };
    "reads a vCPU's registers": "ioctl", APART, || {
        let vcpu = machine().create_vcpu(0).expect("a vCPU");
        deed(move || vcpu.get_regs())
    };
    "says where a vCPU goes on": "ioctl", OTHERS, || {
        let vcpu = machine().create_vcpu(0).expect("a vCPU");
        deed(move || vcpu.set_regs(&kvm_regs::default()))
    };
    "makes a device of KVM's": "ioctl", ALL, || {
        let machine = machine();
        deed(move || machine.create_device(&mut kvm_create_device::default()))
    };
    "has an event interrupt the guest": "ioctl", ALL, || {
        let (machine, event) = (machine(), EventFd::new(0).expect("an event"));
        deed(move || machine.register_irqfd(&event, 0))
    };

    // Memory.
    "has memory that can be executed": "mmap", ALL, || deed(|| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        MmapRegion::<()>::build(None, 4096, libc::PROT_READ | libc::PROT_EXEC, flags)
    });
    "has memory that a program it starts has too": "mmap", ALL, || deed(|| {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        MmapRegion::<()>::build(None, 4096, libc::PROT_READ | libc::PROT_WRITE, flags)
    });
    "executes a file": "mmap", &[Role::Vmm], || {
        let program = FileOffset::new(File::open("/proc/self/exe").expect("this program"), 0);
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        deed(move || MmapRegion::<()>::build(Some(program), 4096, protection, libc::MAP_SHARED))
    };
    "executes what it has written": "mprotect", ALL, || {
        let memory = MmapMut::map_anon(4096).expect("memory");
        deed(move || memory.make_exec())
    };
    "says how it will use memory": "madvise", ALL, || {
        let memory = MmapMut::map_anon(4096).expect("memory");
        deed(move || memory.advise(Advice::Random))
    };

    // Threads and signals.
    "asks a thread to end": "tgkill", ALL, || deed(|| pthread_kill(pthread_self(), Signal::SIGTERM));
    "kicks a thread": "tgkill", OTHERS, || deed(|| pthread_kill(pthread_self(), Signal::SIGUSR1));
    "handles the signal to end": "rt_sigaction", ALL, || {
        deed(|| register_signal_handler(libc::SIGTERM, handler))
    };
    "handles the kick": "rt_sigaction", OTHERS, || {
        deed(|| register_signal_handler(libc::SIGUSR1, handler))
    };
    "wakes another process": "futex", ALL, || deed(|| {
        futex::wake(&AtomicU32::new(0), futex::Flags::empty(), 1)
    });
    "has a lock that inherits priorities": "futex", ALL, || deed(|| {
        futex::trylock_pi(&AtomicU32::new(0), futex::Flags::PRIVATE)
    });
    "has all processes pass a fence": "membarrier", ALL, || {
        deed(|| membarrier(MembarrierCommand::Global))
    };
    "has the other threads pass a fence": "membarrier", OTHERS, || {
        deed(|| membarrier(MembarrierCommand::PrivateExpedited))
    };
    "goes by another name": "prctl", OTHERS, || deed(|| prctl::set_name(c"nobody"));
    "lets others read its memory": "prctl", ALL, || deed(|| prctl::set_dumpable(true));
    "has a filter of its own": "prctl", OTHERS, || deed(prctl::set_no_new_privs);
    "has all threads under its filter": "seccomp", &[Role::Vmm], || {
        let allow = sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 };
        deed(move || apply_filter_all_threads(&[allow]))
    };
};

/// What debug assertions do, and no product does.
#[cfg(not(debug_assertions))]
const RELEASE: &[Misdeed] = misdeeds! {
    "asks about a descriptor": "fcntl", ALL, || deed(|| fcntl(stdin(), FcntlArg::F_GETFD));
};
#[cfg(debug_assertions)]
const RELEASE: &[Misdeed] = &[];

pub(crate) fn all() -> impl Iterator<Item = &'static Misdeed> {
    CALLS.iter().chain(ARGUMENTS).chain(RELEASE)
}

fn somebody() -> UnixAddr {
    UnixAddr::new("/run/somebody").expect("an address")
}

fn kvm() -> Kvm {
    Kvm::new().expect("/dev/kvm, which this test needs")
}

fn machine() -> VmFd {
    kvm().create_vm().expect("a machine")
}

extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
