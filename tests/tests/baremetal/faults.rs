//! A host that has nothing left, stands still in places, or is asked for nonsense: a clear answer, nothing lost, and all as
//! before when it is over.

use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use hotvisor_tests::environment;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::api::VCPUS;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::guest::{Guest, Machine, test};
use crate::hotplug::guest::{Hotplug, plug, unplug};
use crate::lifecycle::Commands;
use crate::load;

/// Requests of any bytes, if nothing is said, and what says how many.
const REQUESTS: u32 = 3000;
const VARIABLE: &str = "HOTVISOR_REQUESTS";
/// Bytes of the longest: more than its head may have.
const LONGEST: usize = 64 << 10;
/// The most descriptors that the VMM leaves itself.
const MOST_FILES: u64 = 3072;
/// Standard input, output and error.
const STANDARD: usize = 3;
/// What a client waits for an answer that needs nobody who stands still.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("faults::no_descriptor_is_left", descriptors),
        test("faults::a_log_on_a_full_disk", full_log),
        test("faults::a_serial_port_on_a_full_disk", full_serial),
        test("faults::a_file_that_may_not_grow", no_file_grows),
        test("faults::the_api_stands_still", api_stands_still),
        test("faults::the_control_thread_stands_still", vmm_stands_still),
        test("faults::any_bytes_for_a_request", any_bytes),
    ]
}

/// How many descriptors the VMM may have from now on.
fn limit(guest: &Guest, files: usize) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(guest.vm().pid())?);
    let wanted = Rlimit {
        current: Some(files as u64),
        maximum: Some(MOST_FILES),
    };
    let set = prlimit(pid, Resource::Nofile, wanted);
    set.map(drop).context("cannot set its limit")
}

/// A new vCPU needs some, and so does a connection.
fn descriptors(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 4)?.boot()?;
    let connection = guest.vm().api().connect()?;
    let api = guest.vm().api().over(&connection);
    let before = api.get(VCPUS)?.body;
    let files = guest.vm().footprint()?.files;
    // Those that it has it keeps; a gap between them is no room either.
    limit(&guest, STANDARD)?;
    let answer = api.put(
        &format!("{VCPUS}/1?wait=20"),
        &json!({ "target": "online" }),
    )?;
    let detail = answer.body["vcpus"][0]["outcome"]["detail"].to_string();
    guest.ensure(
        answer.body["state"] == "failed"
            && detail.contains("Too many open files")
            && detail.contains("ulimit -n"),
        || format!("{answer:?}"),
    )?;
    // Somebody else waits meanwhile, and is served when there is room.
    let mut stream = load::connect(&guest)?;
    let waiter = thread::spawn(move || -> Result<String> {
        stream.write_all(b"GET /api/v1/vcpus HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        load::answer(&mut stream)
    });
    guest.expect("ping", "pong")?;
    let after = api.get(VCPUS)?.body;
    guest.ensure(after["plugged"] == before["plugged"], || format!("{after}"))?;
    limit(&guest, files + 64)?;
    let said = waiter
        .join()
        .map_err(|_| anyhow!("the waiter panicked"))??;
    guest.ensure(said.starts_with("HTTP/1.1 200 "), || said.clone())?;
    plug(&guest, 1, 1)?;
    unplug(&guest, 1)?;
    guest.power_off()
}

fn full_log(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 2)?;
    let guest = machine
        .with(|vm| vm.arg("-v").arg("--log-file").arg("/dev/full"))
        .boot()?;
    for starts in 1..3 {
        plug(&guest, 1, starts)?;
        unplug(&guest, 1)?;
    }
    guest.power_off()
}

fn full_serial(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 2)?;
    let guest = machine.with(|vm| vm.serial("file=/dev/full")).start()?;
    guest.wait_said("the guest runs")?;
    guest.wait_said("No space left on device")?;
    // It has said that it is ready, and nobody has heard it; it runs on.
    let info = guest.vm().api().get("/api/v1/vm.info")?.body;
    guest.ensure(info["state"] == "Running", || format!("{info}"))?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

/// What a guest writes may be limited by whoever starts its machine, and is no reason to end that.
fn no_file_grows(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 2)?;
    let (serial, log) = (machine.path("serial"), machine.path("log"));
    let guest = machine
        .with(|vm| vm.serial(format!("file={}", serial.display())))
        .with(|vm| vm.without_files().arg("-v"))
        .with(|vm| vm.arg("--log-file").arg(&log.display().to_string()))
        .start()?;
    guest.vm().wait_until("the guest to run", || {
        let info = guest.vm().api().get("/api/v1/vm.info");
        Ok(info.is_ok_and(|info| info.body["state"] == "Running"))
    })?;
    for desired in [2, 1] {
        let answer = guest
            .vm()
            .api()
            .put(VCPUS, &json!({ "desired": desired }))?;
        guest.ensure(answer.status < 300, || format!("{answer:?}"))?;
    }
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])?;
    for file in [serial, log] {
        let length = fs::metadata(&file)?.len();
        guest.ensure(length == 0, || {
            format!("{} has {length} bytes", file.display())
        })?;
    }
    Ok(())
}

/// The guest does not notice, and who asks is answered later.
fn api_stands_still(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 2)?.boot()?;
    let operation = guest.request(1, "online")?;
    let stopped = guest.vm().stop_thread("api")?;
    guest.obey_plug(1, 1)?;
    guest.expect("ping", "pong")?;
    stopped.release()?;
    guest.expect_state(&operation, "succeeded")?;
    unplug(&guest, 1)?;
    guest.power_off()
}

