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
mod log;
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
use cpus::Looked;
use follow::Followed;
use log::Log;
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

/// What a guest is asked often.
#[derive(Clone, Copy, Debug)]
enum Often {
    /// Which CPUs it has.
    Look,
    /// How many complaints its kernel's log has.
    Count,
}

impl Often {
    /// All of them, each with its name.
    fn named() -> [(&'static str, String); 2] {
        [Self::Look, Self::Count].map(|often| (often.name(), often.command()))
    }

    /// What it is called where it was left.
    const fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Count => "count",
        }
    }

    fn command(self) -> String {
        match self {
            Self::Look => cpus::LOOK.to_owned(),
            Self::Count => log::count(),
        }
    }
}

/// The guest.
#[derive(Debug)]
pub(crate) struct Guest {
    way: Way,
    console: Option<Followed>,
    /// What else than the serial port has lines of the kernel's.
    other: Stream,
    offers: Offers,
    log: Log,
}

/// A word that hardly any other question has.
fn word() -> String {
    format!("w{:06x}", fastrand::u32(..1 << 24))
}

/// The number of complaints, which one of an answer's lines is.
fn parse_count(line: Option<&str>, answer: &Output) -> Result<u64, GuestError> {
    let count = line.and_then(|line| line.trim().parse().ok());
    count.ok_or_else(|| GuestError::Strange("log", answer.text.clone()))
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
            log: Log::new(),
        }
    }

    async fn begin(&mut self, patience: Duration) -> Result<(), GuestError> {
        if !self.answers() {
            return Ok(());
        }
        self.await_answer(patience).await?;
        self.leave_commands().await?;
        self.offers = Offers::parse(&self.run(interfere::PROBE, PATIENCE).await?.text);
        let heads = self.heads().await?;
        self.take_lines(&heads);
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

    /// Has at hand what it is asked often.
    async fn leave_commands(&mut self) -> Result<(), GuestError> {
        let Way::Serial(serial) = &mut self.way else {
            return Ok(());
        };
        serial.leave(&Often::named(), PATIENCE).await
    }

    /// Takes away what was left in it.
    pub(crate) async fn tidy_up(&mut self) -> Result<(), GuestError> {
        match &mut self.way {
            Way::Serial(serial) => serial.tidy_up(PATIENCE).await,
            Way::Remote(_) | Way::None => Ok(()),
        }
    }

    /// Runs what the guest is asked often.
    async fn run_often(&mut self, often: Often) -> Result<Output, GuestError> {
        let command = often.command();
        match &mut self.way {
            Way::Serial(serial) => serial.run_left(often.name(), &command, PATIENCE).await,
            Way::Remote(_) | Way::None => self.run(&command, PATIENCE).await,
        }
    }

    /// What it says of its CPUs. On the way it is seen whether its kernel has complained: at once where that taints it, by its
    /// log after a while.
    ///
    /// # Errors
    /// As [`Self::run`], or what it says makes no sense.
    pub(crate) async fn look(&mut self) -> Result<GuestCpus, GuestError> {
        let output = self.run_often(Often::Look).await?;
        let strange = || GuestError::Strange("lists of CPUs", output.text.clone());
        let Looked { cpus, taint } = Looked::parse(&output.text).ok_or_else(strange)?;
        if self.offers.log && self.log.is_due(taint, Instant::now()) {
            let begun = Instant::now();
            self.look_through_log().await?;
            self.log.looked(taint, begun, Instant::now());
        }
        self.settle().await;
        Ok(cpus)
    }

    /// Has the next look go through the kernel's log, too.
    pub(crate) fn expect_complaints(&mut self) {
        self.log.make_due();
    }

    /// Reads the kernel's log if there is something new in it.
    async fn look_through_log(&mut self) -> Result<(), GuestError> {
        let count = self.run_often(Often::Count).await?;
        let count = parse_count(count.text.lines().next(), &count)?;
        if count < self.log.complaints {
            // The log has wrapped around, and what is new may be anywhere in it.
            self.log.complaints = 0;
        }
        match count == self.log.complaints {
            true => Ok(()),
            false => self.read_log().await,
        }
    }

    /// The heads of all complaints of a kernel's log of which nothing was read before. More of it than that is much to say for
    /// a kernel that complains at its boot, and a slow serial port.
    async fn heads(&mut self) -> Result<Vec<String>, GuestError> {
        self.log = Log::new();
        if !self.offers.log {
            return Ok(Vec::new());
        }
        let output = self.run(&log::heads(), PATIENCE).await?;
        let mut lines = output.text.lines();
        self.log.complaints = parse_count(lines.next(), &output)?;
        Ok(lines.map(log::as_written).collect())
    }

    /// Reads the log of a kernel that has just booted, unless all that it complains of is what it complains of at each boot.
    async fn read_log_of_boot(&mut self) -> Result<(), GuestError> {
        let heads = self.heads().await?;
        let is_usual = |stream: &mut Stream| {
            let mut incidents = stream::incidents(heads.iter().map(String::as_str));
            incidents.all(|incident| stream.incidents.is_usual(&incident))
        };
        if self.with_kernel(is_usual) {
            self.take_lines(&heads);
            return Ok(());
        }
        self.log = Log::new();
        self.read_log().await
    }

    /// Reads the kernel's log from the first complaint on that was not read yet.
    async fn read_log(&mut self) -> Result<(), GuestError> {
        if !self.offers.log {
            return Ok(());
        }
        let output = self.run(&log::from(self.log.complaints), PATIENCE).await?;
        let mut lines = output.text.lines();
        self.log.complaints = parse_count(lines.next(), &output)?;
        let lines: Vec<String> = lines
            .map(log::as_written)
            // Of a log that has wrapped around there may be the rest of an incident that was read as a whole.
            .filter(|line| kernel::time(line).is_none_or(|time| time > self.log.read_until))
            .collect();
        self.take_lines(&lines);
        Ok(())
    }

    /// Takes new lines of the kernel's log.
    fn take_lines(&mut self, lines: &[String]) {
        let times = lines.iter().filter_map(|line| kernel::time(line));
        self.log.read_until = times.fold(self.log.read_until, f64::max);
        self.with_kernel(|stream| stream.lines(lines.iter().map(String::as_str)));
    }

    /// Where its kernel's lines are. Those that are asked for may come by themselves as well over a serial port, and are the
    /// same.
    fn with_kernel<T>(&mut self, look: impl FnOnce(&mut Stream) -> T) -> T {
        match &self.way {
            Way::Serial(serial) => serial.with(look),
            Way::Remote(_) | Way::None => look(&mut self.other),
        }
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
        self.leave_commands().await?;
        self.read_log_of_boot().await?;
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
