//! The OpenAPI document of what is served: `GET /openapi.json`, and `resources/openapi.yaml` for those who have no
//! machine at hand.
//!
//! Route and description are registered by the same macro, so that neither can be without the other. What stands
//! here is what many of them say: parameters, and the problems that they may be answered with.

use super::idempotency::KEY_BYTES;
use super::input::{Query, TIMEOUT, WAIT};
use super::trouble::{self, Trouble};
use super::{described, json};
use crate::wire::events::Event;
use crate::wire::operations::Operation;
use crate::wire::problem::Problem;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use hotvisor_vmm::hotplug::client::Client;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::link::Link;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{self, ContentBuilder, ObjectBuilder, Ref, RefOr, Required, Type};
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the document says of the whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hotvisor",
        description = "The API of one virtual machine, over HTTP/1.1 on a Unix socket.\n\nA change of vCPUs is an \
            *operation*, which ends only when it is so, and whose `state` says how it ended. What is refused before \
            it becomes an operation, and whatever else has no answer of its own, is a problem in the form of RFC 9457 \
            with a stable `code`; nothing was changed then. A path that is not here is 404, a method that a path does \
            not have is 405 with an `Allow` header, and a request whose head is no HTTP is closed with a bare 400, or \
            431 where it is longer than 16 KiB.",
    ),
    components(schemas(Problem, Event)),
    tags(
        (name = "vcpus", description = "What the vCPUs are, and what they are to become."),
        (name = "operations", description = "What was asked for, and what became of it."),
        (name = "machine", description = "The whole machine, in the spelling of Cloud Hypervisor, whose errors are lists of sentences."),
        (name = "events", description = "What happens, and how often it has happened."),
        (name = "about", description = "This API."),
    )
)]
struct Head;

/// The document without any path.
pub(super) fn head() -> OpenApiRouter<Client> {
    OpenApiRouter::with_openapi(Head::openapi())
}

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new().routes(routes!(document))
}

/// The document, which is the same for as long as the process lives.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| json(&described().into_openapi()).into());

/// Show this document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "showDocument",
    tag = "about",
    responses((status = 200, description = "What is served, and how.", body = Object), Always)
)]
async fn document(uri: Uri) -> Result<Response, Trouble> {
    Query::of(&uri, &[])?;
    let mut response = Response::new(Body::from(DOCUMENT.clone()));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

type Responses = BTreeMap<String, RefOr<openapi::Response>>;

/// Responses that carry a [`Problem`].
fn problems(list: &[(StatusCode, &str)]) -> Responses {
    let problem = || Ref::from_schema_name(Problem::name());
    let response = |text: &str| {
        let content = ContentBuilder::new().schema(Some(problem())).build();
        ResponseBuilder::new()
            .description(text)
            .content(trouble::TYPE, content)
            .build()
    };
    list.iter()
        .map(|(status, text)| (status.as_str().to_owned(), response(text).into()))
        .collect()
}

/// What any request may be answered with.
pub(super) struct Always;

impl IntoResponses for Always {
    fn responses() -> Responses {
        problems(&[
            (
                StatusCode::BAD_REQUEST,
                "`malformed`: a parameter that is not known or cannot be, or a body that is not JSON, or is not \
                 expected.",
            ),
            (
                StatusCode::REQUEST_TIMEOUT,
                "`slow`: the body did not arrive in time.",
            ),
            (
                StatusCode::PAYLOAD_TOO_LARGE,
                "`large`: a body of more than 64 KiB.",
            ),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "`gone`: the machine has ended. `busy`: every connection has a request that is being worked on, or 1,024 operations run already.",
            ),
        ])
    }
}

/// What a request for a thing with an id may be answered with.
pub(super) struct NotThere;

impl IntoResponses for NotThere {
    fn responses() -> Responses {
        problems(&[(
            StatusCode::NOT_FOUND,
            "`unknown`: there is none of that id.",
        )])
    }
}

/// What a request that comes at the wrong moment may be answered with.
pub(super) struct Conflict;

impl IntoResponses for Conflict {
    fn responses() -> Responses {
        problems(&[(
            StatusCode::CONFLICT,
            "`conflict`: it comes too late, at the wrong moment, or against a rule. `paused`, `running`, `not_running`, `no_machine`: \
             the machine is so.",
        )])
    }
}

/// What a request that has something done may be answered with.
pub(super) struct Failed;

impl IntoResponses for Failed {
    fn responses() -> Responses {
        problems(&[(
            StatusCode::INTERNAL_SERVER_ERROR,
            "`failed`: Hotvisor or the host failed.",
        )])
    }
}

/// What a change of vCPUs may be answered with.
pub(super) struct Changes;

