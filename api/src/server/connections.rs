//! The connections of the API, all on one thread.
//!
//! What a client can do, and what then happens:
//!
//! | client | answer |
//! |---|---|
//! | connects and says nothing, or a little at a time | closed after [`Limits::idle`] |
//! | does not read its answers | the same, also in the middle of a stream of events |
//! | follows the events | its connection is in use as long as it reads |
//! | opens many connections | above [`Limits::connections`] the longest idle one is closed; if none is idle, the new one is told so and closed |
//! | sends endless headers | 431 at [`HEAD_BYTES`] or [`HEADERS`] |
//! | sends an endless body | 413, or 408 (`route/input.rs`) |
//! | leaves while it waits | its wait ends with it; the operation goes on |

use super::answer::Answer;
use crate::route::trouble::Trouble;
use axum::Router;
use hotvisor_vmm::Problem;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tower::Service;
use tracing::{debug, warn};

/// Most bytes of a request's line and headers.
const HEAD_BYTES: usize = 16 << 10;
/// Most headers of a request.
const HEADERS: usize = 64;
/// How long to wait after the host could not give us a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What clients may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most connections: well below 1024, the usual limit of descriptors, of which the machine needs some too.
    pub(super) connections: usize,
    /// How long a connection may go without a request being worked on.
    pub(super) idle: Duration,
    /// How long requests may take to end when the server does.
    pub(super) grace: Duration,
}

impl Limits {
    pub(super) const USUAL: Self = Self {
        connections: 128,
        idle: Duration::from_secs(60),
        grace: Duration::from_secs(1),
    };
}

/// What is known of one connection.
pub(super) struct Seat {
    doing: Cell<Doing>,
    /// Told when another connection needs the place.
    leave: Notify,
}

/// What a connection is used for.
#[derive(Clone, Copy)]
enum Doing {
    /// Nothing, since then.
    Nothing(Instant),
    /// A request is being worked on.
    Work,
    /// An answer without an end goes out, of which something was last taken then.
    Stream(Instant),
}

impl Seat {
    fn new() -> Self {
        Self {
            doing: Cell::new(Doing::Nothing(Instant::now())),
            leave: Notify::new(),
        }
    }

    /// An answer without an end goes out, and something of it was taken just now.
    pub(super) fn streams(&self) {
        self.doing.set(Doing::Stream(Instant::now()));
    }

    /// No request is being worked on any more, and no answer goes out.
    pub(super) fn rests(&self) {
        self.doing.set(Doing::Nothing(Instant::now()));
    }

    /// Since when nothing was seen of the client; `None` while it is the client that waits.
    fn silent_since(&self) -> Option<Instant> {
        match self.doing.get() {
            Doing::Nothing(since) | Doing::Stream(since) => Some(since),
            Doing::Work => None,
        }
    }

    /// Since when it is of no use to its client.
    fn idle_since(&self) -> Option<Instant> {
        match self.doing.get() {
            Doing::Nothing(since) => Some(since),
            Doing::Stream(_) | Doing::Work => None,
        }
    }
}

/// A request being worked on.
struct Work(Rc<Seat>);

impl Work {
    fn begin(seat: &Rc<Seat>) -> Self {
        seat.doing.set(Doing::Work);
        Self(seat.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.rests();
    }
}

/// Accepts connections and serves them until `stop` is set or dropped, before which the socket's file is gone. `open` is how
/// many there are.
pub(super) async fn serve(
    listener: UnixListener,
    (router, open): (Router, Arc<AtomicU64>),
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let mut seats: Vec<Weak<Seat>> = Vec::new();
    let mut tasks = JoinSet::new();
    let mut stopped = stop.clone();
    let mut stopped = pin!(stopped.wait_for(|stop| *stop));
    loop {
        open.store(tasks.len() as u64, Ordering::Relaxed);
        tokio::select! {
            _ = &mut stopped => break,
            Some(ended) = tasks.join_next() => {
                if let Err(e) = ended {
                    warn!("API: a connection was given up: {e}");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if make_room(&mut seats, limits.connections) {
                        let seat = Rc::new(Seat::new());
                        seats.push(Rc::downgrade(&seat));
                        let router = router.clone();
                        tasks.spawn_local(attend(stream, router, seat, limits.idle, stop.clone()));
                    } else {
                        turn_away(&stream);
                    }
                }
                Err(e) => {
                    debug!("API: no connection: {e}");
                    // Most likely there is no descriptor left, and there will not be at once.
                    let _ = timeout(PAUSE, stop.wait_for(|stop| *stop)).await;
                }
            },
        }
    }
    drop(listener);
    let rest = async { while tasks.join_next().await.is_some() {} };
    if timeout(limits.grace, rest).await.is_err() {
        debug!("API: {} connections were cut off", tasks.len());
    }
}

/// Makes sure that one more connection has a place, if need be at the cost of the one that has been idle for
/// longest. Returns whether there is one.
fn make_room(seats: &mut Vec<Weak<Seat>>, most: usize) -> bool {
    seats.retain(|seat| seat.strong_count() > 0);
    if seats.len() < most {
        return true;
    }
    let idle = |seat: &Weak<Seat>| seat.upgrade().and_then(|seat| seat.idle_since());
    let longest = (0..seats.len())
        .filter_map(|at| Some((idle(&seats[at])?, at)))
        .min();
    let Some((_, at)) = longest else {
        return false;
    };
    if let Some(seat) = seats.swap_remove(at).upgrade() {
        seat.leave.notify_one();
    }
    true
}

/// Tells a client that there is no place, as far as that can be done without waiting for it.
fn turn_away(stream: &UnixStream) {
    let found = "all connections have requests that are being worked on";
    let busy = Trouble::Busy(Problem::new(
        "a connection",
        found,
        "try again when one has ended",
    ));
    let sent: io::Result<usize> = stream.try_write(&busy.farewell());
    debug!("API: a connection was turned away: {sent:?}");
}

/// Serves one connection to its end.
async fn attend(
    stream: UnixStream,
    router: Router,
    seat: Rc<Seat>,
    idle: Duration,
    stop: watch::Receiver<bool>,
) {
    let mut stopped = stop.clone();
    let service = service_fn(|request| {
        let work = Work::begin(&seat);
        let answer = router.clone().call(request);
        let stop = stop.clone();
        let seat = &seat;
        async move {
            let answer = answer.await;
            drop(work);
            answer.map(|answer| answer.map(|body| Answer::new(body, seat, stop)))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            // Idle time is counted below, where it includes writing.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut stopping = false;
    loop {
        // Looked at again when the time is over, because it may have been busy in between.
        let since = seat.silent_since().unwrap_or_else(Instant::now);
        let turn = async {
            tokio::select! {
                ended = connection.as_mut() => Some(ended),
                () = seat.leave.notified() => Some(Ok(())),
                _ = stopped.wait_for(|stop| *stop), if !stopping => None,
            }
        };
        match timeout_at(since + idle, turn).await {
            Ok(Some(ended)) => {
                if let Err(e) = ended {
                    debug!("API: a connection ended: {e}");
                }
                return;
            }
            Ok(None) => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            Err(_over) => {
                let silent_for = seat.silent_since().map(|since| since.elapsed());
                if silent_for.is_some_and(|time| time >= idle) {
                    return;
                }
            }
        }
    }
}
