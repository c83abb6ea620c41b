//! What there is: `vmm.ping`, `vm.info`.

use super::super::input::Query;
use super::super::reply;
use super::super::trouble::{Trouble, problem};
use super::create;
use super::said::{Always, NotCreated, Said};
use crate::wire::machine::{Ping, VmInfo, VmState};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::view::MachineState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new()
        .routes(routes!(ping))
        .routes(routes!(info))
}

/// Say which program this is
#[utoipa::path(
    get,
    path = "/api/v1/vmm.ping",
    operation_id = "pingVMM",
    tag = "machine",
    responses((status = 200, description = "It is there.", body = Ping), Always)
)]
async fn ping(uri: Uri) -> Result<Response, Said> {
    Query::of(&uri, &[])?;
    let version = env!("CARGO_PKG_VERSION");
    let ping = Ping {
        build_version: format!("hotvisor v{version}"),
        version: version.to_owned(),
        pid: std::process::id(),
        features: Vec::new(),
    };
    Ok(reply(StatusCode::OK, &ping))
}

/// Say what the machine is, and what it is at
///
/// `boot_vcpus` are those that are plugged, whatever was asked for.
#[utoipa::path(
    get,
    path = "/api/v1/vm.info",
    operation_id = "showVM",
    tag = "machine",
    responses((status = 200, description = "The machine.", body = VmInfo), Always, NotCreated)
)]
async fn info(State(client): State<Client>, uri: Uri) -> Result<Response, Said> {
    Query::of(&uri, &[])?;
    let view = client.view();
    let Some(config) = &view.config else {
        let absent = problem("vm.info", "there is no machine", "create one first");
        return Err(Trouble::Absent(absent).into());
    };
    let (state, present) = match view.state {
        MachineState::Starting | MachineState::None | MachineState::Created => {
            (VmState::Created, view.desired)
        }
        MachineState::Running | MachineState::Restarting => (VmState::Running, view.plugged),
        MachineState::Paused => (VmState::Paused, view.plugged),
        MachineState::Stopping => (VmState::Shutdown, view.plugged),
    };
    let info = VmInfo {
        config: create::described(config, present),
        state,
        memory_actual_size: config.memory,
    };
    Ok(reply(StatusCode::OK, &info))
}
