//! `hotvisor watch`.

use super::connection::{Connection, Exit, READS, print};
use super::event::Event;
use super::follow::arrival;
use super::vcpus::Table;
use crate::client::sse::Frame;
use crate::client::{Client, Events, Failure};
use console::Term;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Show the vCPUs, and show them anew whenever something changes
///
/// On a terminal the table stands in its place until Ctrl-C; otherwise one table follows the other.
#[derive(Debug, clap::Args)]
#[command(after_help = READS)]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        self.connection.run(false, async |client| {
            let term = Term::stdout();
            if term.is_term() {
                live(client, &term).await
            } else {
                plain(client).await
            }
        })
    }
}

/// The vCPUs as a table, and what happens to them.
struct Watch {
    client: Client,
    events: Events,
    table: Table,
    /// The last that was heard of the machine is that it is being stopped.
    stopping: bool,
}

impl Watch {
    async fn begin(client: Client) -> Result<Self, Failure> {
        Ok(Self {
            events: client.events(None).await?,
            client,
            table: Table::default(),
            stopping: false,
        })
    }

    /// The table as it is now; none where the process has come to its end, as was to be expected.
    async fn read(&mut self) -> Result<Option<String>, Failure> {
        match self.table.read(&mut self.client).await {
            Ok(table) => Ok(Some(table)),
            Err(_) if self.stopping => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Waits for a change. Whether there can be any more.
    async fn changed(&mut self) -> Result<bool, Failure> {
        let Some(first) = self.events.next().await? else {
            return Ok(false);
        };
        self.hear(&first);
        // What has happened meanwhile is in the same table.
        while let Some(frame) = self.events.at_hand().await? {
            self.hear(&frame);
        }
        Ok(true)
    }

    fn hear(&mut self, frame: &Frame) {
        if let Event::Machine(machine) = Event::of(frame) {
            self.stopping = machine.state == "stopping";
        }
    }
}

async fn plain(client: Client) -> Result<Exit, Failure> {
    let mut watch = Watch::begin(client).await?;
    let mut shown = String::new();
    while let Some(now) = watch.read().await? {
        if now != shown {
            let gap = if shown.is_empty() { "" } else { "\n" };
            if !print(&format!("{gap}{now}")) {
                break;
            }
            shown = now;
        }
        if !watch.changed().await? {
            break;
        }
    }
    Ok(Exit::Done)
}

/// The terminal's other screen, for as long as this lives.
struct Screen<'a>(&'a Term);

impl<'a> Screen<'a> {
    fn enter(term: &'a Term) -> Self {
        // Nobody to tell where a terminal takes nothing.
        let _ = term.write_str("\x1b[?1049h\x1b[?25l");
        Self(term)
    }

    fn show(&self, text: &str) {
        let (rows, columns) = self.0.size();
        let lines = fit(text, rows.into(), columns.into());
        // Each line is overwritten in place, which does not flicker, and what is left of an earlier one goes.
        let lines = lines.replace('\n', "\x1b[K\r\n");
        let _ = self.0.write_str(&format!("\x1b[H{lines}\x1b[J"));
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let _ = self.0.write_str("\x1b[?25h\x1b[?1049l");
    }
}

/// As much of a text as fits in so many rows and columns; if it does not, the last row says so.
fn fit(text: &str, rows: usize, columns: usize) -> String {
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let lines: Vec<_> = text.lines().map(cut).collect();
    if lines.len() <= rows {
        return lines.join("\n");
    }
    let kept = rows.saturating_sub(1);
    let more = cut(&format!("... {} more lines", lines.len() - kept));
    [&lines[..kept], &[more]].concat().join("\n")
}

async fn live(client: Client, term: &Term) -> Result<Exit, Failure> {
    let mut watch = Watch::begin(client).await?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    let [mut interrupted, mut terminated] = kinds.map(|kind| signal(kind).ok());
    let mut resized = signal(SignalKind::window_change()).ok();
    let screen = Screen::enter(term);
    let mut shown = String::new();
    while let Some(now) = watch.read().await? {
        shown = now;
        screen.show(&format!("{shown}\nCtrl-C ends this\n"));
        tokio::select! {
            more = watch.changed() => {
                if !more? {
                    break;
                }
            }
            Some(()) = arrival(&mut interrupted) => break,
            Some(()) = arrival(&mut terminated) => break,
            Some(()) = arrival(&mut resized) => {}
        }
    }
    drop(screen);
    // What was seen last stays to be looked at.
    print(&shown);
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = "one\ntwo\nthree\nfour\n";
        assert_eq!(fit(text, 4, 80), "one\ntwo\nthree\nfour");
        assert_eq!(fit(text, 3, 80), "one\ntwo\n... 2 more lines");
        assert_eq!(fit(text, 4, 3), "one\ntwo\nthr\nfou");
        assert_eq!(fit(text, 1, 5), "... 4");
        assert_eq!(fit("µµµ", 1, 2), "µµ");
    }
}
