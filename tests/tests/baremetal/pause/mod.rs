//! A machine stands still, and goes on as if nothing had been.

mod phases;
mod time;

use anyhow::Result;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::api::{PAUSE, RESUME};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::end::{ENDED_EARLY, TRIPLE_FAULT};
use crate::guest::{Guest, test};
use crate::hotplug::guest::{Hotplug, machine};

pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![
        test("pause::the_guest_stands_still_and_goes_on", stands_still),
        test("pause::no_access_is_lost_or_done_twice", accesses),
        test("pause::many_cpus_hold_and_go_on", many),
        test("pause::a_cpu_that_waits_for_its_start_holds", not_started),
        test("pause::a_start_between_init_and_sipi_is_seen", starting),
        test("pause::what_is_so_already_is_refused", refused),
        test("pause::two_at_once", two_at_once),
        test("pause::a_guest_that_resets_starts_again_held", reset),
        test("pause::a_guest_that_powers_off_ends", power_off),
        test("pause::a_triple_fault_ends_it", triple_fault),
        test("pause::sigterm_wakes_it_for_its_power_button", sigterm),
        test("pause::sigterm_twice_ends_it", sigterm_twice),
    ];
    tests.extend(phases::tests());
    tests.extend(time::tests());
    tests
}

/// What this suite does with a guest.
trait Pause {
    fn pause(&self) -> Result<()>;
    fn resume(&self) -> Result<()>;
    fn expect_refusal(&self, path: &str, words: &str) -> Result<()>;
    fn is_out_of_guest(&self) -> Result<bool>;
}

impl Pause for Guest {
    fn pause(&self) -> Result<()> {
        self.vm().api().pause()
    }

    fn resume(&self) -> Result<()> {
        self.vm().api().resume()
    }

    /// In the manner of Cloud Hypervisor: a list of sentences.
    fn expect_refusal(&self, path: &str, words: &str) -> Result<()> {
        let answer = self.vm().api().act(path)?;
        let last = answer.body.as_array().and_then(|said| said.last());
        let said = last.and_then(|last| last.as_str()).unwrap_or_default();
        self.ensure(answer.status == 405 && said.contains(words), || {
            format!(
                "{path} gave {} {}, and not 405 {words}",
                answer.status, answer.body
            )
        })
    }

    /// No vCPU's thread runs the guest.
    fn is_out_of_guest(&self) -> Result<bool> {
        let threads = self.vm().threads()?;
        let mut vcpus = threads.iter().filter(|t| t.name.starts_with("vcpu-"));
        Ok(!vcpus.any(hotvisor_tests::vm::Thread::is_in_guest))
    }
}

/// How long the thread of a CPU has run, in microseconds.
fn run_time(guest: &Guest, cpu: u32) -> Result<serde_json::Value> {
    Ok(guest.vcpu(cpu)?["run_time_us"].clone())
}

fn stands_still(context: &Context) -> Result<()> {
    let guest = machine(context, 3, 4)?.boot()?;
    for (cpu, mode) in [(1, "spin"), (2, "hlt")] {
        guest.start_cpu(cpu, 1)?;
        guest.expect(&format!("ap {cpu} {mode}"), "")?;
    }
    for _ in 0..3 {
        guest.pause()?;
        // Who has said that it holds may still be about to lie down.
        let out = || guest.is_out_of_guest();
        guest.vm().wait_until("every vCPU to hold", out)?;
        let read = |cpu| run_time(&guest, cpu);
        let before = [read(0)?, read(1)?, read(2)?];
        let said = guest.vm().console().length();
        guest.tell("ping")?;
        // The answer would be there long before these are.
        for _ in 0..50 {
            let now = [read(0)?, read(1)?, read(2)?];
            guest.ensure(now == before, || format!("{before:?} has become {now:?}"))?;
        }
        guest.ensure(guest.vm().console().length() == said, || {
            "the guest has said something".into()
        })?;
        guest.resume()?;
        let answer = guest.line()?;
        guest.ensure(answer == "ok pong", || format!("gave {answer:?}"))?;
        guest
            .vm()
            .wait_until("the CPU to spin on", || Ok(read(1)? != before[1]))?;
    }
    guest.expect("ap 1 idle", "")?;
    guest.power_off()
}

