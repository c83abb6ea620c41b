//! Machines, in the spelling of Cloud Hypervisor.

use super::*;
use hotvisor_vmm::config::{Cpus, Serial, VmConfig, Vsock};
use hotvisor_vmm::hotplug::view::MachineState;
use hotvisor_vmm::tally::ExitKind;

const ACTIONS: [&str; 8] = [
    "vm.boot",
    "vm.pause",
    "vm.resume",
    "vm.reboot",
    "vm.power-button",
    "vm.shutdown",
    "vm.delete",
    "vmm.shutdown",
];

fn at(name: &str) -> String {
    format!("/api/v1/{name}")
}

/// An error as Cloud Hypervisor says it, whose last sentence contains `words`.
fn assert_said(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.header("content-type"), "application/json");
    let sentences = answer.body.as_array().unwrap();
    assert!(sentences.len() >= 2, "{sentences:?}");
    let last = sentences.last().unwrap().as_str().unwrap();
    assert!(last.contains(words), "{words}: {last}");
    assert_eq!(answer.headers.contains_key("allow"), status == 405);
}

fn config() -> VmConfig {
    VmConfig {
        kernel: "/boot/vmlinuz".into(),
        initramfs: None,
        cmdline: "quiet".into(),
        cpus: Cpus { boot: 2, max: 4 },
        memory: 512 << 20,
        serial: Serial::Socket("/run/tty".into()),
        vsock: Some(Vsock {
            cid: 3,
            socket: "/run/vsock".into(),
        }),
    }
}

#[tokio::test]
async fn what_needs_no_words_has_none() {
    let (fake, client) = Fake::new();
    for name in ACTIONS {
        let path = at(name);
        let answer = ask(&client, "PUT", &path, "").await;
        assert_eq!(answer.status, 204, "{name}");
        assert_eq!(answer.body, Value::Null);
        assert_eq!(fake.commands().len(), 1);
        let answer = ask(&client, "PUT", &path, "{}").await;
        assert_said(&answer, 400, "a body, where none is known");
        let answer = ask(&client, "PUT", &format!("{path}?wait=1"), "").await;
        assert_said(&answer, 400, "?wait=1");
        assert_said(&get(&client, &path).await, 405, "GET");
        assert_eq!(fake.commands(), [""; 0]);
    }
    fake.end();
    for name in ACTIONS {
        let answer = ask(&client, "PUT", &at(name), "").await;
        assert_said(&answer, 503, "it has ended");
    }
}

#[tokio::test]
async fn refusals_have_cloud_hypervisors_status() {
    let (fake, client) = Fake::new();
    let problem = Problem {
        asked: "boot".into(),
        found: "there is no machine".into(),
        remedy: "create one first".into(),
    };
    let cases = [
        (Refused::Absent(problem.clone()), 404),
        (Refused::Stopped(problem.clone()), 405),
        (Refused::Paused(problem.clone()), 405),
        (Refused::Running(problem.clone()), 405),
        (Refused::Conflict(problem.clone()), 405),
        (Refused::Invalid(problem.clone()), 400),
        (Refused::Failed(problem), 500),
    ];
    for (refused, status) in cases {
        fake.refuse(refused);
        let answer = ask(&client, "PUT", &at("vm.boot"), "").await;
        assert_said(
            &answer,
            status,
            "boot: there is no machine; create one first",
        );
    }
    let answer = ask(&client, "PUT", &at("vm.add-disk"), "").await;
    assert_said(&answer, 404, "there is no such resource");
}

