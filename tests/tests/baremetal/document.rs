//! The API against the OpenAPI document that it serves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hotvisor_tests::harness::{Context, Test};
use hotvisor_tests::schemathesis;
use serde_json::json;

use crate::guest::{Machine, test};
use crate::served;

/// The test is killed after that long.
const PATIENCE: Duration = Duration::from_secs(85);
/// Requests for each endpoint, beside those that cover every bound of every parameter.
const EXAMPLES: u32 = 50;
/// Requests that it is known to make at least.
const LEAST: u32 = 400;

pub(crate) fn tests() -> Vec<Test> {
    vec![Test {
        only_on_host: Some("needs Python"),
        ..test("document::schemathesis_finds_nothing", schemathesis)
    }]
}

/// The machine is there for more after all of these requests, and as it is meant to be.
fn schemathesis(context: &Context) -> Result<()> {
    let guest = served::boot(Machine::new(context, 2, 4)?, 2)?;
    let vm = guest.vm();
    let said = schemathesis::check(&vm.api_socket(), EXAMPLES, PATIENCE, &[])
        .with_context(|| vm.evidence("schemathesis found something"))?;
    let requests = number_before(&said, " generated").unwrap_or(0);
    guest.ensure(requests >= LEAST, || {
        format!("only {requests} requests were made:\n{said}")
    })?;
    // The last of them may have left it paused, which is refused where it is not.
    vm.api().act("/api/v1/vm.resume")?;
    for count in [4, 1] {
        let answer = vm
            .api()
            .put("/api/v1/vcpus?wait=20", &json!({ "desired": count }))?;
        guest.ensure(answer.body["state"] == "succeeded", || {
            format!("{answer:?}")
        })?;
    }
    served::end(&guest)?;
    guest.power_off()
}

/// The number that stands before a word.
fn number_before(text: &str, word: &str) -> Option<u32> {
    text[..text.find(word)?]
        .split_whitespace()
        .last()?
        .parse()
        .ok()
}
