//! Where the serial port can lead, and readers and writers that are slow, late or gone.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::{Console, SOON};
use nix::fcntl::{FcntlArg, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use crate::guest::{Guest, IMAGE, Machine, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("console::file", file),
        test("console::socket", socket),
        test("console::socket_that_is_stale", stale_socket),
        test("console::client_that_leaves_early", early_leaver),
        test("console::null_and_off", null_and_off),
        test("console::input_longer_than_the_fifo", long_input),
        test("console::input_at_its_end", input_at_its_end),
        test("console::reader_that_stalls", stalled_reader),
        test("console::reader_that_goes_away", reader_gone),
        test("console::nobody_reads_our_messages", messages_unread),
        test("console::messages_over_a_socket", messages_over_socket),
        test("console::terminal_is_raw_and_restored", terminal),
    ]
}

fn file(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let path = machine.path("console");
    let spelled = format!("file={}", path.display());
    let guest = machine.with(|vm| vm.serial(spelled)).start()?;
    // The guest has said what it had to say, and halts by polling for input that never comes.
    wait_until(&guest, || {
        Ok(fs::read_to_string(&path).is_ok_and(|text| text == "ready apic=0\n"))
    })?;
    end_by_signals(&guest)
}

/// A client of a serial port's socket.
struct Client(UnixStream);

impl Client {
    fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(Self(stream))
    }

    /// Reads as many bytes as `wanted` has, which must be those.
    fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut bytes = vec![0; wanted.len()];
        self.0
            .read_exact(&mut bytes)
            .with_context(|| format!("waiting for {wanted:?}"))?;
        let found = String::from_utf8_lossy(&bytes).into_owned();
        ensure!(found == wanted, "{found:?} instead of {wanted:?}");
        Ok(())
    }
}

fn socket_machine(context: &Context) -> Result<(Machine, std::path::PathBuf)> {
    let machine = Machine::new(context, 1, 1)?;
    let path = machine.path("console");
    let spelled = format!("socket={}", path.display());
    Ok((machine.with(|vm| vm.serial(spelled)), path))
}

fn socket(context: &Context) -> Result<()> {
    let (machine, path) = socket_machine(context)?;
    let guest = machine.start()?;
    let mut first = connect(&guest, &path)?;
    // What was said before anybody listened is not lost.
    first.expect("ready apic=0\n")?;
    first.0.write_all(b"ping\n")?;
    first.expect("ok pong\n")?;
    // A second client is turned away while there is a first one.
    let mut second = Client::connect(&path)?;
    ensure!(
        second.0.read(&mut [0])? == 0,
        "the second client was not turned away"
    );
    first.0.write_all(b"ping\n")?;
    first.expect("ok pong\n")?;
    // The guest answers into a socket that nobody holds; the next client gets the answer.
    first.0.write_all(b"ping\n")?;
    drop(first);
    let mut third = reconnect(&guest, &path)?;
    third.0.write_all(b"off 5\n")?;
    guest.wait_code(0, &[])?;
    ensure!(!path.exists(), "the socket was left behind");
    Ok(())
}

/// Connects as soon as somebody listens, which is a moment after the socket has its name.
fn connect(guest: &Guest, path: &Path) -> Result<Client> {
    let mut client = None;
    wait_until(guest, || {
        client = Client::connect(path).ok();
        Ok(client.is_some())
    })?;
    client.context("nobody listens")
}

/// Connects as soon as the VMM has noticed that the client before is gone.
fn reconnect(guest: &Guest, path: &Path) -> Result<Client> {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        // A stale socket refuses; a client too many is turned away, and reads an end.
        let Ok(mut client) = Client::connect(path) else {
            std::thread::yield_now();
            continue;
        };
        client.0.write_all(b"ping\n").ok();
        if client.0.read(&mut [0]).is_ok_and(|n| n > 0) {
            return Ok(client);
        }
    }
    bail!(
        guest
            .vm()
            .evidence("no client is served after the first one went")
    )
}

