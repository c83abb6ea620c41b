//! What this process gives up, and which paths are left to each of its threads: tried in processes of their own, because
//! nothing of it comes back.

use caps::{CapSet, Capability};
use hotvisor_vmm::isolation::confinement::{Grant, Landlock, Paths, enforce, remedy};
use hotvisor_vmm::isolation::{Role, confine, give_up, hide_memory};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::kill;
use nix::sys::utsname::uname;
use nix::unistd::getppid;
use std::env;
use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

/// What the process is to do, if it is one that does, and where.
const DO: &str = "HOTVISOR_DO";
const WHERE: &str = "HOTVISOR_WHERE";

/// A folder with what a machine is made of.
struct Place(PathBuf);

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn paths(&self) -> Paths {
        Paths {
            machines: Some(vec![
                Grant::read(self.at("kernel")),
                Grant::write(self.at("serial")),
                Grant::socket(&self.at("sockets/serial.sock")),
                Grant::beneath(self.at("images"), true, false),
                Grant::beneath(self.at("output"), true, true),
                Grant::read(self.at("not there")),
            ]),
            removed: vec![Grant::removal(&self.at("api/api.sock"))],
        }
    }
}

/// The abstract socket that somebody else listens at: it is called as the folder is.
fn somebody(folder: &Path) -> SocketAddr {
    let name = folder.as_os_str().as_encoded_bytes();
    SocketAddr::from_abstract_name(name).expect("an address")
}

/// Runs this program once more, for that.
fn run(what: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["sockets", "images", "output", "api"] {
        fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    for name in ["kernel", "serial", "images/other", "api/api.sock", "secret"] {
        fs::write(folder.path().join(name), name).expect("a file");
    }
    let listening = folder.path().join("sockets/listening");
    let _listening = UnixListener::bind(listening).expect("a socket");
    let _somebody = UnixListener::bind_addr(&somebody(folder.path())).expect("a socket");
    Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "the_one_that_does", "--nocapture"])
        .env(DO, what)
        .env(WHERE, folder.path())
        .output()
        .expect("this program once more")
}

fn run_well(what: &str) {
    let output = run(what);
    let said = String::from_utf8_lossy(&output.stderr);
    let done = said.contains(&format!("did {what}"));
    assert!(output.status.success() && done, "{what}: {said}");
}

/// No test by itself: what the others start.
#[test]
fn the_one_that_does() {
    let (Ok(what), Some(folder)) = (env::var(DO), env::var_os(WHERE)) else {
        return;
    };
    let place = Place(folder.into());
    match what.as_str() {
        "give up" => gives_up(false),
        "give up, but be read" => gives_up(true),
        "vmm" => confined(place, Role::Vmm, control_thread),
        "api" => confined(place, Role::Api, api),
        "vsock" => confined(place, Role::Vsock, vsock),
        "main" => confined(place, Role::Main, main_thread),
        "unknown" => unknown(&place),
        "off" => off(&place),
        other => panic!("{other}"),
    }
    eprintln!("did {what}");
}

fn gives_up(dumpable: bool) {
    if !dumpable {
        hide_memory().expect("a kernel that takes it");
    }
    // Who may not drop them has none that a program could get.
    let may = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).expect("a set");
    give_up().expect("a kernel that takes it");
    let bounding = caps::read(None, CapSet::Bounding).expect("a set");
    assert!(bounding.is_empty() || !may, "{bounding:?}");
    for set in [
        CapSet::Ambient,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ] {
        assert!(caps::read(None, set).expect("a set").is_empty(), "{set:?}");
    }
    assert!(prctl::get_no_new_privs().expect("a flag"));
    assert_eq!(prctl::get_dumpable(), Ok(dumpable));
    let limit = |resource| getrlimit(resource).expect("a limit");
    if !dumpable {
        assert_eq!(limit(Resource::RLIMIT_CORE), (0, 0));
    }
    let (now, most) = limit(Resource::RLIMIT_NOFILE);
    assert!(now == most && most <= 3072, "{now} {most}");
}

/// Does something as a thread of this role, of a process that is confined.
fn confined(place: Place, role: Role, body: fn(&Place)) {
    // A pipe by its name is no file of any folder.
    let (reader, _writer) = io::pipe().expect("a pipe");
    let mut paths = place.paths();
    let pipe = format!("/proc/self/fd/{}", reader.as_raw_fd());
    paths.removed.push(Grant::write(pipe));
    enforce(Landlock::Required, paths).expect("a kernel with Landlock");
    let body = move || {
        confine(role).expect("a kernel with Landlock");
        body(&place);
    };
    thread::spawn(body).join().expect("its end");
}

#[track_caller]
fn denied<T>(what: io::Result<T>) {
    let kind = what.err().map(|error| error.kind());
    assert_eq!(kind, Some(io::ErrorKind::PermissionDenied));
}

