//! What one side writes, the other side reads.

use super::change::Change;
use super::operations::{Operation, Outcome};
use super::problem::Problem;
use super::vcpus::{ChangeOne, Target, VcpuDetail, Vcpus};
use crate::route::fake::Fake;
use crate::route::trouble::Trouble;
use axum::body::to_bytes;
use axum::response::IntoResponse;
use hotvisor_vmm::hotplug::client::{Request, Want};
use hotvisor_vmm::hotplug::view::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;

/// Writes it and reads it again.
fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> String {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    text
}

#[tokio::test]
async fn answers_are_read_as_they_were_written() {
    let (fake, client) = Fake::new();
    there_and_back(&Vcpus::from(&*client.view()));
    there_and_back(&VcpuDetail::from(&*client.view().vcpus[1]));
    let want = Want::Count(3);
    let request = Request {
        want,
        timeout: None,
    };
    let id = client.change(request).await.unwrap();
    there_and_back(&Operation::from(&*client.view().operations[&id]));
    for code in [
        Code::Succeeded,
        Code::Superseded,
        Code::Cancelled,
        Code::Refused,
        Code::TimedOut,
        Code::Failed,
    ] {
        fake.finish(id, code);
        let operation = Operation::from(&*client.view().operations[&id]);
        let text = there_and_back(&operation);
        // As the vmm's own words, once for the whole and once for its part.
        assert_eq!(text.matches(code.name()).count(), 2, "{text}");
        let outcome: &Outcome = operation.vcpus[0].outcome.as_ref().unwrap();
        assert_eq!(outcome.ost, Some([3, 130]));
    }
}

#[test]
fn changes_are_read_as_they_were_written() {
    let cases = [
        (Change::Desired(3), r#"{"desired":3}"#),
        (
            Change::Online(BTreeSet::from([5, 0, 2])),
            r#"{"online":[0,2,5]}"#,
        ),
    ];
    for (change, text) in cases {
        assert_eq!(there_and_back(&change), text);
    }
    for text in ["3.0", "3e0", "0.3e1"] {
        let change: Change = serde_json::from_str(&format!(r#"{{"desired":{text}}}"#)).unwrap();
        assert_eq!(change, Change::Desired(3), "{text}");
    }
    for (target, text) in [
        (Target::Online, r#"{"target":"online"}"#),
        (Target::Offline, r#"{"target":"offline"}"#),
    ] {
        assert_eq!(there_and_back(&ChangeOne { target }), text);
    }
}

#[tokio::test]
async fn problems_are_read_as_they_were_written() {
    let words =
        hotvisor_vmm::Problem::new("5 vCPUs", "this machine can have 4", "ask for 4 or less");
    for (trouble, status) in [(Trouble::Conflict(words), 409), (Trouble::Gone, 503)] {
        let body = trouble.into_response().into_body();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let problem: Problem = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(problem.status, status);
        there_and_back(&problem);
    }
}
