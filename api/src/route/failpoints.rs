//! The path by which tests have calls of the machine's fail; see `hotvisor_vmm::failpoint`. It is no part of the API.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, put};
use hotvisor_vmm::failpoint;
use hotvisor_vmm::hotplug::client::Client;
use serde_json::{Map, Value, json};

pub(super) fn routes() -> Router<Client> {
    Router::new()
        .route("/failpoints", get(list))
        .route("/failpoints/{name}", put(set))
        .route("/misbehaves", put(misbehave).get(misdeeds))
}

/// How often each call was made, and made to fail.
async fn list() -> Response {
    let counts = failpoint::counts().into_iter();
    let counts: Map<String, Value> = counts
        .map(|count| {
            let value = json!({ "passed": count.passed, "failed": count.failed });
            (count.name.to_owned(), value)
        })
        .collect();
    super::reply(StatusCode::OK, &counts)
}

/// Has a call fail as the JSON string in the body says.
async fn set(Path(name): Path<String>, body: String) -> Response {
    done(text(&body).and_then(|actions| failpoint::set(&name, &actions)))
}

/// The JSON string in a body.
fn text(body: &str) -> Result<String, String> {
    serde_json::from_str(body).map_err(|e| e.to_string())
}

fn done(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => super::reply(StatusCode::OK, &json!({})),
        Err(why) => super::reply(StatusCode::BAD_REQUEST, &json!({ "error": why })),
    }
}

/// How often a thread has done so, and nothing came of it.
async fn misdeeds() -> Response {
    super::reply(StatusCode::OK, &json!(failpoint::misdeeds()))
}

/// Has a thread, which the JSON string in the body names, do what it may not.
async fn misbehave(body: String) -> Response {
    done(text(&body).map(failpoint::misbehave))
}
