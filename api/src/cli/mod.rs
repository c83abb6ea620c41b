//! The command line.

mod change;
mod check;
mod connection;
mod event;
mod events;
mod follow;
mod log;
mod operations;
mod options;
mod pages;
mod progress;
mod run;
mod sentence;
mod stress;
pub(crate) mod text;
pub(crate) mod timeline;
mod vcpus;
mod watch;

use clap::{Parser, Subcommand};
use hotvisor_vmm::control::Control;
use std::io::Write;
use std::process::ExitCode;

/// A minimal KVM virtual machine monitor that takes vCPUs away from a running guest, and gives them back.
#[derive(Debug, Parser)]
#[command(
    name = "hotvisor",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Vcpus(vcpus::Args),
    Unplug(change::Unplug),
    Plug(change::Plug),
    Resize(change::Resize),
    Operations(operations::List),
    Wait(operations::Wait),
    Cancel(operations::Cancel),
    Watch(watch::Args),
    Events(events::Args),
    Timeline(timeline::Args),
    Stress(Box<stress::Args>),
    Check(check::Args),
    Completions(pages::Completions),
    Man(pages::Man),
}

impl Cli {
    /// Does what was asked; the answer is the exit code of the process.
    pub(crate) fn run(self, extend: impl FnOnce(&mut Control)) -> ExitCode {
        match self.command {
            Command::Run(args) => args.run(extend),
            Command::Vcpus(args) => args.run(),
            Command::Unplug(args) => args.run(),
            Command::Plug(args) => args.run(),
            Command::Resize(args) => args.run(),
            Command::Operations(args) => args.run(),
            Command::Wait(args) => args.run(),
            Command::Cancel(args) => args.run(),
            Command::Watch(args) => args.run(),
            Command::Events(args) => args.run(),
            Command::Timeline(args) => args.run(),
            Command::Stress(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
        }
    }
}

/// Says one thing on standard error.
pub(crate) fn say(what: &dyn std::fmt::Display) {
    // Where nobody reads it, the exit code has to do.
    let _ = writeln!(std::io::stderr(), "hotvisor: {what}");
}
