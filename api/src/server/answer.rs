//! An answer's way out: what of it keeps a connection busy.

use super::connections::Seat;
use axum::body::{Body, Bytes};
use hyper::body::{Body as _, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::sync::watch;

/// The body of an answer.
pub(super) struct Answer {
    body: Body,
    /// Of a body whose end nobody knows.
    stream: Option<Stream>,
}

/// A stream. Its connection is in use as long as it is there, and idle while nothing of it is taken.
struct Stream {
    seat: Rc<Seat>,
    /// Ready when the server stops, which is its end.
    stopped: Pin<Box<dyn Future<Output = ()>>>,
}

impl Answer {
    pub(super) fn new(body: Body, seat: &Rc<Seat>, mut stop: watch::Receiver<bool>) -> Self {
        let stream = || {
            seat.streams();
            Stream {
                seat: seat.clone(),
                stopped: Box::pin(async move {
                    // An error says that whoever could stop it is gone.
                    let _ = stop.wait_for(|stop| *stop).await;
                }),
            }
        };
        let endless = body.size_hint().exact().is_none();
        let stream = endless.then(stream);
        Self { body, stream }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Some(stream) = &mut self.stream else {
            return polled;
        };
        match polled {
            Poll::Ready(Some(_)) => stream.seat.streams(),
            // What there was to say is said.
            Poll::Pending if stream.stopped.as_mut().poll(context).is_ready() => {
                return Poll::Ready(None);
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.seat.rests();
    }
}
