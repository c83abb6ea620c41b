//! Why a request in the spelling of Cloud Hypervisor failed, as Cloud Hypervisor says it: a list of sentences, from
//! what was asked to what is behind it.

use super::super::trouble::Trouble;
use axum::http::header::{ALLOW, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::Refused;
use std::collections::BTreeMap;
use utoipa::IntoResponses;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{self, ArrayBuilder, ContentBuilder, ObjectBuilder, RefOr, Type};

/// See the module. Nothing was changed by a request that ends in one.
#[derive(Debug)]
pub(crate) struct Said {
    status: StatusCode,
    /// Whether it is a method that is never allowed here; which are, the router adds.
    method: bool,
    sentences: Vec<String>,
}

/// Whether a path is one of Cloud Hypervisor's API.
pub(crate) fn is_spoken_at(uri: &Uri) -> bool {
    let name = uri.path().strip_prefix("/api/v1/").unwrap_or_default();
    name.starts_with("vm.") || name.starts_with("vmm.")
}

impl From<Trouble> for Said {
    fn from(trouble: Trouble) -> Self {
        let (status, first) = match &trouble {
            Trouble::Malformed(_) | Trouble::Invalid(_) | Trouble::Reused(_) => {
                (StatusCode::BAD_REQUEST, "Bad Request")
            }
            Trouble::Unknown(_) => (StatusCode::NOT_FOUND, "Not Found"),
            Trouble::Absent(_) => (StatusCode::NOT_FOUND, "VM is not created"),
            Trouble::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "Bad Request"),
            Trouble::Stopped(_) => (StatusCode::METHOD_NOT_ALLOWED, "VM is not running"),
            // The state does not allow it.
            Trouble::Conflict(_) | Trouble::Paused(_) | Trouble::Running(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "Error from API")
            }
            Trouble::Slow(_) => (StatusCode::REQUEST_TIMEOUT, "Bad Request"),
            Trouble::Large(_) => (StatusCode::PAYLOAD_TOO_LARGE, "Bad Request"),
            Trouble::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Error from API"),
            Trouble::Busy(_) | Trouble::Gone => {
                (StatusCode::SERVICE_UNAVAILABLE, "Internal Server Error")
            }
        };
        Self {
            status,
            method: matches!(trouble, Trouble::Method(_)),
            sentences: vec![first.to_owned(), trouble.problem().to_string()],
        }
    }
}

/// What is said where a machine is needed and there is none.
pub(super) fn absent(asked: &str) -> Said {
    let found = "there is no machine";
    Trouble::Absent(Problem::new(asked, found, "create one first")).into()
}

impl From<Refused> for Said {
    fn from(refused: Refused) -> Self {
        Trouble::from(refused).into()
    }
}

impl IntoResponse for Said {
    fn into_response(self) -> Response {
        let mut response = super::super::reply(self.status, &self.sentences);
        if self.status == StatusCode::METHOD_NOT_ALLOWED && !self.method {
            // What there is to be done with it, when the state allows it again.
            let allow = HeaderValue::from_static("PUT");
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

/// What is said of each failure in the OpenAPI document.
fn responses(list: &[(StatusCode, &str)]) -> BTreeMap<String, RefOr<openapi::Response>> {
    let response = |text: &str| {
        let sentence = ObjectBuilder::new().schema_type(Type::String);
        let sentences = ArrayBuilder::new().items(sentence).build();
        ResponseBuilder::new()
            .description(text)
            .content(
                "application/json",
                ContentBuilder::new().schema(Some(sentences)).build(),
            )
            .build()
    };
    list.iter()
        .map(|(status, text)| (status.as_str().to_owned(), response(text).into()))
        .collect()
}

/// What any request may be answered with.
pub(super) struct Always;

impl IntoResponses for Always {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        responses(&[
            (
                StatusCode::BAD_REQUEST,
                "It cannot be read, or asks for something that cannot be.",
            ),
            (
                StatusCode::REQUEST_TIMEOUT,
                "The body did not arrive in time.",
            ),
            (StatusCode::PAYLOAD_TOO_LARGE, "A body of more than 64 KiB."),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "The process comes to its end, or every connection has a request that is being worked on.",
            ),
        ])
    }
}

/// What may be answered where a machine is needed.
pub(super) struct NotCreated;

impl IntoResponses for NotCreated {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        responses(&[(StatusCode::NOT_FOUND, "There is no machine.")])
    }
}

/// What may be answered where something is done to the machine.
pub(super) struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        responses(&[
            (
                StatusCode::METHOD_NOT_ALLOWED,
                "What the machine is at does not allow it.",
            ),
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Hotvisor or the host failed.",
            ),
        ])
    }
}
