//! `hotvisor events`.

use super::connection::{Connection, Exit, READS, print};
use super::event;
use super::say;
use crate::client::sse::Frame;
use crate::client::{Client, Failure};
use std::process::ExitCode;

/// Print what happens to the vCPUs and the machine, as it happens
///
/// One line for each event, with its id. Events that this reader has missed, because it was too slow or because the
/// VM does not keep them any more, are named.
#[derive(Debug, clap::Args)]
#[command(after_help = READS)]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// One line of JSON for each event: {"id":…,"event":KIND,"data":{…}}
    #[arg(long)]
    json: bool,
    /// Begin behind this event, as far as the VM still knows those after it; 0 is all of them
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        let render = if self.json {
            event::json_line
        } else {
            event::line
        };
        let since = self.since;
        self.connection.run(self.json, async move |client| {
            stream(client, since, |frame| print(&render(frame))).await
        })
    }
}

/// Hands every event to `take`, until that has had enough or the VM is no more. A stream that ends in good order
/// while the VM is still there is taken up again where it ended.
async fn stream(
    client: Client,
    since: Option<u64>,
    mut take: impl FnMut(&Frame) -> bool,
) -> Result<Exit, Failure> {
    let mut last = since;
    let mut events = client.events(last).await?;
    loop {
        let before = last;
        while let Some(frame) = events.next().await? {
            last = frame.id.or(last);
            if !take(&frame) {
                return Ok(Exit::Done);
            }
        }
        events = match client.events(last).await {
            Ok(events) if last != before => events,
            _ => {
                say(&"the VM has ended, and with it its events");
                return Ok(Exit::Done);
            }
        };
    }
}
