//! Hotplug: taking vCPUs away from a running guest and giving them back.

pub mod client;
pub mod view;
