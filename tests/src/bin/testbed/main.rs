//! `cargo testbed`: the test bed at the command line.

mod bench;
mod demo;
mod figures;
mod inner;
mod measured;
mod picture;
mod progress;
mod shell;
mod stress;
mod supply;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hotvisor_tests::nested;

/// Runs Hotvisor with real guests on any machine that runs Debian 12: on the machine's own KVM where
/// that can run 64-bit guests, and otherwise inside an emulated machine.
#[derive(Parser)]
#[command(name = "testbed", bin_name = "cargo testbed")]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Boot a guest with four vCPUs, show what it and the VMM say, and end.
    Demo(demo::Args),
    /// Run every check and every test, and count.
    Test(test::Args),
    /// Open a shell where Hotvisor, kernels and guest images are at hand.
    Shell(shell::Args),
    /// Take vCPUs from guests that are at work, and give them back, for long; print a table.
    Stress(stress::Args),
    /// Measure Hotvisor beside Debian's QEMU and others, and print tables.
    Bench(bench::Args),
    /// Write the README's tables and picture anew from what was measured.
    Figures(figures::Args),
}

fn main() -> ExitCode {
    nested::run_if_first_process();
    let done = match Cli::parse().action {
        Action::Demo(args) => demo::run(&args),
        Action::Test(args) => test::run(&args),
        Action::Shell(args) => shell::run(&args),
        Action::Stress(args) => stress::run(&args),
        Action::Bench(args) => bench::run(&args),
        Action::Figures(args) => figures::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
