//! A guest that does what no operating system would, while the host takes its CPUs and gives them back.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hotvisor_tests::environment;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::Answer;
use hotvisor_tests::vm::api::{Api, VCPUS};
use serde_json::json;

use crate::guest::{Guest, MEMORY, Machine, test};
use crate::lifecycle::Commands;
use crate::served;

/// Accesses in all, if nothing else is said.
const ACCESSES: u32 = 100_000;
/// Says how many, in place of [`ACCESSES`], of a test that has the machine to itself.
const VARIABLE: &str = "HOTVISOR_ACCESSES";
/// They are made in so many runs, each with another seed and another guest.
const SEEDS: u32 = 4;
/// How long a run may take: some microseconds for each exit, also where the guest is interpreted.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a client waits for an answer, 99 times of 100, at the most; and on a machine that has other tests to do meanwhile.
const P99: Duration = Duration::from_millis(10);
const P99_BESIDE_OTHERS: Duration = Duration::from_millis(50);
/// KiB by which the VMM's own memory may grow: a megabyte of serial output is kept for a reader, and there are threads.
const GROWTH: u64 = 4 << 10;
/// Bytes of the log that are the guest's doing.
const LOG: usize = 64 << 10;

/// How often it ends itself, and how often it resets.
const DEATHS: u32 = 4;
const RESETS: u32 = 300;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("hostile::any_access", accesses),
        test("hostile::it_ends_itself", end),
        test(
            "hostile::it_ends_itself_in_the_midst_of_hotplug",
            end_in_the_midst,
        ),
        test("hostile::it_resets_again_and_again", resets),
    ]
}

fn accesses(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 2, 8)?;
    let log = machine.path("log");
    let guest = machine
        .with(|vm| vm.arg("--log-file").arg(&log.display().to_string()))
        .boot()?;
    let (accesses, limit) = match environment::number(VARIABLE)? {
        Some(said) => (said, P99),
        None => (ACCESSES, P99_BESIDE_OTHERS),
    };
    let before = guest.vm().own_memory(MEMORY)?;
    let mut latencies = Vec::new();
    for seed in 1..=SEEDS {
        let from = guest.vm().console().length();
        guest.tell(&format!("hostile {seed} {}", accesses / SEEDS))?;
        disturb(&guest, from, &mut latencies)?;
        // Nothing that it has done is left in the next machine.
        guest.does("vm.reboot")?;
        guest.wait_ready()?;
    }
    latencies.sort();
    let p99 = latencies[latencies.len() * 99 / 100];
    println!(
        "{accesses} accesses, and {} answers meanwhile: median {:?}, p99 {p99:?}",
        latencies.len(),
        latencies[latencies.len() / 2]
    );
    guest.ensure(p99 < limit, || format!("the API's p99 is {p99:?}"))?;
    let now = guest.vm().own_memory(MEMORY)?;
    guest.ensure(now < before + GROWTH, || {
        format!("it had {before} KiB of its own before, and has {now}")
    })?;
    says_little(&guest, &log)?;
    works(&guest)?;
    guest.power_off()
}

/// What the log says of a guest has a limit, whatever that does.
fn says_little(guest: &Guest, log: &Path) -> Result<()> {
    let said = fs::read_to_string(log)?;
    let bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let bytes: usize = said.lines().filter(bad).map(str::len).sum();
    guest.ensure(bytes < LOG, || format!("{bytes} bytes of log:\n{said}"))
}

/// One request after the other: takes CPUs and gives them back, and reads.
fn request(api: &Api<'_>, n: u32) -> Result<Answer> {
    match n % 4 {
        0 => api.put(VCPUS, &json!({ "desired": n / 4 * 5 % 8 + 1 })),
        1 => api.put(
            &format!("{VCPUS}/{}", n / 4 % 7 + 1),
            &json!({ "target": "offline" }),
        ),
        _ => api.get(VCPUS),
    }
}

