//! The server on its socket, with clients that write bytes of their own.

mod events;

use super::Place;
use super::connections::Limits;
use super::{Bound, Running, Server};
use crate::route::fake::Fake;
use hotvisor_vmm::Result;
use hotvisor_vmm::hotplug::client::Client;
use hotvisor_vmm::hotplug::view::Code;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After this long without an answer there will be none.
const PATIENCE: Duration = Duration::from_secs(20);
const GET: &str = "GET /api/v1/vcpus HTTP/1.1\r\nhost: x\r\n\r\n";

struct Bed {
    fake: Arc<Fake>,
    running: Running,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn bed(limits: Limits) -> Bed {
    made(|bound, client| bound.serve_within(client, limits))
}

fn made(serve: impl FnOnce(Bound, Client) -> Result<Running>) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    let (fake, client) = Fake::new();
    let running = serve(Server::bind(&Place::Path(path.clone())).unwrap(), client).unwrap();
    Bed {
        fake,
        running,
        path,
        _dir: dir,
    }
}

struct Connection(BufReader<UnixStream>);

impl Bed {
    fn connect(&self) -> Connection {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Connection(BufReader::new(stream))
    }
}

fn put(path: &str, body: &str) -> String {
    let len = body.len();
    format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len}\r\n\r\n{body}")
}

