//! `/api/v1/vcpus`: what the vCPUs are, and what they are to become.

use super::input::{self, Query};
use super::trouble::{Trouble, problem};
use super::{operations, reply};
use crate::wire::vcpus::{Change, ChangeOne, VcpuDetail, Vcpus};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::get;
use hotvisor_vmm::hotplug::client::{self, Client, Want};
use hotvisor_vmm::hotplug::view::{VcpuView, View};

pub(super) fn routes() -> Router<Client> {
    Router::new()
        .route("/api/v1/vcpus", get(list).put(set))
        .route("/api/v1/vcpus/{id}", get(show).put(set_one))
}

async fn list(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    Query::of(&uri, &[])?;
    Ok(reply(StatusCode::OK, &Vcpus::from(&*client.view())))
}

/// The vCPU whose id `uri` ends with.
fn named<'a>(view: &'a View, uri: &Uri) -> Result<&'a VcpuView, Trouble> {
    let vcpu = input::id(uri).and_then(|id: u32| view.vcpus.iter().find(|vcpu| vcpu.id == id));
    vcpu.map(|vcpu| &**vcpu).ok_or_else(|| {
        let asked = format!("vCPU {}", uri.path().rsplit('/').next().unwrap_or_default());
        let found = format!(
            "there is none: this machine can have {}, counted from 0",
            view.max
        );
        let remedy = "see /api/v1/vcpus for those that there are";
        Trouble::Unknown(problem(asked, found, remedy))
    })
}

async fn show(State(client): State<Client>, uri: Uri) -> Result<Response, Trouble> {
    let view = client.view();
    let vcpu = named(&view, &uri)?;
    Query::of(&uri, &[])?;
    Ok(reply(StatusCode::OK, &VcpuDetail::from(vcpu)))
}

async fn set(State(client): State<Client>, request: Request) -> Result<Response, Trouble> {
    let query = Query::of(request.uri(), &["wait", "timeout"])?;
    let remedy = r#"send {"desired":3} or {"online":[0,2,5]}"#;
    let change: Change = input::object(request, remedy).await?;
    ask(&client, change.into(), query).await
}

async fn set_one(State(client): State<Client>, request: Request) -> Result<Response, Trouble> {
    let id = named(&client.view(), request.uri())?.id;
    let query = Query::of(request.uri(), &["wait", "timeout"])?;
    let remedy = r#"send {"target":"online"} or {"target":"offline"}"#;
    let change: ChangeOne = input::object(request, remedy).await?;
    ask(&client, Want::One(id, change.target.into()), query).await
}

/// Asks for a change, and answers with the operation.
async fn ask(client: &Client, want: Want, query: Query) -> Result<Response, Trouble> {
    let timeout = query.timeout;
    let id = client.change(client::Request { want, timeout }).await?;
    operations::started(client, id, query.wait).await
}
