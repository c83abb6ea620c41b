//! Hotvisor's API, as far as tests use it: its vCPUs, and the operations on them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::events::Events;
use super::http::{Answer, Connection};
use super::metrics::{METRICS, Metrics};
use super::{SOON, Vm};

/// Where the vCPUs are.
pub const VCPUS: &str = "/api/v1/vcpus";

/// What makes the machine stand still.
pub const PAUSE: &str = "/api/v1/vm.pause";

/// What makes it go on.
pub const RESUME: &str = "/api/v1/vm.resume";

/// All vCPUs, as the API shows them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Vcpus {
    /// How many were asked for last.
    pub desired: u32,
    /// How many are there, as the guest's firmware tables say.
    pub plugged: u32,
    /// How many of those the guest has started.
    pub online: u32,
    /// How many there can be.
    pub max: u32,
    /// Every possible one.
    pub vcpus: Vec<Vcpu>,
}

/// A vCPU, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Vcpu {
    /// Its number.
    pub id: u32,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// Its phase.
    pub phase: String,
    /// What it is to become.
    pub target: Target,
    /// How often it was plugged.
    pub generation: u64,
    /// Whether it is the boot CPU.
    pub boot: bool,
    /// Its thread, if it has one.
    pub thread: Option<VcpuThread>,
    /// The last operation that it was part of.
    pub last_operation: Option<u64>,
}

/// A vCPU's thread, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VcpuThread {
    /// Its name.
    pub name: String,
    /// Whether it runs the guest; otherwise it is parked.
    pub running: bool,
}

/// What a vCPU is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Plugged, and started by the guest.
    Online,
    /// Ejected by the guest.
    Offline,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is not at its end.
    Running,
    /// It is as asked for.
    Succeeded,
    /// The guest, or a policy, said no.
    Refused,
    /// Somebody did not answer in time.
    TimedOut,
    /// Somebody took it back.
    Cancelled,
    /// A later request wants something else.
    Superseded,
    /// The VMM or the host failed.
    Failed,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Operation {
    /// Its number.
    pub id: u64,
    /// What it was made for.
    pub kind: String,
    /// How many vCPUs there are to be, if it says so.
    pub desired: Option<u32>,
    /// Where it stands.
    pub state: State,
    /// Its parts, one for each vCPU that it changes.
    pub vcpus: Vec<Part>,
}

/// One vCPU's part of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Part {
    /// Which vCPU.
    pub id: u32,
    /// The phase in which it was.
    pub from: String,
    /// What it is to become.
    pub to: Target,
    /// The phase in which it is, or was when this part ended.
    pub phase: String,
    /// What became of it; nothing while it runs.
    pub outcome: Option<Outcome>,
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Outcome {
    /// In a word.
    pub code: State,
    /// The guest's last word: source event and status of `_OST`.
    pub ost: Option<[u32; 2]>,
    /// In a sentence.
    pub detail: String,
}

impl Operation {
    /// The part of one vCPU.
    #[must_use]
    pub fn part(&self, id: u32) -> Option<&Part> {
        self.vcpus.iter().find(|part| part.id == id)
    }
}

/// A client of one VMM's API.
#[derive(Clone, Debug)]
pub struct Api<'a> {
    vm: &'a Vm,
    socket: PathBuf,
    /// How long the VMM gives an operation, if not as long as it is configured to.
    timeout: Option<Duration>,
    /// What requests go over, if not each over a connection of its own.
    connection: Option<&'a RefCell<Connection>>,
}

impl<'a> Api<'a> {
    pub(super) fn new(vm: &'a Vm, socket: PathBuf) -> Self {
        Self {
            vm,
            socket,
            timeout: None,
            connection: None,
        }
    }

