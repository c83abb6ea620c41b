//! Why a request got no answer of its own, and the one place that turns a reason into a status code.

use super::vm::{self, Said};
use crate::wire::problem::{self as wire, Reason};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hotvisor_vmm::Problem;
use hotvisor_vmm::hotplug::client::Refused;

/// Nothing was changed by a request that ends in one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It cannot be read.
    Malformed(Problem),
    /// It can be read, and cannot be met as it stands.
    Invalid(Problem),
    /// Its key was used for something else.
    Reused(Problem),
    /// What it names is not there.
    Unknown(Problem),
    /// What it names cannot be used in this way.
    Method(Problem),
    /// It comes too late, or at the wrong moment.
    Conflict(Problem),
    /// The machine is paused, which is asked for or in the way.
    Paused(Problem),
    /// The machine runs, and it would have to be paused.
    Running(Problem),
    /// There is no machine.
    Absent(Problem),
    /// The machine does not run.
    Stopped(Problem),
    /// It was tried, and we or the host failed.
    Failed(Problem),
    /// It did not arrive in time.
    Slow(Problem),
    /// It is longer than anything that we could be asked.
    Large(Problem),
    /// Too many others are being answered.
    Busy(Problem),
    /// The machine has ended.
    Gone,
}

impl Trouble {
    /// Its status code, and its name that never changes.
    const fn kind(&self) -> (StatusCode, Reason) {
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, Reason::Malformed),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, Reason::Invalid),
            Self::Reused(_) => (StatusCode::UNPROCESSABLE_ENTITY, Reason::KeyReused),
            Self::Unknown(_) => (StatusCode::NOT_FOUND, Reason::Unknown),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, Reason::Method),
            Self::Conflict(_) => (StatusCode::CONFLICT, Reason::Conflict),
            Self::Paused(_) => (StatusCode::CONFLICT, Reason::Paused),
            Self::Running(_) => (StatusCode::CONFLICT, Reason::Running),
            Self::Absent(_) => (StatusCode::CONFLICT, Reason::NoMachine),
            Self::Stopped(_) => (StatusCode::CONFLICT, Reason::NotRunning),
            Self::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, Reason::Failed),
            Self::Slow(_) => (StatusCode::REQUEST_TIMEOUT, Reason::Slow),
            Self::Large(_) => (StatusCode::PAYLOAD_TOO_LARGE, Reason::Large),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, Reason::Busy),
            Self::Gone => (StatusCode::SERVICE_UNAVAILABLE, Reason::Gone),
        }
    }

    pub(super) fn problem(self) -> Problem {
        match self {
            Self::Malformed(problem)
            | Self::Invalid(problem)
            | Self::Reused(problem)
            | Self::Unknown(problem)
            | Self::Method(problem)
            | Self::Conflict(problem)
            | Self::Paused(problem)
            | Self::Running(problem)
            | Self::Absent(problem)
            | Self::Stopped(problem)
            | Self::Failed(problem)
            | Self::Slow(problem)
            | Self::Large(problem)
            | Self::Busy(problem) => problem,
            Self::Gone => Problem::new(
                "the machine",
                "it has ended",
                "start another with `hotvisor run`",
            ),
        }
    }

    /// Status code and body.
    fn parts(self) -> (StatusCode, Vec<u8>) {
        let (status, code) = self.kind();
        let Problem {
            asked,
            found,
            remedy,
        } = self.problem();
        let body = super::json(&wire::Problem {
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            code,
            detail: format!("{asked}: {found}"),
            remedy,
        });
        (status, body)
    }

    /// The answer in the manner of those who use `uri`.
    pub(super) fn spoken_at(self, uri: &Uri) -> Response {
        if vm::is_spoken_at(uri) {
            Said::from(self).into_response()
        } else {
            self.into_response()
        }
    }

    /// The whole answer as it goes over the wire, for a connection that is not served any further.
    pub(crate) fn farewell(self) -> Vec<u8> {
        let (status, body) = self.parts();
        let mut answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {TYPE}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        answer.extend(body);
        answer
    }
}

/// Content type of a problem.
pub(super) const TYPE: &str = "application/problem+json";

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (status, body) = self.parts();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static(TYPE);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(problem) => Self::Invalid(problem),
            Refused::Unknown(problem) => Self::Unknown(problem),
            Refused::Conflict(problem) => Self::Conflict(problem),
            Refused::Paused(problem) => Self::Paused(problem),
            Refused::Running(problem) => Self::Running(problem),
            Refused::Busy(problem) => Self::Busy(problem),
            Refused::Absent(problem) => Self::Absent(problem),
            Refused::Stopped(problem) => Self::Stopped(problem),
            Refused::Failed(problem) => Self::Failed(problem),
            Refused::Gone => Self::Gone,
        }
    }
}

/// The answer for a path that leads nowhere.
pub(super) async fn no_such_path(uri: Uri) -> Response {
    let remedy = "see /openapi.json for what there is";
    let found = "there is no such resource";
    Trouble::Unknown(Problem::new(uri.path(), found, remedy)).spoken_at(&uri)
}

/// The answer for a method that a path does not know; the `Allow` header comes from the router.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    let found = format!("{method} means nothing here");
    let remedy = "use one of the methods in the Allow header";
    Trouble::Method(Problem::new(uri.path(), found, remedy)).spoken_at(&uri)
}
