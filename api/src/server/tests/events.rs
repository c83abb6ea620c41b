//! Connections on which events go out.

use super::*;
use hotvisor_vmm::events::News;

const FOLLOW: &str = "GET /api/v1/events HTTP/1.1\r\nhost: x\r\n\r\n";

impl Bed {
    /// A client that follows the events; what it begins with was read.
    fn follow(&self) -> Connection {
        let mut client = self.connect();
        client.send(FOLLOW).unwrap();
        let (status, _) = client.answer();
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert_eq!(client.chunk().as_deref(), Some("id: 0\n\n"));
        client
    }

    fn happens(&self, times: usize) {
        let news = || News::Machine("running");
        self.fake.happens(std::iter::repeat_with(news).take(times));
    }
}

impl Connection {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// The next chunk of a chunked answer; `None` at its end.
    fn chunk(&mut self) -> Option<String> {
        let size = self.line();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let mut data = vec![0; size + 2];
        self.0.read_exact(&mut data).unwrap();
        data.truncate(size);
        (size > 0).then(|| String::from_utf8(data).unwrap())
    }
}

#[test]
fn who_follows_is_not_sent_away_for_who_is_idle() {
    let bed = bed(Limits {
        connections: 3,
        ..Limits::USUAL
    });
    let mut followers = [bed.follow(), bed.follow()];
    let mut crowd: Vec<_> = (0..50).map(|_| bed.connect()).collect();
    let mut late = bed.connect();
    late.send(GET).unwrap();
    assert_eq!(late.answer().0, "HTTP/1.1 200 OK");
    crowd.iter_mut().for_each(Connection::closed);
    bed.happens(1);
    for follower in &mut followers {
        assert!(follower.chunk().unwrap().starts_with("id: 1\n"));
    }
}

#[test]
fn connections_are_counted() {
    let bed = bed(Limits::USUAL);
    let mut first = bed.connect();
    let mut counted = || {
        first
            .send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let (_, text) = first.answer();
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix("hotvisor_api_connections "));
        found.unwrap().to_owned()
    };
    assert_eq!(counted(), "1");
    let followers = [bed.follow(), bed.follow()];
    assert_eq!(counted(), "3");
    drop(followers);
    let begin = Instant::now();
    while counted() != "1" {
        assert!(
            begin.elapsed() < PATIENCE,
            "those that have left are counted"
        );
    }
}

#[test]
fn who_has_left_makes_room() {
    let bed = bed(Limits {
        connections: 1,
        ..Limits::USUAL
    });
    drop(bed.follow());
    // It takes a moment to be seen.
    let begin = Instant::now();
    let follows = || {
        let mut client = bed.connect();
        // It may be turned away before it says anything.
        let _ = client.send(FOLLOW);
        client.answer().0 == "HTTP/1.1 200 OK"
    };
    while !follows() {
        assert!(
            begin.elapsed() < PATIENCE,
            "a follower that left has its place still"
        );
    }
}

#[test]
fn who_reads_is_never_idle() {
    let idle = Duration::from_millis(400);
    let bed = bed(Limits {
        idle,
        ..Limits::USUAL
    });
    let mut follower = bed.follow();
    let begin = Instant::now();
    let mut silent = bed.connect();
    let mut events = 0;
    while begin.elapsed() < 3 * idle {
        bed.happens(1);
        events += 1;
        let chunk = follower.chunk().unwrap();
        assert!(chunk.starts_with(&format!("id: {events}\n")), "{chunk}");
    }
    silent.closed();
}

#[test]
fn who_follows_and_does_not_read_is_closed() {
    let idle = Duration::from_millis(100);
    let bed = bed(Limits {
        idle,
        ..Limits::USUAL
    });
    let mut deaf = bed.follow();
    let mut other = bed.follow();
    let begin = Instant::now();
    let mut read = 0;
    // More than the socket's buffers take.
    while deaf.send("x").is_ok() {
        assert!(
            begin.elapsed() < PATIENCE,
            "a follower that does not read is never closed"
        );
        bed.happens(256);
        // Whoever reads is not held up by that.
        let last = (read + 1) * 256;
        while !other.chunk().unwrap().contains(&format!("id: {last}\n")) {}
        read += 1;
    }
    assert!(begin.elapsed() >= idle);
}

#[test]
fn a_stream_ends_when_the_server_does() {
    let bed = bed(Limits::USUAL);
    let mut follower = bed.follow();
    bed.happens(1);
    let begin = Instant::now();
    drop(bed.running);
    assert!(begin.elapsed() < Limits::USUAL.grace, "it was cut off");
    assert!(follower.chunk().unwrap().starts_with("id: 1\n"));
    // As HTTP ends it, and not in the middle.
    assert_eq!(follower.chunk(), None);
    follower.closed();
}

#[test]
fn a_stream_ends_with_the_machine() {
    let bed = bed(Limits::USUAL);
    let mut follower = bed.follow();
    bed.happens(1);
    bed.fake.end();
    assert!(follower.chunk().unwrap().starts_with("id: 1\n"));
    assert_eq!(follower.chunk(), None);
    // The connection goes on, for a request that is answered with the truth.
    follower.send(GET).unwrap();
    assert_eq!(follower.answer().0, "HTTP/1.1 503 Service Unavailable");
}
