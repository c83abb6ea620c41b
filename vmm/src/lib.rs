//! Hotvisor's virtual machine monitor: KVM, vCPU threads, boot, ACPI tables, and the control thread that
//! alone decides what becomes of them.

pub mod acpi;
pub mod agent;
pub mod arch;
pub mod boot;
pub mod cgroup;
pub mod config;
pub mod control;
pub mod end;
pub mod error;
pub mod events;
#[cfg(feature = "failpoints")]
pub mod failpoint;
#[cfg(not(feature = "failpoints"))]
mod failpoint;
pub mod heap;
pub mod hotplug;
pub mod isolation;
pub mod kvm;
pub mod machine;
pub mod socket;
pub mod stream;
mod sync;
pub mod tally;
pub mod vcpu;
pub mod vsock;

pub use error::{Error, Problem, Result};
