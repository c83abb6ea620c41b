//! Hotvisor with a host-side user of one vCPU who goes in when asked to let go of it, and then stays for ever.

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hotvisor_vmm::control::Control;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::gate::{Binding, Inside};
use hotvisor_vmm::hotplug::notifier::{Done, Notifier};
use hotvisor_vmm::hotplug::view::VcpuRef;

/// The vCPU with the user.
pub(super) const VICTIM: u32 = 1;
/// Environment variable that makes this executable a VMM.
pub(super) const VARIABLE: &str = "HOTVISOR_TEST_INSIDE";
pub(super) const USER: &str = "somebody";
/// What the user says of the vCPU's thread when everything else of the machine is gone.
pub(super) const STAYED: &str = "somebody: its thread is there";
pub(super) const GONE: &str = "somebody: its thread is gone";

/// If this process is to be a VMM, is one.
pub(crate) fn run_if_vmm() -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    Some(hotvisor::main(extend))
}

fn extend(control: &mut Control) {
    let (to_user, asked) = channel();
    let client = control.client();
    std::thread::spawn(move || be_inside(&asked, &client));
    control.register(Box::new(Registered(to_user)));
}

/// What the user is asked for.
enum Ask {
    LetGo(Done),
    /// To look at the vCPU's thread once more, and then to drop this.
    Look(Sender<()>),
}

/// The user, as the control thread knows it.
struct Registered(Sender<Ask>);

impl Notifier for Registered {
    fn name(&self) -> &'static str {
        USER
    }

    fn prepare(&mut self, _: VcpuRef, done: Done) {
        // A user that has ended drops it, which refuses.
        let _ = self.0.send(Ask::LetGo(done));
    }

    fn undo(&mut self, _: VcpuRef) {}

    fn after_death(&mut self, _: VcpuRef) {}
}

impl Drop for Registered {
    /// The machine goes before its notifiers do.
    fn drop(&mut self) {
        let (looked, waits) = channel();
        let _ = self.0.send(Ask::Look(looked));
        let _ = waits.recv();
    }
}

fn be_inside(asked: &Receiver<Ask>, client: &Client) {
    let mut stay = None;
    while let Ok(ask) = asked.recv() {
        match (ask, &stay) {
            (Ask::LetGo(done), _) => match enter(client) {
                Ok(inside) => {
                    stay = Some(inside);
                    done.refuse("it does not let go");
                }
                Err(error) => eprintln!("{USER}: {error:#}"),
            },
            (Ask::Look(_looked), Some((_, tid))) => {
                let thread = format!("/proc/self/task/{tid}");
                let there = Path::new(&thread).exists();
                eprintln!("{}", if there { STAYED } else { GONE });
            }
            (Ask::Look(_), None) => {}
        }
    }
}

/// Goes in; returns the stay, and the thread of the vCPU.
fn enter(client: &Client) -> Result<(Inside, i32)> {
    let view = client.view();
    let vcpu = view.vcpus.get(VICTIM as usize).context("there is none")?;
    let inside = vcpu.gate.enter(Binding::Pinned, USER, Duration::ZERO)?;
    let thread = vcpu.thread.as_ref().and_then(|thread| thread.tid);
    Ok((inside, thread.context("it has no thread")?))
}
