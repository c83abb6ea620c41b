//! Programs on the host and programs in the guest reach each other through the socket device.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::api::{State, Target};
use hotvisor_tests::vm::{SOON, Vm};

/// Where a program in the guest sends back what it gets.
const ECHO: u32 = 5000;
/// Where one on the host listens.
const HOST: u32 = 6000;
/// The device's context id.
const CID: u32 = 52;
/// How long a pause lasts.
const PAUSE: Duration = Duration::from_secs(3);
/// `ECONNRESET`.
const RESET: i32 = 104;

/// Of one kernel: the driver hardly differs from one to the next, and each boot takes its time.
pub(crate) fn tests() -> Vec<Test> {
    let image = Image::Connected(Kernel::V6_12Cloud);
    vec![Test::with_image("vsock::both_ways", image, both_ways)]
}

/// A client of the guest's, as Firecracker's are: `None` where the guest does not accept it.
fn connect(socket: &Path, port: u32) -> Result<Option<UnixStream>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = Vec::new();
    // Byte by byte: what follows is the guest's.
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        match stream.read(&mut byte).context("no answer to CONNECT")? {
            0 => return Ok(None),
            _ => line.extend(byte),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let number = line.strip_prefix("OK ").map(str::trim);
    let number: u32 = number.context("no OK")?.parse()?;
    ensure!(number >= 1 << 30, "the host's port is {number}");
    Ok(Some(stream))
}

fn connected(socket: &Path, port: u32) -> Result<UnixStream> {
    connect(socket, port)?.with_context(|| format!("the guest does not accept port {port}"))
}

/// Bytes that tell where they are out of place.
fn pattern(seed: u32, len: u32) -> Vec<u8> {
    let bytes = (0..len).map(|n| (n ^ n >> 8 ^ n >> 16).wrapping_add(seed).to_le_bytes()[0]);
    bytes.collect()
}

/// Sends so much through the guest's echo, ends its own direction, and gets all of it back.
fn echo(mut stream: UnixStream, seed: u32, len: u32) -> Result<()> {
    let sent = pattern(seed, len);
    let mut writing = stream.try_clone()?;
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        writing.write_all(&copy)?;
        writing.shutdown(Shutdown::Write)
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    match writer.join() {
        Ok(written) => written.context("sending to the guest")?,
        Err(_) => bail!("the writing thread panicked"),
    }
    let first = sent.iter().zip(&got).position(|(one, other)| one != other);
    ensure!(
        got == sent,
        "{} bytes of {len} came back, the first that is another is {first:?}",
        got.len()
    );
    Ok(())
}

struct Place {
    _folder: tempfile::TempDir,
    socket: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("vsock");
        Ok(Self {
            _folder: folder,
            socket,
        })
    }

    /// Where a program on the host listens for the guest.
    fn host(&self, port: u32) -> PathBuf {
        self.socket.with_file_name(format!("vsock_{port}"))
    }
}

fn both_ways(context: &Context, kernel: Kernel) -> Result<()> {
    let place = Place::new()?;
    let socket = &place.socket;
    let device = format!("cid={CID},socket={}", socket.display());
    let vm = context
        .vm(kernel)
        .initramfs(context.artifacts.connected(kernel))
        .cpus(2, 3)
        .arg("--vsock")
        .arg(&device)
        .start()?;
    vm.wait_until("the socket", || Ok(socket.exists()))?;
    ensure!(
        connect(socket, ECHO)?.is_none(),
        "somebody answers for a guest that has not even begun"
    );
    vm.wait_for_init(1)?;
    vm.sh_ok(&format!("vsock echo {ECHO} >/run/echo 2>&1 &"))?;
    vm.wait_until("the guest's echo", || {
        Ok(vm.sh_ok("cat /run/echo")? == "listens")
    })?;
    from_the_host(socket)?;
    from_the_guest(&vm, &place)?;
    while_vcpus_come_and_go(&vm, socket)?;
    in_a_pause(&vm, socket)?;
    over_a_reset(&vm, socket)?;
    vm.sh_last("poweroff -f")?;
    vm.wait_success(SOON)?;
    ensure!(!socket.exists(), "the socket was left behind");
    Ok(())
}

