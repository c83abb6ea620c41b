//! Single lines: what later versions say, what is out of bounds, and the longest that there are.

#![cfg(test)]

use hotvisor_protocol::*;

fn from_guest(line: &str) -> Vec<Result<Stamped, Fault>> {
    Decoder::new()
        .push(format!("{line}\n").as_bytes())
        .collect()
}

fn malformed(line: &str) -> String {
    match from_guest(line).as_slice() {
        [Err(Fault::Malformed { why })] => why.to_string(),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn what_a_later_version_says_is_skipped() {
    assert_eq!(from_guest(r#"{"at_ns":1,"dream":{"of":["sheep"]}}"#), []);
    assert_eq!(from_guest("{}"), []);
    assert_eq!(from_guest(" \r"), []);
    let pong = Ok(Stamped {
        at_ns: 1,
        message: Pong { id: 2 }.into(),
    });
    let more = r#"{"mood":[{}],"pong":{"id":2,"colour":"red"},"at_ns":1}"#;
    assert_eq!(from_guest(more), [pong]);
}

#[test]
fn blockers_of_unknown_kinds_are_counted() {
    let line = r#"{"at_ns":1,"refused":{"operation":3,"cpu":1,"blockers":{"list":[{"ghost":{}},
        {"irq":{"irq":9,"name":"acpi"}}],"others":4}}}"#;
    let found = from_guest(&line.replace('\n', ""));
    let [
        Ok(Stamped {
            message: FromGuest::Refused(refused),
            ..
        }),
    ] = found.as_slice()
    else {
        panic!("{found:?}")
    };
    let irq = BlockedIrq {
        irq: 9,
        name: "acpi".into(),
    };
    assert_eq!(refused.blockers.known, [irq.into()]);
    assert_eq!(refused.blockers.others, 5);
}

#[test]
fn what_is_out_of_bounds_is_no_message() {
    let why = malformed(r#"{"at_ns":1,"answer":{"id":1,"cpu":1024}}"#);
    assert!(why.contains("1024 is no CPU"), "{why}");
    let why = malformed(r#"{"pong":{"id":1}}"#);
    assert!(why.contains("`at_ns` is missing"), "{why}");
    let why = malformed(r#"{"at_ns":1,"pong":{"id":1},"pong":{"id":2}}"#);
    assert!(why.contains("another one"), "{why}");
    let why = malformed(&format!(
        r#"{{"at_ns":1,"online":{{"cpus":[{}0]}}}}"#,
        "0,".repeat(1024)
    ));
    assert!(why.contains("more than 1024"), "{why}");
    let why = malformed(&"[".repeat(1000));
    assert!(!why.is_empty());
    let why = malformed(&format!(
        r#"{{"at_ns":1,"pong":{{"id":"{}"}}}}"#,
        "x".repeat(60_000)
    ));
    assert!(why.len() <= 256, "{}", why.len());
}

#[test]
fn an_endless_line_is_oversized_once_and_the_next_is_heard() {
    let mut decoder = Decoder::<FromHost>::new();
    for _ in 0..3 {
        let faults = decoder.push(&[b'x'; LINE_MAX / 2]).count();
        assert!(faults <= 1);
    }
    let found: Vec<_> = decoder.push(b"xx\n{\"ping\":{\"id\":1}}\n").collect();
    assert_eq!(found, [Ok(Ping { id: 1 }.into())]);
}

#[test]
fn the_lower_version_is_spoken() {
    assert_eq!(negotiate(VERSION + 1), Some(VERSION));
    assert_eq!(negotiate(VERSION), Some(VERSION));
    assert_eq!(negotiate(OLDEST_VERSION - 1), None);
}

/// The longest text that there can be: of characters that JSON has to escape.
fn long<const MAX: usize>() -> Text<MAX> {
    Text::new(&"\"".repeat(MAX))
}

#[test]
fn the_longest_messages_fit_into_a_line() {
    let cpu = ApicId::try_from(MAX_CPUS - 1).unwrap();
    let task = BlockedTask {
        tid: u32::MAX,
        pid: u32::MAX,
        comm: long(),
        policy: long(),
        priority: 99,
        cpus: long(),
    };
    let cpuset = BlockedCpuset { path: long() };
    let operation = u64::MAX;
    for blocker in [Blocker::from(task), cpuset.into()] {
        let blockers = Blockers::new(vec![blocker; 2 * MAX_BLOCKERS]);
        let message = Refused {
            operation,
            cpu,
            blockers,
        }
        .into();
        fits(message);
    }
    let every = || List::new((0..MAX_CPUS).map(|_| cpu));
    let number = CpuNumber::try_from(MAX_CPUS - 1).unwrap();
    let failed = List::new((0..99).map(|_| NotOnline {
        number,
        cpu: Some(cpu),
        text: long(),
    }));
    fits(
        Online {
            cpus: every(),
            by_agent: every(),
            failed,
        }
        .into(),
    );
    let busy = List::new((0..MAX_CPUS).map(|_| Busy {
        cpu,
        permille: u16::MAX,
    }));
    fits(
        Pressure {
            busy,
            ..Pressure::default()
        }
        .into(),
    );
    fits(Problem { text: long() }.into());
}

fn fits(message: FromGuest) {
    let mut line = Vec::new();
    encode(
        &Stamped {
            at_ns: u64::MAX,
            message,
        },
        &mut line,
    )
    .unwrap();
    println!("{} bytes", line.len());
}

#[test]
fn every_message_is_documented() {
    let document = include_str!("../../PROTOCOL.md");
    for name in [FromGuest::NAMES, FromHost::NAMES, Blocker::NAMES].concat() {
        assert!(
            document.contains(&format!("| `{name}` |")),
            "{name} is not in PROTOCOL.md"
        );
    }
}
