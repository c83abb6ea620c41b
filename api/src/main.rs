//! The `hotvisor` program.

mod cli;
mod route;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the control thread does not give out a client yet"
    )
)]
mod server;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