impl Connection {
    fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes())
    }

    /// The next answer: its status line, and its body.
    fn answer(&mut self) -> (String, String) {
        let (mut status, mut len) = (String::new(), 0);
        self.0.read_line(&mut status).unwrap();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                len = value.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        (
            status.trim_end().to_owned(),
            String::from_utf8(body).unwrap(),
        )
    }

    /// Waits until the server has closed it.
    fn closed(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(String::from_utf8_lossy(&rest), ""),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn a_connection_takes_many_requests() {
    let bed = bed(Limits::USUAL);
    let mut client = bed.connect();
    for _ in 0..3 {
        client.send(GET).unwrap();
        let (status, body) = client.answer();
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.starts_with(r#"{"desired":2,"#), "{body}");
    }
    // Two at once, the second of which fails without harm to the connection.
    client
        .send(&format!("{}{}", put("/api/v1/vcpus", "{"), GET))
        .unwrap();
    assert_eq!(client.answer().0, "HTTP/1.1 400 Bad Request");
    assert_eq!(client.answer().0, "HTTP/1.1 200 OK");
}

#[test]
fn who_waits_keeps_nobody_waiting() {
    let bed = bed(Limits::USUAL);
    let mut waiters: Vec<_> = (0..64).map(|_| bed.connect()).collect();
    for waiter in &mut waiters {
        waiter
            .send(&put("/api/v1/vcpus?wait=60", r#"{"desired":3}"#))
            .unwrap();
    }
    let mut other = bed.connect();
    bed.fake.heard(64);
    other.send(GET).unwrap();
    assert_eq!(other.answer().0, "HTTP/1.1 200 OK");
    for id in 1..=64 {
        bed.fake.finish(id, Code::Succeeded);
    }
    for waiter in &mut waiters {
        let (status, body) = waiter.answer();
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.contains(r#""state":"succeeded""#), "{body}");
    }
}

#[test]
fn a_wait_ends_with_who_waits() {
    let bed = bed(Limits::USUAL);
    let mut waiter = bed.connect();
    waiter.send(GET).unwrap();
    waiter.answer();
    let before = bed.fake.watchers();
    waiter
        .send(&put("/api/v1/vcpus?wait=600", r#"{"desired":3}"#))
        .unwrap();
    bed.fake.heard(1);
    drop(waiter);
    let begin = Instant::now();
    while bed.fake.watchers() > before {
        assert!(begin.elapsed() < PATIENCE, "it waits on for nobody");
        std::thread::yield_now();
    }
    assert_eq!(bed.fake.asked().len(), 1);
}

#[test]
fn the_longest_idle_makes_room() {
    let bed = bed(Limits {
        connections: 3,
        ..Limits::USUAL
    });
    let mut crowd: Vec<_> = (0..50).map(|_| bed.connect()).collect();
    let mut late = bed.connect();
    late.send(GET).unwrap();
    assert_eq!(late.answer().0, "HTTP/1.1 200 OK");
    for early in &mut crowd[..48] {
        early.closed();
    }
}

#[test]
fn when_all_are_busy_the_next_is_told() {
    let bed = bed(Limits {
        connections: 2,
        ..Limits::USUAL
    });
    let mut busy: Vec<_> = (0..2).map(|_| bed.connect()).collect();
    for (client, n) in busy.iter_mut().zip(1..) {
        client
            .send(&put("/api/v1/vcpus?wait=60", r#"{"desired":3}"#))
            .unwrap();
        bed.fake.heard(n);
    }
    let mut late = bed.connect();
    let (status, body) = late.answer();
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains(r#""code":"busy""#), "{body}");
    late.closed();
    bed.fake.finish(1, Code::Succeeded);
    assert_eq!(busy[0].answer().0, "HTTP/1.1 200 OK");
}

#[test]
fn idle_connections_are_closed() {
    let bed = bed(Limits {
        idle: Duration::from_millis(100),
        ..Limits::USUAL
    });
    let mut silent = bed.connect();
    let mut slow = bed.connect();
    slow.send("GET /api/v1/vcpus HTTP/1.1\r\nho").unwrap();
    let mut waiting = bed.connect();
    waiting
        .send(&put("/api/v1/vcpus?wait=0.5", r#"{"desired":3}"#))
        .unwrap();
    let mut deaf = bed.connect();
    deaf.0.get_ref().set_nonblocking(true).unwrap();
    while deaf.send(&GET.repeat(16)).is_ok() {}
    silent.closed();
    slow.closed();
    // Whoever waits is not idle.
    assert_eq!(waiting.answer().0, "HTTP/1.1 202 Accepted");
    waiting.closed();
    let begin = Instant::now();
    let gone = |e: io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    while !deaf.send("x").is_err_and(gone) {
        assert!(
            begin.elapsed() < PATIENCE,
            "a client that does not read is never closed"
        );
        std::thread::yield_now();
    }
}

#[test]
fn heads_and_bodies_have_an_end() {
    let bed = bed(Limits::USUAL);
    let many = "a: b\r\n".repeat(65);
    let long = format!("a: {}\r\n", "b".repeat(20 << 10));
    for headers in [many, long] {
        let mut client = bed.connect();
        // The server may have closed it before all was written.
        let _ = client.send(&format!("GET / HTTP/1.1\r\n{headers}\r\n"));
        let (status, _) = client.answer();
        assert!(status.starts_with("HTTP/1.1 431 "), "{status}");
    }
    let heads = [
        "content-length: 104857600\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n1FFFF\r\n",
    ];
    for head in heads {
        let mut client = bed.connect();
        client
            .send(&format!("PUT /api/v1/vcpus HTTP/1.1\r\nhost: x\r\n{head}"))
            .unwrap();
        let _ = client.send(&" ".repeat(0x1_ffff));
        assert_eq!(client.answer().0, "HTTP/1.1 413 Payload Too Large");
    }
    let mut garbage = bed.connect();
    garbage.send("\x16\x03\x01 hello\r\n\r\n").unwrap();
    assert_eq!(garbage.answer().0, "HTTP/1.1 400 Bad Request");
    let mut client = bed.connect();
    client.send(GET).unwrap();
    assert_eq!(client.answer().0, "HTTP/1.1 200 OK");
}

#[test]
fn after_the_machine_comes_503_until_the_server_ends() {
    let bed = made(Bound::serve);
    let mut client = bed.connect();
    bed.fake.end();
    client.send(GET).unwrap();
    let (status, body) = client.answer();
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains(r#""code":"gone""#), "{body}");
    let begin = Instant::now();
    bed.running.stop();
    assert!(
        begin.elapsed() < Duration::from_millis(900),
        "stopping took its whole patience"
    );
    client.closed();
    assert!(!bed.path.exists());
}

#[test]
fn stopping_does_not_wait_for_who_waits() {
    let bed = bed(Limits {
        grace: Duration::from_millis(50),
        ..Limits::USUAL
    });
    let mut waiter = bed.connect();
    waiter
        .send(&put("/api/v1/vcpus?wait=600", r#"{"desired":3}"#))
        .unwrap();
    bed.fake.heard(1);
    let begin = Instant::now();
    drop(bed.running);
    assert!(begin.elapsed() < Duration::from_secs(1));
    waiter.closed();
    assert!(!bed.path.exists());
}

#[test]
fn what_was_never_served_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    drop(Server::bind(&Place::Path(path.clone())).unwrap());
    assert!(!path.exists());
}
