//! The way in: requests to the control thread, and its published view.

use super::view::{OperationId, Target, View};
use crate::error::Problem;
use crate::events::Events;
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
        Self::Paused(Problem {
            asked: asked.to_owned(),
            found: "the machine is paused, or about to be".to_owned(),
            remedy: "resume it first".to_owned(),
        })
    }
}

/// What the control thread is asked.
#[derive(Debug)]
pub enum Call {
    /// Something about the vCPUs.
    Vcpus(VcpuCall),
    /// To hold the machine.
    Pause(oneshot::Sender<Result<(), Refused>>),
    /// To let it go on.
    Resume(oneshot::Sender<Result<(), Refused>>),
}

/// What the control thread is asked about the vCPUs.
#[derive(Debug)]
pub enum VcpuCall {
    /// For a change.
    Change(Request, oneshot::Sender<Result<OperationId, Refused>>),
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
}

impl Client {
    /// A client whose calls, view and events these are.
    #[must_use]
    pub fn new(calls: Arc<dyn Calls>, view: watch::Receiver<Arc<View>>, events: Events) -> Self {
        Self {
            calls,
            view,
            events,
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

    /// Has the machine stand still. The answer comes when every vCPU thread is out of the guest; who does not
    /// wait for it has paused the machine all the same.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed, or the machine runs again.
    pub async fn pause(&self) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        self.calls.call(Call::Pause(reply));
        answer.await.unwrap_or(Err(Refused::Gone))
    }

    /// Lets a paused machine go on, or one that is about to be paused.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed.
    pub async fn resume(&self) -> Result<(), Refused> {
        let (reply, answer) = oneshot::channel();
        self.calls.call(Call::Resume(reply));
        answer.await.unwrap_or(Err(Refused::Gone))
    }
}