    /// A connection for many requests.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self) -> Result<RefCell<Connection>> {
        Connection::open(&self.socket).map(RefCell::new)
    }

    /// The same, over this connection.
    #[must_use]
    pub fn over(mut self, connection: &'a RefCell<Connection>) -> Self {
        self.connection = Some(connection);
        self
    }

    /// The same, with a time that the VMM gives each operation.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads.
    ///
    /// # Errors
    /// No whole answer comes in time. An answer that says no is none.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, None, Duration::ZERO)
    }

    /// Asks for a state.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.request("PUT", path, Some(body), Duration::ZERO)
    }

    /// Asks for what needs no body.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn act(&self, path: &str) -> Result<Answer> {
        self.request("PUT", path, None, Duration::ZERO)
    }

    /// Has the machine stand still.
    ///
    /// # Errors
    /// It does not.
    pub fn pause(&self) -> Result<()> {
        self.done(PAUSE)
    }

    /// Has it go on.
    ///
    /// # Errors
    /// It does not.
    pub fn resume(&self) -> Result<()> {
        self.done(RESUME)
    }

    fn done(&self, path: &str) -> Result<()> {
        match self.act(path)? {
            Answer { status: 204, .. } => Ok(()),
            Answer { status, body } => {
                Err(self.vm.evidence(format!("{path} gave {status}: {body}")))
            }
        }
    }

    /// Takes something away.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn delete(&self, path: &str) -> Result<Answer> {
        self.request("DELETE", path, None, Duration::ZERO)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<Answer> {
        let patience = wait + SOON;
        let answer = match self.connection {
            Some(connection) => connection
                .borrow_mut()
                .request(method, path, body, patience),
            None => Connection::open(&self.socket)
                .and_then(|mut connection| connection.request(method, path, body, patience)),
        };
        answer.map_err(|error| self.vm.evidence(format!("{error:#}")))
    }

    /// What is counted.
    ///
    /// # Errors
    /// The answer is no, or no text of metrics.
    pub fn metrics(&self) -> Result<Metrics> {
        let answer = self.get(METRICS)?;
        let text = answer.body.as_str().filter(|_| answer.status == 200);
        let text = text.ok_or_else(|| self.vm.evidence(format!("{METRICS} gave {answer:?}")))?;
        Metrics::read(text)
    }

    /// Follows what happens, from now on or from after the event with an id.
    ///
    /// # Errors
    /// The answer is no such stream.
    pub fn events(&self, after: Option<u64>) -> Result<Events> {
        Events::open(&self.socket, after).map_err(|error| self.vm.evidence(format!("{error:#}")))
    }

    /// All vCPUs.
    ///
    /// # Errors
    /// The answer is no, or not of this shape.
    pub fn vcpus(&self) -> Result<Vcpus> {
        let answer = self.get(VCPUS)?;
        self.read(VCPUS, &answer)
    }

    /// Asks for a number of vCPUs, and waits for the end of the operation, but not for longer than told.
    ///
    /// # Errors
    /// The request is not accepted, or the answer is no operation.
    pub fn resize(&self, desired: u32, wait: Duration) -> Result<Operation> {
        self.change(VCPUS, &json!({ "desired": desired }), wait)
    }

    /// Asks for exactly these vCPUs; otherwise as [`Api::resize`].
    ///
    /// # Errors
    /// As [`Api::resize`].
    pub fn set_online(
        &self,
        ids: impl IntoIterator<Item = u32>,
        wait: Duration,
    ) -> Result<Operation> {
        let ids: BTreeSet<u32> = ids.into_iter().collect();
        self.change(VCPUS, &json!({ "online": ids }), wait)
    }

    /// Asks for a state of one vCPU; otherwise as [`Api::resize`].
    ///
    /// # Errors
    /// As [`Api::resize`].
    pub fn vcpu_target(&self, id: u32, target: Target, wait: Duration) -> Result<Operation> {
        let body = json!({ "target": target.name() });
        self.change(&format!("{VCPUS}/{id}"), &body, wait)
    }

    /// Reads an operation, and waits for its end, but not for longer than told.
    ///
    /// # Errors
    /// There is none of this number, or the answer is none.
    pub fn operation(&self, id: u64, wait: Duration) -> Result<Operation> {
        let path = format!("/api/v1/operations/{id}?wait={}", wait.as_secs());
        let answer = self.request("GET", &path, None, wait)?;
        self.read(&path, &answer)
    }

    fn change(&self, path: &str, body: &Value, wait: Duration) -> Result<Operation> {
        let timeout = self
            .timeout
            .map(|timeout| format!("&timeout={}", timeout.as_secs()))
            .unwrap_or_default();
        let path = format!("{path}?wait={}{timeout}", wait.as_secs());
        let answer = self.request("PUT", &path, Some(body), wait)?;
        self.read(&format!("{path} with {body}"), &answer)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, what: &str, answer: &Answer) -> Result<T> {
        let Answer { status, body } = answer;
        if !(200..300).contains(status) {
            return Err(self.vm.evidence(format!("{what} gave {status}: {body}")));
        }
        T::deserialize(body).with_context(|| format!("{what} gave {body}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_read_as_the_api_writes_it() {
        let operation = Operation::deserialize(json!({
            "id": 4, "kind": "count", "desired": 1, "state": "timed_out",
            "vcpus": [{
                "id": 1, "from": "online", "to": "offline", "phase": "online",
                "outcome": {"code": "refused", "ost": [3, 130], "detail": "the guest said no"},
            }],
            "created_at": "2026-01-01T00:00:00Z", "ended_at": null,
        }))
        .unwrap();
        assert_eq!(operation.state, State::TimedOut);
        let outcome = operation.part(1).unwrap().outcome.as_ref().unwrap();
        assert_eq!(
            (outcome.code, outcome.ost),
            (State::Refused, Some([3, 130]))
        );
    }
}
