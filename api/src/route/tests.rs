//! Shapes, status codes and sentences, without a socket and without a machine.

use super::fake::Fake;
use super::openapi::tests::described_as;
use super::router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::{self, Client, Refused, Want};
use hotvisor_vmm::hotplug::view::{Code, Target};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use tower::ServiceExt;

const VCPUS: &str = "/api/v1/vcpus";
const OPERATIONS: &str = "/api/v1/operations";
const PAUSE: &str = "/api/v1/vm.pause";
const RESUME: &str = "/api/v1/vm.resume";

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
    let response = router(client.clone()).oneshot(request).await.unwrap();
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
    let problem = super::trouble::problem("operation 1", "it has ended", "ask for another change");
    fake.refuse(Refused::Conflict(problem));
    let answer = ask(&client, "DELETE", "/api/v1/operations/1", "").await;
    assert_problem(&answer, 409, "conflict", "it has ended");
}

#[tokio::test]
async fn a_pause_and_its_end_have_no_content() {
    let (fake, client) = Fake::new();
    for (path, paused) in [(PAUSE, true), (RESUME, false)] {
        let answer = ask(&client, "PUT", path, "").await;
        assert_eq!(
            (answer.status, answer.body),
            (StatusCode::NO_CONTENT, Value::Null)
        );
        assert_eq!(fake.is_paused(), paused);
        let answer = ask(&client, "PUT", path, "{}").await;
        assert_problem(&answer, 400, "malformed", "a body, where none is known");
        let answer = ask(&client, "PUT", &format!("{path}?wait=1"), "").await;
        assert_problem(&answer, 400, "malformed", "?wait=1");
        assert_problem(&get(&client, path).await, 405, "method", "GET");
    }
    fake.end();
    assert_problem(
        &ask(&client, "PUT", PAUSE, "").await,
        503,
        "gone",
        "it has ended",
    );
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

/// Bodies of `PUT /api/v1/vcpus`, their status, and what must be said.
const BODIES: &[(&str, u16, &str)] = &[
    ("", 400, "an empty body"),
    (" \n", 400, "an empty body"),
    ("{", 400, "not JSON"),
    ("desired=3", 400, "not JSON"),
    (r#"{"desired":3"#, 400, "not JSON"),
    (r#"{"desired":3}x"#, 400, "not JSON"),
    (r#"{"desired":03}"#, 400, "not JSON"),
    ("[3]", 422, "not an object"),
    ("3", 422, "not an object"),
    ("{}", 422, "neither"),
    (r#"{"desired":null}"#, 422, "null, expected a whole number"),
    (r#"{"desired":3,"online":null}"#, 422, "null, expected a"),
    (r#"{"desired":3,"online":[0]}"#, 422, "both"),
    (r#"{"desired":3,"desired":3}"#, 422, "duplicate field"),
    (
        r#"{"desired":3,"force":true}"#,
        422,
        "unknown field `force`",
    ),
    (r#"{"desierd":3}"#, 422, "expected `desired` or `online`"),
    (r#"{"desired":"3"}"#, 422, "a whole number"),
    (
        r#"{"desired":-1}"#,
        422,
        "integer `-1`, expected a whole number",
    ),
    (r#"{"desired":3.5}"#, 422, "a whole number"),
    (r#"{"desired":3.0}"#, 422, "a whole number"),
    (r#"{"desired":1e400}"#, 422, "out of range"),
    (r#"{"desired":true}"#, 422, "a whole number"),
    (r#"{"desired":4294967296}"#, 422, "from 0 to 4294967295"),
    (
        r#"{"desired":99999999999999999999999}"#,
        422,
        "a whole number",
    ),
    (r#"{"online":0}"#, 422, "expected a sequence"),
    (r#"{"online":[0,-1]}"#, 422, "a whole number"),
    (r#"{"online":[0,"1"]}"#, 422, "a whole number"),
    (r#"{"online":[0,1,1]}"#, 422, "vCPU 1 is there twice"),
];

#[tokio::test]
async fn bad_bodies_change_nothing() {
    let (fake, client) = Fake::new();
    for (body, status, words) in BODIES {
        let answer = ask(&client, "PUT", VCPUS, body).await;
        let code = if *status == 400 {
            "malformed"
        } else {
            "invalid"
        };
        assert_problem(&answer, *status, code, words);
        assert_eq!(
            answer.body["remedy"], r#"send {"desired":3} or {"online":[0,2,5]}"#,
            "{body}"
        );
    }
    for body in [
        r#"{"target":"gone"}"#,
        r#"{"target":1}"#,
        "{}",
        r#"{"desired":1}"#,
    ] {
        let answer = ask(&client, "PUT", "/api/v1/vcpus/1", body).await;
        assert_problem(&answer, 422, "invalid", "online");
    }
    let deep = format!(r#"{{"online":{}"#, "[".repeat(10_000));
    assert_eq!(ask(&client, "PUT", VCPUS, &deep).await.status, 400);
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn long_bodies_are_not_read() {
    let (fake, client) = Fake::new();
    let padded = |len: usize| " ".repeat(len - 13) + r#"{"desired":3}"#;
    let answer = ask(&client, "PUT", VCPUS, &padded((64 << 10) + 1)).await;
    assert_problem(&answer, 413, "large", "more than 65536 bytes");
    assert!(fake.asked().is_empty());
    let answer = ask(&client, "PUT", VCPUS, &padded(64 << 10)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn unknown_things_are_named() {
    let (fake, client) = Fake::new();
    let change = r#"{"target":"online"}"#;
    for id in ["4", "-1", "01", "one", "4294967296", "99999999999999999999"] {
        let path = format!("{VCPUS}/{id}");
        let words = format!("vCPU {id}: there is none: this machine can have 4");
        assert_problem(&get(&client, &path).await, 404, "unknown", &words);
        assert_problem(
            &ask(&client, "PUT", &path, change).await,
            404,
            "unknown",
            &words,
        );
    }
    for path in [
        "/api/v1/operations/7",
        "/api/v1/operations/x",
        "/api/v1/operations/7?wait=9",
    ] {
        assert_problem(&get(&client, path).await, 404, "unknown", "operation ");
    }
    let nowhere = [
        "/",
        "/api/v1",
        "/api/v1/vcpu",
        "/api/v1/vcpus/",
        "/api/v1/vcpus/1/x",
    ];
    for path in nowhere {
        assert_problem(&get(&client, path).await, 404, "unknown", "/api/v1/");
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn unknown_methods_and_parameters() {
    let (fake, client) = Fake::new();
    let cases = [
        ("POST", VCPUS, "GET,HEAD,PUT"),
        ("DELETE", "/api/v1/vcpus/1", "GET,HEAD,PUT"),
        ("PUT", OPERATIONS, "GET,HEAD"),
        ("PATCH", "/api/v1/operations/1", "GET,HEAD,DELETE"),
    ];
    for (method, path, allowed) in cases {
        let answer = ask(&client, method, path, "").await;
        assert_problem(&answer, 405, "method", method);
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
    let change = r#"{"desired":3}"#;
    for (method, path) in [
        ("GET", "/api/v1/vcpus?wait=1"),
        ("GET", "/api/v1/vcpus/1?x"),
        ("GET", "/api/v1/operations?state=running"),
        ("PUT", "/api/v1/vcpus?weit=1"),
        ("PUT", "/api/v1/vcpus?wait=-1"),
        ("DELETE", "/api/v1/operations/1?timeout=1"),
    ] {
        let answer = ask(&client, method, path, change).await;
        assert_problem(&answer, 400, "malformed", "?");
    }
    assert!(fake.asked().is_empty());
}

/// `curl --data` names the wrong content type, and many name none.
#[tokio::test]
async fn any_content_type_will_do() {
    let (fake, client) = Fake::new();
    let types = [
        None,
        Some("application/json"),
        Some("application/x-www-form-urlencoded"),
    ];
    for kind in types {
        let mut request = Request::put(VCPUS);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let answer = send(&client, request.body(r#"{"desired":3}"#.into()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
    }
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_given_up() {
    let (fake, client) = Fake::new();
    let request = Request::put(VCPUS).body(Body::new(Stuck)).unwrap();
    let answer = send(&client, request).await;
    assert_problem(&answer, 408, "slow", "the body is not here after 10 s");
    assert!(fake.asked().is_empty());
}

/// A body whose sender has stopped.
struct Stuck;

impl hyper::body::Body for Stuck {
    type Data = axum::body::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Poll::Pending
    }
}
