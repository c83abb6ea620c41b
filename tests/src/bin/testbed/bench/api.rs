//! What the API costs: how long reads take while CPUs come and go, and what it adds to an unplug.
//!
//! Measured on this machine's own KVM with the bare-metal guest, whose part of a plug or an unplug is a fraction of a
//! millisecond: what the API does shows.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hotvisor_tests::artifacts::Artifacts;
use hotvisor_tests::host::{self, Requirement};
use hotvisor_tests::process;
use hotvisor_tests::vm::{SOON, Vm};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde_json::{Value, json};

use super::stats::Stats;
use crate::progress::Step;

/// The guest as a file to boot.
const IMAGE: &[u8] = include_bytes!(env!("HOTVISOR_BAREMETAL_GUEST"));
/// Clients at the same time.
const CLIENTS: usize = 64;
/// How long each kind of clients asks.
const LENGTH: Duration = Duration::from_secs(10);
/// Without an answer for so long, a client was forgotten.
const SILENCE: Duration = Duration::from_secs(1);
/// How often a client that takes its time asks.
const PERIOD: Duration = Duration::from_millis(20);
/// What each of them asks.
const REQUEST: &[u8] = b"GET /api/v1/vcpus HTTP/1.1\r\nhost: x\r\n\r\n";
/// The path of a change that is waited for.
const CHANGE: &str = "/api/v1/vcpus?wait=20";

/// Boots, measures, and makes the table.
pub(super) fn table(unplugs: u32, ahead: bool) -> Result<String> {
    host::ensure(host::BAREMETAL)?;
    let artifacts = {
        let _step = Step::begin("building Hotvisor");
        Artifacts::prepare(&[])?
    };
    ensure!(
        Requirement::Protected32.met_here(&artifacts.hotvisor()),
        "these figures are of this machine's own KVM, and /dev/kvm cannot be opened"
    );
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("guest.elf");
    std::fs::write(&image, IMAGE)?;
    let vm = Vm::hotvisor(artifacts.hotvisor())
        .kernel(image)
        .cpus(2, 4)
        .memory(64)
        .start()?;
    let mut from = vm.wait_for("ready apic=0\n", 0, SOON)?.end;
    for (command, answer) in [("sipi 1", "alive"), ("serve", "serving\n")] {
        vm.send(format!("{command}\n").as_bytes())?;
        from = vm.wait_for(answer, from, SOON)?.end;
    }
    let added = {
        let _step = Step::begin(&format!("{unplugs} unplugs"));
        added(&vm, unplugs)?
    };
    let mut text = format!(
        "| {CLIENTS} clients that read `/api/v1/vcpus` while vCPUs are plugged and unplugged | median | p99 | answers a second | changes a second |\n\
         |---|---:|---:|---:|---:|\n"
    );
    for (name, period) in [
        (
            "each asks again as soon as it has its answer",
            Duration::ZERO,
        ),
        ("each asks 50 times a second", PERIOD),
    ] {
        let _step = Step::begin(name);
        // Those who ask without a pause would leave nothing to the guest.
        if ahead && !period.is_zero() {
            go_ahead(&vm)?;
        }
        let Load {
            median,
            p99,
            answers,
            changes,
        } = load(&vm, period)?;
        text +=
            &format!("| {name} | {median:.3} ms | {p99:.3} ms | {answers:.0} | {changes:.0} |\n");
    }
    text += &format!(
        "\n| unplug, median of {unplugs} | time |\n|---|---:|\n\
         | from its acceptance to its end | {:.3} ms |\n| what the API adds, until the answer is there | {:.3} ms |\n",
        added.own, added.api
    );
    // The guest takes commands again after any byte.
    vm.send(b"\n")?;
    vm.wait_for("ok events=", from, SOON)?;
    vm.send(b"off 5\n")?;
    vm.wait_success(SOON)?;
    Ok(text)
}

/// Has the threads that answer, and those that ask, run ahead of all others of this machine.
fn go_ahead(vm: &Vm) -> Result<()> {
    let fifo = |thread: u32| {
        let options = ["--all-tasks", "--fifo", "--pid", "50"];
        let options = match thread == std::process::id() {
            true => &options[..],
            false => &options[1..],
        };
        process::output(Command::new("chrt").args(options).arg(thread.to_string()))
    };
    for thread in vm.threads()? {
        if ["api", "vmm"].contains(&&*thread.name) {
            fifo(thread.id)?;
        }
    }
    fifo(std::process::id())?;
    Ok(())
}

/// Milliseconds.
struct Added {
    own: f64,
    api: f64,
}

/// Unplugs and plugs a vCPU, and compares what a client sees with what the operation says of itself.
fn added(vm: &Vm, unplugs: u32) -> Result<Added> {
    let connection = vm.api().connect()?;
    let api = vm.api().over(&connection);
    let (mut own, mut rest) = (Vec::new(), Vec::new());
    for _ in 0..unplugs {
        let begin = Instant::now();
        let answer = api.put(CHANGE, &json!({ "desired": 1 }))?;
        let seen = begin.elapsed().as_secs_f64() * 1e3;
        ensure!(answer.body["state"] == "succeeded", "{answer:?}");
        let took = took(&answer.body).with_context(|| format!("no times in {answer:?}"))?;
        own.push(took);
        rest.push(seen - took);
        let answer = api.put(CHANGE, &json!({ "desired": 2 }))?;
        ensure!(answer.body["state"] == "succeeded", "{answer:?}");
    }
    Ok(Added {
        own: median(&own)?,
        api: median(&rest)?,
    })
}

