//! The way into the guest: a shell on its serial port, or a command of the host's that runs one there, and what its
//! kernel writes.
//!
//! | seen through | answers | the kernel's complaints |
//! |---|---|---|
//! | serial port | a shell on it, or our test guest's first process | in the same stream |
//! | command | what it prints | in the kernel's log (`dmesg`), which a serial port's shell is asked for, too |
//! | console file | | as it grows |
//!
//! The guest is whoever is at the other end, and it may say anything or nothing: each question has a limit, each answer the
//! random word of its question.

mod command;
mod cpus;
mod follow;
mod interfere;
mod kernel;
mod serial;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use cpus::GuestCpus;
pub(crate) use follow::tail;
pub(crate) use interfere::{Did, Offers};
pub(crate) use stream::Output;

use crate::client::Failure;
use command::Remote;
use follow::Followed;
use kernel::ROUGHLY;
use serial::Serial;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use stream::Stream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// For how long a guest may think about a question of ours. It may be busy, and its machine emulated.
const PATIENCE: Duration = Duration::from_secs(60);
/// After how long somebody must have answered at the beginning. The guest may still boot, in an emulated machine.
const OPENING: Duration = Duration::from_secs(60);
/// How often a command is tried again while the guest boots: nothing says when it is worth it.
const AGAIN: Duration = Duration::from_millis(500);
/// Lines of the console that are shown.
const SHOWN: usize = 120;
/// How many lines of the kernel's log are fetched as they are, from a complaint on. Of what follows only the heads of
/// complaints are: a serial port is slow.
const FETCHED: u32 = 40;

/// Which ways into the guest there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    /// Socket of a serial port with a shell on it.
    pub(crate) serial: Option<PathBuf>,
    /// A command that runs its last argument in the guest.
    pub(crate) command: Option<String>,
    /// Where the guest's console is written.
    pub(crate) console: Option<PathBuf>,
}

/// Why the guest did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GuestError {
    /// There is no way to ask it.
    NoChannel,
    /// The way to it is closed, and why.
    Closed(String),
    /// It was asked to run this, and said nothing for so long.
    Silent(String, Duration),
    /// It asks for a name or a password.
    Login,
    /// It ran this, and said something that makes no sense.
    Strange(&'static str, String),
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoChannel => f.write_str("there is no way to ask the guest"),
            Self::Closed(why) => write!(f, "the way into the guest is closed: {why}"),
            Self::Silent(command, time) => {
                let time = time.as_secs_f32();
                write!(
                    f,
                    "the guest did not answer within {time:.0} s when asked to run: {command}"
                )
            }
            Self::Login => f.write_str("the guest asks for a login"),
            Self::Strange(what, said) => write!(f, "the guest's {what} make no sense: {said:?}"),
        }
    }
}

#[derive(Debug)]
enum Way {
    Serial(Serial),
    Remote(Remote),
    None,
}

/// The guest.
#[derive(Debug)]
pub(crate) struct Guest {
    way: Way,
    console: Option<Followed>,
    /// What else than the serial port has lines of the kernel's.
    other: Stream,
    offers: Offers,
    /// How many lines of its log look like complaints.
    complaints: u64,
    /// When the last line was written that was read of it, in seconds of the kernel's.
    read_until: f64,
}

/// A command that says how many complaints the kernel's log has, and what it has from the one behind the first `known`
/// on. Only what is new: a part of an old incident, cut off at another place, would be another one.
fn log_from(known: u64) -> String {
    let next = known + 1;
    let rest = FETCHED + 1;
    // A line that begins as the kernel's would be taken for one that the kernel writes now.
    format!(
        "dmesg | grep -cE '{ROUGHLY}'; \
         from=$(dmesg | grep -nE '{ROUGHLY}' | sed -n '{next}p' | cut -d: -f1); \
         [ -z \"$from\" ] || dmesg | tail -n +\"$from\" | \
         sed -nE -e 's/^\\[/</' -e '1,{FETCHED}p' -e '{rest},${{/{ROUGHLY}/p}}'"
    )
}

