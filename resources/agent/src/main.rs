//! Hotvisor's agent in the guest.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).collect();
    match hotvisor_agent::cli::main(arguments) {
        Ok(text) => {
            // Who does not want to read it is not told so.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            eprintln!("hotvisor-agent: {trouble}");
            ExitCode::FAILURE
        }
    }
}
