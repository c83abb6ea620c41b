//! The client with the real server, and with others that are none.

use super::{Client, Failure};
use crate::route::fake::Fake;
use crate::server::{Place, Running, Server};
use crate::wire::change::Change;
use crate::wire::operations::{Operation, State};
use crate::wire::problem::Reason;
use crate::wire::vcpus::{ChangeOne, Target, Vcpus};
use hotvisor_vmm::hotplug::client;
use hotvisor_vmm::hotplug::client::Want;
use hotvisor_vmm::hotplug::view::{self, Code};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

struct Bed {
    fake: Arc<Fake>,
    _running: Running,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    let (fake, client) = Fake::new();
    let place = Place::Path(path.clone());
    let running = Server::bind(&place).unwrap().serve(client).unwrap();
    Bed {
        fake,
        _running: running,
        path,
        _dir: dir,
    }
}

#[tokio::test]
async fn one_connection_takes_reads_and_changes() {
    let bed = bed();
    let mut client = Client::connect(&bed.path).await.unwrap();
    let vcpus: Vcpus = client.get("/api/v1/vcpus").await.unwrap().read().unwrap();
    assert_eq!((vcpus.desired, vcpus.max, vcpus.vcpus.len()), (2, 4, 4));
    let change = ChangeOne {
        target: Target::Offline,
    };
    let path = "/api/v1/vcpus/1?timeout=2.5";
    let answer = client.put(path, &change).await.unwrap();
    assert_eq!(answer.read::<Operation>().unwrap().state, State::Running);
    let change = Change::Desired(3);
    client.put("/api/v1/vcpus", &change).await.unwrap();
    let timeout = Some(Duration::from_millis(2500));
    let want = Want::One(1, view::Target::Offline);
    let asked = [
        client::Request { want, timeout },
        client::Request {
            want: Want::Count(3),
            timeout: None,
        },
    ];
    assert_eq!(bed.fake.asked(), asked);
    let path = "/api/v1/operations/2";
    let cancelled: Operation = client.delete(path).await.unwrap().read().unwrap();
    assert_eq!(cancelled.state, State::Cancelled);
}

#[tokio::test]
async fn a_wait_ends_with_the_operation() {
    let bed = bed();
    let mut client = Client::connect(&bed.path).await.unwrap();
    let change = Change::Desired(3);
    client.put("/api/v1/vcpus", &change).await.unwrap();
    let path = "/api/v1/operations/1";
    let early: Operation = client
        .wait(path, Duration::ZERO)
        .await
        .unwrap()
        .read()
        .unwrap();
    assert_eq!(early.state, State::Running);
    let fake = bed.fake.clone();
    let finish = std::thread::spawn(move || fake.finish(1, Code::Refused));
    let answer = client.wait(path, Duration::from_secs(600)).await.unwrap();
    finish.join().unwrap();
    let ended: Operation = answer.read().unwrap();
    assert_eq!(ended.state, State::Refused);
    assert_eq!(ended.vcpus[0].outcome.as_ref().unwrap().ost, Some([3, 130]));
}

#[tokio::test]
async fn a_no_is_told_in_the_words_of_the_api() {
    let bed = bed();
    let mut client = Client::connect(&bed.path).await.unwrap();
    let failure = client.get("/api/v1/vcpus/9").await.unwrap_err();
    let Failure::Said(said) = &failure else {
        panic!("{failure:?}");
    };
    assert_eq!(
        (said.problem.status, said.problem.code),
        (404, Reason::Unknown)
    );
    let body: serde_json::Value = serde_json::from_slice(&said.body).unwrap();
    assert_eq!(body["code"], "unknown");
    let sentence = "vCPU 9: there is none: this machine can have 4, counted from 0; see /api/v1/vcpus for those \
                    that there are";
    assert_eq!(failure.to_string(), sentence);
    // The connection is as good as before.
    client.get("/api/v1/vcpus").await.unwrap();
    bed.fake.end();
    let failure = client.get("/api/v1/vcpus").await.unwrap_err();
    assert!(failure.to_string().contains("it has ended"), "{failure}");
}

/// A server of one connection after the other: each is answered with the next of `answers` and closed, after a
/// request has come.
fn server(path: &Path, answers: &'static [&'static str]) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    })
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let server = server(&path, &[OK, OK]);
    let mut client = Client::connect(&path).await.unwrap();
    client.get("/").await.unwrap();
    client.get("/").await.unwrap();
    server.join().unwrap();
    let failure = client.get("/").await.unwrap_err().to_string();
    assert!(
        failure.contains("nobody listens there any more"),
        "{failure}"
    );
}

