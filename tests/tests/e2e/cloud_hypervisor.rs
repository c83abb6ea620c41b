//! A client that was made for Cloud Hypervisor, the crate `cloud-hypervisor-client`, against our socket, unchanged.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cloud_hypervisor_client::apis::{DefaultApi, Error};
use cloud_hypervisor_client::models::{
    ConsoleConfig, ConsoleMode, CpusConfig, DiskConfig, MemoryConfig, PayloadConfig, SerialConfig,
    VmConfig, VmInfo, VmResize, VmState, VsockConfig,
};
use cloud_hypervisor_client::{SocketBasedApiClient, socket_based_api_client};
use hotvisor_tests::artifacts::Image;
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::kernels::Kernel;
use hotvisor_tests::vm::{SOON, Vm};
use tokio::runtime::{self, Runtime};

const MEMORY: i64 = 512 << 20;

pub(crate) fn tests() -> Vec<Test> {
    [Kernel::V6_1Cloud, Kernel::V6_12Cloud]
        .map(|kernel| Test::with_image("cloud_hypervisor::client", Image::BzImage(kernel), client))
        .into()
}

/// The client, and what its futures run on.
struct Client {
    runtime: Runtime,
    api: SocketBasedApiClient,
}

impl Client {
    fn new(vm: &Vm) -> Result<Self> {
        Ok(Self {
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            api: socket_based_api_client(vm.api_socket()),
        })
    }

    /// What an answer brought.
    fn get<T>(&self, what: &str, answer: impl Future<Output = Result<T, Error>>) -> Result<T> {
        let answer = self.runtime.block_on(answer);
        answer.map_err(|e| anyhow::anyhow!("{what}: {e:?}"))
    }

    /// The status of an answer that is a failure, and the last sentence of its body.
    fn refusal<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<(u16, String)> {
        match self.runtime.block_on(answer) {
            Ok(_) => bail!("it was not refused"),
            Err(Error::Api(error)) => {
                let mut said: Vec<String> = serde_json::from_str(&error.body)
                    .with_context(|| format!("{:?} is no list of sentences", error.body))?;
                Ok((error.code.as_u16(), said.pop().unwrap_or_default()))
            }
            Err(other) => bail!("it failed in another way: {other:?}"),
        }
    }

    fn info(&self) -> Result<VmInfo> {
        self.get("vm.info", self.api.vm_info_get())
    }

    fn resize(&self, count: i32) -> Result<()> {
        let size = VmResize {
            desired_vcpus: Some(count),
            ..VmResize::new()
        };
        self.get("vm.resize", self.api.vm_resize_put(size))
    }

    /// Waits until `vm.info` tells of so many vCPUs.
    fn wait_vcpus(&self, vm: &Vm, count: i32) -> Result<()> {
        vm.wait_until(&format!("{count} vCPUs in vm.info"), || {
            let cpus = self.info()?.config.cpus.context("no cpus in vm.info")?;
            Ok(cpus.boot_vcpus == count)
        })
    }
}

fn config(context: &Context, kernel: Kernel) -> VmConfig {
    let path = |path: &std::path::Path| Some(path.display().to_string());
    VmConfig {
        cpus: Some(CpusConfig::new(2, 4)),
        memory: Some(MemoryConfig::new(MEMORY)),
        serial: Some(SerialConfig::new(ConsoleMode::Tty)),
        console: Some(ConsoleConfig::new(ConsoleMode::Off)),
        ..VmConfig::new(PayloadConfig {
            kernel: path(&context.artifacts.bzimage(kernel)),
            initramfs: path(&context.artifacts.initramfs(kernel)),
            cmdline: Some("console=ttyS0 quiet".to_owned()),
            ..PayloadConfig::new()
        })
    }
}

fn online(vm: &Vm) -> Result<String> {
    vm.sh_ok("cat /sys/devices/system/cpu/online")
}

