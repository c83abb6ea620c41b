//! End-to-end tests: an unmodified Debian kernel as the guest, driven from outside through its
//! serial port and from the host's side through the VMM's process.

mod agent;
mod boot;
mod cli;
mod cloud_hypervisor;
mod cpus;
mod end;
mod faults;
mod hotplug;
mod isolation;
mod pause;
mod stress;
mod vsock;

use std::process::ExitCode;

use hotvisor_tests::harness::{self, Requirement, Suite};

fn main() -> ExitCode {
    if let Some(code) = hotplug::run_if_vmm().or_else(isolation::run_if_instead) {
        return code;
    }
    let code = harness::main(Suite {
        requirement: Requirement::LongMode,
        packages: &[],
        files: || Ok(Vec::new()),
        tests: [
            agent::tests(),
            boot::tests(),
            cli::tests(),
            cloud_hypervisor::tests(),
            cpus::tests(),
            end::tests(),
            faults::tests(),
            hotplug::tests(),
            isolation::tests(),
            pause::tests(),
            stress::tests(),
            vsock::tests(),
        ]
        .concat(),
    });
    stress::close();
    code
}
