//! The `hotvisor` program.

mod cli;
mod route;
mod server;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
