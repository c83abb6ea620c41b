//! `/api/v1/vm.pause` and `/api/v1/vm.resume`, in the spelling of Cloud Hypervisor: the machine stands still, and
//! goes on. Each is answered when it is so.

use super::input::{self, Query};
use super::trouble::Trouble;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::put;
use hotvisor_vmm::hotplug::client::Client;

pub(super) fn routes() -> Router<Client> {
    Router::new()
        .route("/api/v1/vm.pause", put(pause))
        .route("/api/v1/vm.resume", put(resume))
}

async fn pause(State(client): State<Client>, request: Request) -> Result<StatusCode, Trouble> {
    Query::of(request.uri(), &[])?;
    input::nothing(request).await?;
    client.pause().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resume(State(client): State<Client>, request: Request) -> Result<StatusCode, Trouble> {
    Query::of(request.uri(), &[])?;
    input::nothing(request).await?;
    client.resume().await?;
    Ok(StatusCode::NO_CONTENT)
}
