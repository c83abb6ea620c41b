//! The stress of a running VM's vCPU hotplug.

#[allow(
    dead_code,
    unused_imports,
    reason = "the run that asks the guest comes next"
)]
mod guest;
