//! Hotvisor with a host-side user of one vCPU, and a notifier that waits for it: in the order of Hotvisor's own
//! steps, or in the one that deadlocks.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hotvisor_vmm::control::Control;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::gate::{Binding, Entrance, Gate};
use hotvisor_vmm::hotplug::notifier::{Done, Notifier};
use hotvisor_vmm::hotplug::view::VcpuRef;

/// The vCPU with the user.
pub(super) const VICTIM: u32 = 1;
/// Environment variable that makes this executable a VMM, and names the order.
pub(super) const ORDER: &str = "HOTVISOR_TEST_ORDER";
/// The notifiers, then the gate.
pub(super) const NOTIFY_FIRST: &str = "notify-first";
/// A gate, then the notifiers.
pub(super) const BLOCK_FIRST: &str = "block-first";
/// The user, and the notifier that waits for it.
pub(super) const SAMPLER: &str = "sampler";
/// What the user says when it has got done.
pub(super) const DONE: &str = "sampler: has its last sample";
/// Longer than any operation of a test: a user that waits this long waits for ever.
const FOR_EVER: Duration = Duration::from_secs(600);

/// If this process is to be a VMM, is one.
pub(crate) fn run_if_vmm() -> Option<ExitCode> {
    let order = std::env::var(ORDER).ok()?;
    Some(hotvisor::main(|control| extend(control, &order)))
}

fn extend(control: &mut Control, order: &str) {
    let lock = (order == BLOCK_FIRST).then(|| {
        let gate = Arc::new(Gate::new(|_| {}));
        gate.open();
        control.register(Box::new(Lock(gate.clone())));
        gate.entrance()
    });
    let (to_user, stops) = channel();
    let client = control.client();
    std::thread::spawn(move || serve(&stops, &client, lock.as_ref()));
    control.register(Box::new(Sampler(to_user)));
}

/// The hotplug lock as it once was: everybody is shut out before anybody is notified.
struct Lock(Arc<Gate>);

impl Notifier for Lock {
    fn name(&self) -> &'static str {
        "lock"
    }

    fn prepare(&mut self, _: VcpuRef, done: Done) {
        // Whether somebody is inside does not matter: nobody else gets in.
        let _ = self.0.close();
        done.ready();
    }

    fn undo(&mut self, _: VcpuRef) {
        self.0.open();
    }

    fn after_death(&mut self, _: VcpuRef) {
        self.0.open();
    }
}

/// Waits for the user: it has let go when it has taken its last sample.
struct Sampler(Sender<Done>);

impl Notifier for Sampler {
    fn name(&self) -> &'static str {
        SAMPLER
    }

    fn prepare(&mut self, _: VcpuRef, done: Done) {
        // A user that has ended drops it, which refuses.
        let _ = self.0.send(done);
    }

    fn undo(&mut self, _: VcpuRef) {}

    fn after_death(&mut self, _: VcpuRef) {}
}

/// The user. What it has begun, it can only end with one more sample of the vCPU.
fn serve(stops: &Receiver<Done>, client: &Client, lock: Option<&Entrance>) {
    while let Ok(done) = stops.recv() {
        match sample(client, lock) {
            Ok(()) => {
                eprintln!("{DONE}");
                done.ready();
            }
            Err(error) => done.refuse(format!("{error:#}")),
        }
    }
}

/// Reads how long the vCPU has run, twice, and stays inside the gate from the one to the other.
fn sample(client: &Client, lock: Option<&Entrance>) -> Result<()> {
    let enter = |gate: &Entrance| gate.enter(Binding::Pinned, SAMPLER, FOR_EVER);
    let _locked = lock.map(enter).transpose().context("the lock is shut")?;
    let view = client.view();
    let vcpu = view.vcpus.get(VICTIM as usize).context("there is none")?;
    let _inside = enter(&vcpu.gate).context("its gate is shut")?;
    let first = vcpu.run_time()?.context("it has no thread")?;
    let last = vcpu.run_time()?.context("it has no thread")?;
    ensure!(first <= last, "its time ran backwards");
    Ok(())
}