impl IntoResponses for Changes {
    fn responses() -> Responses {
        let operation = || Ref::from_schema_name(Operation::name());
        let location = HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .description(Some("Where the operation is to be found."))
            .build();
        let link = |to: &str| {
            Link::builder()
                .operation_id(to)
                .parameter("id", "$response.body#/id")
                .build()
        };
        let started = |text: &str| {
            ResponseBuilder::new()
                .description(text)
                .content(
                    "application/json",
                    ContentBuilder::new().schema(Some(operation())).build(),
                )
                .header("Location", location.clone())
                .link("show", link("showOperation"))
                .link("cancel", link("cancelOperation"))
                .build()
        };
        let mut responses = problems(&[(
            StatusCode::UNPROCESSABLE_ENTITY,
            "`invalid`: JSON, and not a change that can be asked for. `key_reused`: something else was asked for with \
             this key.",
        )]);
        responses.extend(Conflict::responses());
        responses.extend(Failed::responses());
        for (status, text) in [
            (
                StatusCode::OK,
                "The operation has ended, whatever its outcome.",
            ),
            (StatusCode::ACCEPTED, "The operation runs."),
        ] {
            responses.insert(status.as_str().to_owned(), started(text).into());
        }
        responses
    }
}

/// A parameter of the query that is a time in seconds.
fn seconds(name: &str, text: &str, range: RangeInclusive<f64>) -> Parameter {
    let (least, most) = range.into_inner();
    let schema = ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(least))
        .maximum(Some(most));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some(text))
        .schema(Some(schema))
        .build()
}

/// How long to wait for an operation's end.
pub(super) struct Wait;

impl IntoParams for Wait {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = "Seconds to wait for the operation's end.";
        vec![seconds("wait", text, WAIT)]
    }
}

/// How long an operation may take.
pub(super) struct Timeout;

impl IntoParams for Timeout {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text =
            "Seconds that the operation may take; otherwise what the machine was started with.";
        vec![seconds("timeout", text, TIMEOUT)]
    }
}

/// A request that may be sent again.
pub(super) struct IdempotencyKey;

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(KEY_BYTES))
            .pattern(Some("^[!-~]+$"));
        let text = "Whoever asks for the same with the same key gets the same operation, and no second one.";
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .description(Some(text))
            .schema(Some(schema));
        vec![parameter.build()]
    }
}

/// An id at the end of the path.
fn id(text: &str, least: u32, most: Option<u32>) -> Vec<Parameter> {
    let schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(least))
        .maximum(most);
    let parameter = ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(text))
        .schema(Some(schema));
    vec![parameter.build()]
}

/// Which vCPU.
pub(super) struct VcpuPath;

impl IntoParams for VcpuPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        id("Which vCPU.", 0, Some(u32::MAX))
    }
}

/// Which operation.
pub(super) struct OperationPath;

impl IntoParams for OperationPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        id("Which operation.", 1, None)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    fn served() -> Value {
        serde_json::from_slice(&DOCUMENT).unwrap()
    }

    /// What the document says of this method on this path; nothing where there is no such thing.
    pub(in super::super) fn described_as(method: &str, path: &str) -> Option<Value> {
        let document = served();
        let names = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let asked = names(path.split('?').next().unwrap());
        let (_, item) = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .find(|(is, _)| {
                let is = names(is);
                let same = |(is, asked): (&String, &String)| is.starts_with('{') || is == asked;
                is.len() == asked.len() && is.iter().zip(&asked).all(same)
            })?;
        item.get(method.to_ascii_lowercase()).cloned()
    }

    /// The committed document is the one that is served. `HOTVISOR_BLESS=1` writes it anew.
    #[test]
    fn the_committed_document_is_what_is_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/openapi.yaml");
        let yaml = described().into_openapi().to_yaml().unwrap();
        if std::env::var_os("HOTVISOR_BLESS").is_some() {
            std::fs::write(&path, &yaml).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).is_ok_and(|committed| committed == yaml),
            "resources/openapi.yaml is not what is served; write it anew with \
             `HOTVISOR_BLESS=1 cargo test -p hotvisor --lib openapi`, and look at what changed"
        );
    }

    /// The same things are in both forms, whatever the serialiser of the one does.
    #[test]
    fn both_forms_say_the_same() {
        let yaml = described().into_openapi().to_yaml().unwrap();
        let read: openapi::OpenApi = serde_json::from_value(served()).unwrap();
        assert_eq!(read.to_yaml().unwrap(), yaml);
    }

    #[test]
    fn everything_has_a_name_and_a_text() {
        let mut names = Vec::new();
        for item in served()["paths"].as_object().unwrap().values() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap().to_owned();
                assert!(!names.contains(&name), "{name} is there twice");
                assert!(operation["summary"].is_string(), "{name}");
                assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{name}");
                let takes = ["Vcpu", "createVM", "resizeVM"];
                assert_eq!(
                    operation["requestBody"].is_object(),
                    method == "put" && takes.iter().any(|takes| name.contains(takes)),
                    "{name}"
                );
                names.push(name);
            }
        }
        assert!(names.len() >= 10, "{names:?}");
    }
}
