//! What an agent in the guest says to the host, in any pieces, while operations begin and end.

use super::steps;
use arbitrary::Arbitrary;
use hotvisor_protocol::{ApicId, Begin, End, Kind, LINE_MAX, List, Outcome, Pinned};
use hotvisor_vmm::agent::{MOST_OUT, Presence, Session};
use std::io::{Read, Write};
use std::time::Instant;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// So many of one of the messages that there are, with that number in it.
    Message(u8, u16, u8),
    /// An operation begins, or ends.
    Begin(u8),
    End(u8),
    /// The agent reads so much.
    Reads(u16),
    Late,
    Resumed,
}

/// Some that an agent says, with a number in it.
fn message(which: u8, number: u16) -> String {
    let body = match which % 8 {
        0 => format!(r#""hello":{{"version":{},"agent":"x"}}"#, number % 3),
        1 => format!(r#""drained":{{"operation":{number},"cpu":{number}}}"#),
        2 => format!(r#""refused":{{"operation":{number},"cpu":1,"blockers":{{"list":[]}}}}"#),
        3 => format!(r#""pong":{{"id":{number}}}"#),
        4 => format!(r#""problem":{{"text":"{number}"}}"#),
        5 => format!(r#""online":{{"cpus":[0,{number}]}}"#),
        6 => format!(r#""of_a_later_version":[{number}]"#),
        _ => r#""hello":{"version":1,"agent":"x"}"#.to_owned(),
    };
    format!("{{\"at_ns\":{number},{body}}}\n")
}

pub(crate) fn run(bytes: &[u8]) {
    let (presence, mut now) = (Presence::default(), Instant::now());
    let mut session = Session::new(presence.clone(), now);
    let mut over = false;
    steps(bytes, |step| {
        match step {
            Step::Bytes(bytes) => drop(session.write(&bytes)),
            Step::Message(which, number, times) => {
                let lines = message(which, number).repeat(times.into());
                drop(session.write(lines.as_bytes()));
            }
            Step::Begin(operation) => session.begin(begin(operation), None, now),
            Step::End(operation) => session.end(End {
                operation: operation.into(),
                outcome: Outcome::Done,
            }),
            Step::Reads(most) => {
                let mut told = vec![0; usize::from(most) + 1];
                match session.read(&mut told) {
                    Ok(0) => over = true,
                    Ok(n) => assert!(n <= told.len()),
                    Err(_) => assert!(!over, "it was over"),
                }
            }
            Step::Late => {
                now = session.deadline().unwrap_or(now).max(now);
                session.tick(now);
                assert!(session.deadline().is_none_or(|at| at > now));
            }
            Step::Resumed => session.resumed(now),
        }
        let heard = session.write(b"").is_ok();
        assert!(
            heard || !presence.is_there(),
            "nobody is heard, and is there"
        );
        assert!(heard || session.deadline().is_none(), "somebody waits");
        assert!(!over || !heard, "it is over, and heard");
    });
    let mut rest = Vec::new();
    let _ = session.read_to_end(&mut rest);
    assert!(
        rest.len() <= MOST_OUT
            && rest
                .split(|byte| *byte == b'\n')
                .all(|line| line.len() <= LINE_MAX)
    );
    drop(session);
    assert!(!presence.is_there(), "nobody is left");
}

fn begin(operation: u8) -> Begin {
    Begin {
        operation: operation.into(),
        kind: Kind::Unplug,
        cpus: List::new(ApicId::try_from(u32::from(operation))),
        drain: true,
        pinned: Pinned::Break,
        expedite: true,
        deadline_ms: 1000,
    }
}