#[tokio::test]
async fn who_is_not_hotvisor_is_told_from_it() {
    for (answer, words) in [
        ("220 mail ready\r\n", "is not Hotvisor"),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n[]",
            "is not Hotvisor, or of another version: it said 404",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "is not Hotvisor",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            "the other end closed",
        ),
        ("", "the other end closed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let server = server(&path, Box::leak(Box::new([answer])));
        let mut client = Client::connect(&path).await.unwrap();
        let answer = client.get("/api/v1/vcpus").await;
        let failure = answer
            .and_then(|answer| answer.read::<Vcpus>())
            .unwrap_err();
        server.join().unwrap();
        let said = failure.to_string();
        assert!(matches!(failure, Failure::Reach(_)), "{failure:?}");
        assert!(said.contains(words), "{words}: {said}");
        assert!(said.contains("/api: "), "{said}");
    }
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).await.unwrap();
    client.patience = Duration::from_millis(10);
    let said = client.get("/x").await.unwrap_err().to_string();
    assert!(said.contains("no answer to GET /x after 10ms"), "{said}");
    let said = client.events(None).await.unwrap_err().to_string();
    assert!(said.contains("no answer to GET /api/v1/events"), "{said}");
}

#[tokio::test]
async fn a_socket_that_cannot_be_reached_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    drop(UnixListener::bind(path("stale")).unwrap());
    std::fs::write(path("file"), "").unwrap();
    for (name, words) in [
        ("none", "there is no such socket"),
        ("stale", "nobody listens there any more"),
        ("file", "it is not a socket"),
    ] {
        let said = Client::connect(&path(name)).await.unwrap_err().to_string();
        assert!(said.contains(words), "{name}: {said}");
    }
    let _listener = UnixListener::bind(path("other")).unwrap();
    std::fs::set_permissions(path("other"), PermissionsExt::from_mode(0o000)).unwrap();
    let denied = std::io::ErrorKind::PermissionDenied.into();
    // Root may everything, so that only the sentence is looked at.
    let said = Failure::unconnected(&path("other"), &denied).to_string();
    assert!(said.contains("it is for user "), "{said}");
}

/// A server that streams `pieces` and then ends the stream as `end` says.
fn streaming(pieces: &[&str], end: &str) -> String {
    let chunk = |piece: &&str| format!("{:x}\r\n{piece}\r\n", piece.len());
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    head.to_owned() + &pieces.iter().map(chunk).collect::<String>() + end
}

#[tokio::test]
async fn events_come_until_the_stream_ends() {
    for (end, orderly) in [("0\r\n\r\n", true), ("", false)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let pieces = [
            "id: 1\neve",
            "nt: phase\ndata: {}\n",
            "\n",
            ": here\n\nid: 2\ndata: x\n\n",
        ];
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let _first = listener.accept().unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            stream
                .write_all(streaming(&pieces, end).as_bytes())
                .unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let client = Client::connect(&path).await.unwrap();
        let mut events = client.events(Some(41)).await.unwrap();
        let first = events.next().await.unwrap().unwrap();
        assert_eq!((first.id, &*first.kind), (Some(1), "phase"));
        assert_eq!(events.at_hand().await.unwrap().unwrap().data, "x");
        let last = events.next().await;
        match orderly {
            true => assert_eq!(last, Ok(None)),
            false => assert!(
                last.unwrap_err()
                    .to_string()
                    .contains("the other end closed")
            ),
        }
        let request = server.join().unwrap();
        assert!(
            request.starts_with("GET /api/v1/events HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("last-event-id: 41\r\n"), "{request}");
        assert!(
            request.contains("accept: text/event-stream\r\n"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_silent_stream_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let first = listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
        stream.write_all(streaming(&[], "").as_bytes()).unwrap();
        (first, stream)
    });
    let client = Client::connect(&path).await.unwrap();
    let mut events = client.events(None).await.unwrap();
    events.silence = Duration::from_millis(10);
    let said = events.next().await.unwrap_err().to_string();
    assert!(said.contains("not a sign of life for 10ms"), "{said}");
    drop(server.join().unwrap());
}