/// A word that no other question has.
fn word() -> String {
    format!("w{:016x}", fastrand::u64(..))
}

impl Guest {
    /// Opens the ways that there are, and finds out what the guest offers. What it complained of before is forgotten.
    ///
    /// # Errors
    /// Bad input: one of the ways leads nowhere, or nobody answers.
    pub(crate) async fn open(channel: &Channel) -> Result<Self, Failure> {
        let way = match (&channel.serial, &channel.command) {
            (Some(path), _) => Way::Serial(Serial::connect(path).await?),
            (None, Some(command)) => Way::Remote(Remote::new(command)?),
            (None, None) => Way::None,
        };
        let console = channel.console.as_deref().map(Followed::open).transpose()?;
        let mut guest = Self::new(way, console);
        guest.begin(OPENING).await.map_err(|e| {
            let (asked, remedy) = match (&channel.serial, &channel.command) {
                (Some(path), _) => (
                    format!("serial port's socket {}", path.display()),
                    "have a shell on the guest's serial port, logged in as root, and no other client \
                     of the socket",
                ),
                (_, command) => (
                    format!("guest command {:?}", command.as_deref().unwrap_or_default()),
                    "name a command that runs its last argument in a shell of the guest's, and asks for nothing",
                ),
            };
            Failure::input(&asked, &e.to_string(), remedy)
        })?;
        Ok(guest)
    }

    fn new(way: Way, console: Option<Followed>) -> Self {
        Self {
            way,
            console,
            other: Stream::default(),
            offers: Offers::default(),
            complaints: 0,
            read_until: f64::NEG_INFINITY,
        }
    }

    async fn begin(&mut self, patience: Duration) -> Result<(), GuestError> {
        if !self.answers() {
            return Ok(());
        }
        self.await_answer(patience).await?;
        self.offers = Offers::parse(&self.run(interfere::PROBE, PATIENCE).await?.text);
        self.read_new_log().await?;
        self.settle().await;
        self.other.incidents.forget();
        if let Way::Serial(serial) = &self.way {
            serial.with(|stream| stream.incidents.forget());
        }
        Ok(())
    }

    /// Whether it can be asked anything.
    pub(crate) fn answers(&self) -> bool {
        !matches!(self.way, Way::None)
    }

    /// What it lets be done with its CPUs.
    pub(crate) fn offers(&self) -> Offers {
        self.offers
    }

    /// Runs a line of shell in the guest.
    ///
    /// # Errors
    /// There is no answer in time, or none can come. The line may have run all the same.
    pub(crate) async fn run(
        &mut self,
        command: &str,
        patience: Duration,
    ) -> Result<Output, GuestError> {
        match &mut self.way {
            Way::Serial(serial) => serial.run(command, patience).await,
            Way::Remote(remote) => remote.run(command, patience).await,
            Way::None => Err(GuestError::NoChannel),
        }
    }

    /// What it says of its CPUs. On the way it is seen whether its kernel has complained.
    ///
    /// # Errors
    /// As [`Self::run`], or what it says makes no sense.
    pub(crate) async fn look(&mut self) -> Result<GuestCpus, GuestError> {
        let command = match self.offers.log {
            true => format!("{}; dmesg | grep -cE '{ROUGHLY}'", cpus::LOOK),
            false => cpus::LOOK.to_owned(),
        };
        let output = self.run(&command, PATIENCE).await?;
        let strange = || GuestError::Strange("lists of CPUs", output.text.clone());
        let cpus = GuestCpus::parse(&output.text).ok_or_else(strange)?;
        if self.offers.log {
            let count: Option<u64> = output
                .text
                .lines()
                .nth(3)
                .and_then(|line| line.trim().parse().ok());
            let count = count.ok_or_else(strange)?;
            if count != self.complaints {
                if count < self.complaints {
                    // The log has wrapped around, and what is new may be anywhere in it.
                    self.complaints = 0;
                }
                self.read_log().await?;
            }
        }
        self.settle().await;
        Ok(cpus)
    }

