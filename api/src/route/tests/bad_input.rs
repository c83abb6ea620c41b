//! What is not understood, or not there, changes nothing.

use super::{OPERATIONS, VCPUS, ask, assert_problem, get, send};
use crate::route::fake::Fake;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use std::task::Poll;

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
    (r#"{"desired":-3.0}"#, 422, "a whole number"),
    (r#"{"desired":4294967296.0}"#, 422, "a whole number"),
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
        assert_problem(&get(&client, path).await, 404, "unknown", "/openapi.json");
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
