//! `/api/v1/operations`: what was asked for, and what became of it.

use super::input::{self, Query};
use super::reply;
use super::trouble::{Trouble, problem};
use axum::Router;
use axum::extract::State;
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::view::{OperationId, OperationKind, OperationView, PartView, View};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

pub(super) fn routes() -> Router<Client> {
    Router::new()
        .route("/api/v1/operations", get(list))
        .route("/api/v1/operations/{id}", get(show).delete(cancel))
}

#[derive(Serialize)]
struct List<'a> {
    operations: Vec<Operation<'a>>,
}

#[derive(Serialize)]
struct Operation<'a> {
    id: OperationId,
    kind: &'static str,
    desired: Option<u32>,
    state: &'static str,
    vcpus: Vec<Part<'a>>,
    created_at: String,
    ended_at: Option<String>,
}

#[derive(Serialize)]
struct Part<'a> {
    id: u32,
    from: &'static str,
    to: &'static str,
    phase: &'static str,
    outcome: Option<Outcome<'a>>,
}

#[derive(Serialize)]
struct Outcome<'a> {
    code: &'static str,
    ost: Option<(u32, u32)>,
    detail: &'a str,
}

impl<'a> From<&'a OperationView> for Operation<'a> {
    fn from(view: &'a OperationView) -> Self {
        let (kind, desired) = match view.kind {
            OperationKind::Count(count) => ("resize", Some(count)),
            OperationKind::Set(count) => ("set", Some(count)),
            OperationKind::One(_) => ("vcpu", None),
            OperationKind::GuestEject => ("guest_eject", None),
        };
        Self {
            id: view.id,
            kind,
            desired,
            state: view.ended.map_or("running", |ended| ended.code.name()),
            vcpus: view.parts.iter().map(Part::from).collect(),
            created_at: moment(view.created_at),
            ended_at: view.ended.map(|ended| moment(ended.at)),
        }
    }
}

impl<'a> From<&'a PartView> for Part<'a> {
    fn from(view: &'a PartView) -> Self {
        Self {
            id: view.vcpu,
            from: view.from,
            to: view.to.name(),
            phase: view.phase,
            outcome: view.outcome.as_ref().map(|outcome| Outcome {
                code: outcome.code.name(),
                ost: outcome.ost,
                detail: &outcome.detail,
            }),
        }
    }
}

/// RFC 3339, in UTC, with microseconds.
fn moment(time: SystemTime) -> String {
    // The formatter panics at a clock that was never set and stands before 1970.
    humantime::format_rfc3339_micros(time.max(UNIX_EPOCH)).to_string()
}

/// The operation as it is in `view`.
fn find(view: &View, id: OperationId) -> Result<Arc<OperationView>, Trouble> {
    let found = view.operations.get(&id).cloned();
    found.ok_or_else(|| unknown(id))
}

fn unknown(id: impl std::fmt::Display) -> Trouble {
    let asked = format!("operation {id}");
    let found = "there is none, or it ended so long ago that it was dropped";
    let remedy = "see /api/v1/operations for those that there are";
    Trouble::Unknown(problem(asked, found, remedy))
}

/// The id that `uri` ends with.
fn named(uri: &Uri) -> Result<OperationId, Trouble> {
    input::id(uri).ok_or_else(|| unknown(uri.path().rsplit('/').next().unwrap_or_default()))
}

/// The operation as soon as it has ended, or as it is after `limit`.
async fn ended(
    client: &Client,
    id: OperationId,
    limit: Duration,
) -> Result<Arc<OperationView>, Trouble> {
    let mut views = client.watch();
    let over = |view: &Arc<View>| {
        let operation = view.operations.get(&id);
        operation.is_none_or(|operation| operation.ended.is_some())
    };
    match timeout(limit, views.wait_for(over)).await {
        Ok(Ok(view)) => find(&view, id),
        Ok(Err(_closed)) => Err(Trouble::Gone),
        Err(_passed) => find(&client.view(), id),
    }
}

/// Answers with what became of an operation within `wait`: 200 once it has ended, whatever its outcome, and 202
/// while it runs.
pub(super) async fn answer(
    client: &Client,
    id: OperationId,
    wait: Option<Duration>,
) -> Result<Response, Trouble> {
    let operation = ended(client, id, wait.unwrap_or_default()).await?;
    let status = match operation.ended {
        Some(_) => StatusCode::OK,
        None => StatusCode::ACCEPTED,
    };
    Ok(reply(status, &Operation::from(&*operation)))
}

/// [`answer`], and where the operation is to be found later.
pub(super) async fn started(
    client: &Client,
    id: OperationId,
    wait: Option<Duration>,
) -> Result<Response, Trouble> {
    let mut response = answer(client, id, wait).await?;
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/operations/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

async fn list(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    Query::of(&uri, &[])?;
    let view = client.view();
    let operations = view.operations.values().map(|o| Operation::from(&**o));
    let operations = operations.collect();
    Ok(reply(StatusCode::OK, &List { operations }))
}

async fn show(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    let id = named(&uri)?;
    let query = Query::of(&uri, &["wait"])?;
    if query.wait.is_some() {
        return answer(&client, id, query.wait).await;
    }
    let operation = find(&client.view(), id)?;
    Ok(reply(StatusCode::OK, &Operation::from(&*operation)))
}

async fn cancel(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    let id = named(&uri)?;
    let query = Query::of(&uri, &["wait"])?;
    client.cancel(id).await?;
    answer(&client, id, query.wait).await
}
