//! A client of the API: HTTP/1.1 over the Unix socket, one request after the other on a connection that stays,
//! and the stream of events on one of its own.

mod failure;
pub(crate) mod sse;
#[cfg(test)]
mod tests;

pub(crate) use failure::{Failure, Said};

use failure::Result;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take, beyond the time that the request itself wants to wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream may be silent. The server says at least every 15 s that it is there.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest answer: a few hundred operations on 1,024 vCPUs each.
const LONGEST: usize = 256 << 20;
/// Where the events are.
const EVENTS: &str = "/api/v1/events";

/// A client of one VM.
#[derive(Debug)]
pub(crate) struct Client {
    path: PathBuf,
    sender: SendRequest<Full<Bytes>>,
    /// Whether it has had an answer: only then can a connection have been idle.
    used: bool,
    patience: Duration,
}

/// An answer that is not a no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    path: PathBuf,
    /// The body as it came.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads the body.
    ///
    /// # Errors
    /// It is not of this shape, so that it does not come from Hotvisor.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| Failure::stranger(&self.path, e))
    }
}

/// Opens a connection and has it worked on until whoever sends on it is dropped.
async fn connect(path: &Path) -> Result<SendRequest<Full<Bytes>>> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|e| Failure::unconnected(path, &e))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Failure::broken(path, e))?;
    // Whatever goes wrong, the request hears of it.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(method: &Method, target: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>> {
    let accept = match target {
        EVENTS => "text/event-stream",
        _ => "application/json",
    };
    Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "hotvisor")
        .header(ACCEPT, accept)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body.into()))
        .map_err(|e| Failure::input(target, &e.to_string(), "this is a bug in Hotvisor"))
}

fn lost(path: &Path, e: &hyper::Error) -> Failure {
    if e.is_parse() {
        return Failure::stranger(path, e);
    }
    let found = if e.is_incomplete_message() || e.is_canceled() || is_end(e) {
        "the other end closed the connection".to_owned()
    } else {
        e.to_string()
    };
    Failure::broken(path, found)
}

