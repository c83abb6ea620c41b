//! `hotvisor operations`, `hotvisor wait`, `hotvisor cancel`.

use super::connection::{CHANGES, Connection, Exit, READS, print, print_bytes};
use super::follow::{self, Form, OPERATIONS};
use super::text;
use crate::wire::operations::{Operation, Operations};
use std::process::ExitCode;

/// List the operations: those that run, and the last ones that ended
#[derive(Debug, clap::Args)]
#[command(after_help = READS)]
pub(super) struct List {
    #[command(flatten)]
    connection: Connection,
    /// Answer in JSON, as `GET /api/v1/operations` does
    #[arg(long)]
    json: bool,
}

/// Wait for operations to end, and say how they did
#[derive(Debug, clap::Args)]
#[command(after_help = CHANGES)]
pub(super) struct Wait {
    /// Numbers of operations, as `hotvisor operations` shows them
    #[arg(value_name = "OPERATION", required = true)]
    ids: Vec<u64>,
    #[command(flatten)]
    connection: Connection,
    /// Answer in JSON: with the operations as they ended, or with the problem
    #[arg(long)]
    json: bool,
}

/// Take an operation back, as long as the guest has not read the request
#[derive(Debug, clap::Args)]
#[command(after_help = READS)]
pub(super) struct Cancel {
    /// Number of an operation
    #[arg(value_name = "OPERATION")]
    id: u64,
    #[command(flatten)]
    connection: Connection,
    /// Answer in JSON: with the operation as it is then, or with the problem
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(&self) -> ExitCode {
        let json = self.json;
        self.connection.run(json, async move |mut client| {
            let answer = client.get(OPERATIONS).await?;
            if json {
                print_bytes(&answer.body);
            } else {
                print(&render(&answer.read::<Operations>()?.operations));
            }
            Ok(Exit::Done)
        })
    }
}

impl Wait {
    pub(super) fn run(self) -> ExitCode {
        let Self {
            ids,
            connection,
            json,
        } = self;
        let form = if json { Form::List } else { Form::People };
        connection.run(json, async move |mut client| {
            let events = form.events(&client).await?;
            let mut operations = Vec::new();
            for id in ids {
                let answer = client.get(&format!("{OPERATIONS}/{id}")).await?;
                operations.push(answer.read()?);
            }
            let ended = follow::follow(&mut client, events, &operations, form).await?;
            follow::report(&mut client, ended, &[], form).await
        })
    }
}

impl Cancel {
    pub(super) fn run(&self) -> ExitCode {
        let Self { id, json, .. } = *self;
        let form = if json { Form::One } else { Form::People };
        self.connection.run(json, async move |mut client| {
            let answer = client.delete(&format!("{OPERATIONS}/{id}")).await?;
            let operation: Operation = answer.read()?;
            if form.is_json() {
                form.print(vec![operation]);
            } else {
                let what = text::purpose(&operation);
                let state = text::state(operation.state);
                print(&format!("operation {id} ({what}): {state}\n"));
            }
            Ok(Exit::Done)
        })
    }
}

fn render(operations: &[Operation]) -> String {
    if operations.is_empty() {
        return "no operation yet\n".to_owned();
    }
    let heads = ["OPERATION", "WHAT", "STATE", "VCPUS", "BEGAN", "TOOK"];
    let row = |operation: &Operation| {
        let ids: Vec<_> = operation.vcpus.iter().map(|part| part.id).collect();
        let ended = operation.ended_at.as_deref();
        let took = ended.and_then(|ended| text::between(&operation.created_at, ended));
        [
            operation.id.to_string(),
            text::purpose(operation),
            text::state(operation.state).to_owned(),
            text::ids(&ids),
            operation.created_at.clone(),
            took.map_or_else(|| "-".to_owned(), text::time),
        ]
    };
    let rows: Vec<_> = operations.iter().map(row).collect();
    text::table(heads, &rows)
}

#[cfg(test)]
mod tests {
    use super::super::event::tests as events;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_of_operations() {
        let mut resize = events::operation("running");
        (resize["id"], resize["kind"], resize["desired"]) = (json!(8), json!("resize"), json!(5));
        let part = resize["vcpus"][0].clone();
        resize["vcpus"] = [1, 2, 3, 7].map(|id| {
            let mut part = part.clone();
            part["id"] = json!(id);
            part
        })[..]
            .into();
        let all = [events::operation("refused"), resize].map(serde_json::from_value);
        assert_eq!(
            render(&all.map(Result::unwrap)),
            "\
OPERATION  WHAT            STATE    VCPUS  BEGAN                        TOOK
7          vCPU 3 offline  refused  3      2026-11-25T11:00:00.000000Z  500 ms
8          resize to 5     running  1-3,7  2026-11-25T11:00:00.000000Z  -
"
        );
        assert_eq!(render(&[]), "no operation yet\n");
    }
}
