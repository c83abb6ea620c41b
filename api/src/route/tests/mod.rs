//! Shapes, status codes and sentences, without a socket and without a machine.

mod bad_input;
mod events;
mod idempotency;
mod machine;
mod metrics;

use super::fake::Fake;
use super::openapi::tests::described_as;
use super::router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::{self, Client, Refused, Want};
use hotvisor_vmm::hotplug::view::{Code, Target};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tower::ServiceExt;

const VCPUS: &str = "/api/v1/vcpus";
const OPERATIONS: &str = "/api/v1/operations";

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

async fn send(client: &Client, request: Request<Body>) -> Answer {
    read(
        router(client.clone(), Arc::default())
            .oneshot(request)
            .await
            .unwrap(),
    )
    .await
}

async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: match &*bytes {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes).unwrap(),
        },
    }
}

async fn ask(client: &Client, method: &str, path: &str, body: &str) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let answer = send(client, request.body(body.to_owned().into()).unwrap()).await;
    assert_described(method, path, &answer);
    answer
}

/// Checks that the OpenAPI document knows of such an answer.
fn assert_described(method: &str, path: &str, answer: &Answer) {
    let Some(operation) = described_as(method, path) else {
        // Nothing is there, or nothing that has this method.
        assert!(
            [404, 405, 503].contains(&answer.status.as_u16()),
            "{method} {path}"
        );
        return;
    };
    let response = &operation["responses"][answer.status.as_str()];
    assert!(response.is_object(), "{method} {path}: {}", answer.status);
    let kind = answer.headers.get("content-type");
    let described = response["content"]
        .as_object()
        .map(|content| content.keys().next().unwrap());
    assert_eq!(
        kind.map(|kind| kind.to_str().unwrap()),
        described.map(String::as_str)
    );
    for name in response["headers"]
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::keys)
    {
        assert!(
            answer.headers.contains_key(name),
            "{method} {path}: no {name}"
        );
    }
}

#[tokio::test]
async fn the_document_is_served() {
    let (_fake, client) = Fake::new();
    let document = get(&client, "/openapi.json").await;
    assert_eq!(document.status, StatusCode::OK);
    assert_eq!(document.body["openapi"], "3.1.0");
    assert!(described_as("GET", "/openapi.json").is_some());
    assert!(described_as("PUT", "/api/v1/vcpus/1?wait=1").is_some());
}

async fn get(client: &Client, path: &str) -> Answer {
    ask(client, "GET", path, "").await
}

/// Checks that it is a problem of this kind, in all its parts.
fn assert_problem(answer: &Answer, status: u16, code: &str, words: &str) {
    let body = &answer.body;
    assert_eq!(answer.status, status, "{body}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(body["status"], status);
    assert_eq!(body["code"], code);
    assert_eq!(body["title"], answer.status.canonical_reason().unwrap());
    assert!(body["detail"].as_str().unwrap().contains(": "), "{body}");
    assert!(!body["remedy"].as_str().unwrap().is_empty(), "{body}");
    assert!(body.to_string().contains(words), "{words}: {body}");
}

#[tokio::test]
async fn vcpus_have_their_shape() {
    let (_fake, client) = Fake::new();
    let answer = get(&client, VCPUS).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/json");
    let body = answer.body;
    let numbers = [
        &body["desired"],
        &body["plugged"],
        &body["online"],
        &body["max"],
    ];
    assert_eq!(numbers, [2, 2, 2, 4]);
    assert_eq!(
        body["vcpus"][0],
        json!({
            "id": 0, "apic_id": 0, "phase": "online", "target": "online", "generation": 1,
            "boot": true, "thread": {"name": "vcpu-0", "tid": null, "running": true}, "last_operation": null,
        })
    );
    assert_eq!(body["vcpus"].as_array().unwrap().len(), 4);
    assert_eq!(body["vcpus"][3]["thread"], Value::Null);
    assert_eq!(body["vcpus"][3]["boot"], false);
}

#[tokio::test]
async fn a_vcpu_has_its_timeline() {
    let (_fake, client) = Fake::new();
    let answer = get(&client, "/api/v1/vcpus/1").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body["id"], 1);
    assert_eq!(
        answer.body["timeline"],
        json!({
            "plug": null,
            "unplug": {
                "operation": 4,
                "total_us": 1502,
                "phases": [{"phase": "notifying", "us": 1500}, {"phase": "stopping", "us": 2}],
            },
        })
    );
}

