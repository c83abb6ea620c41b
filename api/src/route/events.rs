//! `/api/v1/events`: what happens, as server-sent events, to whoever follows it.
//!
//! Each follower reads the control thread's ring at its own pace, and nothing is kept for it: what it has not read
//! when the ring comes round is lost, and a `gap` says so. Every frame of the body that the connection takes is a
//! sign of life; a heartbeat sees to it that there are some.

use super::openapi::Always;
use super::trouble::Trouble;
use crate::wire::events::Event;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{HeaderName, Uri};
use axum::response::Response;
use hotvisor_vmm::Problem;
use hotvisor_vmm::events::{Cursor, EventId, Events, Read};
use hotvisor_vmm::hotplug::client::Client;
use hyper::body::Frame;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::timeout;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{self, ContentBuilder, ObjectBuilder, RefOr, Type};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// After so long without an event there is a comment, which readers ignore.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that are there already go out together, until they are so many bytes.
const FRAME: usize = 8 << 10;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const PARAMETER: &str = "last_event_id";

pub(super) fn routes() -> OpenApiRouter<Client> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// Where a stream begins.
struct After;

impl utoipa::IntoParams for After {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = |name: &str, place: ParameterIn, text: &str| {
            let schema = ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(0));
            ParameterBuilder::new()
                .name(name)
                .parameter_in(place)
                .description(Some(text))
                .schema(Some(schema))
                .build()
        };
        let header =
            "Begin after the event with this id; otherwise with the next one that happens.";
        let query = "The same, for clients that cannot send the header, which is looked at first.";
        vec![
            id("Last-Event-ID", ParameterIn::Header, header),
            id(PARAMETER, ParameterIn::Query, query),
        ]
    }
}

/// The stream, by what each of its events is.
struct Stream;

impl utoipa::IntoResponses for Stream {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let data = text()
            .content_media_type("application/json")
            .description(Some("One line of JSON, as in the schema `Event`."));
        let kinds = ["phase", "operation", "machine", "gap"];
        let event = ObjectBuilder::new()
            .property("id", text().pattern(Some("^[1-9][0-9]*$")))
            .property("event", text().enum_values(Some(kinds)))
            .property("data", data);
        let event = ["id", "event", "data"]
            .into_iter()
            .fold(event, ObjectBuilder::required);
        let content = ContentBuilder::new().schema(Some(event)).build();
        let response = ResponseBuilder::new()
            .description("What happens from now on, one event after the other.")
            .content("text/event-stream", content)
            .build();
        BTreeMap::from([("200".to_owned(), response.into())])
    }
}

/// Follow what happens
///
/// Server-sent events, until the process ends. The kind of each is its `event`, its `data` one line of JSON as in
/// the schema `Event`, and its `id` counts from 1 without holes. Before the first one comes the `id` after which the
/// stream begins. The last 4096 are kept; who has not read them when the next ones come gets a `gap`.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    operation_id = "followEvents",
    tag = "events",
    params(After),
    responses(Stream, Always)
)]
async fn follow(
    State(client): State<Client>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Trouble> {
    let seen = seen(client.events(), &headers, &uri)?;
    let cursor = client.events().after(seen);
    let mut response = Response::new(Body::new(Follow::new(cursor, seen)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The last event that the client has seen, or does not want. A client that comes back by itself sends the header,
/// together with the address that it was first given.
fn seen(events: &Events, headers: &HeaderMap, uri: &Uri) -> Result<EventId, Trouble> {
    let (newest, in_query) = (events.newest(), parameter(uri)?);
    let in_header = headers.get(LAST_EVENT_ID);
    let in_header = in_header.map(|value| value.to_str().unwrap_or_default());
    // Both must make sense, whichever counts.
    let from_query = in_query
        .map(|text| id(PARAMETER, text, newest))
        .transpose()?;
    let from_header = in_header.map(|text| id("Last-Event-ID", text, newest));
    Ok(from_header.transpose()?.or(from_query).unwrap_or(newest))
}

/// The id of an event that has happened, or 0.
fn id(name: &str, text: &str, newest: EventId) -> Result<EventId, Trouble> {
    let asked = || format!("{name}: {text}");
    let id: Option<EventId> = text.parse().ok().filter(|id: &u64| id.to_string() == text);
    let Some(id) = id else {
        let remedy = "send the id of the last event that you have seen, or leave it out";
        let found = "not an id that an event can have";
        return Err(Trouble::Malformed(Problem::new(asked(), found, remedy)));
    };
    if id > newest {
        let found = format!("the last event of this process is {newest}");
        let remedy = "leave it out to follow from now on: ids of an earlier process mean nothing";
        return Err(Trouble::Malformed(Problem::new(asked(), found, remedy)));
    }
    Ok(id)
}

/// The parameter's value.
fn parameter(uri: &Uri) -> Result<Option<&str>, Trouble> {
    let Some(query) = uri.query().filter(|query| !query.is_empty()) else {
        return Ok(None);
    };
    let value = query.strip_prefix(PARAMETER);
    let Some(value) = value.and_then(|rest| rest.strip_prefix('=')) else {
        let found = format!("{} takes no such parameter", uri.path());
        let remedy = format!("use {PARAMETER}=ID, or leave it out");
        return Err(Trouble::Malformed(Problem::new(
            format!("?{query}"),
            found,
            remedy,
        )));
    };
    Ok(Some(value))
}

/// The body of an answer that goes on until the process ends, or the client.
struct Follow {
    frame: Pin<Box<dyn Future<Output = Next> + Send>>,
}

/// What is to be sent, and where to read on; `None` at the end.
type Next = Option<(Bytes, Cursor)>;

impl Follow {
    fn new(cursor: Cursor, seen: EventId) -> Self {
        // No event, but where a client goes on that loses its connection before the first one.
        let first = format!("id: {seen}\n\n");
        Self {
            frame: Box::pin(async move { Some((first.into(), cursor)) }),
        }
    }
}

impl hyper::body::Body for Follow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((bytes, cursor)) = ready!(self.frame.as_mut().poll(context)) else {
            return Poll::Ready(None);
        };
        self.frame = Box::pin(frame(cursor));
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// What comes next, with what follows it and is there already.
async fn frame(mut cursor: Cursor) -> Next {
    let mut text = String::new();
    match timeout(HEARTBEAT, cursor.next()).await {
        Ok(read) => put(&mut text, &read?),
        Err(_silence) => text.push_str(":\n\n"),
    }
    while text.len() < FRAME
        && let Some(read) = cursor.take()
    {
        put(&mut text, &read);
    }
    Some((text.into(), cursor))
}

fn put(text: &mut String, read: &Read) {
    let (id, event) = match read {
        Read::Event(event) => (event.id, Event::from(&**event)),
        Read::Gap { first, last } => (*last, Event::gap(*first, *last)),
    };
    // Neither fails: a string takes everything, and JSON has no line breaks of its own.
    let data = serde_json::to_string(&event).unwrap_or_default();
    let _ = write!(text, "id: {id}\nevent: {}\ndata: {data}\n\n", event.kind());
}
