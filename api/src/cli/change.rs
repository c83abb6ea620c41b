//! `hotvisor plug`, `hotvisor unplug`, `hotvisor resize`.

use super::connection::{CHANGES, Connection, Exit, complain, print};
use super::follow::{self, Form};
use super::sentence;
use super::vcpus::VCPUS;
use crate::client::{Client, Failure};
use crate::wire::change::Change;
use crate::wire::operations::Operation;
use crate::wire::vcpus::{ChangeOne, Target, Vcpus};
use serde::Serialize;
use std::process::ExitCode;

/// Take vCPUs away from the guest
///
/// Each becomes an operation of its own, all at once; no other vCPU is touched. An id that the VM does not have, or
/// that of the boot CPU, is refused before anything is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGES)]
pub(super) struct Unplug {
    #[command(flatten)]
    which: Which,
}

/// Give vCPUs to the guest
///
/// Each becomes an operation of its own, all at once; no other vCPU is touched. It is done when the guest has
/// started it. An id that the VM does not have is refused before anything is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGES)]
pub(super) struct Plug {
    #[command(flatten)]
    which: Which,
}

/// Plug or unplug vCPUs until there are so many
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGES)]
pub(super) struct Resize {
    /// How many there are to be, the boot CPU included
    #[arg(value_name = "COUNT")]
    count: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Ids of vCPUs, as `hotvisor vcpus` shows them
    #[arg(value_name = "ID", required = true, value_parser = vcpu_id)]
    ids: Vec<u32>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    #[command(flatten)]
    connection: Connection,
    /// Answer in JSON: with the operations as they ended, or with the problem
    #[arg(long)]
    json: bool,
    /// Do not wait for the end; the answer is the operation as it was accepted
    #[arg(long)]
    no_wait: bool,
    /// How long it may take, as in 2.5; then it is given up and undone [default: as the VM was told]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<String>,
}

/// Digits, and a point at most: the API says whether it is a time.
fn seconds(text: &str) -> Result<String, String> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse::<f64>() {
        Ok(time) if plain && time > 0.0 => Ok(text.to_owned()),
        _ => Err("it is not a time: give seconds, as in 2.5".to_owned()),
    }
}

/// The id of a vCPU, as far as that can be said without asking.
pub(super) fn vcpu_id(text: &str) -> Result<u32, String> {
    let found = text.parse();
    found.map_err(|_| {
        "it is not a vCPU's id: `hotvisor vcpus` shows those that there are".to_owned()
    })
}

impl Unplug {
    pub(super) fn run(self) -> ExitCode {
        self.which.run(Target::Offline)
    }
}

impl Plug {
    pub(super) fn run(self) -> ExitCode {
        self.which.run(Target::Online)
    }
}

impl Resize {
    pub(super) fn run(self) -> ExitCode {
        let ask = Ask {
            target: VCPUS.to_owned(),
            change: Change::Desired(self.count),
            about: None,
        };
        let How {
            connection,
            json,
            no_wait,
            timeout,
        } = self.how;
        let form = if json { Form::One } else { Form::People };
        connection.run(json, async move |client| {
            let asks = vec![ask];
            make(client, asks, timeout, no_wait, form).await
        })
    }
}

impl Which {
    fn run(self, target: Target) -> ExitCode {
        let How {
            connection,
            json,
            no_wait,
            timeout,
        } = self.how;
        let form = if json { Form::List } else { Form::People };
        let ids = self.ids;
        connection.run(json, async move |mut client| {
            let asks = asks(&mut client, &ids, target).await?;
            make(client, asks, timeout, no_wait, form).await
        })
    }
}

/// A change to ask for.
struct Ask<T> {
    target: String,
    change: T,
    about: Option<(u32, Target)>,
}

/// What to ask for, in which order: what cannot be comes first, so that the API says no to it, in its own words,
/// before anything was changed.
async fn asks(
    client: &mut Client,
    ids: &[u32],
    target: Target,
) -> Result<Vec<Ask<ChangeOne>>, Failure> {
    if let Some(id) = twice(ids) {
        let asked = format!("vCPU {id}");
        return Err(Failure::input(&asked, "it is named twice", "name it once"));
    }
    let vcpus: Vcpus = client.get(VCPUS).await?.read()?;
    let mut ids = ids.to_vec();
    ids.sort_by_key(|id| can_be(&vcpus, *id, target));
    let ask = |id| Ask {
        target: format!("{VCPUS}/{id}"),
        change: ChangeOne { target },
        about: Some((id, target)),
    };
    Ok(ids.into_iter().map(ask).collect())
}

fn twice(ids: &[u32]) -> Option<u32> {
    let mut seen = std::collections::BTreeSet::new();
    ids.iter().copied().find(|id| !seen.insert(*id))
}

fn can_be(vcpus: &Vcpus, id: u32, target: Target) -> bool {
    let vcpu = vcpus.vcpus.iter().find(|vcpu| vcpu.id == id);
    vcpu.is_some_and(|vcpu| !(vcpu.boot && target == Target::Offline))
}

/// Asks for changes, one right after the other, and waits for all of their ends.
async fn make<T: Serialize>(
    mut client: Client,
    asks: Vec<Ask<T>>,
    timeout: Option<String>,
    no_wait: bool,
    form: Form,
) -> Result<Exit, Failure> {
    // Before the first change, so that they miss nothing of it.
    let events = if no_wait {
        None
    } else {
        form.events(&client).await?
    };
    let query = timeout.map_or_else(String::new, |seconds| format!("?timeout={seconds}"));
    let (mut operations, mut about, mut no) = (Vec::new(), Vec::new(), None);
    for ask in asks {
        let target = format!("{}{query}", ask.target);
        let answer = client.put(&target, &ask.change).await;
        match answer.and_then(|answer| answer.read::<Operation>()) {
            Ok(operation) => {
                operations.push(operation);
                about.push(ask.about);
            }
            // What is wrong with one is so with the rest, too.
            Err(failure) if operations.is_empty() => return Err(failure),
            Err(failure) => {
                no = Some(failure);
                break;
            }
        }
    }
    let exit = if no_wait {
        accepted(operations, form)
    } else {
        operations = follow::follow(&mut client, events, &operations, form).await?;
        follow::report(&mut client, operations, &about, form).await?
    };
    match no {
        None => Ok(exit),
        Some(failure) => {
            // Standard output has its one document already.
            complain(&failure, false);
            Ok(Exit::from(&failure))
        }
    }
}

/// Says that operations have begun.
fn accepted(operations: Vec<Operation>, form: Form) -> Exit {
    if form.is_json() {
        form.print(operations);
        return Exit::Done;
    }
    for operation in &operations {
        print(&format!("{}\n", sentence::goes_on(operation)));
    }
    Exit::Done
}
