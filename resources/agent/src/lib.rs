//! Hotvisor's agent in the guest: it brings up CPUs that were added, moves work off those that are to go, says what is bound
//! to them, and how busy the guest is.
//!
//! Each module does one of these things to the files below a [`root::Root`], so that a picture of a guest is enough to test it.

#![forbid(unsafe_code)]

pub mod agent;
pub mod blockers;
pub mod cli;
pub mod cpus;
pub mod deadline;
pub mod drain;
pub mod expedite;
pub mod guard;
pub mod knobs;
pub mod link;
pub mod mask;
pub mod online;
pub mod operation;
pub mod phases;
#[cfg(test)]
mod picture;
pub mod pressure;
pub mod root;
pub mod run;
pub mod state;
pub mod tasks;
pub mod trouble;
pub mod uevent;
