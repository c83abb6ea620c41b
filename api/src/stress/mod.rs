//! The stress of a running VM's vCPU hotplug.
#![allow(
    dead_code,
    unused_imports,
    reason = "the run that uses these comes next"
)]

mod guest;
mod mix;
mod record;
mod report;
mod summary;