fn median(values: &[f64]) -> Result<f64> {
    let stats = Stats::of(values).context("nothing was measured")?;
    Ok(stats.percentile(50))
}

/// Milliseconds from an operation's acceptance to its end.
fn took(operation: &Value) -> Option<f64> {
    let at = |name: &str| humantime::parse_rfc3339(operation[name].as_str()?).ok();
    let took = at("ended_at")?.duration_since(at("created_at")?).ok()?;
    Some(took.as_secs_f64() * 1e3)
}

/// What many clients saw: milliseconds, and numbers for each second.
struct Load {
    median: f64,
    p99: f64,
    answers: f64,
    changes: f64,
}

fn load(vm: &Vm, period: Duration) -> Result<Load> {
    let over = AtomicBool::new(false);
    let (times, changes) = std::thread::scope(|scope| {
        let changer = scope.spawn(|| change(vm, &over));
        let times = ask(&vm.api_socket(), period);
        over.store(true, Ordering::Relaxed);
        let changes = changer
            .join()
            .map_err(|_| anyhow!("the changer panicked"))??;
        Ok::<_, anyhow::Error>((times?, changes))
    })?;
    let seconds = LENGTH.as_secs_f64();
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let stats = Stats::of(&times).context("nothing was answered")?;
    Ok(Load {
        median: stats.percentile(50),
        p99: stats.percentile(99),
        answers: f64::from(u32::try_from(stats.count())?) / seconds,
        changes: f64::from(changes) / seconds,
    })
}

/// Has vCPUs plugged and unplugged, one change after the other; returns how many changes there were.
fn change(vm: &Vm, over: &AtomicBool) -> Result<u32> {
    let connection = vm.api().connect()?;
    let api = vm.api().over(&connection);
    let mut changes = 0;
    while !over.load(Ordering::Relaxed) {
        for count in [4, 2] {
            let answer = api.put(CHANGE, &json!({ "desired": count }))?;
            ensure!(answer.body["state"] == "succeeded", "{answer:?}");
            changes += 1;
        }
    }
    Ok(changes)
}

/// One client, with at most one request that is not answered.
struct Client {
    stream: UnixStream,
    /// When it sent the request that it waits for.
    sent: Option<Instant>,
    /// When it asks next.
    due: Instant,
    /// It had to wait for an answer until after that: what it asks then is measured from when it was due, or a long wait
    /// would count once, for many that it kept from being asked.
    late: bool,
    read: Vec<u8>,
}

/// Has all clients ask for some time; returns how long each answer took. One thread, so that the clients take as
/// little as can be of the time that they measure.
fn ask(socket: &Path, period: Duration) -> Result<Vec<Duration>> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let begin = Instant::now();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let stream = UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, n as u64))?;
        // Spread over the first period, as clients that know nothing of each other are.
        let due = begin + period * u32::try_from(n)? / u32::try_from(CLIENTS)?;
        clients.push(Client {
            stream,
            sent: None,
            due,
            late: false,
            read: Vec::new(),
        });
    }
    let mut times = Vec::new();
    let mut events = [EpollEvent::empty(); CLIENTS];
    while begin.elapsed() < LENGTH {
        let now = Instant::now();
        let mut next = now + SOON;
        for client in clients.iter_mut().filter(|client| client.sent.is_none()) {
            if client.due <= now {
                client.ask()?;
            } else {
                next = next.min(client.due);
            }
        }
        // Rounded up: a request that is sent a little later is measured from then, and to look again and again
        // would take the time that is measured.
        let left = next.saturating_duration_since(Instant::now()).as_millis() + 1;
        let timeout = EpollTimeout::try_from(i32::try_from(left)?)?;
        let ready = epoll.wait(&mut events, timeout)?;
        for event in &events[..ready] {
            let client = clients.get_mut(usize::try_from(event.data())?);
            let client = client.context("an event of nobody")?;
            if let Some(time) = client.take()? {
                times.push(time);
                client.due += period;
                client.late = !period.is_zero() && client.due < Instant::now();
            }
        }
    }
    // An answer that never comes is none of those that are counted above.
    let now = Instant::now();
    let waits = clients.iter().filter_map(|client| client.sent);
    let longest = waits.map(|sent| now - sent).max().unwrap_or_default();
    ensure!(
        longest < SILENCE,
        "a client has had no answer for {longest:?}"
    );
    Ok(times)
}

impl Client {
    fn ask(&mut self) -> Result<()> {
        self.sent = Some(if self.late { self.due } else { Instant::now() });
        self.stream.write_all(REQUEST)?;
        Ok(())
    }

    /// Takes what has come; returns how long the answer took if it is whole now.
    fn take(&mut self) -> Result<Option<Duration>> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(anyhow!("the API closed a connection")),
                Ok(length) => self.read.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if self.is_whole()? {
                self.read.clear();
                return Ok(self.sent.take().map(|sent| sent.elapsed()));
            }
        }
        Ok(None)
    }

    fn is_whole(&self) -> Result<bool> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(start) = head.parse(&self.read)? else {
            return Ok(false);
        };
        ensure!(head.code == Some(200), "the API answered {:?}", head.code);
        let length = head
            .headers
            .iter()
            .find(|header| header.name == "content-length");
        let length = length.context("an answer without a length")?.value;
        let length: usize = std::str::from_utf8(length)?.parse()?;
        Ok(self.read.len() >= start + length)
    }
}
