//! Takes requests apart. Whatever is not understood in full is refused: a misspelt word that was passed over
//! would be a change that somebody did not ask for.

use super::trouble::Trouble;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::Uri;
use hotvisor_vmm::Problem;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::timeout;

/// Longest body; the longest that makes sense names 1024 vCPUs.
const BODY_BYTES: usize = 64 << 10;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long a request may wait for an operation, in seconds. Whoever wants more asks again.
pub(super) const WAIT: RangeInclusive<f64> = 0.0..=3600.0;
/// How long an operation may be given, in seconds.
pub(crate) const TIMEOUT: RangeInclusive<f64> = 1e-3..=86_400.0;

/// What stands behind the `?`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// How long to wait for the operation's end.
    pub(super) wait: Option<Duration>,
    /// How long the operation may take.
    pub(super) timeout: Option<Duration>,
}

impl Query {
    /// Reads the query of `uri`, in which only `known` may stand.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Trouble> {
        let mut read = Self::default();
        let pairs = uri.query().unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let asked = format!("?{pair}");
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&key) {
                let found = format!("{} takes no such parameter", uri.path());
                let remedy = match known {
                    [] => "leave it out".to_owned(),
                    _ => format!("use {}=SECONDS, or leave it out", known.join("=SECONDS, ")),
                };
                return Err(Trouble::Malformed(Problem::new(asked, found, remedy)));
            }
            let (place, range) = match key {
                "wait" => (&mut read.wait, WAIT),
                _ => (&mut read.timeout, TIMEOUT),
            };
            if place.is_some() {
                let found = "it is there twice";
                return Err(Trouble::Malformed(Problem::new(
                    asked,
                    found,
                    "give it once",
                )));
            }
            let Some(time) = seconds(value, &range) else {
                let found = format!("{value:?} is not a time that it can be");
                let (least, most) = range.into_inner();
                let remedy = format!("give seconds from {least} to {most}, as in 2.5");
                return Err(Trouble::Malformed(Problem::new(asked, found, remedy)));
            };
            *place = Some(time);
        }
        Ok(read)
    }
}

/// Seconds, in any spelling of a number that JSON has: 2, 2.5, 2e-3.
fn seconds(text: &str, range: &RangeInclusive<f64>) -> Option<Duration> {
    let seconds = serde_json::from_str(text).ok();
    let seconds = seconds.filter(|seconds| range.contains(seconds))?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The id at the end of the path, in the only spelling that it has.
pub(super) fn id<T: FromStr + ToString>(uri: &Uri) -> Option<T> {
    let text = uri.path().rsplit('/').next()?;
    text.parse().ok().filter(|id: &T| id.to_string() == text)
}

/// Reads the JSON object that `request` carries. Its content type is not looked at: `curl --data` names a wrong
/// one, and there is only one thing that it can be.
///
/// `remedy` says what to send instead.
pub(super) async fn object<T: DeserializeOwned>(
    request: Request,
    remedy: &str,
) -> Result<T, Trouble> {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let bytes = bytes(request.into_body(), &asked).await?;
    let malformed =
        |found: &dyn fmt::Display| Trouble::Malformed(Problem::new(&asked, found, remedy));
    let invalid = |found: &dyn fmt::Display| Trouble::Invalid(Problem::new(&asked, found, remedy));
    let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) else {
        return Err(malformed(&"an empty body"));
    };
    if let Err(e) = serde_json::from_slice::<IgnoredAny>(&bytes) {
        return Err(malformed(&format_args!("not JSON: {e}")));
    }
    if *first != b'{' {
        // The derived parser would take an array for an object without names.
        return Err(invalid(&"JSON, and not an object"));
    }
    serde_json::from_slice(&bytes).map_err(|e| invalid(&e))
}

/// Refuses a body where there is nothing to say: it would be a wish that is not met.
pub(super) async fn nothing(request: Request) -> Result<(), Trouble> {
    let asked = format!("{} {}", request.method(), request.uri().path());
    if bytes(request.into_body(), &asked).await?.is_empty() {
        return Ok(());
    }
    let found = "a body, where none is known";
    Err(Trouble::Malformed(Problem::new(asked, found, "send none")))
}

/// The request, when all of its body is here.
pub(super) async fn whole(request: Request) -> Result<Request, Trouble> {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let (head, body) = request.into_parts();
    let body = bytes(body, &asked).await?;
    Ok(Request::from_parts(head, Body::from(body)))
}

/// The body, if it is not too long and does not take too long.
async fn bytes(body: Body, asked: &str) -> Result<Bytes, Trouble> {
    let large = || {
        let found = format!("a body of more than {BODY_BYTES} bytes");
        Trouble::Large(Problem::new(
            asked,
            found,
            "send the change and nothing else",
        ))
    };
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return Err(large());
    }
    let Ok(collected) = timeout(BODY_TIME, Limited::new(body, BODY_BYTES).collect()).await else {
        let found = format!("the body is not here after {} s", BODY_TIME.as_secs());
        let remedy = "send as many bytes as Content-Length says";
        return Err(Trouble::Slow(Problem::new(asked, found, remedy)));
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(large()),
        Err(e) => Err(Trouble::Malformed(Problem::new(
            asked,
            e,
            "send a whole body",
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Trouble> {
        let uri = Uri::try_from(format!("/x?{text}")).unwrap();
        Query::of(&uri, &["wait", "timeout"])
    }

    #[test]
    fn times_in_a_query() {
        let read = query("wait=0.25&timeout=3").unwrap();
        assert_eq!(read.wait, Some(Duration::from_millis(250)));
        assert_eq!(read.timeout, Some(Duration::from_secs(3)));
        assert_eq!(query("").unwrap(), Query::default());
        assert_eq!(query("wait=0").unwrap().wait, Some(Duration::ZERO));
        assert_eq!(query("wait=-0.0").unwrap().wait, Some(Duration::ZERO));
        assert_eq!(
            query("timeout=2.5e-3").unwrap().timeout,
            Some(Duration::from_micros(2500))
        );
        for bad in [
            "wait",
            "wait=",
            "wait=.",
            "wait=-1",
            "wait=+1",
            "wait=nan",
            "wait=inf",
            "wait=1e9",
            "wait=1e999",
            "wait=%201",
            "wait=01",
            "wait=3601",
            "wait=3600.0000000000005",
            "wait=1&wait=1",
            "timeout=0",
            "timeout=0.0009",
            "timeout=86401",
            "weit=1",
            "=1",
            "wait=1.1.1",
            "timeout=99999999999999999999999999",
        ] {
            let refused = query(bad).unwrap_err();
            assert!(
                matches!(refused, Trouble::Malformed(_)),
                "{bad}: {refused:?}"
            );
        }
    }

    #[test]
    fn an_id_has_one_spelling() {
        let read = |path: &'static str| id::<u32>(&Uri::from_static(path));
        assert_eq!(read("/api/v1/vcpus/0"), Some(0));
        assert_eq!(read("/api/v1/vcpus/4294967295"), Some(u32::MAX));
        for bad in [
            "/x/",
            "/x/00",
            "/x/+1",
            "/x/-1",
            "/x/4294967296",
            "/x/%31",
            "/x/one",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
