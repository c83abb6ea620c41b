//! What an agent says, and what becomes of those who wait for it.

use super::*;
use crate::hotplug::notifier::Answer;
use hotvisor_protocol::{
    ApicId, Begin, Decoder, Drained, End, FromGuest, FromHost, Hello, Kind, LINE_MAX, List,
    Outcome, Pinned, Pong, Refused, Stamped, encode,
};
use std::io::{ErrorKind, Read, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn line(message: FromGuest) -> Vec<u8> {
    let mut line = Vec::new();
    encode(&Stamped { at_ns: 1, message }, &mut line).unwrap();
    line
}

fn hello(version: u16) -> Vec<u8> {
    line(FromGuest::Hello(Hello {
        version,
        agent: "hotvisor-agent 0.1.0".into(),
        kernel: "6.1".into(),
        features: List::new([]),
        boot_id: "".into(),
    }))
}

fn cpu(id: u32) -> ApicId {
    ApicId::try_from(id).unwrap()
}

fn drained(operation: u64) -> FromGuest {
    FromGuest::Drained(Drained {
        operation,
        cpu: cpu(1),
        moved: Default::default(),
        blockers: Default::default(),
    })
}

fn begin(operation: u64) -> Begin {
    Begin {
        operation,
        kind: Kind::Unplug,
        cpus: List::new([cpu(1)]),
        drain: true,
        pinned: Pinned::Break,
        expedite: true,
        deadline_ms: 1000,
    }
}

/// Somebody who waits, and the answers that he got.
fn somebody() -> (Waits, Arc<Mutex<Vec<Answer>>>) {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let heard = answers.clone();
    let done = Done::new(move |answer| heard.lock().unwrap().push(answer));
    (Waits::new(done), answers)
}

fn goes_on(answers: &Mutex<Vec<Answer>>) -> bool {
    let answers = answers.lock().unwrap();
    assert!(answers.iter().all(|answer| *answer == Answer::Ready));
    assert!(answers.len() < 2);
    !answers.is_empty()
}

struct Host {
    session: Session,
    presence: Presence,
    now: Instant,
}

impl Host {
    fn new() -> Self {
        let (presence, now) = (Presence::default(), Instant::now());
        Self {
            session: Session::new(presence.clone(), now),
            presence,
            now,
        }
    }

    /// One that an agent has greeted.
    fn greeted() -> Self {
        let mut host = Self::new();
        host.session.write_all(&hello(1)).unwrap();
        assert!(matches!(host.told()[..], [FromHost::Welcome(_)]));
        assert!(host.presence.is_there());
        host
    }

    /// What the agent is told.
    fn told(&mut self) -> Vec<FromHost> {
        let mut bytes = Vec::new();
        let end = self.session.read_to_end(&mut bytes);
        assert!(end.is_ok() || end.is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
        let mut decoder = Decoder::new();
        decoder.push(&bytes).map(Result::unwrap).collect()
    }

    fn is_over(&mut self) -> bool {
        let over = self.session.write(b"\n").is_err();
        assert!(!over || !self.presence.is_there());
        over
    }
}

#[test]
fn who_waits_goes_on_when_the_agent_has_done_what_it_can() {
    let mut host = Host::greeted();
    let (waits, answers) = somebody();
    host.session.begin(begin(7), Some(waits), host.now);
    assert_eq!(host.told(), [FromHost::Begin(begin(7))]);
    host.session.write_all(&line(drained(6))).unwrap();
    assert!(!goes_on(&answers), "that is another one");
    let bytes = line(drained(7));
    host.session.write_all(&bytes[..9]).unwrap();
    assert!(!goes_on(&answers));
    host.session.write_all(&bytes[9..]).unwrap();
    assert!(goes_on(&answers));
    host.session.write_all(&bytes).unwrap();
    let end = End {
        operation: 7,
        outcome: Outcome::Done,
    };
    host.session.end(end.clone());
    assert_eq!(host.told(), [FromHost::End(end)]);
    assert_eq!(host.session.deadline(), None);
}

#[test]
fn a_refusal_that_nobody_asked_for_is_none() {
    let mut host = Host::greeted();
    let (waits, answers) = somebody();
    host.session.begin(begin(7), Some(waits), host.now);
    let refused = FromGuest::Refused(Refused {
        operation: 7,
        cpu: cpu(1),
        blockers: Default::default(),
    });
    host.session.write_all(&line(refused)).unwrap();
    assert!(goes_on(&answers));
}

#[test]
fn who_waits_for_an_agent_that_does_not_answer_goes_on_and_nobody_waits_again() {
    let mut host = Host::greeted();
    let (waits, answers) = somebody();
    host.session.begin(begin(1), Some(waits), host.now);
    let due = host.session.deadline().unwrap();
    assert_eq!(due, host.now + PATIENCE);
    host.session.tick(due - Duration::from_millis(1));
    assert!(!goes_on(&answers));
    // Time that the machine has stood still is none.
    let later = host.now + Duration::from_secs(3600);
    host.session.resumed(later);
    host.session.tick(later);
    assert!(!goes_on(&answers));
    host.session.tick(later + PATIENCE);
    assert!(goes_on(&answers) && !host.presence.is_there());
    let (waits, answers) = somebody();
    host.session.begin(begin(2), Some(waits), later);
    assert!(goes_on(&answers), "it is not asked");
    host.session.write_all(&line(drained(1))).unwrap();
    assert!(host.presence.is_there(), "it is there after all");
    let (waits, answers) = somebody();
    host.session.begin(begin(3), Some(waits), later);
    assert!(!goes_on(&answers));
}

#[test]
fn who_is_not_understood_is_not_heard() {
    let words: [(&str, Vec<Vec<u8>>); 6] = [
        ("an old version", vec![hello(0)]),
        ("no hello", vec![line(drained(1))]),
        ("two of them", vec![hello(1), hello(1)]),
        ("no message", vec![hello(1), b"GET / HTTP/1.1\r\n".to_vec()]),
        ("an endless line", vec![hello(1), vec![b'x'; LINE_MAX + 1]]),
        (
            "a CPU that no machine has",
            vec![
                hello(1),
                b"{\"at_ns\":1,\"drained\":{\"operation\":1,\"cpu\":99999}}\n".to_vec(),
            ],
        ),
    ];
    for (what, lines) in words {
        let mut host = Host::new();
        for line in lines {
            // What is left of a line of somebody who is not heard any more is not taken.
            let _ = host.session.write_all(&line);
        }
        assert!(host.is_over(), "{what}");
        host.told();
        assert_eq!(host.session.read(&mut [0]).unwrap(), 0, "{what}");
    }
}

#[test]
fn who_says_nothing_is_hung_up_on() {
    let mut host = Host::new();
    let due = host.session.deadline().unwrap();
    host.session.tick(due - Duration::from_millis(1));
    assert!(!host.is_over());
    host.session.tick(due);
    assert!(host.is_over());
}

#[test]
fn who_says_too_much_is_hung_up_on() {
    let mut host = Host::greeted();
    let pongs = line(FromGuest::Pong(Pong { id: 1 })).repeat(100);
    let many = (0..=MOST_MESSAGES / 100).take_while(|_| host.session.write(&pongs).is_ok());
    // They are read in less than a second, or it is not too much.
    let (begin, count) = (Instant::now(), many.count());
    let over = host.is_over();
    assert!(over || begin.elapsed() > Duration::from_secs(1), "{count}");
}

#[test]
fn what_an_agent_does_not_read_has_a_limit() {
    let mut host = Host::greeted();
    let mut operation = 0;
    loop {
        let (waits, answers) = somebody();
        operation += 1;
        host.session.begin(begin(operation), Some(waits), host.now);
        if goes_on(&answers) {
            break;
        }
        assert!(operation < 10_000);
    }
    assert!(host.told().len() as u64 == operation - 1);
}

#[test]
fn whoever_waits_for_one_that_goes_goes_on() {
    let mut host = Host::greeted();
    let (waits, answers) = somebody();
    host.session.begin(begin(1), Some(waits), host.now);
    let Host {
        session, presence, ..
    } = host;
    drop(session);
    assert!(goes_on(&answers) && !presence.is_there());
    let mut host = Host::new();
    let (waits, answers) = somebody();
    host.session.begin(begin(1), Some(waits), host.now);
    assert!(goes_on(&answers), "it has not said what it is");
}
