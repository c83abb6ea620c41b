//! `hotvisor stress`.

use super::connection::{Connection, Exit, complain, print};
use super::say;
use crate::client::{Client, Failure};
use crate::route::TIMEOUT;
use crate::stress::record::{Finding, Record};
use crate::stress::run::{End, Options, Run};
use crate::stress::{Allowed, Channel, html, summary};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a run is where nobody says how long.
const USUALLY: Duration = Duration::from_secs(60);
/// How often there is a line of progress where lines stay.
const LINE: Duration = Duration::from_secs(10);
/// How often the line is drawn anew that stands in its place.
const DRAWN: Duration = Duration::from_millis(250);

const HELP: &str = "\
Steps:
  plug, unplug  one vCPU or a few                  abandon     a client is gone in the middle
  resize        so many                            with a way into the guest:
  set           exactly these                      offline     the guest takes a CPU offline by itself
  cancel        takes it back after a moment       refuse      the guest's ACPI profile is off
  pause         pauses the machine meanwhile       eject       the guest ejects a CPU by itself
  contradict    for and against, on several        and only where they are named:
                connections at once                reboot      vm.reboot
                                                   boot        vm.reboot, and requests meanwhile

Exit codes:
  0  no contradiction                              6  a contradiction, or the host failed
  1  the VM could not be reached, or has ended     7  Ctrl-C or SIGTERM, after the vCPUs were put back
  2  bad input";

/// Stress the vCPU hotplug of a running VM, and compare all that can be seen with what must be so
///
/// Step by step, as the seed says, vCPUs are taken and given back; after each step the API, its events and metrics, the
/// guest and the threads on the host must agree with each other and with what was asked for. It stops at the first
/// contradiction and shows the evidence. At the end the VM has the vCPUs that it had. Nobody else may ask for changes
/// meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// The same seed and options give the same sequence of steps [default: a random one, which is shown]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// For so long, as in 30, 90s, 10m or 2h, and until the step then under way has ended [default: 60 without --cycles]
    #[arg(long, value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// So many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cycles: Option<u64>,
    /// How often each step is done, as in plug=4,unplug=4,resize; `all` stands for all of them that are usual
    #[arg(long, value_name = "STEP=N,…")]
    mix: Option<String>,
    /// At most so many vCPUs at a time
    #[arg(long, value_name = "N")]
    most: Option<u32>,
    /// How long each operation may take, as in 2.5; a day at most
    #[arg(long, value_name = "SECONDS", value_parser = limit, default_value = "30")]
    timeout: Duration,
    /// Unix socket of the guest's serial port, with a shell on it
    #[arg(long, value_name = "PATH")]
    guest_serial: Option<PathBuf>,
    /// A command that runs its last argument in a shell of the guest's, as in "ssh root@vm"
    #[arg(long, value_name = "COMMAND", conflicts_with = "guest_serial")]
    guest_command: Option<String>,
    /// Whose it is to say which CPUs the guest has online; theirs, where somebody in the guest takes some offline meanwhile
    #[arg(long, value_name = "WHOSE", default_value = "ours")]
    guest_online: Whose,
    /// Outcomes that are no contradiction, also where nothing accounts for them
    #[arg(long, value_name = "OUTCOME,…", value_delimiter = ',')]
    allow: Vec<Outcome>,
    /// A complaint of the guest's kernel whose first line contains this is no contradiction; may be given several times
    #[arg(long, value_name = "TEXT")]
    tolerate: Vec<String>,
    /// File into which the guest's console is written
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// What `hotvisor run --log-file` writes; its end is part of the evidence
    #[arg(long, value_name = "FILE")]
    vmm_log: Option<PathBuf>,
    /// Write one page that shows latencies over time, outcomes and evidence, and needs nothing beside it
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Print the summary as one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Whose {
    Ours,
    Theirs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Outcome {
    Refused,
    TimedOut,
    Failed,
}

/// Seconds, or a number with a unit.
fn time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = seconds.or_else(|| humantime::parse_duration(text).ok());
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| "it is not a time: give seconds, as in 30, or 90s, 10m, 2h".to_owned())
}

