//! More clients than anybody needs, and rude ones: each gets a clear answer, and the machine does not notice.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::SOON;
use hotvisor_tests::vm::api::VCPUS;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::guest::{Guest, MEMORY, Machine, test};
use crate::hotplug::guest::Hotplug;
use crate::served;

/// Idle connections.
const CROWD: usize = 1000;
/// Connections that wait for the same operation.
const WAITERS: usize = 64;
/// Bytes of a body that nobody wants.
const BODY: usize = 100 << 20;
/// KiB that the VMM's own memory may vary by.
const SLACK: u64 = 512;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("load::a_thousand_idle_connections", crowd),
        test("load::many_wait_for_one_operation", waiters),
        test("load::a_body_of_100_mib", body),
        test("load::who_leaves_while_waiting", leavers),
        test("load::two_writers", writers),
    ]
}

fn machine(context: &Context) -> Result<Guest> {
    served::boot(Machine::new(context, 2, 4)?, 2)
}

/// CPUs come and go as ever.
fn works(guest: &Guest) -> Result<()> {
    for count in [4, 1, 2] {
        let path = format!("{VCPUS}?wait=20");
        let answer = guest.vm().api().put(&path, &json!({ "desired": count }))?;
        guest.ensure(answer.body["state"] == "succeeded", || {
            format!("{answer:?}")
        })?;
    }
    Ok(())
}

/// Ends well, with nothing left of those who came.
fn end(guest: &Guest) -> Result<()> {
    works(guest)?;
    served::end(guest)?;
    guest.power_off()
}

pub(crate) fn connect(guest: &Guest) -> Result<UnixStream> {
    let stream = UnixStream::connect(guest.vm().api_socket())?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

/// The first line of what comes, and all that comes until the other end closes.
pub(crate) fn answer(stream: &mut UnixStream) -> Result<String> {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        // Closed with bytes of ours unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error.into()),
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// They make room for whoever has something to ask.
fn crowd(context: &Context) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let guest = machine(context)?;
    works(&guest)?;
    let before = guest.vm().own_memory(MEMORY)?;
    let mut all = Vec::new();
    for _ in 0..CROWD {
        all.push(connect(&guest)?);
    }
    works(&guest)?;
    let files = guest.vm().footprint()?.files;
    guest.ensure(files < 200, || format!("it has {files} descriptors open"))?;
    let now = guest.vm().own_memory(MEMORY)?;
    guest.ensure(now < before + 8 * SLACK, || {
        format!("it had {before} KiB of its own before, and has {now}")
    })?;
    // Those that came first had to leave, and learn it.
    let early = answer(&mut all[0])?;
    guest.ensure(early.is_empty(), || {
        format!("an idle connection got {early:?}")
    })?;
    drop(all);
    end(&guest)
}

/// All of them get its end, and others are answered while they wait.
fn waiters(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 4)?.boot()?;
    guest.start_cpu(1, 1)?;
    // The guest does not look yet.
    let operation = guest.put("/api/v1/vcpus/1", &json!({ "target": "offline" }))?;
    let request = format!(
        "GET /api/v1/operations/{}?wait=60 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        operation["id"]
    );
    let mut all = Vec::new();
    for _ in 0..WAITERS {
        let mut stream = connect(&guest)?;
        stream.write_all(request.as_bytes())?;
        all.push(stream);
    }
    let seen = guest.vm().api().get(VCPUS)?;
    guest.ensure(seen.status == 200, || format!("{seen:?}"))?;
    let serving = guest.ask("serve")?;
    guest.ensure(serving == "serving", || serving.clone())?;
    for stream in &mut all {
        let answer = answer(stream)?;
        guest.ensure(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""state":"succeeded""#),
            || answer.clone(),
        )?;
    }
    end(&guest)
}

