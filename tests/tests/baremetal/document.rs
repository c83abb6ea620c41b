//! The API against the OpenAPI document that it serves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Place, Test};
use hotvisor_tests::schemathesis;
use hotvisor_tests::vm::api::RESUME;
use serde_json::json;

use crate::guest::{Guest, Machine, test};
use crate::served;

/// How long each of two runs may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// Requests for each endpoint, beside those that cover every bound of every parameter.
const EXAMPLES: u32 = 50;
/// Requests that each run is known to make at least.
const LEAST: u32 = 400;
/// What takes the machine away that the others are about.
const ENDS: &str =
    "^/api/v1/(vm[.](create|boot|delete|shutdown|reboot|power-button)|vmm[.]shutdown)$";
/// What takes the process away.
const LAST: &str = "/api/v1/vmm.shutdown";

pub(crate) fn tests() -> Vec<Test> {
    vec![Test {
        place: Place::Host("needs Python"),
        ..test("document::schemathesis_finds_nothing", schemathesis)
    }]
}

/// With a machine, which is there for more after all of these requests, and as it is meant to be; and without one.
fn schemathesis(context: &Context) -> Result<()> {
    let guest = served::boot(Machine::new(context, 2, 4)?, 2)?;
    let api = guest.vm().api();
    run(&guest, &["--exclude-path-regex", ENDS])?;
    // The last of the requests may have left it paused, which is refused where it is not.
    api.act(RESUME)?;
    for count in [4, 1] {
        let answer = api.put("/api/v1/vcpus?wait=20", &json!({ "desired": count }))?;
        guest.ensure(answer.body["state"] == "succeeded", || {
            format!("{answer:?}")
        })?;
    }
    let deleted = api.act("/api/v1/vm.delete")?;
    guest.ensure(deleted.status == 204, || format!("{deleted:?}"))?;
    run(&guest, &["--exclude-path", LAST])?;
    let ended = api.act(LAST)?;
    guest.ensure(ended.status == 204, || format!("{ended:?}"))?;
    guest.wait_code(0, &[])
}

fn run(guest: &Guest, which: &[&str]) -> Result<()> {
    let vm = guest.vm();
    let said = schemathesis::check(&vm.api_socket(), EXAMPLES, PATIENCE, which)
        .with_context(|| vm.evidence(format!("schemathesis {which:?} found something")))?;
    let requests = number_behind(&said, "Test cases:").unwrap_or(0);
    guest.ensure(requests >= LEAST, || {
        format!("only {requests} requests were made:\n{said}")
    })
}

/// The number that stands behind a word.
fn number_behind(text: &str, word: &str) -> Option<u32> {
    let (_, rest) = text.split_once(word)?;
    rest.split_whitespace().next()?.parse().ok()
}