/// The time of an operation, as the API takes it.
fn limit(text: &str) -> Result<Duration, String> {
    let (least, most) = TIMEOUT.into_inner();
    let limit = time(text)?;
    match TIMEOUT.contains(&limit.as_secs_f64()) {
        true => Ok(limit),
        false => Err(format!(
            "an operation can have from {least} to {most} seconds"
        )),
    }
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let json = self.json;
        let report = self.report;
        let options = Options {
            seed: self.seed.unwrap_or_else(|| fastrand::u32(..).into()),
            duration: self.duration.or(self.cycles.is_none().then_some(USUALLY)),
            cycles: self.cycles,
            mix: self.mix,
            most: self.most,
            timeout: self.timeout,
            channel: Channel {
                serial: self.guest_serial,
                command: self.guest_command,
                console: self.console,
            },
            ours: self.guest_online == Whose::Ours,
            allowed: Allowed {
                refused: self.allow.contains(&Outcome::Refused),
                timed_out: self.allow.contains(&Outcome::TimedOut),
                failed: self.allow.contains(&Outcome::Failed),
            },
            tolerate: self.tolerate,
            vmm_log: self.vmm_log,
            say: |what| say(&what),
        };
        self.connection.run(json, async move |client| {
            stress(client, options, report, json).await
        })
    }
}

/// A page to be written at the end, into a file that is made at the beginning: later is too late to say that it cannot be.
struct Page {
    path: PathBuf,
    file: File,
}

impl Page {
    fn create(path: PathBuf) -> Result<Self, Failure> {
        // What an earlier run has written stays until there is something to put in its place.
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path);
        match file {
            Ok(file) => Ok(Self { path, file }),
            Err(e) => {
                let asked = format!("--report {}", path.display());
                let remedy = "name a file in a folder that exists and may be written";
                Err(Failure::input(&asked, &e.to_string(), remedy))
            }
        }
    }

    fn write(mut self, record: &Record) {
        let is_file = self.file.metadata().is_ok_and(|it| it.is_file());
        let written = if is_file {
            self.file.set_len(0)
        } else {
            Ok(())
        };
        if let Err(e) = written.and_then(|()| self.file.write_all(html(record).as_bytes())) {
            say(&format_args!("the report {}: {e}", self.path.display()));
        }
    }
}

async fn stress(
    client: Client,
    options: Options,
    report: Option<PathBuf>,
    json: bool,
) -> Result<Exit, Failure> {
    // Before anything is done in the guest.
    let page = report.map(Page::create).transpose()?;
    let run = Run::open(client, options).await?;
    say(&format_args!("stress: {}", run.said()));
    let mut shown = Shown::new();
    let (record, end) = run.run(|record| shown.show(record)).await;
    shown.end();
    print(&match json {
        true => format!("{}\n", summary::json(&record)),
        false => summary::text(&record),
    });
    if let Some(page) = page {
        page.write(&record);
    }
    if let Some((_, found)) = record.finding() {
        show_evidence(found, &record);
    }
    Ok(match end {
        End::Over => Exit::Done,
        End::Contradiction => Exit::Failed,
        End::Interrupted => Exit::Running,
        End::Lost(failure) => {
            complain(&failure, false);
            Exit::from(&failure)
        }
    })
}

/// On standard error, because standard output has its summary.
fn show_evidence(found: &Finding, record: &Record) {
    let mut text = format!(
        "\nseed {}, step {}: {}\n{}\n",
        record.seed,
        found.step,
        found.asked,
        found.what.join("\n")
    );
    let mut part =
        |name: &str, what: &str| text += &format!("\n--- {name} ---\n{}\n", what.trim_end());
    part("the last events", &found.events.join("\n"));
    part("timelines", &found.timelines.join("\n"));
    part("what each says", &found.views);
    if let Some(console) = &found.guest_console {
        part("the guest's console", console);
    }
    if let Some(log) = &found.vmm_log {
        part("the VMM's log", log);
    }
    // Where nobody reads it, the exit code has to do.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Progress: a line in its place on a terminal, otherwise one now and then.
struct Shown {
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Shown {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{elapsed_precise} {wide_msg}");
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        Self {
            bar,
            last: Instant::now(),
        }
    }

    fn show(&mut self, record: &Record) {
        let pause = if self.bar.is_some() { DRAWN } else { LINE };
        if self.last.elapsed() < pause {
            return;
        }
        self.last = Instant::now();
        match &self.bar {
            Some(bar) => {
                bar.set_message(summary::progress(record));
                bar.tick();
            }
            None => say(&summary::progress(record)),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_all_spellings() {
        let seconds = |text| time(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("30"), Ok(30.0));
        assert_eq!(seconds("2.5"), Ok(2.5));
        assert_eq!(seconds("90s"), Ok(90.0));
        assert_eq!(seconds("10m"), Ok(600.0));
        assert_eq!(seconds("2h"), Ok(7200.0));
        for bad in ["", "0", "-1", "x", "nan", "inf", "1e400"] {
            assert!(time(bad).unwrap_err().contains("10m"), "{bad}");
        }
    }

    #[test]
    fn an_operation_has_the_times_that_the_api_gives() {
        assert!(limit("0.001").is_ok() && limit("24h").is_ok());
        for bad in ["0.0005", "25h"] {
            assert!(limit(bad).unwrap_err().contains("86400"), "{bad}");
        }
    }
}
