//! Cloud Hypervisor's API, as far as it is about machines, vCPUs and this process: its paths, its JSON, its status
//! codes as its own document gives them, and its error bodies. Whoever wants to know what became of an unplug uses
//! the other resources.

mod create;
mod info;
mod said;

use super::input::{self, Query};
use super::trouble::Trouble;
use crate::wire::machine::{VmConfig, VmResize};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::{Client, MachineCall};
use said::{Always, Failures, NotCreated, absent};
pub(super) use said::{Said, is_spoken_at};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new()
        .merge(info::routes())
        .routes(routes!(create))
        .routes(routes!(boot))
        .routes(routes!(resize))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(reboot))
        .routes(routes!(power_button))
        .routes(routes!(shutdown))
        .routes(routes!(delete))
        .routes(routes!(quit))
}

/// Has something done that needs no further words.
async fn act(client: &Client, request: Request, call: MachineCall) -> Result<StatusCode, Said> {
    Query::of(request.uri(), &[])?;
    input::nothing(request).await?;
    client.machine(call).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Describe a machine
///
/// All of it is checked and its files are opened; it does not run yet.
#[utoipa::path(
    put,
    path = "/api/v1/vm.create",
    operation_id = "createVM",
    tag = "machine",
    request_body = VmConfig,
    responses((status = 204, description = "It is there."), Always, Failures)
)]
async fn create(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    Query::of(request.uri(), &[])?;
    let config = create::config(request).await?;
    client
        .machine(MachineCall::Create(Box::new(config)))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Let the machine run
#[utoipa::path(
    put,
    path = "/api/v1/vm.boot",
    operation_id = "bootVM",
    tag = "machine",
    responses((status = 204, description = "It runs."), Always, NotCreated, Failures)
)]
async fn boot(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::Boot).await
}

/// Ask for another count of vCPUs
///
/// Answered at once, before anything has come of it; the latest request wins. `vm.info` shows what is there, and
/// `/api/v1/operations` what became of it.
#[utoipa::path(
    put,
    path = "/api/v1/vm.resize",
    operation_id = "resizeVM",
    tag = "machine",
    request_body = VmResize,
    responses((status = 204, description = "It has been asked for."), Always, NotCreated, Failures)
)]
async fn resize(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    const ASKED: &str = "vm.resize";
    Query::of(request.uri(), &[])?;
    let remedy = r#"send {"desired_vcpus":2}"#;
    let size: VmResize = create::object(request, create::RESIZE, remedy).await?;
    let view = client.view();
    let Some(config) = &view.config else {
        return Err(absent(ASKED));
    };
    if let Some(ram) = size.desired_ram.filter(|ram| *ram != config.memory) {
        let found = format!("{ram} bytes of memory, and it has {}", config.memory);
        let remedy = "leave desired_ram out: the memory of a machine stays as it is";
        return Err(Trouble::Invalid(Problem::new(ASKED, found, remedy)).into());
    }
    let Some(count) = size.desired_vcpus else {
        return Ok(StatusCode::NO_CONTENT);
    };
    if !(1..=view.max).contains(&count) {
        let found = format!("{count} vCPUs, and it can have {}", view.max);
        let remedy = format!("ask for 1 to {}", view.max);
        return Err(Trouble::Invalid(Problem::new(ASKED, found, remedy)).into());
    }
    // Whether it runs, the control thread knows when it comes to it.
    client.preset(count).await?;
    Ok(StatusCode::NO_CONTENT)
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
    responses((status = 204, description = "It stands still."), Always, NotCreated, Failures)
)]
async fn pause(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::Pause).await
}

/// Let a paused guest go on
#[utoipa::path(
    put,
    path = "/api/v1/vm.resume",
    operation_id = "resumeVM",
    tag = "machine",
    responses((status = 204, description = "It runs."), Always, NotCreated, Failures)
)]
async fn resume(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::Resume).await
}

/// Start the guest again, without asking it
#[utoipa::path(
    put,
    path = "/api/v1/vm.reboot",
    operation_id = "rebootVM",
    tag = "machine",
    responses((status = 204, description = "It runs from its beginning."), Always, NotCreated, Failures)
)]
async fn reboot(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::Reboot).await
}

/// Press the guest's power button
///
/// What the guest does about it is not waited for. When it powers off, this process ends.
#[utoipa::path(
    put,
    path = "/api/v1/vm.power-button",
    operation_id = "power-buttonVM",
    tag = "machine",
    responses((status = 204, description = "It is pressed."), Always, NotCreated, Failures)
)]
async fn power_button(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::PressPowerButton).await
}

/// Stop the machine, without asking the guest
///
/// What it is to be is kept: it can be booted again, with as many vCPUs as were last asked for.
#[utoipa::path(
    put,
    path = "/api/v1/vm.shutdown",
    operation_id = "shutdownVM",
    tag = "machine",
    responses((status = 204, description = "It does not run any more."), Always, NotCreated, Failures)
)]
async fn shutdown(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::Shutdown).await
}

/// Forget the machine, after stopping it
#[utoipa::path(
    put,
    path = "/api/v1/vm.delete",
    operation_id = "deleteVM",
    tag = "machine",
    responses((status = 204, description = "There is none any more."), Always, Failures)
)]
async fn delete(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::Delete).await
}

/// End this process, and the machine with it
#[utoipa::path(
    put,
    path = "/api/v1/vmm.shutdown",
    operation_id = "shutdownVMM",
    tag = "machine",
    responses((status = 204, description = "It ends."), Always, Failures)
)]
async fn quit(State(client): State<Client>, request: Request) -> Result<StatusCode, Said> {
    act(&client, request, MachineCall::Quit).await
}
