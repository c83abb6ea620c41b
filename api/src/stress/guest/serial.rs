//! A shell on the guest's serial port, through the socket that the VMM has it on.

use super::stream::{self, Output, Stream};
use super::{GuestError, word};
use crate::client::Failure;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// For how long a guest that boots must say nothing until it is asked again.
const QUIET: Duration = Duration::from_millis(300);
/// After how long it is asked again, although it has said nothing; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The exit status that says that what was left in the guest is there no longer.
const GONE: u8 = 45;
/// How long a complaint of the kernel's may go on until it is taken as it is.
const SETTLED: Duration = Duration::from_secs(2);

/// What is known of the other end.
#[derive(Debug, Default)]
struct Heard {
    stream: Stream,
    /// Why nothing more will come.
    closed: Option<String>,
}

/// The other end. It is read all the time, because the VMM drops what nobody takes.
#[derive(Debug)]
pub(super) struct Serial {
    writer: OwnedWriteHalf,
    heard: Arc<Mutex<Heard>>,
    news: watch::Receiver<()>,
    reader: JoinHandle<()>,
    /// A line was not written to its end, so that the next one must not go on with it.
    torn: bool,
    /// The file in the guest that commands were left in.
    left: Option<String>,
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut from: OwnedReadHalf, heard: Arc<Mutex<Heard>>, news: watch::Sender<()>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let closed = match from.read(&mut buffer).await {
            Ok(0) => "it was closed at the other end".to_owned(),
            Ok(length) => {
                lock(&heard).stream.feed(&buffer[..length]);
                news.send_replace(());
                continue;
            }
            Err(e) => e.to_string(),
        };
        lock(&heard).closed = Some(closed);
        news.send_replace(());
        return;
    }
}

