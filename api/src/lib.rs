//! The `hotvisor` program, as a function: its command line, its API, and the one place where parts of the
//! process that use vCPUs are put together with the machine.

mod cli;
mod client;
mod route;
mod server;
mod stress;
mod wire;

use clap::Parser;
use hotvisor_vmm::control::Control;
use std::process::ExitCode;

/// Does what the process's arguments ask for; the answer is its exit code. `extend` is called once for a machine
/// that is about to be made, to register host-side notifiers with it and to take clients of it.
pub fn main(extend: impl FnOnce(&mut Control)) -> ExitCode {
    cli::Cli::parse().run(extend)
}
