//! Hotplug: taking vCPUs away from a running guest and giving them back.
//!
//! The order is that of Linux's own CPU hotplug since it learnt to avoid its deadlocks: send elsewhere who can
//! go elsewhere, notify, and *only then* keep users out and wait for those inside ([`gate`]); take the vCPU
//! down; clean up; keep what is cheap to keep. A vCPU's way through it is [`phase`], the steps and what undoes
//! them are in `step`, and the [`coordinator`] carries them out.

pub mod client;
pub mod coordinator;
pub mod gate;
pub mod machinery;
pub mod notifier;
mod operation;
pub mod phase;
pub mod refusal;
mod slot;
mod step;
mod target;
pub mod view;
