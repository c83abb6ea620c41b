//! Machines that come and go in one process, at the wish of clients that speak Cloud Hypervisor's language.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::{Answer, SOON};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::guest::{Guest, MEMORY, Machine, test};
use crate::hotplug::guest::{BEGUN, Hotplug};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("lifecycle::created_booted_stopped_and_forgotten", life),
        test(
            "lifecycle::a_stop_in_every_phase_of_an_unplug",
            stop_in_unplug,
        ),
        test("lifecycle::what_is_wanted_outlives_a_stop", wanted_stays),
        test("lifecycle::a_reboot_asks_nobody", reboot),
        test(
            "lifecycle::a_paused_machine_can_be_stopped_and_rebooted",
            paused,
        ),
        test("lifecycle::the_power_button", power_button),
        test("lifecycle::what_cannot_be_leaves_no_trace", bad_machines),
        test("lifecycle::serial_ports_come_and_go", serial),
        test(
            "lifecycle::a_serial_port_says_nothing_of_an_earlier_boot",
            unread,
        ),
        test("lifecycle::a_signal_ends_a_process_without_a_guest", signal),
        test("lifecycle::nothing_to_run_is_bad_input", nothing_to_run),
        test("lifecycle::many_machines_leave_nothing_behind", many),
    ]
}

/// Commands by their short names.
pub(crate) trait Commands {
    fn act(&self, name: &str) -> Result<Answer>;
    fn does(&self, name: &str) -> Result<()>;
    fn refuses(&self, name: &str, status: u16) -> Result<()>;
    fn create(&self, config: &Value) -> Result<Answer>;
    fn state(&self) -> Result<String>;
}

impl Commands for Guest {
    fn act(&self, name: &str) -> Result<Answer> {
        self.vm().api().act(&format!("/api/v1/{name}"))
    }

    fn does(&self, name: &str) -> Result<()> {
        let answer = self.act(name)?;
        self.ensure(answer.status == 204, || format!("{name}: {answer:?}"))
    }

    fn refuses(&self, name: &str, status: u16) -> Result<()> {
        let answer = self.act(name)?;
        self.ensure(
            answer.status == status && answer.body.as_array().is_some_and(|said| said.len() > 1),
            || format!("{name}: {answer:?}, and not {status}"),
        )
    }

    fn create(&self, config: &Value) -> Result<Answer> {
        self.vm().api().put("/api/v1/vm.create", config)
    }

    fn state(&self) -> Result<String> {
        let info = self.vm().api().get("/api/v1/vm.info")?;
        let state = info.body["state"].as_str();
        Ok(state.unwrap_or("none").to_owned())
    }
}

/// What a machine is to be that runs the bare-metal guest, which is in this file.
pub(crate) fn config(image: &Path, boot: u32, max: u32) -> Value {
    json!({
        "cpus": {"boot_vcpus": boot, "max_vcpus": max},
        "memory": {"size": MEMORY << 20},
        "payload": {"kernel": image},
        "serial": {"mode": "Tty"},
    })
}

/// A process that has no machine, and what one is to be that runs the bare-metal guest.
fn process(context: &Context, boot: u32, max: u32) -> Result<(Guest, Value)> {
    let machine = Machine::new(context, boot, max)?;
    let config = config(&machine.path("guest.elf"), boot, max);
    let process = machine.with(|vm| vm.without_machine()).start()?;
    process.wait_said("waiting for a machine to be created")?;
    Ok((process, config))
}

/// The same with a machine that runs.
fn running(context: &Context, boot: u32, max: u32) -> Result<(Guest, Value)> {
    let (guest, config) = process(context, boot, max)?;
    let answer = guest.create(&config)?;
    guest.ensure(answer.status == 204, || format!("{answer:?}"))?;
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    Ok((guest, config))
}

fn counts(guest: &Guest) -> Result<Value> {
    let vcpus = guest.vm().api().get("/api/v1/vcpus")?.body;
    Ok(json!([vcpus["desired"], vcpus["plugged"], vcpus["max"]]))
}

