//! The stress of a running VM's vCPU hotplug: steps that follow from a seed, and after each a look whether the API, its
//! events, the guest and the host's threads say what must be so.
//!
//! `mix` and `plan` say what is done, `run` does it, `check` asks everybody, `model` says what the answers must be,
//! `guest` is the way into the guest, and `record` is what `summary` and the report show.

mod check;
mod guest;
mod mix;
mod model;
mod plan;
pub(crate) mod record;
mod report;
pub(crate) mod run;
pub(crate) mod summary;

pub(crate) use guest::Channel;
pub(crate) use model::Allowed;
pub(crate) use report::html;
