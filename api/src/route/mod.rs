//! The REST API: one family of endpoints a file. Reads are answered from the published view; a change goes to
//! the control thread as one call. Nothing here waits for a vCPU, and nothing here knows about sockets.

mod events;
#[cfg(feature = "failpoints")]
mod failpoints;
#[cfg(test)]
pub(crate) mod fake;
mod idempotency;
mod input;
mod metrics;
mod openapi;
mod operations;
#[cfg(test)]
mod tests;
pub(crate) mod trouble;
mod vcpus;
mod vm;

pub(crate) use input::TIMEOUT;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::view::{MachineState, View};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use trouble::Trouble;
use utoipa_axum::router::OpenApiRouter;

/// All endpoints, each with its description: what has none is not served, and what is not served has none.
fn described() -> OpenApiRouter<Client> {
    openapi::head()
        .merge(vcpus::routes())
        .merge(operations::routes())
        .merge(events::routes())
        .merge(metrics::routes())
        .merge(vm::routes())
        .merge(openapi::routes())
}

/// All endpoints, for a machine that `client` leads to. How many connections there are is for the metrics.
pub(crate) fn router(client: Client, connections: Arc<AtomicU64>) -> Router {
    let (router, _document) = described().split_for_parts();
    #[cfg(feature = "failpoints")]
    let router = router.merge(failpoints::routes());
    let traffic = Arc::new(metrics::Traffic::new(connections));
    router
        .fallback(trouble::no_such_path)
        .method_not_allowed_fallback(trouble::no_such_method)
        .layer(middleware::from_fn_with_state(client.clone(), gate))
        .layer(Extension(traffic.clone()))
        .layer(middleware::from_fn_with_state(traffic, metrics::count))
        .with_state(client)
}

/// Takes the whole request in before anything is answered: a client that still writes when its connection is
/// closed on it gets an error instead of the answer. And lets nothing through any more once the machine has
/// ended: what the view says then is history.
async fn gate(State(client): State<Client>, request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let request = match input::whole(request).await {
        Ok(request) => request,
        Err(trouble) => return trouble.spoken_at(&uri),
    };
    // There is nothing to see before it is known whether there is a machine, and nothing to do after its end.
    let mut view = client.watch();
    let known = |view: &Arc<View>| view.state != MachineState::Starting;
    let begun = view.wait_for(known).await.is_ok();
    if !begun || view.has_changed().is_err() {
        return Trouble::Gone.spoken_at(&uri);
    }
    next.run(request).await
}

/// One line of JSON, with its end so that a terminal shows it well.
fn json(value: &impl Serialize) -> Vec<u8> {
    // Fails only for maps whose keys are no strings, and for numbers that are none; there are neither.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

fn reply(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(json(value)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