fn life(context: &Context) -> Result<()> {
    let (guest, config) = process(context, 2, 4)?;
    guest.ensure(counts(&guest)? == json!([0, 0, 0]), || "not empty".into())?;
    for name in [
        "vm.boot",
        "vm.shutdown",
        "vm.reboot",
        "vm.pause",
        "vm.resume",
        "vm.power-button",
    ] {
        guest.refuses(name, 404)?;
    }
    guest.does("vm.delete")?;
    let change = guest
        .vm()
        .api()
        .put("/api/v1/vcpus", &json!({"desired": 1}))?;
    guest.ensure(
        change.status == 409 && change.body["code"] == "no_machine",
        || format!("{change:?}"),
    )?;

    created(&guest, &config)?;

    // What it was created with, it keeps, whatever becomes of the files' names.
    fs::remove_file(PathBuf::from(
        config["payload"]["kernel"].as_str().context("no kernel")?,
    ))?;
    for _ in 0..3 {
        guest.does("vm.boot")?;
        guest.wait_ready()?;
        guest.start_cpu(1, 1)?;
        guest.refuses("vm.boot", 405)?;
        guest.ensure(guest.state()? == "Running", || "not running".into())?;
        guest.does("vm.shutdown")?;
        guest.ensure(guest.state()? == "Created", || "not stopped".into())?;
        guest.ensure(counts(&guest)? == json!([2, 0, 4]), || {
            "something runs".into()
        })?;
        let threads = guest.vm().threads()?;
        guest.ensure(!threads.iter().any(|t| t.name.starts_with("vcpu-")), || {
            "a vCPU thread is left".into()
        })?;
    }
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    guest.does("vm.delete")?;
    guest.ensure(guest.state()? == "none", || "not forgotten".into())?;
    guest.ensure(counts(&guest)? == json!([0, 0, 0]), || "not empty".into())?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

/// There is one, and nothing runs.
fn created(guest: &Guest, config: &Value) -> Result<()> {
    let answer = guest.create(config)?;
    guest.ensure(answer.status == 204, || format!("{answer:?}"))?;
    guest.ensure(guest.create(config)?.status == 405, || {
        "created twice".into()
    })?;
    for name in [
        "vm.shutdown",
        "vm.reboot",
        "vm.pause",
        "vm.resume",
        "vm.power-button",
    ] {
        guest.refuses(name, 405)?;
    }
    guest.ensure(guest.state()? == "Created", || "not created".into())?;
    guest.ensure(counts(guest)? == json!([2, 0, 4]), || {
        "something runs".into()
    })?;
    let change = guest
        .vm()
        .api()
        .put("/api/v1/vcpus", &json!({"desired": 1}))?;
    guest.ensure(
        change.status == 409 && change.body["code"] == "not_running",
        || format!("{change:?}"),
    )?;
    Ok(())
}

/// Brings a guest that was asked to give a CPU back to some point of that.
type Reach = fn(&Guest) -> Result<()>;

/// Whatever was under way, it has an end, and the next guest comes up.
fn stop_in_unplug(context: &Context) -> Result<()> {
    let phases: [(&str, Reach, &str); 4] = [
        ("asked", |_| Ok(()), "failed"),
        ("read", |guest| guest.scan().map(drop), "failed"),
        (
            "begun",
            |guest| {
                guest.scan()?;
                guest.ost(1, BEGUN)
            },
            "failed",
        ),
        ("ejected", |guest| guest.obey_unplug(1), "succeeded"),
    ];
    for (phase, reach, state) in phases {
        for command in ["vm.shutdown", "vm.reboot"] {
            let (guest, _) = running(context, 2, 2)?;
            guest.start_cpu(1, 1)?;
            let operation = guest.request(1, "offline")?;
            reach(&guest)?;
            guest.does(command)?;
            // A guest that starts again without the CPU has what was wanted.
            let state = if command == "vm.reboot" {
                "succeeded"
            } else {
                state
            };
            let ended = guest.ended(&operation)?;
            guest.ensure(ended["state"] == state, || {
                format!("{command} when {phase}: {ended}")
            })?;
            if command == "vm.shutdown" {
                guest.does("vm.boot")?;
            }
            guest.wait_ready()?;
            guest.ensure(counts(&guest)? == json!([1, 1, 2]), || {
                format!("{command} when {phase}: not as wanted")
            })?;
            guest.expect("ping", "pong")?;
            guest.power_off()?;
        }
    }
    Ok(())
}

fn wanted_stays(context: &Context) -> Result<()> {
    let (guest, _) = running(context, 1, 4)?;
    // A wish that came to nothing is none that stays.
    let path = "/api/v1/vcpus?wait=20&timeout=0.01";
    let late = guest.vm().api().put(path, &json!({"desired": 2}))?.body;
    guest.ensure(late["state"] == "timed_out", || late.to_string())?;
    guest.does("vm.shutdown")?;
    guest.ensure(counts(&guest)? == json!([1, 0, 4]), || {
        "not taken back".into()
    })?;
    let resize = |count: u32| {
        let size = json!({"desired_vcpus": count});
        guest.vm().api().put("/api/v1/vm.resize", &size)
    };
    for (count, status) in [(0, 400), (5, 400), (3, 204)] {
        let answer = resize(count)?;
        guest.ensure(answer.status == status, || format!("{count}: {answer:?}"))?;
    }
    guest.ensure(counts(&guest)? == json!([3, 0, 4]), || "not preset".into())?;
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    guest.ensure(counts(&guest)? == json!([3, 3, 4]), || {
        "not as wanted".into()
    })?;
    guest.start_cpu(2, 1)?;
    guest.power_off()
}

fn reboot(context: &Context) -> Result<()> {
    let (guest, _) = running(context, 2, 2)?;
    for _ in 0..5 {
        // It neither answers nor obeys.
        guest.start_cpu(1, 1)?;
        guest.expect("ap 1 spin", "")?;
        guest.does("vm.reboot")?;
        guest.wait_ready()?;
    }
    guest.power_off()
}

fn paused(context: &Context) -> Result<()> {
    let (guest, _) = running(context, 2, 2)?;
    guest.does("vm.pause")?;
    guest.ensure(guest.state()? == "Paused", || "not paused".into())?;
    guest.does("vm.reboot")?;
    guest.wait_ready()?;
    guest.ensure(guest.state()? == "Running", || "still paused".into())?;
    guest.does("vm.pause")?;
    guest.does("vm.shutdown")?;
    guest.refuses("vm.resume", 405)?;
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    // Nothing is left of the pause: changes are taken.
    let change = guest
        .vm()
        .api()
        .put("/api/v1/vcpus", &json!({"desired": 2}))?;
    guest.ensure([200, 202].contains(&change.status), || {
        format!("{change:?}")
    })?;
    guest.power_off()
}

fn power_button(context: &Context) -> Result<()> {
    let (guest, _) = running(context, 1, 1)?;
    guest.does("vm.power-button")?;
    guest.expect("ping", "pong")?;
    // A client's button sets no deadline and asks for no end.
    guest.does("vm.pause")?;
    guest.does("vm.power-button")?;
    guest.does("vm.resume")?;
    guest.expect("ping", "pong")?;
    guest.power_off()
}

fn bad_machines(context: &Context) -> Result<()> {
    let (guest, config) = process(context, 1, 1)?;
    let with = |path: &str, value: Value| {
        let mut config = config.clone();
        if let Some(place) = config.pointer_mut(path) {
            *place = value;
        }
        config
    };
    for (bad, words) in [
        (with("/payload/kernel", json!("/nowhere")), "/nowhere"),
        (with("/payload/kernel", json!("/dev/null")), "/dev/null"),
        (with("/cpus/boot_vcpus", json!(2)), "greater than max"),
        (
            with("/cpus", json!({"boot_vcpus": 0, "max_vcpus": 1})),
            "without a CPU",
        ),
        (with("/cpus/max_vcpus", json!(5000)), "1024 is the most"),
        (with("/memory/size", json!(1)), "not a size"),
        (with("/serial", json!({"mode": "Pty"})), "Pty"),
    ] {
        let answer = guest.create(&bad)?;
        let said = answer.body.to_string();
        guest.ensure(answer.status == 400 && said.contains(words), || {
            format!("{bad}: {answer:?}, and not {words}")
        })?;
        guest.ensure(guest.state()? == "none", || format!("{bad} left a trace"))?;
    }
    // Known only when it boots: it stays created, and can boot when the mistake is mended.
    let socket = guest.vm().api_socket();
    let answer = guest.create(&with(
        "/serial",
        json!({"mode": "Socket", "socket": socket}),
    ))?;
    guest.ensure(answer.status == 204, || format!("{answer:?}"))?;
    for _ in 0..2 {
        guest.refuses("vm.boot", 400)?;
        guest.ensure(guest.state()? == "Created", || "not as before".into())?;
    }
    guest.does("vm.delete")?;
    guest.create(&config)?;
    guest.does("vm.boot")?;
    guest.wait_ready()?;
    guest.power_off()
}

fn serial(context: &Context) -> Result<()> {
    let (guest, mut config) = process(context, 1, 1)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("serial");
    for round in 0..3 {
        for mode in ["Socket", "File"] {
            config["serial"] = match mode {
                "Socket" => json!({"mode": mode, "socket": path}),
                _ => json!({"mode": mode, "file": path}),
            };
            let answer = guest.create(&config)?;
            guest.ensure(answer.status == 204, || format!("{answer:?}"))?;
            guest.ensure(!path.exists(), || "it leaves traces before it runs".into())?;
            guest.does("vm.boot")?;
            if mode == "File" {
                guest.vm().wait_until("the guest's first words", || {
                    Ok(fs::read_to_string(&path)?.contains("ready"))
                })?;
            } else {
                UnixStream::connect(&path)?;
            }
            guest.does("vm.delete")?;
            guest.ensure(path.exists() == (mode == "File"), || {
                format!("{round} {mode}")
            })?;
            if mode == "File" {
                fs::remove_file(&path)?;
            }
        }
    }
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

/// What nobody has read of a guest's words when it is stopped, nobody reads as the next one's.
fn unread(context: &Context) -> Result<()> {
    let (guest, mut config) = process(context, 1, 1)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("serial");
    config["serial"] = json!({"mode": "Socket", "socket": path});
    guest.create(&config)?;
    let reads = || -> Result<u64> {
        let counters = guest.vm().api().get("/api/v1/vm.counters")?.body;
        Ok(counters["vcpu-0"]["exits_io_in"].as_u64().unwrap_or(0))
    };
    for _ in 0..2 {
        let before = reads()?;
        guest.does("vm.boot")?;
        // It has said that it is ready, and asks for input again and again.
        guest
            .vm()
            .wait_until("a guest that listens", || Ok(reads()? > before + 1000))?;
        guest.does("vm.shutdown")?;
    }
    guest.does("vm.boot")?;
    let mut client = UnixStream::connect(&path)?;
    client.set_read_timeout(Some(SOON))?;
    client.write_all(b"ping\n")?;
    let mut said = [0; b"ready apic=0\nok pong\n".len()];
    client.read_exact(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    guest.ensure(said == "ready apic=0\nok pong\n", || format!("{said:?}"))?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

fn signal(context: &Context) -> Result<()> {
    for created in [false, true] {
        let (guest, config) = process(context, 1, 1)?;
        if created {
            guest.create(&config)?;
        }
        guest.ensure(guest.state()? != "Running", || "it runs".into())?;
        guest.vm().signal(Signal::SIGTERM)?;
        guest.wait_code(0, &[])?;
    }
    let (guest, _) = running(context, 2, 2)?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}

fn nothing_to_run(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let process = machine
        .with(|vm| vm.without_machine().without_api())
        .start()?;
    process.wait_code(2, &["nothing to run", "--kernel", "--api-socket"])
}

fn many(context: &Context) -> Result<()> {
    let (guest, config) = process(context, 3, 8)?;
    let footprint = || guest.vm().footprint();
    let mut before = None;
    for round in 0..40 {
        guest.create(&config)?;
        guest.does("vm.boot")?;
        guest.wait_ready()?;
        guest.does("vm.delete")?;
        if round == 10 {
            before = Some(footprint()?);
        }
    }
    // The server closes a connection in its own time.
    let before = before.context("no rounds")?;
    guest.vm().wait_until("no more than what it had", || {
        let after = footprint()?;
        Ok(after.threads <= before.threads && after.files <= before.files)
    })?;
    guest.does("vmm.shutdown")?;
    guest.wait_code(0, &[])
}
