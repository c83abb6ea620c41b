//! Calls that a test has fail, in a build of the VMM that lets it (`hotvisor`'s feature `failpoints`).

use anyhow::Result;
use nix::errno::Errno;
use serde_json::{Value, json};

use super::Vm;

/// A call, the error that it fails with, and what the user is told of it.
pub type Failure = (&'static str, Errno, &'static str);

/// What a vCPU needs that KVM has not made yet, in this order. The last one leaves a thread behind.
pub const NEW: [Failure; 11] = [
    ("create-vcpu", Errno::ENOMEM, "create vCPU 1"),
    ("duplicate-descriptor", Errno::EMFILE, "second descriptor"),
    ("map-vcpu", Errno::ENOMEM, "page of a vCPU"),
    ("set-cpuid", Errno::E2BIG, "set CPUID"),
    ("get-msrs", Errno::EIO, "get MSRs"),
    ("set-msrs", Errno::EIO, "set MSRs"),
    ("get-lapic", Errno::EINVAL, "get local APIC"),
    ("set-lapic", Errno::EINVAL, "set local APIC"),
    (
        "install-handler",
        Errno::EINVAL,
        "handler of the kick signal",
    ),
    ("spawn-thread", Errno::EAGAIN, "thread of vcpu-1"),
    ("confine-thread", Errno::ENOMEM, "filter of system calls"),
];

/// What one needs that the guest had before.
pub const USED: [Failure; 7] = [
    (
        "get-mp-state",
        Errno::EINTR,
        "get the state of waiting for INIT",
    ),
    ("get-vcpu-events", Errno::EIO, "get vCPU events"),
    ("set-vcpu-events", Errno::EINVAL, "set vCPU events"),
    ("set-pat", Errno::EIO, "set page attributes"),
    ("get-msrs", Errno::EIO, "get MSRs"),
    ("set-msrs", Errno::EIO, "set MSRs"),
    (
        "set-mp-state",
        Errno::EINVAL,
        "set the state of waiting for INIT",
    ),
];

/// The clocks of a guest that is paused. Where they cannot be stopped they go on.
pub const CLOCKS: [&str; 4] = ["get-clock", "set-clock", "get-tsc-offset", "set-tsc-offset"];

/// What is done without where it cannot be had.
pub const UNNEEDED: [&str; 2] = ["get-tsc-khz", "kvmclock-ctrl"];

/// What else fails, and is done again or waited for.
pub const OTHERS: [&str; 3] = ["kick", "see-start", "interrupt"];

impl Vm {
    /// Has a call fail from now on as `actions` say, in the language of the crate `fail`, with the error's number for the value.
    ///
    /// # Errors
    /// There is no such call, or the VMM is a release.
    pub fn fail(&self, point: &str, actions: &str) -> Result<()> {
        let answer = self
            .api()
            .put(&format!("/failpoints/{point}"), &json!(actions))?;
        match answer.status {
            200 => Ok(()),
            _ => Err(self.evidence(format!("{point}: {}", answer.body))),
        }
    }

    /// Has the thread of this name make a system call that no thread of the VMM makes, at the next call that can be made to
    /// fail. Where that is the API's own thread, there is no answer.
    ///
    /// # Errors
    /// The VMM is a release.
    pub fn misbehave(&self, thread: &str) -> Result<()> {
        let asked = self.api().put("/misbehaves", &json!(thread));
        match asked {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(self.evidence(format!("{thread}: {}", answer.body))),
            Err(_) if thread == "api" => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How often each call was made, and made to fail.
    ///
    /// # Errors
    /// The API does not answer.
    pub fn failpoints(&self) -> Result<Value> {
        Ok(self.api().get("/failpoints")?.body)
    }
}
