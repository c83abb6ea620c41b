//! `/api/v1/vm.pause` and `/api/v1/vm.resume`, in the spelling of Cloud Hypervisor: the machine stands still, and
//! goes on. Each is answered when it is so.

use super::input::{self, Query};
use super::openapi::{Always, Conflict, Failed};
use super::trouble::Trouble;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hotvisor_vmm::hotplug::client::Client;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new()
        .routes(routes!(pause))
        .routes(routes!(resume))
}

/// Have the guest stand still
///
/// Its time stands still with it. A change of vCPUs that is on its way goes on after the pause; new ones are refused
/// until then.
#[utoipa::path(
    put,
    path = "/api/v1/vm.pause",
    operation_id = "pauseVM",
    tag = "machine",
    responses((status = 204, description = "It stands still."), Always, Conflict, Failed)
)]
async fn pause(State(client): State<Client>, request: Request) -> Result<StatusCode, Trouble> {
    Query::of(request.uri(), &[])?;
    input::nothing(request).await?;
    client.pause().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Let a paused guest go on
#[utoipa::path(
    put,
    path = "/api/v1/vm.resume",
    operation_id = "resumeVM",
    tag = "machine",
    responses((status = 204, description = "It runs."), Always, Conflict, Failed)
)]
async fn resume(State(client): State<Client>, request: Request) -> Result<StatusCode, Trouble> {
    Query::of(request.uri(), &[])?;
    input::nothing(request).await?;
    client.resume().await?;
    Ok(StatusCode::NO_CONTENT)
}
