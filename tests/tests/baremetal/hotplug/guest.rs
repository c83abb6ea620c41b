//! The guest's part in CPU hotplug, played register by register, and the API's part.

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::Context;
use serde_json::{Value, json};

use crate::guest::{Guest, Machine, number};

/// The controller's registers (QEMU's `docs/specs/acpi_cpu_hotplug.rst`).
const SELECTOR: u32 = 0xfeb0_1000;
const FLAGS: u32 = 0xfeb0_1004;
const COMMAND: u32 = 0xfeb0_1005;
const DATA: u32 = 0xfeb0_1008;

pub(crate) const ENABLED: u8 = 1 << 0;
pub(crate) const INSERT: u8 = 1 << 1;
pub(crate) const REMOVE: u8 = 1 << 2;
pub(crate) const EJECT: u8 = 1 << 3;

/// Seconds that an operation has to end which nothing keeps from ending.
const WAIT: u32 = 20;

/// `_OST` of an ejection that has begun.
pub(crate) const BEGUN: (u32, u32) = (3, 0x84);

/// A machine with an API.
pub(crate) fn machine(context: &Context, boot: u32, max: u32) -> Result<Machine> {
    Machine::new(context, boot, max)
}

/// A request for a CPU that the guest obeys, and starts for the n-th time, n being `starts`.
pub(crate) fn plug(guest: &Guest, cpu: u32, starts: u32) -> Result<()> {
    let operation = guest.request(cpu, "online")?;
    guest.obey_plug(cpu, starts)?;
    guest.expect_state(&operation, "succeeded").map(drop)
}

/// A request to give a CPU back that the guest obeys.
pub(crate) fn unplug(guest: &Guest, cpu: u32) -> Result<()> {
    let operation = guest.request(cpu, "offline")?;
    guest.obey_unplug(cpu)?;
    guest.expect_state(&operation, "succeeded").map(drop)
}

/// What this suite does with a guest.
pub(crate) trait Hotplug {
    fn flags(&self, cpu: u32) -> Result<u8>;
    fn write_flags(&self, cpu: u32, value: u8) -> Result<()>;
    fn scan(&self) -> Result<Vec<(u32, u8)>>;
    fn ost(&self, cpu: u32, what: (u32, u32)) -> Result<()>;
    fn eject(&self, cpu: u32) -> Result<()>;
    fn looks_gone(&self, cpu: u32) -> Result<()>;
    fn obey_unplug(&self, cpu: u32) -> Result<()>;
    fn obey_plug(&self, cpu: u32, starts: u32) -> Result<()>;
    fn put(&self, path: &str, body: &Value) -> Result<Value>;
    fn request(&self, cpu: u32, target: &str) -> Result<Value>;
    fn ended(&self, operation: &Value) -> Result<Value>;
    fn expect_state(&self, operation: &Value, state: &str) -> Result<Value>;
    fn vcpu(&self, cpu: u32) -> Result<Value>;
    fn expect_phase(&self, cpu: u32, phase: &str) -> Result<()>;
    fn tid(&self, cpu: u32) -> Result<Option<u32>>;
}

impl Hotplug for Guest {
    /// The flags of a CPU's slot.
    fn flags(&self, cpu: u32) -> Result<u8> {
        self.ok(&format!("wr32 {SELECTOR:#x} {cpu}"))?;
        Ok(u8::try_from(number(
            &self.ok(&format!("rd8 {FLAGS:#x}"))?,
        )?)?)
    }

    fn write_flags(&self, cpu: u32, value: u8) -> Result<()> {
        self.ok(&format!("wr32 {SELECTOR:#x} {cpu}"))?;
        self.ok(&format!("wr8 {FLAGS:#x} {value}"))?;
        Ok(())
    }

    /// What a guest's scan does: reads every event and acknowledges it.
    fn scan(&self) -> Result<Vec<(u32, u8)>> {
        let mut events = Vec::new();
        self.ok(&format!("wr32 {SELECTOR:#x} 0"))?;
        loop {
            self.ok(&format!("wr8 {COMMAND:#x} 0"))?;
            let flags = number(&self.ok(&format!("rd8 {FLAGS:#x}"))?)?;
            let flags = u8::try_from(flags)? & (INSERT | REMOVE);
            if flags == 0 {
                return Ok(events);
            }
            let cpu = u32::try_from(number(&self.ok(&format!("rd32 {DATA:#x}"))?)?)?;
            let event = if flags & INSERT != 0 { INSERT } else { REMOVE };
            self.ok(&format!("wr8 {FLAGS:#x} {event}"))?;
            events.push((cpu, event));
        }
    }

