//! The metrics, as a scraper reads them.

use super::*;
use hotvisor_vmm::events::News;
use hotvisor_vmm::hotplug::view::OperationKind;
use hotvisor_vmm::tally::ExitKind;
use std::collections::BTreeMap;

const METRICS: &str = "/metrics";

/// Values by name and labels. Each family has a text and a type, before its first value.
async fn scrape(client: &Client) -> BTreeMap<String, f64> {
    let request = Request::get(METRICS).body(Body::empty()).unwrap();
    let response = router(client.clone(), Arc::default())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let kind = &response.headers()["content-type"];
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (mut values, mut helped, mut family) = (BTreeMap::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split(' ').next().unwrap().to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(
                (name, name.ends_with("_total")),
                (&*helped, kind == "counter")
            );
            family = name.to_owned();
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(&family), "{line} under {family}");
            assert_eq!(
                values.insert(name.to_owned(), value.parse().unwrap()),
                None,
                "{line}"
            );
        }
    }
    values
}

#[tokio::test]
async fn what_there_is_has_its_value() {
    let (fake, client) = Fake::new();
    ask(&client, "PUT", VCPUS, r#"{"desired":3}"#).await;
    fake.happens([News::Machine("running")]);
    let values = scrape(&client).await;
    let version = concat!(
        "hotvisor_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"}"
    );
    for (name, value) in [
        (version, 1.0),
        ("hotvisor_vcpus_desired", 2.0),
        ("hotvisor_vcpus_plugged", 2.0),
        ("hotvisor_vcpus_online", 2.0),
        ("hotvisor_vcpus_max", 4.0),
        ("hotvisor_operations_running", 1.0),
        ("hotvisor_events_total", 1.0),
        // There before there is one, so that the first one is an increase.
        (
            r#"hotvisor_operations_total{kind="vcpu",state="refused"}"#,
            0.0,
        ),
        (
            r#"hotvisor_vcpu_changes_total{target="offline",outcome="timed_out"}"#,
            0.0,
        ),
        ("hotvisor_gate_close_wait_seconds_count", 0.0),
    ] {
        assert_eq!(values.get(name), Some(&value), "{name}: {values:?}");
    }
}

#[tokio::test]
async fn what_is_counted_has_its_labels() {
    let (fake, client) = Fake::new();
    let tally = &fake.tally;
    let spent = Duration::from_micros(2_000_500);
    tally.stage(Target::Offline, "notifying.begun", spent);
    tally.stage(
        Target::Offline,
        "notifying.begun",
        Duration::from_micros(10),
    );
    tally.attempt(Target::Online, Code::Succeeded, spent);
    tally.part(Target::Offline, Code::Refused);
    tally.operation(OperationKind::One(Target::Offline), Code::Refused);
    tally.word((3, 0x82));
    tally.word((0x1234, 1));
    tally.gate_tally().users.observe(spent);
    tally.vcpu_tally(3).exit(ExitKind::MmioWrite);
    let values = scrape(&client).await;
    let phase = r#"direction="unplug",phase="notifying.begun""#;
    let bucket =
        |le: &str| format!("hotvisor_phase_duration_seconds_bucket{{{phase},le=\"{le}\"}}");
    for (name, value) in [
        (
            format!("hotvisor_phase_duration_seconds_sum{{{phase}}}"),
            2.000_510,
        ),
        (
            format!("hotvisor_phase_duration_seconds_count{{{phase}}}"),
            2.0,
        ),
        (bucket("1e-05"), 1.0),
        (bucket("1"), 1.0),
        (bucket("2.5"), 2.0),
        (bucket("+Inf"), 2.0),
    ]
    .iter()
    .map(|(name, value)| (name.as_str(), *value))
    .chain([
        (
            r#"hotvisor_hotplug_duration_seconds_count{direction="plug",outcome="succeeded"}"#,
            1.0,
        ),
        (
            r#"hotvisor_vcpu_changes_total{target="offline",outcome="refused"}"#,
            1.0,
        ),
        (
            r#"hotvisor_operations_total{kind="vcpu",state="refused"}"#,
            1.0,
        ),
        (r#"hotvisor_guest_ost_total{source="3",status="0x82"}"#, 1.0),
        (
            r#"hotvisor_guest_ost_total{source="other",status="1"}"#,
            1.0,
        ),
        ("hotvisor_gate_user_wait_seconds_sum", 2.000_5),
        (
            r#"hotvisor_vcpu_exits_total{vcpu="3",kind="mmio_write"}"#,
            1.0,
        ),
        (r#"hotvisor_vcpu_exits_total{vcpu="3",kind="io_in"}"#, 0.0),
        (r#"hotvisor_vcpu_run_seconds_total{vcpu="3"}"#, 0.0),
    ]) {
        assert_eq!(values.get(name), Some(&value), "{name}: {values:#?}");
    }
    // Of vCPUs that never were there is nothing.
    assert!(!values.keys().any(|name| name.contains(r#"vcpu="2""#)));
}

#[tokio::test]
async fn answers_are_counted_by_their_status() {
    let (_fake, client) = Fake::new();
    let service = router(client, Arc::default());
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        to_bytes(response.into_body(), usize::MAX).await.unwrap()
    };
    for path in [VCPUS, VCPUS, "/nowhere", "/metrics?x=1"] {
        get(path).await;
    }
    let text = String::from_utf8(get(METRICS).await.to_vec()).unwrap();
    for (status, count) in [(200, 2), (404, 1), (400, 1)] {
        let line = format!("hotvisor_api_requests_total{{status=\"{status}\"}} {count}\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
}

/// As many labels as there can be, and a scrape is still quick.
#[tokio::test]
async fn a_scrape_of_1024_vcpus_is_whole() {
    let (fake, client) = Fake::new();
    for id in 0..1024 {
        fake.tally.vcpu_tally(id).thread_begins();
    }
    let begin = std::time::Instant::now();
    let values = scrape(&client).await;
    eprintln!(
        "a scrape of 1024 vCPUs, read and checked: {:?}",
        begin.elapsed()
    );
    let of = |name: &str| values.keys().filter(|key| key.starts_with(name)).count();
    assert_eq!(of("hotvisor_vcpu_exits_total"), 8 * 1024);
    assert_eq!(of("hotvisor_vcpu_run_seconds_total"), 1024);
    let of_last = r#"hotvisor_vcpu_run_seconds_total{vcpu="1023"}"#;
    assert!(values[of_last] > 0.0);
}