#[tokio::test]
async fn a_change_becomes_an_operation() {
    let (fake, client) = Fake::new();
    let answer = ask(&client, "PUT", VCPUS, r#"{"desired":3}"#).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.header("location"), "/api/v1/operations/1");
    let operation = json!({
        "id": 1, "kind": "resize", "desired": 3, "state": "running",
        "vcpus": [{"id": 3, "from": "dormant", "to": "online", "phase": "plugging", "outcome": null}],
        "created_at": "2001-09-09T01:46:40.000007Z", "ended_at": null,
    });
    assert_eq!(answer.body, operation);
    assert_eq!(
        get(&client, answer.header("location")).await.body,
        operation
    );
    let list = get(&client, OPERATIONS).await.body;
    assert_eq!(list, json!({"operations": [operation]}));

    let answer = ask(&client, "PUT", VCPUS, r#"{"online":[0,3,1]}"#).await;
    assert_eq!(
        (&answer.body["kind"], &answer.body["desired"]),
        (&json!("set"), &json!(3))
    );
    let path = "/api/v1/vcpus/1?timeout=1.5";
    let answer = ask(&client, "PUT", path, r#"{"target":"offline"}"#).await;
    assert_eq!(
        (&answer.body["kind"], &answer.body["desired"]),
        (&json!("vcpu"), &Value::Null)
    );
    let request = |want, timeout| client::Request { want, timeout };
    assert_eq!(
        fake.asked(),
        [
            request(Want::Count(3), None),
            request(Want::Set(BTreeSet::from([0, 1, 3])), None),
            request(
                Want::One(1, Target::Offline),
                Some(Duration::from_millis(1500))
            ),
        ]
    );
}

/// Starts a request, lets it come to the point where it waits, and then does something.
async fn meanwhile(client: &Client, method: &str, path: &str, then: impl FnOnce()) -> Answer {
    let mut request = Box::pin(ask(client, method, path, r#"{"desired":3}"#));
    poll_fn(|cx| {
        assert!(request.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    then();
    request.await
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_operation() {
    let (fake, client) = Fake::new();
    let path = "/api/v1/vcpus?wait=5";
    let answer = meanwhile(&client, "PUT", path, || fake.finish(1, Code::Refused)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("location"), "/api/v1/operations/1");
    assert_eq!(answer.body["state"], "refused");
    assert_eq!(answer.body["ended_at"], "2001-09-09T01:46:40.000007Z");
    assert_eq!(
        answer.body["vcpus"][0]["outcome"],
        json!({"code": "refused", "ost": [3, 130], "detail": "the guest is busy"})
    );

    ask(&client, "PUT", VCPUS, r#"{"desired":3}"#).await;
    let path = "/api/v1/operations/2?wait=5";
    let answer = meanwhile(&client, "GET", path, || fake.finish(2, Code::Succeeded)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body["state"], "succeeded");
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_its_time() {
    let (_fake, client) = Fake::new();
    let before = tokio::time::Instant::now();
    let answer = ask(&client, "PUT", "/api/v1/vcpus?wait=2.5", r#"{"desired":3}"#).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.body["state"], "running");
    let waited = before.elapsed();
    assert!((2500..2600).contains(&waited.as_millis()), "{waited:?}");

    let answer = get(&client, "/api/v1/operations/1?wait=0").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(
        get(&client, "/api/v1/operations/1").await.status,
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_machine() {
    let (fake, client) = Fake::new();
    let answer = meanwhile(&client, "PUT", "/api/v1/vcpus?wait=5", || fake.end()).await;
    assert_problem(&answer, 503, "gone", "it has ended");
    for path in [VCPUS, OPERATIONS, "/api/v1/operations/1", "/nowhere"] {
        assert_problem(&get(&client, path).await, 503, "gone", "hotvisor run");
    }
}

#[tokio::test]
async fn an_operation_can_be_cancelled() {
    let (fake, client) = Fake::new();
    ask(&client, "PUT", VCPUS, r#"{"desired":3}"#).await;
    let answer = ask(&client, "DELETE", "/api/v1/operations/1", "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body["state"], "cancelled");
    let problem = Problem::new("operation 1", "it has ended", "ask for another change");
    fake.refuse(Refused::Conflict(problem));
    let answer = ask(&client, "DELETE", "/api/v1/operations/1", "").await;
    assert_problem(&answer, 409, "conflict", "it has ended");
}

#[tokio::test]
async fn refusals_have_their_status() {
    let (fake, client) = Fake::new();
    let problem = Problem {
        asked: "5 vCPUs".into(),
        found: "this machine can have 4".into(),
        remedy: "ask for 4 or less".into(),
    };
    let cases = [
        (Refused::Invalid(problem.clone()), 422, "invalid"),
        (Refused::Unknown(problem.clone()), 404, "unknown"),
        (Refused::Conflict(problem.clone()), 409, "conflict"),
        (Refused::Paused(problem.clone()), 409, "paused"),
        (Refused::Running(problem.clone()), 409, "running"),
        (Refused::Busy(problem.clone()), 503, "busy"),
        (Refused::Absent(problem.clone()), 409, "no_machine"),
        (Refused::Stopped(problem.clone()), 409, "not_running"),
        (Refused::Failed(problem), 500, "failed"),
    ];
    for (refused, status, code) in cases {
        fake.refuse(refused);
        let path = "/api/v1/vcpus/1";
        let answer = ask(&client, "PUT", path, r#"{"target":"online"}"#).await;
        assert_problem(&answer, status, code, "5 vCPUs: this machine can have 4");
        assert_eq!(answer.body["remedy"], "ask for 4 or less");
    }
    fake.refuse(Refused::Gone);
    let answer = ask(&client, "PUT", VCPUS, r#"{"desired":5}"#).await;
    assert_problem(&answer, 503, "gone", "it has ended");
}