fn from_the_host(socket: &Path) -> Result<()> {
    echo(connected(socket, ECHO)?, 1, 1 << 20)?;
    ensure!(connect(socket, ECHO + 1)?.is_none(), "nobody listens there");
    let mut wrong = UnixStream::connect(socket)?;
    wrong.set_read_timeout(Some(SOON))?;
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = Vec::new();
    // Its end, or that it was cut off with what it had sent unread.
    let _ = wrong.read_to_end(&mut answer);
    ensure!(answer.is_empty(), "{answer:?}");
    let many = (0..20).map(|seed| {
        let stream = connected(socket, ECHO)?;
        Ok(thread::spawn(move || echo(stream, seed, 50_000)))
    });
    let many: Vec<_> = many.collect::<Result<_>>()?;
    for one in many {
        one.join().ok().context("it panicked")??;
    }
    Ok(())
}

fn from_the_guest(vm: &Vm, place: &Place) -> Result<()> {
    let nobody = vm.sh(&format!("vsock to {HOST} </dev/null"), SOON)?;
    ensure!(
        nobody.status == RESET,
        "nobody listens, and the guest gets {nobody:?}"
    );
    let listener = UnixListener::bind(place.host(HOST))?;
    let host = thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(SOON))?;
        let mut words = String::new();
        BufReader::new(&stream).read_line(&mut words)?;
        ensure!(words == "from the guest\n", "{words:?}");
        stream.write_all(b"from the host\n")?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        stream.write_all(&rest)?;
        Ok(rest.len())
    });
    let said = vm.sh_ok(&format!("echo from the guest | vsock to {HOST}"))?;
    ensure!(said == "from the host", "{said:?}");
    let rest = host.join().ok().context("it panicked")??;
    ensure!(rest == 0, "{rest} bytes more than were sent");
    Ok(())
}

/// The device's interrupt and its driver's work have to go to another CPU.
fn while_vcpus_come_and_go(vm: &Vm, socket: &Path) -> Result<()> {
    let stream = connected(socket, ECHO)?;
    let busy = thread::spawn(move || echo(stream, 7, 2 << 20));
    for _ in 0..2 {
        for target in [Target::Offline, Target::Online] {
            let operation = vm.api().vcpu_target(1, target, SOON)?;
            ensure!(operation.state == State::Succeeded, "{operation:#?}");
        }
    }
    busy.join().ok().context("it panicked")?
}

/// Whoever comes meanwhile is served when the guest goes on.
fn in_a_pause(vm: &Vm, socket: &Path) -> Result<()> {
    let open = connected(socket, ECHO)?;
    vm.api().pause()?;
    let mut late = UnixStream::connect(socket)?;
    late.write_all(format!("CONNECT {ECHO}\nword").as_bytes())?;
    // Longer than the guest has to answer while it runs.
    late.set_read_timeout(Some(PAUSE))?;
    let early = late.read(&mut [0]);
    let nothing = |e: &io::Error| e.kind() == ErrorKind::WouldBlock;
    ensure!(
        early.as_ref().is_err_and(nothing),
        "a paused guest answers: {early:?}"
    );
    vm.api().resume()?;
    late.set_read_timeout(Some(SOON))?;
    late.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    late.read_to_string(&mut answer)?;
    ensure!(
        answer.starts_with("OK ") && answer.ends_with("\nword"),
        "{answer:?}"
    );
    echo(open, 9, 10_000)
}

/// What was connected to the guest before is cut off; the next is reached by the same socket.
fn over_a_reset(vm: &Vm, socket: &Path) -> Result<()> {
    let mut before = connected(socket, ECHO)?;
    before.write_all(b"x")?;
    before.read_exact(&mut [0])?;
    vm.sh_last("reboot -f")?;
    let mut rest = Vec::new();
    let end = before.read_to_end(&mut rest);
    ensure!(rest.is_empty(), "{rest:?} after a reset: {end:?}");
    vm.wait_for_init(2)?;
    vm.sh_ok(&format!("vsock echo {ECHO} >/run/echo 2>&1 &"))?;
    vm.wait_until("the guest's echo", || {
        Ok(vm.sh_ok("cat /run/echo")? == "listens")
    })?;
    echo(connected(socket, ECHO)?, 11, 100_000)
}
