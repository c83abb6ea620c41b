//! `/api/v1/operations`: what was asked for, and what became of it.

use super::input::{self, Query};
use super::openapi::{Always, Conflict, Failed, NotThere, OperationPath, Wait};
use super::reply;
use super::trouble::Trouble;
use crate::wire::operations::{Operation, Operations};
use axum::extract::State;
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::view::{OperationId, OperationView, View};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, cancel))
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
    Trouble::Unknown(Problem::new(asked, found, remedy))
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

/// List the operations
///
/// The running ones and the last ended ones, the oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/operations",
    operation_id = "listOperations",
    tag = "operations",
    responses((status = 200, description = "Those that there are.", body = Operations), Always)
)]
async fn list(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    Query::of(&uri, &[])?;
    let view = client.view();
    let operations = view.operations.values().map(|o| Operation::from(&**o));
    let operations = operations.collect();
    Ok(reply(StatusCode::OK, &Operations { operations }))
}

/// Show an operation, or wait for its end
#[utoipa::path(
    get,
    path = "/api/v1/operations/{id}",
    operation_id = "showOperation",
    tag = "operations",
    params(OperationPath, Wait),
    responses(
        (status = 200, description = "It has ended, whatever its outcome; or it was not waited for.", body = Operation),
        (status = 202, description = "It was waited for, and still runs.", body = Operation),
        Always,
        NotThere
    )
)]
async fn show(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    let id = named(&uri)?;
    let query = Query::of(&uri, &["wait"])?;
    if query.wait.is_some() {
        return answer(&client, id, query.wait).await;
    }
    let operation = find(&client.view(), id)?;
    Ok(reply(StatusCode::OK, &Operation::from(&*operation)))
}

/// Take an operation back
///
/// Possible as long as the guest has not read the request. The operation then ends as cancelled, and can still be
/// read.
#[utoipa::path(
    delete,
    path = "/api/v1/operations/{id}",
    operation_id = "cancelOperation",
    tag = "operations",
    params(OperationPath, Wait),
    responses(
        (status = 200, description = "It has ended.", body = Operation),
        (status = 202, description = "It will end as soon as what was begun is undone.", body = Operation),
        Always,
        NotThere,
        Conflict,
        Failed
    )
)]
async fn cancel(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    let id = named(&uri)?;
    let query = Query::of(&uri, &["wait"])?;
    client.cancel(id).await?;
    answer(&client, id, query.wait).await
}
