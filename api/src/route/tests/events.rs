//! The stream of events, without a socket: what is in it, where it begins, and where it ends.

use super::*;
use hotvisor_vmm::events::{News, PhaseChange};
use http_body_util::BodyExt;
use std::future::Future;
use std::pin::pin;
use std::task::Context;

const EVENTS: &str = "/api/v1/events";
/// What the ring holds.
const KEPT: u64 = 4096;

fn change(vcpu: u32) -> News {
    News::Phase(PhaseChange {
        vcpu,
        generation: 3,
        target: Target::Offline,
        from: "notifying",
        phase: "syncing",
        spent: Some(Duration::from_nanos(1_234_999)),
        operation: Some(7),
    })
}

/// A stream, and what was read of it.
struct Stream(Body);

async fn open(client: &Client, path: &str, last: Option<&str>) -> Stream {
    let mut request = Request::get(path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = router(client.clone(), Arc::default())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    Stream(response.into_body())
}

impl Stream {
    /// The next frame; `None` at the end.
    async fn frame(&mut self) -> Option<String> {
        let frame = self.0.frame().await?.unwrap();
        let bytes = frame.into_data().unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// What is there already, after what it begins with.
    async fn rest(&mut self) -> String {
        let mut text = String::new();
        poll_fn(|context| {
            while let Poll::Ready(Some(frame)) = pin!(self.frame()).poll(context) {
                text += &frame;
            }
            Poll::Ready(())
        })
        .await;
        text
    }
}

/// Kinds and ids of what is in a text of events.
fn kinds(text: &str) -> Vec<(String, u64)> {
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
    };
    let blocks = text.split_terminator("\n\n");
    let blocks = blocks.filter_map(|block| Some((field(block, "event: ")?, field(block, "id: ")?)));
    blocks
        .map(|(kind, id)| (kind, id.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn events_have_their_shape() {
    let (fake, client) = Fake::new();
    let mut stream = open(&client, EVENTS, None).await;
    assert_eq!(stream.frame().await.unwrap(), "id: 0\n\n");
    let started = ask(&client, "PUT", VCPUS, r#"{"desired":3}"#).await.body;
    let operation = client.view().operations[&1].clone();
    fake.happens([
        News::Operation(operation),
        change(2),
        News::Machine("paused"),
    ]);
    let at = "2001-09-09T01:46:40.000007Z";
    let text = stream.rest().await;
    let events: Vec<Vec<&str>> = text
        .split_terminator("\n\n")
        .map(|e| e.lines().collect())
        .collect();
    let heads: Vec<_> = events
        .iter()
        .map(|lines| (lines.len(), lines[0], lines[1]))
        .collect();
    assert_eq!(
        heads,
        [
            (3, "id: 1", "event: operation"),
            (3, "id: 2", "event: phase"),
            (3, "id: 3", "event: machine"),
        ]
    );
    let data = |n: usize| -> Value {
        serde_json::from_str(events[n][2].strip_prefix("data: ").unwrap()).unwrap()
    };
    assert_eq!(data(0), json!({"at": at, "operation": started}));
    assert_eq!(
        data(1),
        json!({
            "at": at, "vcpu": 2, "generation": 3, "target": "offline", "from": "notifying", "phase": "syncing",
            "us": 1234, "operation": 7,
        })
    );
    assert_eq!(data(2), json!({"at": at, "state": "paused"}));
    let News::Phase(mut resting) = change(1) else {
        unreachable!()
    };
    (resting.spent, resting.operation) = (None, None);
    fake.happens([News::Phase(resting)]);
    let text = stream.rest().await;
    assert!(text.contains(r#""us":null,"operation":null}"#), "{text}");
}

#[tokio::test]
async fn a_stream_begins_after_the_event_that_was_seen_last() {
    let (fake, client) = Fake::new();
    fake.happens((0..5).map(change));
    let cases = [
        (None, "", 5),
        (Some("2"), "", 2),
        (None, "?last_event_id=4", 4),
        (None, "?last_event_id=0", 0),
        // A client that comes back by itself keeps the address that it was given first.
        (Some("3"), "?last_event_id=1", 3),
        (Some("5"), "", 5),
    ];
    for (header, query, seen) in cases {
        let mut stream = open(&client, &format!("{EVENTS}{query}"), header).await;
        let begin = stream.frame().await.unwrap();
        assert_eq!(begin, format!("id: {seen}\n\n"));
        let ids: Vec<u64> = kinds(&stream.rest().await)
            .iter()
            .map(|(_, id)| *id)
            .collect();
        assert_eq!(
            ids,
            (seen + 1..=5).collect::<Vec<_>>(),
            "{header:?} {query}"
        );
    }
}

#[tokio::test]
async fn ids_that_cannot_be_are_refused() {
    let (fake, client) = Fake::new();
    fake.happens((0..5).map(change));
    let bad = [
        "6",
        "-1",
        "",
        "01",
        "+1",
        "1.0",
        "x",
        "18446744073709551616",
    ];
    for id in bad {
        let words = if id == "6" { "is 5" } else { "not an id" };
        let answer = get(&client, &format!("{EVENTS}?last_event_id={id}")).await;
        assert_problem(&answer, 400, "malformed", words);
        let both = format!("{EVENTS}?last_event_id={id}");
        let request = Request::get(both).header("last-event-id", "0");
        let answer = send(&client, request.body(Body::empty()).unwrap()).await;
        assert_problem(&answer, 400, "malformed", id);
        let request = Request::get(EVENTS).header("last-event-id", id);
        let answer = send(&client, request.body(Body::empty()).unwrap()).await;
        assert_problem(&answer, 400, "malformed", words);
    }
    for query in [
        "x",
        "since=1",
        "last_event_id",
        "last_event_id=1&last_event_id=2",
    ] {
        let answer = get(&client, &format!("{EVENTS}?{query}")).await;
        assert_problem(&answer, 400, "malformed", "last_event_id");
    }
    assert_problem(&ask(&client, "PUT", EVENTS, "").await, 405, "method", "PUT");
}

#[tokio::test]
async fn who_is_overtaken_gets_a_gap_and_then_the_present() {
    let (fake, client) = Fake::new();
    let mut slow = open(&client, EVENTS, None).await;
    fake.happens((0..2).map(change));
    assert_eq!(slow.frame().await.unwrap(), "id: 0\n\n");
    // All of it but what fits into a frame that was taken.
    let mut read = kinds(&slow.frame().await.unwrap());
    fake.happens((0..).map(change).take(2 * 4096));
    read.extend(kinds(&slow.rest().await));
    assert_eq!(read[..2], [("phase".into(), 1), ("phase".into(), 2)]);
    assert_eq!(read[2], ("gap".into(), KEPT + 2));
    let ids: Vec<u64> = read[3..].iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, (KEPT + 3..=2 * KEPT + 2).collect::<Vec<_>>());
    // So does one that comes back too late.
    let mut late = open(&client, EVENTS, Some("7")).await;
    late.frame().await;
    let frame = late.frame().await.unwrap();
    assert!(
        frame.starts_with("id: 4098\nevent: gap\ndata: {\"at\":\""),
        "{frame}"
    );
    assert!(frame.contains(r#","first":8,"last":4098}"#), "{frame}");
    // One event after the other is put into a frame only until it is full.
    assert!(frame.len() < 10_000, "{}", frame.len());
}

#[tokio::test(start_paused = true)]
async fn there_is_a_heartbeat_while_nothing_happens() {
    let (fake, client) = Fake::new();
    let mut stream = open(&client, EVENTS, None).await;
    stream.frame().await;
    let begin = tokio::time::Instant::now();
    assert_eq!(stream.frame().await.unwrap(), ":\n\n");
    assert_eq!(stream.frame().await.unwrap(), ":\n\n");
    assert_eq!(begin.elapsed().as_secs(), 30);
    fake.happens([change(1)]);
    assert_eq!(kinds(&stream.frame().await.unwrap()), [("phase".into(), 1)]);
}

#[tokio::test]
async fn a_stream_ends_with_the_machine_and_not_before_its_last_event() {
    let (fake, client) = Fake::new();
    let mut stream = open(&client, EVENTS, None).await;
    stream.frame().await;
    // It waits already when the end comes.
    let waits = poll_fn(|context: &mut Context<'_>| {
        Poll::Ready(pin!(stream.frame()).poll(context).is_pending())
    });
    assert!(waits.await);
    fake.happens([change(1), change(2)]);
    fake.end();
    assert_eq!(kinds(&stream.frame().await.unwrap()).len(), 2);
    assert_eq!(stream.frame().await, None);
    assert_problem(&get(&client, EVENTS).await, 503, "gone", "it has ended");
}