/// Whether the connection has ended in the midst of something.
fn is_end(e: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let source = e.source().and_then(|e| e.downcast_ref::<std::io::Error>());
    source.is_some_and(|e| matches!(e.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

impl Client {
    /// Connects to the VM whose socket is `path`. Within a tokio runtime.
    ///
    /// # Errors
    /// Nobody is there.
    pub(crate) async fn connect(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            sender: connect(path).await?,
            used: false,
            patience: PATIENCE,
        })
    }

    /// Reads what is at `target`.
    ///
    /// # Errors
    /// The answer is a no, or there is none.
    pub(crate) async fn get(&mut self, target: &str) -> Result<Answer> {
        self.ask(&Method::GET, target, Vec::new(), Duration::ZERO)
            .await
    }

    /// Reads what is at `target`, which answers after at most `wait`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn wait(&mut self, target: &str, wait: Duration) -> Result<Answer> {
        let target = format!("{target}?wait={}", wait.as_secs());
        self.ask(&Method::GET, &target, Vec::new(), wait).await
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn put(&mut self, target: &str, body: &impl Serialize) -> Result<Answer> {
        // Fails only for what no JSON can say, which none of our types is.
        let body = serde_json::to_vec(body).unwrap_or_default();
        self.ask(&Method::PUT, target, body, Duration::ZERO).await
    }

    /// Takes something back.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn delete(&mut self, target: &str) -> Result<Answer> {
        self.ask(&Method::DELETE, target, Vec::new(), Duration::ZERO)
            .await
    }

    /// Has the machine do something that needs no words.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn order(&mut self, target: &str) -> Result<Answer> {
        self.ask(&Method::PUT, target, Vec::new(), Duration::ZERO)
            .await
    }

    /// Asks for a change that is the same one however often it is asked for with this key.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn put_once(
        &mut self,
        target: &str,
        body: &impl Serialize,
        key: &str,
    ) -> Result<Answer> {
        let body = serde_json::to_vec(body).unwrap_or_default();
        let mut request = request(&Method::PUT, target, body)?;
        if let Ok(key) = key.parse() {
            request.headers_mut().insert("idempotency-key", key);
        }
        let Ok(answer) = timeout(self.patience, self.exchange(request)).await else {
            let found = format!("no answer to PUT {target} after {:?}", self.patience);
            return Err(Failure::broken(&self.path, found));
        };
        answer
    }

    /// Another connection to the same VM.
    ///
    /// # Errors
    /// Nobody is there.
    pub(crate) async fn another(&self) -> Result<Self> {
        Self::connect(&self.path).await
    }

    /// The VM's socket.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    async fn ask(
        &mut self,
        method: &Method,
        target: &str,
        body: Vec<u8>,
        wait: Duration,
    ) -> Result<Answer> {
        let limit = self.patience + wait;
        let answer = self.exchange(request(method, target, body)?);
        let Ok(answer) = timeout(limit, answer).await else {
            let found = format!("no answer to {method} {target} after {limit:?}");
            return Err(Failure::broken(&self.path, found));
        };
        answer
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let copy = request.clone();
        let response = match self.send(request).await {
            Ok(response) => response,
            // The server has closed a connection that was idle, and knows nothing of the request; or it may have
            // heard of it, and reading twice does no harm.
            Err((unsent, e)) if unsent || (self.used && copy.method() == Method::GET) => {
                if e.is_parse() {
                    return Err(lost(&self.path, &e));
                }
                self.sender = connect(&self.path).await?;
                let again = self.send(copy).await;
                again.map_err(|(_, e)| lost(&self.path, &e))?
            }
            Err((_, e)) => return Err(lost(&self.path, &e)),
        };
        self.used = true;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|e| match e.downcast_ref::<hyper::Error>() {
            Some(e) => lost(&self.path, e),
            None if e.is::<LengthLimitError>() => Failure::stranger(&self.path, e),
            None => Failure::broken(&self.path, e),
        })?;
        let body = body.to_bytes().to_vec();
        if !status.is_success() {
            return Err(Failure::said(&self.path, status.as_u16(), body));
        }
        let path = self.path.clone();
        Ok(Answer { path, body })
    }

    /// Sends on the connection as it is. An error comes with whether the request is certain not to have been sent.
    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> std::result::Result<Response<Incoming>, (bool, hyper::Error)> {
        self.sender.ready().await.map_err(|e| (true, e))?;
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut e| (e.take_message().is_some(), e.into_error()))
    }

    /// The stream of events, from now on or from behind `since`, on a connection of its own.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) async fn events(&self, since: Option<u64>) -> Result<Events> {
        let mut own = Self {
            patience: self.patience,
            ..Self::connect(&self.path).await?
        };
        let mut request = request(&Method::GET, EVENTS, Vec::new())?;
        if let Some(since) = since {
            request.headers_mut().insert("last-event-id", since.into());
        }
        let Ok(response) = timeout(own.patience, own.send(request)).await else {
            let found = format!("no answer to GET {EVENTS} after {:?}", own.patience);
            return Err(Failure::broken(&self.path, found));
        };
        let response = response.map_err(|(_, e)| lost(&self.path, &e))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map(|body| body.to_bytes().to_vec());
            return Err(Failure::said(&self.path, status, body.unwrap_or_default()));
        }
        Ok(Events {
            path: own.path,
            _sender: own.sender,
            body: response.into_body(),
            parser: sse::Parser::default(),
            silence: SILENCE,
        })
    }
}

/// A stream of events.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    /// Without it, the connection would end.
    _sender: SendRequest<Full<Bytes>>,
    body: Incoming,
    parser: sse::Parser,
    silence: Duration,
}

impl Events {
    /// The next event; none after an orderly end. Nothing is lost where the wait for it is given up.
    ///
    /// # Errors
    /// The stream breaks, falls silent, or is no stream of events.
    pub(crate) async fn next(&mut self) -> Result<Option<sse::Frame>> {
        loop {
            if let Some(frame) = self.parser.next() {
                return Ok(Some(frame));
            }
            let Ok(piece) = timeout(self.silence, self.body.frame()).await else {
                let found = format!("not a sign of life for {:?}", self.silence);
                return Err(Failure::broken(&self.path, found));
            };
            let Some(piece) = piece else {
                return Ok(None);
            };
            let piece = piece.map_err(|e| lost(&self.path, &e))?;
            let data = piece.data_ref().map(|data| self.parser.push(data));
            if let Some(Err(sse::Endless)) = data {
                return Err(Failure::stranger(&self.path, "an event without an end"));
            }
        }
    }

    /// The next event that is here already.
    ///
    /// # Errors
    /// As [`Events::next`].
    pub(crate) async fn at_hand(&mut self) -> Result<Option<sse::Frame>> {
        timeout(Duration::ZERO, self.next())
            .await
            .unwrap_or(Ok(None))
    }
}