    /// Reads a kernel's log of which nothing was read before.
    async fn read_new_log(&mut self) -> Result<(), GuestError> {
        self.complaints = 0;
        self.read_until = f64::NEG_INFINITY;
        self.read_log().await
    }

    /// Reads the kernel's log from the first complaint on that was not read yet.
    async fn read_log(&mut self) -> Result<(), GuestError> {
        if !self.offers.log {
            return Ok(());
        }
        let output = self.run(&log_from(self.complaints), PATIENCE).await?;
        let mut lines = output.text.lines();
        let count: Option<u64> = lines.next().and_then(|line| line.trim().parse().ok());
        self.complaints = count.ok_or_else(|| GuestError::Strange("log", output.text.clone()))?;
        let lines: Vec<String> = lines
            .map(|line| match line.strip_prefix('<') {
                Some(rest) => format!("[{rest}"),
                None => line.to_owned(),
            })
            // Of a log that has wrapped around there may be the rest of an incident that was read as a whole.
            .filter(|line| kernel::time(line).is_none_or(|time| time > self.read_until))
            .collect();
        let times = lines.iter().filter_map(|line| kernel::time(line));
        self.read_until = times.fold(self.read_until, f64::max);
        let add = |stream: &mut Stream| stream.lines(lines.iter().map(String::as_str));
        match &self.way {
            // There the same complaints may come by themselves, and are the same.
            Way::Serial(serial) => serial.with(add),
            Way::Remote(_) | Way::None => add(&mut self.other),
        }
        Ok(())
    }

    async fn settle(&mut self) {
        if let Way::Serial(serial) = &mut self.way {
            serial.settle().await;
        }
    }

    /// Waits until it answers again after a reset.
    ///
    /// # Errors
    /// It does not, or the way to it is closed.
    pub(crate) async fn await_up(&mut self, patience: Duration) -> Result<(), GuestError> {
        self.await_answer(patience).await?;
        self.read_new_log().await?;
        self.settle().await;
        self.read_console();
        self.other.incidents.forget_the_usual();
        if let Way::Serial(serial) = &self.way {
            serial.with(|stream| stream.incidents.forget_the_usual());
        }
        Ok(())
    }

    async fn await_answer(&mut self, patience: Duration) -> Result<(), GuestError> {
        let end = Instant::now() + patience;
        let remote = match &mut self.way {
            Way::Serial(serial) => return serial.await_up(patience).await,
            Way::Remote(remote) => remote,
            Way::None => return Err(GuestError::NoChannel),
        };
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            let left = end.saturating_duration_since(Instant::now());
            match timeout_at(end, remote.run("true", left)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e)) if Instant::now() + AGAIN >= end => return Err(e),
                Ok(Err(_)) => {}
                Err(_) => return Err(GuestError::Silent("true".to_owned(), patience)),
            }
        }
    }

    fn read_console(&mut self) {
        if let Some(console) = &mut self.console {
            let lines = console.lines();
            lines.iter().for_each(|line| self.other.find(line));
        }
    }

    /// What its kernel has complained of since the last call, each with the lines that belong to it.
    pub(crate) fn warnings(&mut self) -> Vec<String> {
        self.read_console();
        if let Way::Serial(serial) = &self.way {
            let found = serial.with(|stream| stream.incidents.take());
            found
                .into_iter()
                .for_each(|incident| self.other.incidents.add(incident));
        }
        self.other.settle();
        self.other.incidents.take()
    }

    /// The end of its console.
    pub(crate) fn console(&self) -> String {
        match (&self.way, &self.console) {
            (Way::Serial(serial), _) => serial.with(|stream| stream.tail(SHOWN)),
            (_, Some(console)) => console.tail(SHOWN),
            _ => String::new(),
        }
    }
}