#[tokio::test]
async fn a_machine_is_created_as_it_is_described() {
    let (fake, client) = Fake::new();
    let create = at("vm.create");
    let least = r#"{"payload":{"kernel":"/k"}}"#;
    assert_eq!(ask(&client, "PUT", &create, least).await.status, 204);
    let told = fake.commands().remove(0);
    for word in [
        r#"kernel: "/k""#,
        "boot: 1, max: 1",
        "memory: 536870912",
        "serial: Null",
        r#"cmdline: """#,
        "vsock: None",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // What asks for nothing is no reason to refuse anything.
    let full = r#"{"cpus":{"boot_vcpus":2,"max_vcpus":4,"topology":null,"kvm_hyperv":false,"affinity":[]},
        "memory":{"size":1073741824,"shared":false},"disks":null,"net":[],"iommu":false,"platform":{},
        "payload":{"kernel":"/k","cmdline":"a","initramfs":"/i","firmware":null},
        "serial":{"mode":"File","file":"/f"},"console":{"mode":"Off"},
        "vsock":{"cid":3,"socket":"/v","iommu":false,"pci_segment":null,"id":null}}"#;
    assert_eq!(ask(&client, "PUT", &create, full).await.status, 204);
    let told = fake.commands().remove(0);
    for word in [
        "boot: 2, max: 4",
        "memory: 1073741824",
        r#"serial: File("/f")"#,
        r#"initramfs: Some("/i")"#,
        r#"vsock: Some(Vsock { cid: 3, socket: "/v" })"#,
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[tokio::test]
async fn what_is_not_served_is_named_and_nothing_is_dropped() {
    let (fake, client) = Fake::new();
    let with = |more: &str| format!(r#"{{"payload":{{"kernel":"/k"}},{more}}}"#);
    let cases = [
        (with(r#""disks":[{"path":"/d"}]"#), "`disks` is not served"),
        (with(r#""watchdog":true"#), "`watchdog` is not served"),
        (
            with(r#""desired_vcpus":2"#),
            "`desired_vcpus` is not served",
        ),
        (
            with(r#""cpus":{"boot_vcpus":1,"max_vcpus":1,"nested":true}"#),
            "`cpus.nested` is not served",
        ),
        (
            with(r#""memory":{"size":1,"hotplug_size":1}"#),
            "`memory.hotplug_size` is not served",
        ),
        (with(r#""serial":{"mode":"Pty"}"#), "unknown variant `Pty`"),
        (
            with(r#""serial":{"mode":"File"}"#),
            "name it in serial.file",
        ),
        (
            with(r#""serial":{"mode":"Null","socket":"/s"}"#),
            "a path that its mode does not use",
        ),
        (with(r#""console":{"mode":"Tty"}"#), "unknown variant `Tty`"),
        (
            with(r#""vsock":{"cid":3,"socket":"/v","iommu":true}"#),
            "`vsock.iommu` is not served",
        ),
        (
            with(r#""vsock":{"cid":3,"socket":"/v","pci_segment":1}"#),
            "`vsock.pci_segment` is not served",
        ),
        (
            with(r#""vsock":{"cid":3,"socket":"/v","id":"v"}"#),
            "`vsock.id` is not served",
        ),
        (with(r#""vsock":{"cid":3}"#), "missing field `socket`"),
        (with(r#""vsock":{"socket":"/v"}"#), "missing field `cid`"),
        (with(r#""vsock":{"cid":-1,"socket":"/v"}"#), "-1"),
        (
            r#"{"payload":{"firmware":"/f"}}"#.into(),
            "`payload.firmware` is not served",
        ),
        (r#"{"payload":{}}"#.into(), "missing field `kernel`"),
        ("{}".into(), "missing field `payload`"),
        (with(r#""cpus":{"boot_vcpus":-1,"max_vcpus":1}"#), "-1"),
        ("[]".into(), "not an object"),
        ("{".into(), "not JSON"),
        (String::new(), "an empty body"),
    ];
    for (body, words) in cases {
        let answer = ask(&client, "PUT", &at("vm.create"), &body).await;
        assert_said(&answer, 400, words);
    }
    assert_eq!(fake.commands(), [""; 0]);
}

#[tokio::test]
async fn a_resize_is_answered_at_once_and_info_tells_what_there_is() {
    let (fake, client) = Fake::new();
    let resize = at("vm.resize");
    let count = r#"{"desired_vcpus":3}"#;
    let none = ask(&client, "PUT", &resize, count).await;
    assert_said(&none, 404, "there is no machine");
    assert_said(&get(&client, &at("vm.info")).await, 404, "no machine");

    fake.becomes(MachineState::Running, Some(config()));
    // The operation that it becomes never ends here, and nobody waits for it.
    for _ in 0..2 {
        assert_eq!(ask(&client, "PUT", &resize, count).await.status, 204);
    }
    assert_eq!(fake.commands(), ["preset 3", "preset 3"]);
    let info = get(&client, &at("vm.info")).await;
    assert_eq!(
        info.body,
        json!({
            "config": {
                "cpus": {"boot_vcpus": 2, "max_vcpus": 4},
                "memory": {"size": 512 << 20},
                "payload": {"kernel": "/boot/vmlinuz", "cmdline": "quiet"},
                "serial": {"mode": "Socket", "socket": "/run/tty"},
                "console": {"mode": "Off"},
                "vsock": {"cid": 3, "socket": "/run/vsock"},
            },
            "state": "Running",
            "memory_actual_size": 512 << 20,
        })
    );
    let same = r#"{"desired_ram":536870912}"#;
    assert_eq!(ask(&client, "PUT", &resize, same).await.status, 204);
    for (body, words) in [
        (r#"{"desired_vcpus":0}"#, "ask for 1 to 4"),
        (r#"{"desired_vcpus":5}"#, "it can have 4"),
        (r#"{"desired_vcpus":4294967296}"#, "4294967296"),
        (r#"{"desired_ram":1}"#, "leave desired_ram out"),
        (
            r#"{"desired_balloon":1}"#,
            "`desired_balloon` is not served",
        ),
        (
            r#"{"desired_vcpus":2,"memory":{"size":1}}"#,
            "`memory` is not served",
        ),
    ] {
        let answer = ask(&client, "PUT", &resize, body).await;
        assert_said(&answer, 400, words);
    }
    assert_eq!(fake.commands(), [""; 0]);
}

#[tokio::test]
async fn a_machine_that_does_not_run_boots_with_what_was_asked_for_last() {
    let (fake, client) = Fake::new();
    for (state, name) in [
        (MachineState::Created, "Created"),
        (MachineState::Paused, "Paused"),
        (MachineState::Restarting, "Running"),
        (MachineState::Stopping, "Shutdown"),
    ] {
        fake.becomes(state, Some(config()));
        let info = get(&client, &at("vm.info")).await;
        assert_eq!(info.body["state"], name);
    }
    // Also when it is still being stopped: what the view says of that may be over when it is asked.
    for state in [MachineState::Created, MachineState::Stopping] {
        fake.becomes(state, Some(config()));
        let answer = ask(&client, "PUT", &at("vm.resize"), r#"{"desired_vcpus":4}"#).await;
        assert_eq!(answer.status, 204);
        assert_eq!(fake.commands(), ["preset 4"]);
    }
}

#[tokio::test]
async fn a_ping_says_who_is_there() {
    let (_fake, client) = Fake::new();
    let ping = get(&client, &at("vmm.ping")).await;
    assert_eq!(ping.body["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(ping.body["pid"], std::process::id());
}

#[tokio::test]
async fn counters_are_of_the_vcpus_that_there_were() {
    let (fake, client) = Fake::new();
    let path = at("vm.counters");
    assert_said(&get(&client, &path).await, 404, "there is no machine");
    fake.becomes(MachineState::Running, Some(config()));
    let tally = client.tally().vcpu_tally(1);
    tally.exit(ExitKind::MmioWrite);
    tally.exit(ExitKind::MmioWrite);
    let counters = get(&client, &path).await.body;
    assert_eq!(counters["vcpu-1"]["exits_mmio_write"], 2, "{counters}");
    assert_eq!(counters["vcpu-1"]["exits_mmio_read"], 0);
    assert_eq!(counters["vcpu-1"]["run_time_us"], 0);
}

/// The command line takes any name of a file.
#[tokio::test]
async fn a_name_that_is_no_text_is_shown_as_far_as_it_can_be() {
    use std::os::unix::ffi::OsStrExt;
    let (fake, client) = Fake::new();
    let name = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/k\xff"));
    let config = VmConfig {
        kernel: name.into(),
        initramfs: Some(name.into()),
        serial: Serial::File(name.into()),
        vsock: Some(Vsock {
            cid: 3,
            socket: name.into(),
        }),
        ..config()
    };
    fake.becomes(MachineState::Running, Some(config));
    let info = get(&client, &at("vm.info")).await.body;
    for path in [
        "payload/kernel",
        "payload/initramfs",
        "serial/file",
        "vsock/socket",
    ] {
        let shown = info.pointer(&format!("/config/{path}"));
        assert_eq!(shown, Some(&json!("/k\u{fffd}")), "{path}");
    }
}