/// It is refused before it is there, takes no memory, and CPUs come and go meanwhile.
fn body(context: &Context) -> Result<()> {
    let guest = machine(context)?;
    works(&guest)?;
    let before = guest.vm().own_memory(MEMORY)?;
    let chunk = [b' '; 64 << 10];
    let heads = [
        format!("content-length: {BODY}"),
        "transfer-encoding: chunked".to_owned(),
    ];
    for head in heads {
        let mut stream = connect(&guest)?;
        let line = format!("PUT {VCPUS} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
        stream.write_all(line.as_bytes())?;
        let mut sender = stream.try_clone()?;
        let chunked = head.ends_with("chunked");
        let sending = thread::spawn(move || {
            let mut sent = 0;
            while sent < BODY {
                let begun = !chunked || sender.write_all(b"10000\r\n").is_ok();
                if !begun || sender.write_all(&chunk).is_err() {
                    break;
                }
                let ended = !chunked || sender.write_all(b"\r\n").is_ok();
                sent += chunk.len();
                if !ended {
                    break;
                }
            }
            sent
        });
        works(&guest)?;
        let answer = answer(&mut stream)?;
        guest.ensure(
            answer.starts_with("HTTP/1.1 413 ") && answer.contains(r#""code":"large""#),
            || format!("{head}: {answer:?}"),
        )?;
        let sent = sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        guest.ensure(sent < BODY, || {
            format!("all of the {sent} bytes were taken")
        })?;
    }
    let now = guest.vm().own_memory(MEMORY)?;
    guest.ensure(now < before + SLACK, || {
        format!("it had {before} KiB of its own before, and has {now}")
    })?;
    end(&guest)
}

/// The operation goes on without them, and nothing of them stays.
fn leavers(context: &Context) -> Result<()> {
    const ROUNDS: usize = 50;
    let guest = machine(context)?;
    works(&guest)?;
    let before = guest.vm().footprint()?;
    for round in 0..ROUNDS {
        let count = [4, 1][round % 2];
        let body = json!({ "desired": count }).to_string();
        let mut stream = connect(&guest)?;
        let head = format!(
            "PUT {VCPUS}?wait=60 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        if round % 3 == 0 {
            stream.shutdown(Shutdown::Write)?;
        }
    }
    guest.vm().wait_until("all operations to end", || {
        let answer = guest.vm().api().get("/api/v1/operations")?;
        let operations = answer.body["operations"]
            .as_array()
            .context("no list")?
            .clone();
        let ended = |operation: &Value| operation["state"] != "running";
        Ok(operations.len() >= ROUNDS && operations.iter().all(ended))
    })?;
    works(&guest)?;
    guest
        .vm()
        .wait_until("its descriptors to be as before", || {
            Ok(guest.vm().footprint()?.files <= before.files)
        })?;
    end(&guest)
}

/// Whoever wanted something else later wins; each learns what became of its own.
fn writers(context: &Context) -> Result<()> {
    const ROUNDS: u32 = 100;
    let guest = machine(context)?;
    let vm = guest.vm();
    let write = |counts: [u32; 2]| -> Result<()> {
        let api = vm.api();
        let connection = api.connect()?;
        let api = api.over(&connection);
        for round in 0..ROUNDS {
            let count = counts[round as usize % 2];
            let body = json!({ "desired": count });
            let answer = api.put(&format!("{VCPUS}?wait=20"), &body)?;
            let state = answer.body["state"].as_str().unwrap_or_default().to_owned();
            ensure!(
                answer.status == 200 && ["succeeded", "superseded"].contains(&&*state),
                "{body}: {answer:?}"
            );
        }
        Ok(())
    };
    thread::scope(|scope| {
        let one = scope.spawn(|| write([4, 1]));
        let other = scope.spawn(|| write([2, 3]));
        let done = |writer: thread::ScopedJoinHandle<'_, Result<()>>| {
            writer.join().map_err(|_| anyhow!("a writer panicked"))?
        };
        done(one).and(done(other))
    })
    .with_context(|| guest.vm().evidence("two writers"))?;
    guest
        .vm()
        .wait_until("as many as were asked for last", || {
            let answer = guest.vm().api().get(VCPUS)?;
            Ok(answer.body["online"] == answer.body["desired"])
        })?;
    end(&guest)
}