    fn ost(&self, cpu: u32, (source, status): (u32, u32)) -> Result<()> {
        self.ok(&format!("wr32 {SELECTOR:#x} {cpu}"))?;
        for (command, value) in [(1, source), (2, status)] {
            self.ok(&format!("wr8 {COMMAND:#x} {command}"))?;
            self.ok(&format!("wr32 {DATA:#x} {value}"))?;
        }
        Ok(())
    }

    /// `_EJ0`, and what `_STA` says right after it.
    fn eject(&self, cpu: u32) -> Result<()> {
        self.write_flags(cpu, EJECT)?;
        self.looks_gone(cpu)
    }

    /// `_STA` of a CPU that was ejected.
    fn looks_gone(&self, cpu: u32) -> Result<()> {
        let flags = self.flags(cpu)?;
        self.ensure(flags & ENABLED == 0, || {
            format!("CPU {cpu} is still enabled after its ejection: {flags:#x}")
        })
    }

    /// Takes a CPU down as an operating system does that was asked to.
    fn obey_unplug(&self, cpu: u32) -> Result<()> {
        let events = self.scan()?;
        self.ensure(events == [(cpu, REMOVE)], || {
            format!("the guest found {events:?}")
        })?;
        self.ost(cpu, BEGUN)?;
        self.expect(&format!("ap {cpu} dead"), "")?;
        self.eject(cpu)?;
        self.ost(cpu, (3, 0))
    }

    /// Takes a CPU in, and starts it for the n-th time.
    fn obey_plug(&self, cpu: u32, starts: u32) -> Result<()> {
        let events = self.scan()?;
        self.ensure(events == [(cpu, INSERT)], || {
            format!("the guest found {events:?}")
        })?;
        self.ost(cpu, (1, 0))?;
        self.start_cpu(cpu, starts)
    }

    /// A request that is accepted; returns the operation.
    fn put(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.vm().api().put(path, body)?;
        self.ensure(answer.status == 202 || answer.status == 200, || {
            format!("PUT {path} {body} gave {} {}", answer.status, answer.body)
        })?;
        Ok(answer.body)
    }

    fn request(&self, cpu: u32, target: &str) -> Result<Value> {
        let operation = self.put(
            &format!("/api/v1/vcpus/{cpu}"),
            &json!({ "target": target }),
        )?;
        if target == "online" {
            // Its thread comes up first; then the guest is told.
            self.expect_phase(cpu, "announced")?;
        }
        Ok(operation)
    }

    /// The operation when it has ended.
    fn ended(&self, operation: &Value) -> Result<Value> {
        let path = format!("/api/v1/operations/{}?wait={WAIT}", operation["id"]);
        Ok(self.vm().api().get(&path)?.body)
    }

    /// Waits for an operation's end in this state; returns the outcome of its first part.
    fn expect_state(&self, operation: &Value, state: &str) -> Result<Value> {
        let ended = self.ended(operation)?;
        self.ensure(ended["state"] == state, || format!("not {state}: {ended}"))?;
        Ok(ended["vcpus"][0]["outcome"].clone())
    }

    fn vcpu(&self, cpu: u32) -> Result<Value> {
        let path = format!("/api/v1/vcpus/{cpu}");
        Ok(self.vm().api().get(&path)?.body)
    }

    /// Waits until a vCPU is in this phase.
    fn expect_phase(&self, cpu: u32, phase: &str) -> Result<()> {
        self.vm()
            .wait_until(&format!("vCPU {cpu} to be {phase}"), || {
                Ok(self.vcpu(cpu)?["phase"] == phase)
            })
    }

    /// Thread id of a vCPU's thread on the host.
    fn tid(&self, cpu: u32) -> Result<Option<u32>> {
        let name = format!("vcpu-{cpu}");
        let threads = self.vm().threads().context("no threads")?;
        Ok(threads
            .into_iter()
            .find(|thread| thread.name == name)
            .map(|thread| thread.id))
    }
}