impl Serial {
    pub(super) async fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).await.map_err(|e| {
            Failure::input(
                &format!("serial port's socket {}", path.display()),
                &e.to_string(),
                "name the socket that `hotvisor run --serial socket=PATH` was given",
            )
        })?;
        Ok(Self::new(stream))
    }

    pub(super) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let heard = Arc::<Mutex<Heard>>::default();
        let (told, news) = watch::channel(());
        let reader = tokio::spawn(read(reader, Arc::clone(&heard), told));
        Self {
            writer,
            heard,
            news,
            reader,
            torn: false,
            left: None,
        }
    }

    /// What has been heard so far.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Stream) -> T) -> T {
        look(&mut lock(&self.heard).stream)
    }

    pub(super) async fn run(
        &mut self,
        command: &str,
        patience: Duration,
    ) -> Result<Output, GuestError> {
        let end = Instant::now() + patience;
        let words = [word()];
        self.ask(&stream::line(&words[0], command), end).await?;
        match self.answer(&words, end).await? {
            Some(output) => Ok(output),
            None => Err(self.silent(command, patience)),
        }
    }

    /// Leaves commands in the guest as it has booted now, as far as it has a place for them, so that they are asked for by a few
    /// characters: a guest may take milliseconds for each.
    pub(super) async fn leave(
        &mut self,
        commands: &[(&str, String)],
        patience: Duration,
    ) -> Result<(), GuestError> {
        self.tidy_up(patience).await?;
        let word = word();
        let output = self.run(&stream::leave(&word, commands), patience).await?;
        self.left = stream::left(&word, &output);
        Ok(())
    }

    /// Where they are.
    #[cfg(test)]
    pub(super) fn left(&self) -> Option<&str> {
        self.left.as_deref()
    }

    /// Takes them away again.
    pub(super) async fn tidy_up(&mut self, patience: Duration) -> Result<(), GuestError> {
        if let Some(file) = self.left.take() {
            self.run(&format!("rm -f {file}"), patience).await?;
        }
        Ok(())
    }

    /// Runs a command that was left under a name, or as it is if it was not, or is there no longer.
    pub(super) async fn run_left(
        &mut self,
        name: &str,
        command: &str,
        patience: Duration,
    ) -> Result<Output, GuestError> {
        if let Some(file) = &self.left {
            let there = format!("[ -f {file} ] || exit {GONE}; . {file}; {name}");
            let output = self.run(&there, patience).await?;
            if output.status != GONE {
                return Ok(output);
            }
            self.left = None;
        }
        self.run(command, patience).await
    }

    fn silent(&self, command: &str, patience: Duration) -> GuestError {
        let login = self.with(|stream| stream.asks_for_login());
        match login {
            true => GuestError::Login,
            false => GuestError::Silent(command.to_owned(), patience),
        }
    }

    /// Sends a line.
    async fn ask(&mut self, line: &str, end: Instant) -> Result<(), GuestError> {
        let fresh = if self.torn { "\n" } else { "" };
        let bytes = format!("{fresh}{line}\n");
        self.torn = true;
        match timeout_at(end, self.writer.write_all(bytes.as_bytes())).await {
            Ok(Ok(())) => self.torn = false,
            Ok(Err(e)) => return Err(self.closed(&e)),
            // Whoever waits for the answer finds that the time is over.
            Err(_) => {}
        }
        Ok(())
    }

    fn closed(&self, why: &dyn fmt::Display) -> GuestError {
        let closed = lock(&self.heard).closed.clone();
        GuestError::Closed(closed.unwrap_or_else(|| why.to_string()))
    }

    /// Waits for an answer; none is there in time.
    async fn answer(
        &mut self,
        words: &[String],
        end: Instant,
    ) -> Result<Option<Output>, GuestError> {
        loop {
            self.news.borrow_and_update();
            {
                let mut heard = lock(&self.heard);
                if let Some(output) = heard.stream.answer(words) {
                    return Ok(Some(output));
                }
                if let Some(closed) = &heard.closed {
                    return Err(GuestError::Closed(closed.clone()));
                }
            }
            // The sender is gone only after it has said why.
            if timeout_at(end, self.news.changed()).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Waits until somebody answers in a guest that boots. What it is told before its shell reads may be lost, so it is asked
    /// again each time it has said something and then nothing for a moment.
    pub(super) async fn await_up(&mut self, patience: Duration) -> Result<(), GuestError> {
        let end = Instant::now() + patience;
        let mut words = Vec::new();
        let mut wait = FIRST_WAIT;
        while Instant::now() < end {
            words.push(word());
            let line = stream::line(&words[words.len() - 1], "true");
            self.ask(&line, end).await?;
            let until = end.min(Instant::now() + wait);
            if self.answer_or_quiet(&words, until).await?.is_some() {
                return Ok(());
            }
            if self.with(|stream| stream.asks_for_login()) {
                return Err(GuestError::Login);
            }
            wait = (wait * 2).min(FIRST_WAIT * 16);
        }
        Err(self.silent("true", patience))
    }

    /// Waits for an answer, for the end of what else is said, or for the time.
    async fn answer_or_quiet(
        &mut self,
        words: &[String],
        until: Instant,
    ) -> Result<Option<Output>, GuestError> {
        let count = self.with(|stream| stream.count);
        let mut last = count;
        loop {
            // Nothing so far: all of the time. Something: a moment after the last of it.
            let limit = match last == count {
                true => until,
                false => Instant::now() + QUIET,
            };
            if let Some(output) = self.answer_within(words, limit).await? {
                return Ok(Some(output));
            }
            let now = self.with(|stream| stream.count);
            if now == last {
                return Ok(None);
            }
            last = now;
        }
    }

    /// As [`Self::answer`], but ends with the first news.
    async fn answer_within(
        &mut self,
        words: &[String],
        limit: Instant,
    ) -> Result<Option<Output>, GuestError> {
        self.news.borrow_and_update();
        let now = Instant::now();
        if let Some(output) = self.answer(words, now).await? {
            return Ok(Some(output));
        }
        // Either is looked at by whoever asked.
        let _ = timeout_at(limit, self.news.changed()).await;
        self.answer(words, now).await
    }

    /// Waits until no complaint of the kernel's goes on.
    pub(super) async fn settle(&mut self) {
        let end = Instant::now() + SETTLED;
        while self.with(|stream| stream.complains()) && Instant::now() < end {
            self.news.borrow_and_update();
            match timeout(QUIET, self.news.changed()).await {
                Ok(Ok(())) => {}
                _ => break,
            }
        }
        self.with(Stream::settle);
    }
}
