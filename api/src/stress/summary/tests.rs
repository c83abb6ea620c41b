use super::super::mix::Kind;
use super::super::record::{Finding, Seen, StepDone};
use super::*;
use std::time::SystemTime;

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(in super::super) fn change(at: u64, to: Target, code: Code, ms: u64) -> ChangeDone {
    let phases: &[(&'static str, u64)] = match to {
        Target::Online => &[("starting", 1), ("announced", 60), ("plugged", 39)],
        Target::Offline => &[("draining", 1), ("notifying.begun", 95), ("stopping", 4)],
    };
    let part = |(phase, share): &(&'static str, u64)| {
        let time = Duration::from_micros(ms * 10 * share);
        (Cow::Borrowed(*phase), time)
    };
    ChangeDone {
        at: millis(at),
        to,
        code,
        ost: (code == Code::Refused).then_some([3, 0x82]),
        took: (code == Code::Succeeded).then(|| Took {
            total: millis(ms),
            phases: phases.iter().map(part).collect(),
        }),
    }
}

/// A hundred plugs of 1 to 100 ms, ten unplugs of 10 ms, three that were refused and one that ran out of time, in 100 s.
pub(in super::super) fn record() -> Record {
    let plug = |n| change(n * 900, Target::Online, Code::Succeeded, n);
    let unplug = |n: u64| change(n * 9000, Target::Offline, Code::Succeeded, 10);
    let refused = |n| change(n, Target::Offline, Code::Refused, 5);
    let late = change(99_000, Target::Offline, Code::TimedOut, 30_000);
    let mut changes: Vec<_> = (1..=100).map(plug).collect();
    changes.extend((1..=10).map(unplug));
    changes.extend((1..=3).map(refused));
    changes.push(late);
    let step = |number| StepDone {
        kind: match number % 3 {
            0 => Kind::Plug,
            1 => Kind::Unplug,
            _ => Kind::Cancel,
        },
        took: millis(number),
    };
    Record {
        seed: 42,
        mix: "plug=4,unplug=4,cancel=1".to_owned(),
        started_at: SystemTime::UNIX_EPOCH,
        elapsed: Duration::from_secs(100),
        max: 8,
        seen: Seen {
            guest: true,
            log: true,
            host: true,
        },
        with: "--guest-online ours".to_owned(),
        steps: (1..=120).map(step).collect(),
        changes,
        operations: 1500,
        idle: 17,
        answers: [("409 paused".to_owned(), 7)].into(),
        warnings: Vec::new(),
        tolerated: BTreeMap::new(),
        contradiction: None,
        lost: None,
    }
}

pub(in super::super) fn contradiction() -> Finding {
    Finding {
        step: 121,
        asked: "unplug vCPU 3".to_owned(),
        what: vec!["the guest has <3> & more online".to_owned()],
        events: vec!["12 phase vCPU 3 draining".to_owned()],
        timelines: vec!["vCPU 3: draining 1 ms".to_owned()],
        views: "API: <script>alert(1)</script>".to_owned(),
        guest_console: Some("[    1.000000] BUG: \"x\"".to_owned()),
        vmm_log: None,
    }
}

#[test]
fn percentiles_are_times_that_were_measured() {
    let times = Times::of((1..=200).rev().map(millis));
    assert_eq!(
        times,
        Times {
            count: 200,
            p50: 100_000,
            p90: 180_000,
            p99: 198_000,
            max: 200_000
        }
    );
    let one = Times::of([millis(3)]);
    assert_eq!([one.p50, one.p90, one.p99, one.max], [3000; 4]);
    let two = Times::of([millis(3), millis(5)]);
    assert_eq!([two.p50, two.p90], [3000, 5000]);
    assert_eq!(Times::of([]), Times::default());
    assert_eq!(Times::default().cells()[0], "-");
}

#[test]
fn the_document_has_its_keys_and_numbers() {
    let json = json(&record());
    assert_eq!(json["seed"], 42);
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["steps"], 120);
    assert_eq!(json["operations"], 1500);
    assert_eq!(json["changes"], 110);
    assert_eq!(json["seconds"], 100.0);
    let outcomes = json!({"succeeded": 110, "refused": 3, "timed_out": 1});
    assert_eq!(json["outcomes"], outcomes);
    assert_eq!(json["refusals"], json!({"3,0x82": 3}));
    assert_eq!(json["answers"], json!({"409 paused": 7}));
    assert_eq!(
        json["latency"]["plug"],
        json!({"count": 100, "p50_us": 50_000, "p90_us": 90_000, "p99_us": 99_000, "max_us": 100_000})
    );
    assert_eq!(json["phases"]["unplug"]["notifying.begun"]["p50_us"], 9500);
    assert_eq!(json["idle"], 17);
    for seen in ["guest", "kernel_log", "host"] {
        assert_eq!(json[seen], true);
    }
    assert_eq!(json["kernel_warnings"], 0);
    assert!(json["contradiction"].is_null());
}