/// A client that sends more than the guest takes, and leaves: the next one is served all the same.
fn early_leaver(context: &Context) -> Result<()> {
    let (machine, path) = socket_machine(context)?;
    let guest = machine.start()?;
    let mut first = connect(&guest, &path)?;
    first.expect("ready apic=0\n")?;
    // The guest is deaf from here on, and its FIFO holds 16 bytes or 64.
    first.0.write_all(b"hltloop\n")?;
    first.0.write_all(&[b'x'; 3000])?;
    drop(first);
    // There is nothing to read any more, so being served shows in not being turned away.
    let deadline = Instant::now() + SOON;
    loop {
        let mut next = Client::connect(&path)?;
        next.0.set_read_timeout(Some(Duration::from_millis(200)))?;
        match next.0.read(&mut [0]) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
            _ => ensure!(
                Instant::now() < deadline,
                "every later client is turned away"
            ),
        }
    }
    end_by_signals(&guest)
}

fn stale_socket(context: &Context) -> Result<()> {
    let (machine, path) = socket_machine(context)?;
    // Bound and closed: the name stays, and nobody listens.
    drop(UnixListener::bind(&path)?);
    let guest = machine.start()?;
    let mut client = reconnect(&guest, &path)?;
    client.0.write_all(b"off 5\n")?;
    guest.wait_code(0, &[])
}

fn null_and_off(context: &Context) -> Result<()> {
    for kind in ["null", "off"] {
        let guest = Machine::new(context, 1, 1)?
            .with(|vm| vm.serial(kind))
            .start()?;
        end_by_signals(&guest)?;
        ensure!(
            guest.vm().console().length() == 0,
            "--serial {kind} wrote something"
        );
    }
    Ok(())
}

/// Lines that together are many times the FIFO and the pipe of the VMM.
fn long_input(context: &Context) -> Result<()> {
    const LINES: usize = 4_000;
    let guest = Machine::new(context, 1, 1)?.boot()?;
    let start = guest.vm().console().length();
    let vm = guest.vm();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| vm.send("ping\n".repeat(LINES).as_bytes()));
        let wanted = "ok pong\n".repeat(LINES);
        let found = vm.wait_for(&wanted, start, SOON * 4);
        writer.join().ok().context("the writer panicked")??;
        found.map(|_| ())
    })?;
    guest.power_off()
}

/// `hotvisor run … < FILE`: a regular file cannot be watched, and its end is not the guest's.
fn input_at_its_end(context: &Context) -> Result<()> {
    let mut piped = Piped::start(context, b"ping\ncmdline\noff 5\n")?;
    let output = piped.output_until_end()?;
    ensure!(
        output.starts_with("ready apic=0\nok pong\nok"),
        "{output:?}"
    );
    Ok(())
}

/// A VMM with its input in a file and its output in a pipe that we read or do not read.
struct Piped {
    child: Child,
    _folder: tempfile::TempDir,
}

/// The VMM, to be started with the guest, which is written to this folder.
fn run(context: &Context, folder: &Path) -> Result<Command> {
    let image = folder.join("guest.elf");
    fs::write(&image, IMAGE)?;
    let mut command = Command::new(context.artifacts.hotvisor());
    command
        .args(["run", "--memory", "size=64M", "--kernel"])
        .arg(image);
    Ok(command)
}

impl Piped {
    fn start(context: &Context, input: &[u8]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let commands = folder.path().join("input");
        fs::write(&commands, input)?;
        let child = run(context, folder.path())?
            .stdin(File::open(commands)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            child,
            _folder: folder,
        })
    }

    /// Reads everything; the VMM must have ended well.
    fn output_until_end(&mut self) -> Result<String> {
        let mut text = String::new();
        let stdout = self.child.stdout.as_mut().context("no pipe")?;
        stdout.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}, after {text:?}");
        Ok(text)
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guest says more than a pipe holds while nobody reads, and goes on all the same; nothing is lost.
fn stalled_reader(context: &Context) -> Result<()> {
    const LINES: usize = 2_000;
    let input = "ping\n".repeat(LINES) + "off 5\n";
    let mut piped = Piped::start(context, input.as_bytes())?;
    // A page instead of 64 KiB, so that not so many lines are needed.
    let pipe = piped.child.stdout.as_ref().context("no pipe")?;
    fcntl(pipe, FcntlArg::F_SETPIPE_SZ(4096))?;
    // It has taken all of its input when the file's offset stands at the end.
    let fdinfo = format!("/proc/{}/fdinfo/0", piped.child.id());
    let offset = format!("pos:\t{}\n", input.len());
    let deadline = Instant::now() + SOON;
    while !fs::read_to_string(&fdinfo)?.starts_with(&offset) {
        ensure!(Instant::now() < deadline, "the guest waits for its reader");
        std::thread::yield_now();
    }
    let lines = piped.output_until_end()?.matches("ok pong\n").count();
    ensure!(lines == LINES, "{lines} of {LINES} lines arrived");
    Ok(())
}

