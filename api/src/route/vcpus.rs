//! `/api/v1/vcpus`: what the vCPUs are, and what they are to become.

use super::idempotency::{Key, Keys};
use super::input::{self, Query};
use super::openapi::{Always, Changes, IdempotencyKey, NotThere, Timeout, VcpuPath, Wait};
use super::trouble::Trouble;
use super::{operations, reply};
use crate::wire::change::Change;
use crate::wire::vcpus::{ChangeOne, VcpuDetail, Vcpus};
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::{self, Client, Want};
use hotvisor_vmm::hotplug::view::{VcpuView, View};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new()
        .routes(routes!(list, set))
        .routes(routes!(show, set_one))
        .layer(Extension(Arc::<Keys>::default()))
}

/// List the vCPUs
#[utoipa::path(
    get,
    path = "/api/v1/vcpus",
    operation_id = "listVcpus",
    tag = "vcpus",
    responses((status = 200, description = "All that the machine can have.", body = Vcpus), Always)
)]
async fn list(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    Query::of(&uri, &[])?;
    Ok(reply(StatusCode::OK, &Vcpus::from(&*client.view())))
}

/// The vCPU whose id `uri` ends with.
fn named<'a>(view: &'a View, uri: &Uri) -> Result<&'a VcpuView, Trouble> {
    let vcpu = input::id(uri).and_then(|id: u32| view.vcpus.iter().find(|vcpu| vcpu.id == id));
    vcpu.map(|vcpu| &**vcpu).ok_or_else(|| {
        let asked = format!("vCPU {}", uri.path().rsplit('/').next().unwrap_or_default());
        let (found, remedy) = match view.max {
            0 => ("there is no machine".to_owned(), "create one first"),
            max => (
                format!("there is none: this machine can have {max}, counted from 0"),
                "see /api/v1/vcpus for those that there are",
            ),
        };
        Trouble::Unknown(Problem::new(asked, found, remedy))
    })
}

/// Show a vCPU and its history
#[utoipa::path(
    get,
    path = "/api/v1/vcpus/{id}",
    operation_id = "showVcpu",
    tag = "vcpus",
    params(VcpuPath),
    responses((status = 200, description = "It and its history.", body = VcpuDetail), Always, NotThere)
)]
async fn show(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    let view = client.view();
    let vcpu = named(&view, &uri)?;
    Query::of(&uri, &[])?;
    Ok(reply(StatusCode::OK, &VcpuDetail::from(vcpu)))
}

/// Have so many vCPUs, or exactly these
///
/// One operation for all of them. The latest request wins.
#[utoipa::path(
    put,
    path = "/api/v1/vcpus",
    operation_id = "changeVcpus",
    tag = "vcpus",
    params(Wait, Timeout, IdempotencyKey),
    request_body = Change,
    responses(Changes, Always)
)]
async fn set(
    State(client): State<Client>,
    Extension(keys): Extension<Arc<Keys>>,
    request: Request,
) -> Result<Response, Trouble> {
    let how = How::of(&request)?;
    let remedy = r#"send {"desired":3} or {"online":[0,2,5]}"#;
    let change: Change = input::object(request, remedy).await?;
    ask(&client, &keys, change.into(), how).await
}

/// Plug or unplug a vCPU
///
/// The latest request wins.
#[utoipa::path(
    put,
    path = "/api/v1/vcpus/{id}",
    operation_id = "changeVcpu",
    tag = "vcpus",
    params(VcpuPath, Wait, Timeout, IdempotencyKey),
    request_body = ChangeOne,
    responses(Changes, Always, NotThere)
)]
async fn set_one(
    State(client): State<Client>,
    Extension(keys): Extension<Arc<Keys>>,
    request: Request,
) -> Result<Response, Trouble> {
    let id = named(&client.view(), request.uri())?.id;
    let how = How::of(&request)?;
    let remedy = r#"send {"target":"online"} or {"target":"offline"}"#;
    let change: ChangeOne = input::object(request, remedy).await?;
    ask(&client, &keys, Want::One(id, change.target.into()), how).await
}

/// What a request for a change says beside the change.
struct How {
    query: Query,
    key: Option<Key>,
}

impl How {
    fn of(request: &Request) -> Result<Self, Trouble> {
        Ok(Self {
            query: Query::of(request.uri(), &["wait", "timeout"])?,
            key: Key::of(request.headers())?,
        })
    }
}

/// Asks for a change, and answers with the operation.
async fn ask(client: &Client, keys: &Keys, want: Want, how: How) -> Result<Response, Trouble> {
    let timeout = how.query.timeout;
    let request = client::Request { want, timeout };
    let id = match how.key {
        Some(key) => keys.change(client, key, request).await?,
        None => client.change(request).await?,
    };
    operations::started(client, id, how.query.wait).await
}
