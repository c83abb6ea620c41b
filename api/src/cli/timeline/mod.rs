//! `hotvisor timeline`.

mod bars;
mod svg;

use super::change::vcpu_id;
use super::connection::{Connection, Exit, READS, print, print_bytes};
use super::say;
use super::vcpus::VCPUS;
use crate::client::Failure;
use crate::wire::vcpus::{Step, Timeline, VcpuDetail};
use console::Term;
use hotvisor_vmm::Problem;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Columns where there is no terminal to ask.
const COLUMNS: u16 = 80;

/// Draw where the time of a vCPU's last unplug went, phase by phase
#[derive(Debug, clap::Args)]
#[command(after_help = READS)]
pub(super) struct Args {
    /// Id of a vCPU, as `hotvisor vcpus` shows it
    #[arg(value_name = "ID", value_parser = vcpu_id)]
    id: u32,
    #[command(flatten)]
    connection: Connection,
    /// The last plug instead
    #[arg(long)]
    plug: bool,
    /// Write it to this file as a picture instead
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    svg: Option<PathBuf>,
    /// Answer in JSON, in microseconds
    #[arg(long)]
    json: bool,
}

/// A timeline, and whose it is.
struct Chart {
    title: String,
    operation: String,
    timeline: Timeline,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let Self {
            id,
            connection,
            plug,
            svg,
            json,
        } = self;
        connection.run(json, async move |mut client| {
            let vcpu: VcpuDetail = client.get(&format!("{VCPUS}/{id}")).await?.read()?;
            let timeline = match plug {
                true => vcpu.timeline.plug,
                false => vcpu.timeline.unplug,
            };
            let Some(timeline) = timeline else {
                return Err(none(id, plug));
            };
            if json {
                // Fails only for what no JSON can say, which no timeline is.
                let json = serde_json::to_vec(&timeline).unwrap_or_default();
                print_bytes(&[json, b"\n".to_vec()].concat());
                return Ok(Exit::Done);
            }
            let chart = Chart::new(id, plug, timeline);
            match svg {
                Some(file) => Ok(write(&file, &svg::render(&chart))),
                None => {
                    print(&bars::render(&chart, columns()));
                    Ok(Exit::Done)
                }
            }
        })
    }
}

fn none(id: u32, plug: bool) -> Failure {
    let asked = format!("timeline of vCPU {id}");
    let (found, remedy) = match plug {
        true => (
            "it was not plugged since the machine was made",
            "leave --plug out for its last unplug",
        ),
        false => (
            "it was not unplugged since the machine was made",
            "use --plug for its last plug",
        ),
    };
    Failure::input(&asked, found, remedy)
}

fn columns() -> usize {
    let size = Term::stdout().size_checked();
    size.map_or(COLUMNS, |(_rows, columns)| columns).into()
}

fn write(file: &Path, text: &str) -> Exit {
    match std::fs::write(file, text) {
        Ok(()) => Exit::Done,
        Err(e) => {
            say(&Problem {
                asked: format!("--svg {}", file.display()),
                found: e.to_string(),
                remedy: "name a file in a folder that exists and may be written".to_owned(),
            });
            Exit::BadInput
        }
    }
}

impl Chart {
    fn new(id: u32, plug: bool, timeline: Timeline) -> Self {
        let what = if plug { "plug" } else { "unplug" };
        Self {
            title: format!("vCPU {id}: last {what}"),
            operation: match timeline.operation {
                0 => "at boot".to_owned(),
                operation => format!("operation {operation}"),
            },
            timeline,
        }
    }

    /// Each phase with where it begins and ends, in microseconds.
    fn spans(&self) -> impl Iterator<Item = (&Step, u64, u64)> {
        self.timeline.phases.iter().scan(0, |end: &mut u64, step| {
            let begin = *end;
            *end = begin.saturating_add(step.us);
            Some((step, begin, *end))
        })
    }

    /// How long all of it took: the phases' sum, so that it is never shorter than they are.
    fn total(&self) -> u64 {
        self.spans().last().map_or(0, |(_, _, end)| end)
    }
}

/// Who has to do something in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Guest,
    Host,
}

impl Who {
    pub(crate) fn of(phase: &str) -> Self {
        match phase {
            "announced" | "plugged" | "overdue" | "notifying" | "notifying.asked"
            | "notifying.read" | "notifying.begun" => Self::Guest,
            _ => Self::Host,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An unplug as it often is.
    pub(super) fn chart(steps: &[(&str, u64)]) -> Chart {
        let step = |(phase, us): &(&str, u64)| Step {
            phase: (*phase).to_owned().into(),
            us: *us,
        };
        let phases = steps.iter().map(step).collect();
        let sum = |sum: u64, (_, us): &(&str, u64)| sum.saturating_add(*us);
        let total_us = steps.iter().fold(0, sum);
        let timeline = Timeline {
            operation: 7,
            total_us,
            phases,
        };
        Chart::new(3, false, timeline)
    }

    pub(super) const UNPLUG: &[(&str, u64)] = &[
        ("draining", 3),
        ("notifying.asked", 1230),
        ("notifying.read", 220),
        ("notifying.begun", 16_790),
        ("syncing", 0),
        ("stopping", 31),
    ];

    #[test]
    fn phases_follow_each_other() {
        let chart = chart(UNPLUG);
        let spans: Vec<_> = chart.spans().map(|(_, begin, end)| (begin, end)).collect();
        assert_eq!(
            spans,
            [
                (0, 3),
                (3, 1233),
                (1233, 1453),
                (1453, 18243),
                (18243, 18243),
                (18243, 18274)
            ]
        );
        assert_eq!(chart.total(), 18274);
    }
}