/// What is so can be read; what is to change waits.
fn vmm_stands_still(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 2)?.boot()?;
    let stopped = guest.vm().stop_thread("vmm")?;
    let mut stream = load::connect(&guest)?;
    let asker = thread::spawn(move || -> Result<String> {
        let body = r#"{"target":"online"}"#;
        let head = "PUT /api/v1/vcpus/1 HTTP/1.1\r\nhost: x\r\nconnection: close";
        let length = body.len();
        write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{body}")?;
        load::answer(&mut stream)
    });
    for _ in 0..20 {
        let begin = Instant::now();
        let answer = guest.vm().api().get(VCPUS)?;
        guest.ensure(answer.status == 200 && begin.elapsed() < AT_ONCE, || {
            format!("after {:?}: {answer:?}", begin.elapsed())
        })?;
    }
    guest.ensure(!asker.is_finished(), || {
        "a change without the control thread".into()
    })?;
    stopped.release()?;
    let answer = asker.join().map_err(|_| anyhow!("the asker panicked"))??;
    guest.ensure(answer.starts_with("HTTP/1.1 202 "), || answer.clone())?;
    guest.expect_phase(1, "announced")?;
    guest.obey_plug(1, 1)?;
    guest.expect_phase(1, "online")?;
    guest.power_off()
}

/// Requests as they should be, but for what is done to them. None of them has an answer without an end.
const GOOD: &[&str] = &[
    "GET /api/v1/vcpus HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET /api/v1/vcpus/1 HTTP/1.1\r\nhost: x\r\naccept: application/json\r\n\r\n",
    "GET /api/v1/operations?wait=0 HTTP/1.1\r\nhost: x\r\n\r\n",
    "DELETE /api/v1/operations/1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\nGET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n",
    "PUT /api/v1/vcpus HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
     content-length: 13\r\nidempotency-key: \"a\"\r\n\r\n{\"desired\":1}",
    "PUT /api/v1/vcpus HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
     d\r\n{\"online\":[0]}\r\n0\r\n\r\n",
    "PUT /api/v1/vm.resize HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
     content-length: 19\r\n\r\n{\"desired_vcpus\": 1}",
    "GET /api/v1/vm.info HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
];

/// Does something to a request.
fn spoil(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = random.choice(GOOD).unwrap_or(&GOOD[0]).as_bytes().to_vec();
    for _ in 0..random.u32(1..6) {
        let at = random.usize(..bytes.len());
        match random.u8(..7) {
            0 => bytes[at] = random.u8(..),
            1 => bytes.truncate(at.max(1)),
            2 => bytes.insert(at, random.u8(..)),
            3 => drop(bytes.remove(at)),
            4 => bytes[at] ^= 1 << random.u8(..8),
            5 => {
                let part = bytes[at..].to_vec();
                bytes.extend(part.repeat(random.usize(1..20)));
            }
            _ => {
                let other = random.choice(GOOD).unwrap_or(&GOOD[0]).as_bytes();
                let from = random.usize(..other.len());
                bytes.splice(at..at, other[from..].iter().copied());
            }
        }
        bytes.truncate(LONGEST);
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
    bytes
}

/// Each is answered or left, none by a mistake of ours, and they change nothing that they do not say.
fn any_bytes(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 2)?.boot()?;
    let before = guest.vm().footprint()?;
    let mut random = fastrand::Rng::with_seed(2012);
    let requests = environment::number(VARIABLE)?.unwrap_or(REQUESTS);
    let (mut answered, mut accepted) = (0, 0);
    for n in 0..requests {
        let bytes = spoil(&mut random);
        let request = || String::from_utf8_lossy(&bytes);
        let mut stream = load::connect(&guest)?;
        // It may be refused before all of it is there.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let said =
            load::answer(&mut stream).with_context(|| format!("request {n}: {:?}", request()))?;
        let good = said.is_empty() || said.starts_with("HTTP/1.");
        guest.ensure(good && !said.contains("HTTP/1.1 5"), || {
            format!("request {n}: {:?} was answered {said:?}", request())
        })?;
        answered += u32::from(!said.is_empty());
        // A change says where it is to be found, but for the one that is waited for and has no body.
        let changes = ["\r\nlocation: /api/v1/operations/", "HTTP/1.1 204"];
        accepted += changes
            .map(|mark| said.matches(mark).count() as u64)
            .iter()
            .sum::<u64>();
    }
    println!("{requests} requests, {answered} answers, {accepted} of them changes");
    guest.ensure(answered > requests / 2, || {
        format!("{answered} were answered")
    })?;
    let operations = guest.vm().api().get("/api/v1/operations")?.body;
    let operations = operations["operations"].as_array();
    let operations = operations.context("no operations")?;
    let last = operations
        .iter()
        .filter_map(|operation| operation["id"].as_u64());
    let last = last.max().unwrap_or_default();
    guest.ensure(last <= accepted, || {
        format!("{last} operations, and {accepted} requests were accepted")
    })?;
    guest.vm().wait_until("all connections to be closed", || {
        Ok(guest.vm().footprint()?.files <= before.files)
    })?;
    plug(&guest, 1, 1)?;
    unplug(&guest, 1)?;
    guest.power_off()
}