fn writing(path: &Path) -> io::Result<File> {
    File::options().write(true).open(path)
}

/// What none of the roles is left.
fn nothing_else(place: &Place) {
    denied(File::open(place.at("secret")));
    denied(File::open("/etc/passwd"));
    denied(File::open("/proc/self/maps"));
    denied(fs::read_dir(&place.0));
    denied(writing(&place.at("kernel")));
    denied(writing(&place.at("images/other")));
    denied(File::create_new(place.at("new")));
    denied(File::create_new(place.at("sockets/new")));
    denied(fs::remove_file(place.at("secret")));
    denied(fs::remove_file(place.at("kernel")));
    denied(fs::create_dir(place.at("output/new")));
    denied(Command::new("/bin/true").status());
    fs::hard_link(place.at("secret"), place.at("output/link")).expect_err("another folder");
    nobody_else(place);
}

/// Landlock knows TCP since Linux 6.7, and abstract sockets and signals since 6.12.
fn nobody_else(place: &Place) {
    let kernel = uname().expect("a kernel");
    let release = kernel.release().to_str().expect("a version");
    let mut numbers = release.split('.').map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next(), numbers.next());
    if version >= (Some(6), Some(7)) {
        denied(TcpListener::bind("127.0.0.1:0"));
        denied(TcpStream::connect("127.0.0.1:1"));
    }
    if version >= (Some(6), Some(12)) {
        denied(UnixStream::connect_addr(&somebody(&place.0)));
        assert_eq!(kill(getppid(), None), Err(Errno::EPERM));
    }
}

fn control_thread(place: &Place) {
    nothing_else(place);
    denied(fs::remove_file(place.at("api/api.sock")));
    File::open(place.at("kernel")).expect("the kernel");
    let serial = writing(&place.at("serial")).expect("the serial port's file");
    serial.set_len(0).expect("an empty file");
    denied(File::open(place.at("serial")));
    let socket = place.at("sockets/serial.sock");
    for _ in 0..2 {
        drop(UnixListener::bind(&socket).expect("a socket"));
        fs::remove_file(&socket).expect("no socket");
    }
    File::open(place.at("images/other")).expect("an image");
    let new = place.at("output/new");
    File::create_new(&new).expect("a file in a folder for that");
    fs::remove_file(&new).expect("no file");
    let said = |kind: io::ErrorKind| remedy(&kind.into(), "do this");
    assert!(said(io::ErrorKind::PermissionDenied).contains("--landlock-rules"));
    assert_eq!(said(io::ErrorKind::NotFound), "do this");
}

fn api(place: &Place) {
    nothing_else(place);
    denied(File::open(place.at("kernel")));
    denied(writing(&place.at("serial")));
    denied(fs::remove_file(place.at("api/api.sock")));
    denied(UnixListener::bind(place.at("sockets/serial.sock")));
}

fn vsock(place: &Place) {
    api(place);
    // Who has a path to somebody may connect: the kernel's Landlock knows of no right for it.
    UnixStream::connect(place.at("sockets/listening")).expect("somebody who listens");
}

fn main_thread(place: &Place) {
    nothing_else(place);
    fs::remove_file(place.at("api/api.sock")).expect("no socket");
}

/// Where nobody knows what machines are made of.
fn unknown(place: &Place) {
    let paths = Paths {
        machines: None,
        removed: Vec::new(),
    };
    enforce(Landlock::Auto, paths).expect("a kernel with Landlock");
    confine(Role::Vmm).expect("a kernel with Landlock");
    File::open(place.at("secret")).expect("any file");
    File::create_new(place.at("new")).expect("any file");
    denied(fs::create_dir(place.at("output/new")));
    denied(Command::new("/bin/true").status());
    nobody_else(place);
    let usual = remedy(&io::ErrorKind::PermissionDenied.into(), "do this");
    assert_eq!(usual, "do this");
}

fn off(place: &Place) {
    enforce(Landlock::Off, place.paths()).expect("nothing to do");
    confine(Role::Vmm).expect("nothing to do");
    UnixStream::connect_addr(&somebody(&place.0)).expect("somebody listens");
    kill(getppid(), None).expect("its own user's process");
    File::open(place.at("secret")).expect("any file");
    fs::create_dir(place.at("output/new")).expect("anything");
}

#[test]
fn privileges_are_given_up() {
    run_well("give up");
    run_well("give up, but be read");
}

#[test]
fn each_thread_reaches_what_it_needs() {
    for role in ["main", "vmm", "api", "vsock"] {
        run_well(role);
    }
}

#[test]
fn where_paths_are_not_known_what_is_never_done_is_denied() {
    run_well("unknown");
}

#[test]
fn where_nothing_is_confined_everything_is_there() {
    run_well("off");
}
