//! Steps that take long say that they are still at it.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A step under way; it ends when dropped. A terminal shows the seconds as they pass, a log gets a
/// line at the begin and one at the end.
pub(crate) struct Step {
    stop: Option<Sender<()>>,
    ticker: Option<JoinHandle<()>>,
}

impl Step {
    pub(crate) fn begin(what: &str) -> Self {
        let (stop, stopped) = mpsc::channel();
        let what = what.to_owned();
        let ticker = std::thread::spawn(move || {
            let dumb = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
            let terminal = std::io::stderr().is_terminal() && !dumb;
            let started = Instant::now();
            if !terminal {
                eprintln!("… {what}");
            }
            let mut end = RecvTimeoutError::Timeout;
            while end == RecvTimeoutError::Timeout {
                if terminal {
                    eprint!("\r\x1b[K… {what} ({} s)", started.elapsed().as_secs());
                    let _ = std::io::stderr().flush();
                }
                end = match stopped.recv_timeout(Duration::from_secs(1)) {
                    Ok(()) => RecvTimeoutError::Disconnected,
                    Err(error) => error,
                };
            }
            let clear = if terminal { "\r\x1b[K" } else { "" };
            eprintln!("{clear}✓ {what} ({:.1} s)", started.elapsed().as_secs_f64());
        });
        Self {
            stop: Some(stop),
            ticker: Some(ticker),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // Dropping the sender ends the ticker.
        self.stop = None;
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
    }
}
