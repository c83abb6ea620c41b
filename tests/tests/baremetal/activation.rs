//! An API on a socket that was passed to the VMM, as systemd does it.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::vm::SOON;
use hotvisor_tests::vm::api::VCPUS;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::json;

use crate::guest::{Machine, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("activation::a_passed_socket_is_served", served),
        test("activation::a_passed_socket_must_listen", must_listen),
    ]
}

/// Leaves a descriptor open in programs that are started from now on; returns the option that names it.
fn pass(descriptor: &(impl AsRawFd + AsFd)) -> Result<String> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(format!("fd={}", descriptor.as_raw_fd()))
}

/// Requests work, also those that came before there was a VMM; the socket and its file outlive it.
fn served(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 2, 2)?;
    let path = machine.path("passed");
    let listener = UnixListener::bind(&path)?;
    let option = pass(&listener)?;
    let mut early = UnixStream::connect(&path)?;
    early.set_read_timeout(Some(SOON))?;
    early.write_all(b"GET /api/v1/vcpus HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let guest = machine
        .with(|vm| vm.without_api().arg("--api-socket").arg(&option))
        .boot()?;
    guest.start_cpu(1, 1)?;
    let api = guest.vm().api_at(&path);
    let answer = api.put("/api/v1/vcpus", &json!({ "desired": 2 }))?;
    guest.ensure(answer.status == 200, || format!("{answer:?}"))?;
    let answer = api.get(VCPUS)?;
    guest.ensure(answer.body["online"] == 2, || format!("{answer:?}"))?;
    let mut status = [0; 15];
    early.read_exact(&mut status)?;
    guest.ensure(&status == b"HTTP/1.1 200 OK", || format!("{status:?}"))?;
    guest.power_off()?;
    let _later = UnixStream::connect(&path).context("the socket is gone with the VMM")?;
    listener.accept()?;
    Ok(())
}

fn must_listen(context: &Context) -> Result<()> {
    let machine = Machine::new(context, 1, 1)?;
    let (stream, _other) = UnixStream::pair()?;
    let option = pass(&stream)?;
    let guest = machine
        .with(|vm| vm.without_api().arg("--api-socket").arg(&option))
        .start()?;
    guest.wait_code(
        2,
        &[
            &format!("--api-socket {option}"),
            "does not listen",
            "name a path",
        ],
    )
}
