//! Calls that fail when something else is under way already: a plug that waits for an unplug, a thread that is about to end, a
//! guest that is told again.

use super::*;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("failpoints::a_plug_behind_an_unplug", behind_an_unplug),
        test("failpoints::a_plug_behind_a_thread_s_end", behind_an_end),
        test("failpoints::a_reminder_that_gets_lost", lost_reminder),
        test("failpoints::what_nobody_needs", not_needed),
    ]
}

/// A plug fails with what it says of this call.
fn expect_failed(guest: &Guest, operation: &Value, (point, errno, says): Failure) -> Result<()> {
    let outcome = guest.expect_state(operation, "failed")?;
    let detail = outcome["detail"].as_str().unwrap_or_default();
    let why = io::Error::from(errno).to_string();
    guest.ensure(detail.contains(says) && detail.contains(&why), || {
        format!("{point} with {why:?}: it was said {detail:?}")
    })?;
    expect_nothing_changed(guest)
}

fn return_of((_, errno, _): Failure) -> String {
    format!("return({})", errno as i32)
}

/// The thread is on its way out of the guest, and is to run again at once.
fn behind_an_unplug(context: &Context) -> Result<()> {
    let guest = machine(context, 2, 2)?.boot()?;
    guest.start_cpu(1, 1)?;
    for (starts, failure) in (2..).zip(USED) {
        guest.vm().fail("kick", "return")?;
        let unplug = guest.request(1, "offline")?;
        guest.obey_unplug(1)?;
        guest.expect_phase(1, "stopping")?;
        let again = request_within(&guest, 1, "online", 30.0)?;
        guest.vm().fail(failure.0, &return_of(failure))?;
        guest.vm().fail("kick", "off")?;
        guest.expect_state(&unplug, "superseded")?;
        expect_failed(&guest, &again, failure)?;
        guest.vm().fail(failure.0, "off")?;
        plug(&guest, 1, starts)?;
    }
    guest.power_off()
}

/// The thread was told to end, and has not; the plug takes a new one, which cannot be had.
fn behind_an_end(context: &Context) -> Result<()> {
    let machine = machine(context, 1, 2)?.with(|vm| vm.arg("--dormant-timeout").arg("5"));
    let guest = machine.boot()?;
    plug(&guest, 1, 1)?;
    let failure = NEW[NEW.len() - 2];
    guest.ensure(failure.0 == "spawn-thread", || failure.0.to_owned())?;
    for starts in 2..4 {
        unplug(&guest, 1)?;
        let thread = guest.vm().stop_vcpu(1)?;
        let told = || Ok(guest.vcpu(1)?["thread"].is_null());
        guest
            .vm()
            .wait_until("the thread to be told to end", told)?;
        guest.vm().fail(failure.0, &return_of(failure))?;
        let operation = request_within(&guest, 1, "online", 30.0)?;
        guest.expect_phase(1, "starting")?;
        thread.release()?;
        expect_failed(&guest, &operation, failure)?;
        guest.vm().fail(failure.0, "off")?;
        plug(&guest, 1, starts)?;
    }
    guest.power_off()
}

/// The guest has read of a CPU and not answered, and what is to tell it again does not get there at first.
fn lost_reminder(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    await_interrupt(&guest)?;
    let operation = guest.request(1, "online")?;
    let answer = guest.line()?;
    guest.ensure(answer.starts_with("ok pin=16"), || answer.clone())?;
    guest.expect("rd32 0xfeb00000", "0x1")?;
    let events = guest.scan()?;
    guest.ensure(events == [(1, INSERT)], || format!("found {events:?}"))?;
    guest.vm().fail("interrupt", "1*return->off")?;
    await_interrupt(&guest)?;
    obey_interrupted(&guest, &operation, "online", 1)?;
    let count = guest.vm().failpoints()?["interrupt"].clone();
    guest.ensure(count["failed"] == 1, || format!("interrupts: {count}"))?;
    unplug(&guest, 1)?;
    guest.power_off()
}

/// What a plug and a pause ask for and do without.
fn not_needed(context: &Context) -> Result<()> {
    let guest = machine(context, 1, 2)?.boot()?;
    for point in UNNEEDED {
        guest.vm().fail(point, "return")?;
    }
    plug(&guest, 1, 1)?;
    guest.vm().api().pause()?;
    guest.vm().api().resume()?;
    guest.scan()?;
    unplug(&guest, 1)?;
    let counts = guest.vm().failpoints()?;
    for point in UNNEEDED {
        let failed = counts[point]["failed"].as_u64();
        guest.ensure(failed >= Some(1), || format!("{point}: {counts}"))?;
    }
    guest.power_off()
}
