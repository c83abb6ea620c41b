//! The command line.

mod check;
mod log;
mod options;
mod run;

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
    Check(check::Args),
}

impl Cli {
    /// Does what was asked; the answer is the exit code of the process.
    pub(crate) fn run(self, extend: impl FnOnce(&mut Control)) -> ExitCode {
        match self.command {
            Command::Run(args) => args.run(extend),
            Command::Check(args) => args.run(),
        }
    }
}

/// Says one thing on standard error.
fn say(what: &dyn std::fmt::Display) {
    // Where nobody reads it, the exit code has to do.
    let _ = writeln!(std::io::stderr(), "hotvisor: {what}");
}
