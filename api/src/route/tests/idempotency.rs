//! `Idempotency-Key`: the same request twice is one operation.

use super::{Answer, VCPUS, assert_described, assert_problem, read};
use crate::route::fake::Fake;
use crate::route::router;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::Refused;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tower::ServiceExt;

const ONE: &str = "/api/v1/vcpus/1";
const THREE: &str = r#"{"desired":3}"#;

/// One server for all requests of a test.
fn server() -> (Arc<Fake>, Router) {
    let (fake, client) = Fake::new();
    (fake, router(client, Arc::default()))
}

async fn put(server: &Router, key: &[u8], path: &str, body: &str) -> Answer {
    let request = Request::put(path).header("idempotency-key", key);
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let answer = read(server.clone().oneshot(request).await.unwrap()).await;
    assert_described("PUT", path, &answer);
    answer
}

#[tokio::test(start_paused = true)]
async fn the_same_is_one_operation() {
    let (fake, server) = server();
    let first = put(&server, b"a", VCPUS, THREE).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    for (path, body) in [
        (VCPUS, THREE),
        (VCPUS, " { \"desired\" : 3 }\n"),
        ("/api/v1/vcpus?wait=1.5", THREE),
    ] {
        let again = put(&server, b"a", path, body).await;
        assert_eq!(again.status, StatusCode::ACCEPTED);
        assert_eq!(again.body, first.body);
        assert_eq!(again.header("location"), first.header("location"));
    }
    fake.finish(1, hotvisor_vmm::hotplug::view::Code::Succeeded);
    let again = put(&server, b"a", VCPUS, THREE).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(again.body["state"], "succeeded");
    assert_eq!(fake.asked().len(), 1);

    let other = put(&server, b"b", VCPUS, THREE).await;
    assert_eq!(other.body["id"], 2);
}

#[tokio::test]
async fn a_key_is_for_one_request() {
    let (fake, server) = server();
    let path = "/api/v1/vcpus?timeout=2";
    assert_eq!(put(&server, b"a", path, THREE).await.body["id"], 1);
    for (path, body) in [
        (path, r#"{"desired":2}"#),
        (path, r#"{"online":[0,1,2]}"#),
        (VCPUS, THREE),
        ("/api/v1/vcpus?timeout=2.5", THREE),
        (ONE, r#"{"target":"offline"}"#),
    ] {
        let answer = put(&server, b"a", path, body).await;
        assert_problem(&answer, 422, "key_reused", "take a new key");
    }
    assert_eq!(fake.asked().len(), 1);
    let again = put(&server, b"a", "/api/v1/vcpus?timeout=2.0", THREE).await;
    assert_eq!(again.body["id"], 1);
}

/// A request, as far as it comes before something is answered.
type Started<'a> = Pin<Box<dyn Future<Output = Answer> + 'a>>;

async fn started<'a>(server: &'a Router, key: &'a [u8]) -> Started<'a> {
    let mut request: Started<'_> = Box::pin(put(server, key, VCPUS, THREE));
    poll_fn(|cx| {
        assert!(request.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    // What it has set going runs too.
    tokio::task::yield_now().await;
    request
}

#[tokio::test]
async fn two_at_the_same_moment_are_one() {
    let (fake, server) = server();
    fake.hold();
    let first = started(&server, b"a").await;
    let second = started(&server, b"a").await;
    let other = put(&server, b"a", VCPUS, r#"{"desired":1}"#).await;
    assert_problem(&other, 422, "key_reused", "take a new key");
    fake.let_go();
    assert_eq!(second.await.body["id"], 1);
    assert_eq!(first.await.body["id"], 1);
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn who_leaves_too_early_may_ask_again() {
    let (fake, server) = server();
    fake.hold();
    drop(started(&server, b"a").await);
    fake.let_go();
    assert_eq!(put(&server, b"a", VCPUS, THREE).await.body["id"], 1);
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn what_was_refused_is_not_remembered() {
    let (fake, server) = server();
    fake.refuse(Refused::Conflict(Problem {
        asked: "3 vCPUs".into(),
        found: "not now".into(),
        remedy: "ask later".into(),
    }));
    let refused = put(&server, b"a", VCPUS, THREE).await;
    assert_problem(&refused, 409, "conflict", "not now");
    let malformed = put(&server, b"a", VCPUS, "{").await;
    assert_problem(&malformed, 400, "malformed", "not JSON");
    fake.accept();
    let answer = put(&server, b"a", VCPUS, r#"{"desired":2}"#).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_key_is_forgotten_with_its_operation() {
    let (fake, server) = server();
    put(&server, b"a", VCPUS, THREE).await;
    fake.forget(1);
    let answer = put(&server, b"a", VCPUS, r#"{"desired":2}"#).await;
    assert_eq!(answer.body["id"], 2);
}

#[tokio::test]
async fn only_so_many_keys_are_remembered() {
    let (fake, server) = server();
    for n in 0..1024 {
        put(&server, n.to_string().as_bytes(), VCPUS, THREE).await;
    }
    assert_eq!(put(&server, b"0", VCPUS, THREE).await.body["id"], 1);
    put(&server, b"more", VCPUS, THREE).await;
    assert_eq!(fake.asked().len(), 1025);
    assert_eq!(put(&server, b"1", VCPUS, THREE).await.body["id"], 2);
    assert_eq!(put(&server, b"0", VCPUS, THREE).await.body["id"], 1026);
}

#[tokio::test]
async fn bad_keys() {
    let (fake, server) = server();
    for key in [
        &b""[..],
        &[b'x'; 256],
        b"two words",
        b"tab\there",
        "\u{e9}".as_bytes(),
        b"\xff",
    ] {
        let answer = put(&server, key, VCPUS, THREE).await;
        assert_problem(&answer, 400, "malformed", "Idempotency-Key");
    }
    let twice = Request::put(VCPUS).header("idempotency-key", "a");
    let twice = twice.header("idempotency-key", "a");
    let answer = server
        .clone()
        .oneshot(twice.body(Body::from(THREE)).unwrap());
    let answer = read(answer.await.unwrap()).await;
    assert_problem(&answer, 400, "malformed", "it is there twice");
    assert!(fake.asked().is_empty());
    for key in [
        &[b'x'; 255][..],
        b"\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        b"!~",
    ] {
        let answer = put(&server, key, VCPUS, THREE).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
    }
}
