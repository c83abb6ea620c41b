//! What there is: `vmm.ping`, `vm.info`, `vm.counters`.

use super::super::input::Query;
use super::super::reply;
use super::create;
use super::said::{Always, NotCreated, Said, absent};
use crate::wire::machine::{Ping, VmInfo, VmState};
use crate::wire::vcpus::us;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::view::MachineState;
use hotvisor_vmm::tally::VcpuTally;
use std::collections::BTreeMap;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new()
        .routes(routes!(ping))
        .routes(routes!(info))
        .routes(routes!(counters))
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
        return Err(absent("vm.info"));
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

/// Counters by name, of each vCPU by its thread's name.
type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// Show counters of the machine's vCPUs
///
/// Of each, its exits from the guest by kind, and how long its threads have run, in microseconds. They go on counting
/// when a vCPU is unplugged and plugged, and when the guest starts again.
#[utoipa::path(
    get,
    path = "/api/v1/vm.counters",
    operation_id = "showCounters",
    tag = "machine",
    responses((status = 200, description = "The counters.", body = Counters), Always, NotCreated)
)]
async fn counters(State(client): State<Client>, uri: Uri) -> Result<Response, Said> {
    Query::of(&uri, &[])?;
    let view = client.view();
    if view.config.is_none() {
        return Err(absent("vm.counters"));
    }
    let of_vcpu = |(id, tally): (u32, &VcpuTally)| {
        let exits = tally.exits().into_iter();
        let mut counters: BTreeMap<String, u64> = exits
            .map(|(kind, count)| (format!("exits_{}", kind.name()), count))
            .collect();
        let run = us(tally.run_time());
        counters.insert("run_time_us".to_owned(), run);
        (format!("vcpu-{id}"), counters)
    };
    let vcpus = client.tally().vcpus().filter(|(id, _)| *id < view.max);
    let counters: Counters = vcpus.map(of_vcpu).collect();
    Ok(reply(StatusCode::OK, &counters))
}