/// Asks as fast as it is answered until the guest is done; CPU 0 then still is.
fn disturb(guest: &Guest, from: usize, latencies: &mut Vec<Duration>) -> Result<()> {
    let connection = guest.vm().api().connect()?;
    let api = guest.vm().api().over(&connection);
    let deadline = Instant::now() + PATIENCE;
    for n in 0_u32.. {
        if guest.vm().console().text(from).contains("ok accesses=") {
            break;
        }
        guest.ensure(Instant::now() < deadline, || {
            "it does not come to an end".into()
        })?;
        let start = Instant::now();
        let answer = request(&api, n)?;
        latencies.push(start.elapsed());
        guest.ensure(answer.status < 500, || format!("{answer:?}"))?;
    }
    let said = guest.vm().console().text(from);
    guest.ensure(!said.contains("ok accesses=0"), || {
        "no access of eight bytes was made".into()
    })
}

/// Another guest in the same process has its CPUs come and go as ever.
fn works(guest: &Guest) -> Result<()> {
    let vcpus = guest.vm().api().vcpus()?.vcpus;
    for vcpu in vcpus
        .iter()
        .filter(|vcpu| vcpu.id > 0 && vcpu.phase == "plugged")
    {
        guest.start_cpu(vcpu.id, 1)?;
    }
    let answer = guest.ask("serve")?;
    guest.ensure(answer == "serving", || format!("`serve` gave {answer:?}"))?;
    for count in [8, 1, 2] {
        let body = json!({ "desired": count });
        let answer = guest.vm().api().put(&format!("{VCPUS}?wait=20"), &body)?;
        guest.ensure(answer.body["state"] == "succeeded", || {
            format!("{answer:?}")
        })?;
    }
    served::end(guest).map(drop)
}

/// After all that it did, its triple fault is the end, and is told as such.
fn end(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 4)?.boot()?;
    let from = guest.vm().console().length();
    guest.tell("hostile 7 2000")?;
    let found = guest.vm().wait_for("ok accesses=", from, PATIENCE);
    found.context("it does not come to an end")?;
    guest.tell("triple")?;
    guest.wait_code(3, &["vcpu-0: triple fault"])
}

/// Its triple fault comes while CPUs are plugged and unplugged, wherever they are then.
fn end_in_the_midst(context: &Context) -> Result<()> {
    for seed in 1..=DEATHS {
        let guest = Machine::new(context, 2, 8)?.boot()?;
        guest.tell(&format!("hostile {seed} {} triple", seed * 500))?;
        let connection = guest.vm().api().connect()?;
        let api = guest.vm().api().over(&connection);
        let deadline = Instant::now() + PATIENCE;
        // The last one may get no answer.
        let mut answers = (0..).map_while(|n| request(&api, n).ok());
        let refused = answers.find(|answer| answer.status >= 500 || Instant::now() > deadline);
        if let Some(answer) = refused {
            guest.ensure(answer.body["code"] == "gone", || format!("{answer:?}"))?;
        }
        guest.wait_code(3, &["vcpu-0: triple fault"])?;
    }
    Ok(())
}

/// A guest that scribbles, resets and scribbles again gets no more room in the log than one that only scribbles.
fn resets(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 2, 8)?;
    let log = machine.path("log");
    let guest = machine
        .with(|vm| vm.arg("--log-file").arg(&log.display().to_string()))
        .boot()?;
    let before = guest.vm().own_memory(MEMORY)?;
    for seed in 1..=RESETS {
        guest.tell(&format!("hostile {seed} 200 reset"))?;
        guest.wait_ready()?;
    }
    says_little(&guest, &log)?;
    let now = guest.vm().own_memory(MEMORY)?;
    guest.ensure(now < before + GROWTH, || {
        format!("it had {before} KiB of its own before, and has {now}")
    })?;
    works(&guest)?;
    guest.power_off()
}
