//! The `hotvisor` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    hotvisor::main(|_| {})
}