/// Pauses come anywhere into commands, each byte of which the guest reads from a register that a read changes, and
/// each byte of whose answer it writes to one.
fn accesses(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for n in 0..200_u32 {
        let value = n.wrapping_mul(0x0101_0101);
        guest.tell(&format!("on {} wr32 0x200000 {value:#x}", n % 2))?;
        guest.pause()?;
        guest.resume()?;
        let answer = guest.line()?;
        guest.ensure(answer == "ok", || format!("gave {answer:?}"))?;
        guest.tell("rd32 0x200000")?;
        guest.pause()?;
        guest.resume()?;
        let answer = guest.line()?;
        guest.ensure(answer == format!("ok {value:#x}"), || {
            format!("gave {answer:?}")
        })?;
    }
    guest.power_off()
}

fn many(context: &Context) -> Result<()> {
    const CPUS: u32 = 32;
    let guest = machine(context, CPUS, 2 * CPUS)?.boot()?;
    let modes = ["idle", "hlt", "dead", "count"];
    for (cpu, mode) in (1..CPUS / 2).zip(modes.iter().cycle()) {
        guest.start_cpu(cpu, 1)?;
        // Two that never leave the guest by themselves are enough for the host.
        let mode = if cpu > 8 && *mode == "count" {
            "idle"
        } else {
            mode
        };
        guest.expect(&format!("ap {cpu} {mode}"), "")?;
    }
    for _ in 0..20 {
        guest.pause()?;
        guest
            .vm()
            .wait_until("every vCPU to hold", || guest.is_out_of_guest())?;
        guest.resume()?;
        guest.expect("on 1 in8 0x1234", "0xff")?;
    }
    for cpu in CPUS / 2..CPUS {
        guest.start_cpu(cpu, 1)?;
    }
    guest.power_off()
}

fn not_started(context: &Context) -> Result<()> {
    let guest = machine(context, 3, 3)?.boot()?;
    for _ in 0..10 {
        guest.pause()?;
        guest.resume()?;
    }
    for cpu in [1, 2] {
        guest.start_cpu(cpu, 1)?;
        guest.expect_phase(cpu, "online")?;
    }
    guest.power_off()
}

/// KVM says of a start only what no kick talks over, so pauses come at every moment of many.
fn starting(context: &Context) -> Result<()> {
    const CPUS: u32 = 16;
    let guest = machine(context, CPUS, CPUS)?.boot()?;
    for _ in 0..20 {
        let lines: Vec<String> = (1..CPUS).map(|cpu| format!("sipi {cpu}")).collect();
        guest.tell(&lines.join("\n"))?;
        for cpu in 1..CPUS {
            guest.pause()?;
            guest.resume()?;
            let answer = guest.line()?;
            let wanted = format!("ok {cpu} alive apic={cpu} starts=1 beats=0");
            guest.ensure(answer == wanted, || format!("gave {answer:?}"))?;
        }
        for cpu in 1..CPUS {
            guest.expect_phase(cpu, "online")?;
        }
        guest.tell("reset")?;
        guest.wait_ready()?;
    }
    guest.power_off()
}

