//! The way in: requests to the control thread, and its published view.

use super::view::{OperationId, Target, View};
use crate::config::VmConfig;
use crate::error::Problem;
use crate::events::Events;
use crate::tally::Tally;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// What is wanted of the vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// This many, whichever.
    Count(u32),
    /// Exactly these; vCPU 0 must be one of them.
    Set(BTreeSet<u32>),
    /// One vCPU, the others as they are.
    One(u32, Target),
}

/// A request for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub want: Want,
    /// How long the operation may take; `None` for the configured time.
    pub timeout: Option<Duration>,
}

/// Why a request was not accepted. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be met as it stands.
    #[error("{0}")]
    Invalid(Problem),
    /// It names an operation or a vCPU that there is not.
    #[error("{0}")]
    Unknown(Problem),
    /// It comes too late, or at the wrong moment.
    #[error("{0}")]
    Conflict(Problem),
    /// The machine is paused, which this asks for or cannot be with.
    #[error("{0}")]
    Paused(Problem),
    /// The machine runs, and it is a paused one that this is for.
    #[error("{0}")]
    Running(Problem),
    /// As much is under way as may be.
    #[error("{0}")]
    Busy(Problem),
    /// No machine is described.
    #[error("{0}")]
    Absent(Problem),
    /// The machine does not run, or not any more.
    #[error("{0}")]
    Stopped(Problem),
    /// Our own machinery or the host failed.
    #[error("{0}")]
    Failed(Problem),
    /// The machine has come to its end.
    #[error("the machine has ended")]
    Gone,
}

impl Refused {
    /// It was asked for while the machine is paused, or about to be.
    pub(crate) fn paused(asked: &str) -> Self {
        let found = "the machine is paused, or about to be";
        Self::Paused(Problem::new(asked, found, "resume it first"))
    }
}

/// What the control thread is asked.
#[derive(Debug)]
pub enum Call {
    /// Something about the vCPUs.
    Vcpus(VcpuCall),
    /// Something about the machine.
    Machine(MachineCall, oneshot::Sender<Result<(), Refused>>),
}

/// What the control thread is asked about the machine. Each is answered when it is so.
#[derive(Clone, Debug)]
pub enum MachineCall {
    /// To describe a machine; it does not run yet. All of it is checked, and its files are opened.
    Create(Box<VmConfig>),
    /// To make it and let it run.
    Boot,
    /// To have it stand still: every vCPU thread is out of the guest.
    Pause,
    /// To let a paused machine go on, or one that is about to be paused.
    Resume,
    /// To press the guest's power button. What the guest does about it is not waited for.
    PressPowerButton,
    /// To start the guest again, without asking it.
    Reboot,
    /// To stop it, without asking the guest; what it is to be is kept.
    Shutdown,
    /// To forget it, after stopping it.
    Delete,
    /// To end the process, and with it whatever runs.
    Quit,
}

/// What the control thread is asked about the vCPUs.
#[derive(Debug)]
pub enum VcpuCall {
    /// For a change.
    Change(Request, oneshot::Sender<Result<OperationId, Refused>>),
    /// With how many a machine is to boot; of one that runs, to have as many now.
    Preset(u32, oneshot::Sender<Result<(), Refused>>),
    /// To take an operation back.
    Cancel(OperationId, oneshot::Sender<Result<(), Refused>>),
}

/// Takes calls to the control thread.
pub trait Calls: Send + Sync {
    /// Posts one call and returns; a control thread that has ended drops it.
    fn call(&self, call: Call);
}

/// A client of the control thread. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    calls: Arc<dyn Calls>,
    view: watch::Receiver<Arc<View>>,
    events: Events,
    tally: Arc<Tally>,
}

impl Client {
    /// A client whose calls, view, events and counts these are.
    #[must_use]
    pub fn new(
        calls: Arc<dyn Calls>,
        view: watch::Receiver<Arc<View>>,
        events: Events,
        tally: Arc<Tally>,
    ) -> Self {
        Self {
            calls,
            view,
            events,
            tally,
        }
    }

    /// The view as it is now. Everything that a request of this client has changed is in it.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// A receiver that shows the view and wakes where [`View::is_awaited_after`] says so; it closes when the
    /// machine has ended.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// What happens. The view shows whatever an event that was read is about.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What is counted, for as long as the process lives.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Asks for a change. The answer is the operation, which the view holds already.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn change(&self, request: Request) -> Result<OperationId, Refused> {
        let (reply, answer) = oneshot::channel();
        self.calls
            .call(Call::Vcpus(VcpuCall::Change(request, reply)));
        answer.await.unwrap_or(Err(Refused::Gone))
    }

    /// Has a machine that does not run boot with this many vCPUs, and one that runs have as many as soon as it can.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn preset(&self, count: u32) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        self.calls.call(Call::Vcpus(VcpuCall::Preset(count, reply)));
        answer.await.unwrap_or(Err(Refused::Gone))
    }

    /// Takes a running operation back, as far as that can still be done.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn cancel(&self, operation: OperationId) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        self.calls
            .call(Call::Vcpus(VcpuCall::Cancel(operation, reply)));
        answer.await.unwrap_or(Err(Refused::Gone))
    }

    /// Asks for something about the machine. The answer comes when it is so; who does not wait for it has asked all
    /// the same.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed, or it was changed back.
    pub async fn machine(&self, call: MachineCall) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        self.calls.call(Call::Machine(call, reply));
        answer.await.unwrap_or(Err(Refused::Gone))
    }
}