/// Signals until the process has ended.
fn end_process(child: &mut Child, pid: Pid) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while child.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "two signals did not end the VMM");
        kill(pid, Signal::SIGTERM)?;
        std::thread::yield_now();
    }
    Ok(())
}

/// A closed pipe costs the guest its console and nothing else.
fn reader_gone(context: &Context) -> Result<()> {
    let input = "ping\n".repeat(1000) + "off 5\n";
    let mut piped = Piped::start(context, input.as_bytes())?;
    drop(piped.child.stdout.take());
    let status = piped.child.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Whoever started us closed both ends that we write to; the guest provokes messages and goes on.
fn messages_unread(context: &Context) -> Result<()> {
    let input = "out8 0x600 0x20\nout16 0x600 7\n".repeat(20) + "off 5\n";
    let mut piped = Piped::start(context, input.as_bytes())?;
    drop((piped.child.stdout.take(), piped.child.stderr.take()));
    let status = piped.child.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// As where systemd has taken standard error for its journal. The last message is the first thread's.
fn messages_over_socket(context: &Context) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let folder = tempfile::tempdir()?;
    let mut child = run(context, folder.path())?
        .arg("-v")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let input = child.stdin.take().context("no input")?;
    (&input).write_all(b"off 5\n")?;
    ours.set_read_timeout(Some(SOON))?;
    let mut said = String::new();
    (&ours).read_to_string(&mut said)?;
    let status = child.wait()?;
    ensure!(
        status.success() && said.contains("the guest powered off"),
        "{status}: {said}"
    );
    Ok(())
}

/// In raw mode while the guest runs, and as it was before when the VMM has ended, however it does.
fn terminal(context: &Context) -> Result<()> {
    let ways = [
        ("off 5\n", 0),
        ("triple\n", 3),
        ("", 6),
        // As a forbidden system call does.
        ("SIGSYS", 128 + Signal::SIGSYS as i32),
    ];
    for (how, code) in ways {
        let pty = openpty(None, None)?;
        let before = tcgetattr(&pty.slave)?;
        ensure!(is_cooked(&before), "a new terminal is not as expected");
        let folder = tempfile::tempdir()?;
        let mut child = run(context, folder.path())?
            .stdin(pty.slave.try_clone()?)
            .stdout(pty.slave.try_clone()?)
            .stderr(Stdio::null())
            .spawn()?;
        let console = Console::collect("pty", File::from(pty.master.try_clone()?))?;
        let ready = console.wait_for("ready apic=0", 0, Instant::now() + SOON);
        let during = tcgetattr(&pty.slave)?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        match how {
            "" => end_process(&mut child, pid)?,
            "SIGSYS" => kill(pid, Signal::SIGSYS)?,
            _ => File::from(pty.master.try_clone()?).write_all(how.as_bytes())?,
        }
        let status = child.wait()?;
        ready.map_err(|why| anyhow::anyhow!("the guest did not come up: {why}"))?;
        ensure!(
            !is_cooked(&during),
            "the terminal was not raw while the guest ran"
        );
        ensure!(
            tcgetattr(&pty.slave)? == before,
            "the terminal was not restored after {how:?}"
        );
        ensure!(status.code() == Some(code), "{how:?} ended with {status}");
    }
    Ok(())
}

fn is_cooked(termios: &Termios) -> bool {
    termios
        .local_flags
        .contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
}

/// Ends a guest that cannot be spoken to.
fn end_by_signals(guest: &Guest) -> Result<()> {
    guest.wait_said("the guest runs")?;
    guest.press_power_button()?;
    guest.vm().signal(Signal::SIGTERM)?;
    guest.wait_code(6, &["ended before the guest had powered off"])
}

/// Waits for something that no event tells of.
fn wait_until(guest: &Guest, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !holds()? {
        guest.ensure(Instant::now() < deadline, || {
            "it did not come about".to_owned()
        })?;
        // A file or a socket appears when the VMM is up; there is no event to wait for.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(())
}