#[test]
fn a_contradiction_is_in_the_document_and_in_the_lines() {
    let mut record = record();
    record.contradiction = Some(contradiction());
    let what = json!({"step": 121, "what": ["the guest has <3> & more online"]});
    assert_eq!(json(&record)["contradiction"], what);
    let text = text(&record);
    assert!(
        text.contains("CONTRADICTION in step 121 (unplug vCPU 3):\n  the guest has"),
        "{text}"
    );
    assert!(!text.contains("no contradiction"), "{text}");
}

#[test]
fn the_lines_say_it_all() {
    let text = text(&record());
    for part in [
        "seed 42, mix plug=4,unplug=4,cancel=1, --guest-online ours\n",
        "\n17 operations had nothing to change\n",
        "120 steps in 1m 40s: 1,500 operations (15.0/s), 110 changes of vCPUs (1.1/s)\n",
        "\nplug               100    50.0 ms  90.0 ms  99.0 ms  100 ms\n  starting",
        "\nunplug             10     10.0 ms",
        "\n  notifying.begun  10     9.5 ms",
        "outcomes: refused 3, succeeded 110, timed_out 1\n",
        "refusals: 3,0x82 3\n",
        "answers: 409 paused 7\n",
        "no kernel message",
        "\nno contradiction\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// What was not looked at is not taken for good.
#[test]
fn what_was_not_seen_is_said() {
    let mut record = record();
    record.seen.log = false;
    record.tolerated = [("affine_move_task".to_owned(), 3)].into();
    let said = text(&record);
    for part in [
        "kernel were not read\n",
        "passed over: affine_move_task 3\n",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert!(!said.contains("no kernel message"), "{said}");
    // A change whose timeline is lost is counted, and has no time.
    record.changes[0].took = None;
    assert_eq!(record.changed(), 110);
    assert_eq!(record.latency(Target::Online).count, 99);
}

#[test]
fn progress_is_one_line() {
    assert_eq!(
        progress(&record()),
        "120 steps, 15.0 operations/s, plug 50.0 ms / 99.0 ms, unplug 10.0 ms / 10.0 ms (p50 / p99), 3 refusals"
    );
}

#[test]
fn a_run_of_nothing_has_no_figures() {
    let empty = Record {
        elapsed: Duration::ZERO,
        seen: Seen {
            guest: false,
            log: false,
            host: false,
        },
        steps: Vec::new(),
        changes: Vec::new(),
        operations: 0,
        idle: 0,
        answers: BTreeMap::new(),
        ..record()
    };
    let text = text(&empty);
    assert!(
        text.contains("0 operations (0.0/s)")
            && text.contains("not asked")
            && text.contains("threads of the VM were not compared"),
        "{text}"
    );
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    assert_eq!(json(&empty)["latency"]["plug"]["count"], 0);
    assert!(progress(&empty).contains("plug - / -"));
}

#[test]
fn a_phase_that_few_have_stands_where_it_comes() {
    let mut record = record();
    let phase = ("syncing".into(), millis(1));
    let took = record.changes[105].took.as_mut().unwrap();
    let mut phases = took.phases.to_vec();
    phases.insert(2, phase);
    took.phases = phases.into();
    let phases = record.phases(Target::Offline);
    let names: Vec<&str> = phases.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        ["draining", "notifying.begun", "syncing", "stopping"]
    );
    assert_eq!(phases[2].1.count, 1);
}

#[test]
fn numbers_are_easy_to_read() {
    assert_eq!(
        [0, 999, 1000, 1_234_567].map(number),
        ["0", "999", "1,000", "1,234,567"]
    );
    assert_eq!(counted(1, "step"), "1 step");
}

/// A run of which nobody knows how it would have gone on is no good one.
#[test]
fn a_vm_that_was_lost_is_said_to_be() {
    let mut record = record();
    record.lost = Some(contradiction());
    let text = text(&record);
    assert!(text.contains("THE VM WAS LOST in step"), "{text}");
    assert!(!text.contains("no contradiction"), "{text}");
    assert!(!json(&record)["lost"].is_null());
}
