//! How a machine ends or starts again, what the VMM says about it, and its exit code.

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use nix::sys::signal::Signal;

use crate::guest::{Guest, Machine, field, test};

/// Exit codes of the VMM.
pub(crate) const TRIPLE_FAULT: i32 = 3;
const INTERNAL_ERROR: i32 = 4;
pub(crate) const ENDED_EARLY: i32 = 6;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("end::power_off", power_off),
        test("end::power_off_by_an_ap", power_off_by_an_ap),
        test("end::other_sleep_states_are_ignored", other_sleep_states),
        test("end::reset_restarts_in_the_same_process", reset),
        test("end::reset_while_others_run", reset_while_others_run),
        test("end::reset_with_no_reboot", no_reboot),
        test("end::triple_fault", triple_fault),
        test("end::triple_fault_of_an_ap", triple_fault_of_an_ap),
        test("end::internal_error_of_kvm", internal_error),
        test("end::sigterm_twice", sigterm_twice),
        test("end::sigterm_twice_with_all_cpus_halted", sigterm_halted),
        test("end::shutdown_timeout", shutdown_timeout),
        test("end::an_ignored_signal_stays_ignored", ignored_signal),
    ]
}

/// The port of a power register that the FADT names.
fn power_port(guest: &Guest, register: &str) -> Result<String> {
    let answer = guest.ok("facp")?;
    field(&answer, register)
        .and_then(|value| value.strip_prefix("io:").map(str::to_owned))
        .with_context(|| format!("{register} is no port in {answer:?}"))
}

fn power_off(context: &Context) -> Result<()> {
    Machine::new(context, 1, 1)?.boot()?.power_off()
}

fn power_off_by_an_ap(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    let port = power_port(&guest, "sleep-control")?;
    // SLP_EN, and S5 as its type.
    guest.tell(&format!("on 1 out8 {port} 0x34"))?;
    guest.wait_code(0, &[])
}

fn other_sleep_states(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?.boot()?;
    let port = power_port(&guest, "sleep-control")?;
    for kind in [0, 1, 2, 3, 4, 6, 7] {
        let enable = 1 << 5;
        guest.expect(&format!("out8 {port} {}", kind << 2 | enable), "")?;
    }
    guest.expect("ping", "pong")?;
    guest.power_off()
}

fn reset(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 4)?.boot()?;
    for _ in 0..5 {
        guest.start_cpu(1, 1)?;
        guest.tell("reset")?;
        guest.wait_ready()?;
    }
    guest.expect("cpus", "0-1:enabled:0 2-3:capable:0 total=4 uid-differs=0")?;
    guest.start_cpu(1, 1)?;
    guest.power_off()
}

/// The other CPUs are in a loop, halted, and dead when the machine starts again; the reset is theirs, too.
fn reset_while_others_run(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 4, 4)?.boot()?;
    let port = power_port(&guest, "reset")?;
    for _ in 0..3 {
        for (id, mode) in [(1, "spin"), (2, "hlt"), (3, "dead")] {
            guest.start_cpu(id, 1)?;
            guest.expect(&format!("ap {id} {mode}"), "")?;
        }
        guest.tell(&format!("on 1 out8 {port} 1"))?;
        guest.wait_ready()?;
    }
    for id in 1..4 {
        guest.start_cpu(id, 1)?;
    }
    guest.power_off()
}

fn no_reboot(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?
        .with(|vm| vm.no_reboot())
        .boot()?;
    guest.tell("reset")?;
    guest.wait_code(0, &[])
}

fn triple_fault(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.tell("triple")?;
    guest.wait_code(TRIPLE_FAULT, &["vcpu-0: triple fault", "rip ", "idt base"])
}

fn triple_fault_of_an_ap(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.tell("ap 1 triple")?;
    guest.wait_code(TRIPLE_FAULT, &["vcpu-1: triple fault"])
}

/// No KVM fetches instructions from a device.
fn internal_error(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.tell("jump 0xfeb00000")?;
    guest.wait_code(
        INTERNAL_ERROR,
        &["internal error of KVM", "suberror 1", "00000000feb00000"],
    )
}

/// The guest ignores its power button, so the first signal must leave it running.
fn sigterm_twice(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.expect("ap 1 spin", "")?;
    guest.press_power_button()?;
    guest.expect("ping", "pong")?;
    guest.vm().signal(Signal::SIGTERM)?;
    guest.wait_code(ENDED_EARLY, &[])
}

/// No CPU will ever leave the guest by itself.
fn sigterm_halted(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    guest.expect("ap 1 dead", "")?;
    guest.tell("hltloop")?;
    guest.press_power_button()?;
    guest.vm().signal(Signal::SIGTERM)?;
    guest.wait_code(ENDED_EARLY, &[])
}

fn shutdown_timeout(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?
        .with(|vm| vm.arg("--shutdown-timeout").arg("1"))
        .boot()?;
    guest.press_power_button()?;
    guest.wait_code(ENDED_EARLY, &[])
}

/// What `nohup` and a shell's background jobs rely on.
fn ignored_signal(context: &Context) -> Result<()> {
    let guest = Machine::new(context, 1, 1)?
        .with(|vm| vm.ignoring("HUP INT"))
        .boot()?;
    guest.vm().signal(Signal::SIGHUP)?;
    guest.vm().signal(Signal::SIGINT)?;
    guest.expect("ping", "pong")?;
    // The first signal that counts: were it the third, the machine would have ended.
    guest.press_power_button()?;
    guest.expect("ping", "pong")?;
    guest.power_off()
}