fn client(context: &Context, kernel: Kernel) -> Result<()> {
    let vm = context.vm(kernel).without_machine().arg("-v").start()?;
    vm.stderr()
        .wait_for("waiting for a machine", 0, Instant::now() + SOON)
        .map_err(|why| vm.evidence(why))?;
    let client = Client::new(&vm)?;
    let api = &client.api;
    let ping = client.get("vmm.ping", api.vmm_ping_get())?;
    ensure!(ping.pid == Some(vm.pid().into()), "{ping:?}");
    ensure!(client.refusal(api.boot_vm())?.0 == 404, "booted nothing");

    let socket = vm.api_socket().with_file_name("vsock");
    let vsock = VsockConfig::new(3, socket.display().to_string());
    let wanted = VmConfig {
        vsock: Some(vsock.clone()),
        ..config(context, kernel)
    };
    let disk = VmConfig {
        disks: Some(vec![DiskConfig::default()]),
        ..wanted.clone()
    };
    let (status, said) = client.refusal(api.create_vm(disk))?;
    ensure!(status == 400 && said.contains("`disks`"), "{status} {said}");
    refuses_sockets(&client, &wanted, &vsock)?;
    client.get("vm.create", api.create_vm(wanted))?;
    let info = client.info()?;
    ensure!(info.config.vsock.as_ref() == Some(&vsock), "{info:?}");
    ensure!(info.state == VmState::Created, "{info:?}");
    ensure!(client.refusal(api.pause_vm())?.0 == 405, "paused nothing");
    client.get("vm.boot", api.boot_vm())?;
    vm.wait_for_init(1)?;

    resizes(&vm, &client)?;
    pause(&vm, &client)?;
    ends(&vm, &client)?;
    vm.wait_success(SOON)
}

/// Socket devices that cannot be, or not here.
fn refuses_sockets(client: &Client, wanted: &VmConfig, good: &VsockConfig) -> Result<()> {
    let reserved = VsockConfig {
        cid: 2,
        ..good.clone()
    };
    let named = VsockConfig {
        id: Some("vsock0".into()),
        ..good.clone()
    };
    for (vsock, words) in [(reserved, "3 to 4294967294"), (named, "`vsock.id`")] {
        let wanted = VmConfig {
            vsock: Some(vsock),
            ..wanted.clone()
        };
        let (status, said) = client.refusal(client.api.create_vm(wanted))?;
        ensure!(status == 400 && said.contains(words), "{status} {said}");
    }
    Ok(())
}

/// Down and up, and twice so quickly that the guest has not seen the first one.
fn resizes(vm: &Vm, client: &Client) -> Result<()> {
    let begin = Instant::now();
    client.resize(1)?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_millis(200), "it waited for {took:?}");
    client.wait_vcpus(vm, 1)?;
    ensure!(online(vm)? == "0", "the guest has more than CPU 0");
    client.resize(3)?;
    client.wait_vcpus(vm, 3)?;
    let begin = Instant::now();
    client.resize(4)?;
    client.resize(2)?;
    let took = begin.elapsed();
    ensure!(
        took < Duration::from_millis(200),
        "not twice within 0.2 s: {took:?}"
    );
    client.wait_vcpus(vm, 2)?;
    client.resize(4)?;
    client.wait_vcpus(vm, 4)?;
    for bad in [0, 5] {
        let size = VmResize {
            desired_vcpus: Some(bad),
            ..VmResize::new()
        };
        let (status, said) = client.refusal(client.api.vm_resize_put(size))?;
        ensure!(status == 400 && said.contains("1 to 4"), "{status} {said}");
    }
    let counters = client.get("vm.counters", client.api.vm_counters_get())?;
    let exits = counters
        .get("vcpu-0")
        .and_then(|of| of.get("exits_mmio_read"));
    ensure!(exits.is_some_and(|exits| *exits > 0), "{counters:?}");
    Ok(())
}

fn pause(vm: &Vm, client: &Client) -> Result<()> {
    let api = &client.api;
    client.get("vm.pause", api.pause_vm())?;
    ensure!(client.info()?.state == VmState::Paused, "not paused");
    ensure!(client.refusal(api.pause_vm())?.0 == 405, "paused twice");
    client.get("vm.resume", api.resume_vm())?;
    ensure!(client.info()?.state == VmState::Running, "still paused");
    vm.sh_ok("true").map(drop)
}

/// Rebooted, shut down, booted again with what was wanted last, powered off by its button.
fn ends(vm: &Vm, client: &Client) -> Result<()> {
    let api = &client.api;
    client.get("vm.reboot", api.reboot_vm())?;
    vm.wait_for_init(2)?;
    ensure!(online(vm)? == "0-3", "a reboot lost what was wanted");
    client.get("vm.shutdown", api.shutdown_vm())?;
    ensure!(client.info()?.state == VmState::Created, "not shut down");
    client.resize(2)?;
    client.get("vm.boot", api.boot_vm())?;
    vm.wait_for_init(3)?;
    ensure!(
        online(vm)? == "0-1",
        "it did not boot with what was asked for"
    );
    client.get("vm.delete", api.delete_vm())?;
    ensure!(client.refusal(api.vm_info_get())?.0 == 404, "still there");
    client.get("vmm.shutdown", api.shutdown_vmm())
}
