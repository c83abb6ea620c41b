//! Tests with a guest of our own instead of Linux: a few hundred lines of 32-bit code without paging, which
//! does one thing when it is told to. Any KVM can run it, so these tests reach the real ioctls and the real
//! vCPU threads without the nested bed, in milliseconds each.

mod activation;
mod bad_input;
mod cli;
mod console;
mod cpus;
mod document;
mod end;
mod events;
mod failpoints;
mod faults;
mod guest;
mod hostile;
mod hotplug;
mod inside;
mod isolation;
mod lifecycle;
mod load;
mod machine;
mod metrics;
mod pause;
mod served;
mod stress;

use std::process::ExitCode;

use hotvisor_tests::harness::{self, Requirement, Suite};
use hotvisor_tests::host;

fn main() -> ExitCode {
    if let Some(code) = inside::run_if_vmm() {
        return code;
    }
    harness::main(Suite {
        requirement: Requirement::Protected32,
        packages: host::BAREMETAL,
        files: || Ok(Vec::new()),
        tests: [
            activation::tests(),
            bad_input::tests(),
            cli::tests(),
            console::tests(),
            machine::tests(),
            cpus::tests(),
            document::tests(),
            end::tests(),
            events::tests(),
            failpoints::tests(),
            faults::tests(),
            hostile::tests(),
            hotplug::tests(),
            inside::tests(),
            isolation::tests(),
            load::tests(),
            metrics::tests(),
            lifecycle::tests(),
            pause::tests(),
            served::tests(),
            stress::tests(),
        ]
        .concat(),
    })
}