fn refused(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 3)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.expect_refusal(RESUME, "the machine runs")?;
    let unplug = guest.request(1, "offline")?;
    guest.pause()?;
    guest.expect_refusal(PAUSE, "is paused, or about to be")?;
    for (path, body) in [
        ("/api/v1/vcpus", json!({ "desired": 1 })),
        ("/api/v1/vcpus", json!({ "online": [0] })),
        ("/api/v1/vcpus/2", json!({ "target": "online" })),
    ] {
        let answer = guest.vm().api().put(path, &body)?;
        guest.ensure(
            answer.status == 409 && answer.body["code"] == "paused",
            || format!("{path} {body} gave {} {}", answer.status, answer.body),
        )?;
    }
    let operations = guest.vm().api().get("/api/v1/operations")?.body;
    guest.ensure(
        operations["operations"].as_array().map(Vec::len) == Some(1),
        || format!("a refused request left {operations}"),
    )?;
    // What the guest has not read can still be taken back.
    let path = format!("/api/v1/operations/{}", unplug["id"]);
    let answer = guest.vm().api().delete(&path)?;
    guest.ensure(answer.status == 200, || format!("gave {}", answer.body))?;
    guest.expect_state(&unplug, "cancelled")?;
    guest.resume()?;
    guest.expect_refusal(RESUME, "the machine runs")?;
    guest.ensure(guest.scan()?.is_empty(), || {
        "the request is still there".into()
    })?;
    let operation = guest.request(2, "online")?;
    guest.obey_plug(2, 1)?;
    guest.expect_state(&operation, "succeeded")?;
    guest.power_off()
}

/// Of two that pause at the same time one has paused it, and of two that let it go one has.
fn two_at_once(context: &Context) -> Result<()> {
    let guest = machine(context, 4, 4)?.boot()?;
    for path in [PAUSE, RESUME].into_iter().cycle().take(20) {
        let vm = guest.vm();
        let api = || vm.api().act(path).map(|answer| answer.status);
        let mut both = std::thread::scope(|scope| {
            let other = scope.spawn(api);
            let own = api();
            [own, other.join().unwrap_or_else(|_| api())]
        })
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
        both.sort_unstable();
        guest.ensure(both == [204, 405], || format!("{path} gave {both:?}"))?;
    }
    guest.expect("ping", "pong")?;
    guest.power_off()
}

/// The reset and the pause race; whichever is first, the guest stands still after the pause, and goes on after it.
fn reset(context: &Context) -> Result<()> {
    let guest = machine(context, 3, 3)?.boot()?;
    for _ in 0..20 {
        guest.start_cpu(1, 1)?;
        guest.expect("ap 1 spin", "")?;
        guest.tell("reset")?;
        guest.pause()?;
        guest
            .vm()
            .wait_until("every vCPU to hold", || guest.is_out_of_guest())?;
        guest.expect_refusal(PAUSE, "is paused, or about to be")?;
        guest.resume()?;
        guest.wait_ready()?;
    }
    guest.power_off()
}

fn power_off(context: &Context) -> Result<()> {
    for _ in 0..5 {
        let guest = machine(context, 2, 2)?.boot()?;
        guest.start_cpu(1, 1)?;
        guest.tell("off 5")?;
        // It may have come to its end before that.
        if let Ok(answer) = guest.vm().api().act(PAUSE)
            && answer.status == 204
        {
            // It may have come to it just before the pause.
            let _ = guest.vm().api().act(RESUME);
        }
        guest.wait_code(0, &[])?;
    }
    Ok(())
}

fn triple_fault(context: &Context) -> Result<()> {
    for _ in 0..5 {
        let guest = machine(context, 2, 2)?.boot()?;
        guest.start_cpu(1, 1)?;
        guest.tell("ap 1 triple")?;
        if let Ok(answer) = guest.vm().api().act(PAUSE)
            && answer.status == 204
        {
            let _ = guest.vm().api().act(RESUME);
        }
        guest.wait_code(TRIPLE_FAULT, &["vcpu-1: triple fault"])?;
    }
    Ok(())
}

fn sigterm(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.pause()?;
    guest.press_power_button()?;
    guest.expect("ping", "pong")?;
    // It has its time for that, which nobody takes away.
    guest.expect_refusal(PAUSE, "asked by a signal to power off")?;
    guest.expect_refusal(RESUME, "the machine runs")?;
    guest.power_off()
}

fn sigterm_twice(context: &Context) -> Result<()> {
    let guest = machine(context, 3, 3)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.expect("ap 1 spin", "")?;
    guest.pause()?;
    guest.press_power_button()?;
    guest.vm().signal(Signal::SIGTERM)?;
    guest.wait_code(ENDED_EARLY, &["a second SIGTERM"])
}
