//! Somebody inside of a vCPU who does not leave it, and a machine that comes to its end.
//!
//! The VMM is this executable (see [`vmm`]): Hotvisor, and in it a user of a vCPU.

mod vmm;

use anyhow::Result;
use hotvisor_tests::harness::{Context, Test};

use crate::guest::{Guest, Machine, test};
use crate::hotplug::guest::Hotplug;

pub(crate) use vmm::run_if_vmm;
use vmm::{GONE, STAYED, USER, VARIABLE, VICTIM};

pub(crate) fn tests() -> Vec<Test> {
    vec![test("inside::whoever_does_not_leave", never_leaves)]
}

/// A guest of two CPUs, with somebody inside of the second one for as long as the VMM is there.
fn boot() -> Result<Guest> {
    let guest = Machine::of(std::env::current_exe()?, 2, 2)?
        .with(|vm| vm.env(VARIABLE, ""))
        .boot()?;
    guest.start_cpu(VICTIM, 1)?;
    // Who is asked to let go of it goes in instead, and says no.
    let unplug = guest.request(VICTIM, "offline")?;
    guest.expect_state(&unplug, "refused")?;
    Ok(guest)
}

/// The process ends all the same: as it was to, where it was to end, and otherwise with that as what has failed.
fn never_leaves(_: &Context) -> Result<()> {
    let (off, reset) = (boot()?, boot()?);
    // Side by side, because either waits for as long as it may.
    off.tell("off 5")?;
    reset.tell("reset")?;
    let user = format!("vcpu-{VICTIM}: {USER} (thread ");
    off.wait_code(0, &[&user, STAYED])?;
    reset.wait_code(1, &[&format!("inside after 10 s: {user}"), STAYED])?;
    for guest in [off, reset] {
        let said = guest.vm().stderr().text(0);
        let wrong = ["did not end", "given up", GONE];
        guest.ensure(!wrong.iter().any(|words| said.contains(words)), || {
            format!("it was said that {said}")
        })?;
    }
    Ok(())
}
