//! Scenarios in which `hotvisor stress` takes vCPUs from a guest and gives them back, while the guest is at work.

mod clients;
mod control;
mod guest;
mod scenario;
mod serial;
mod summary;

pub use control::{Alone, alone};
pub use guest::{Guest, Limits, Run};
pub use scenario::{ALL, Scenario};
pub use serial::Serial;
pub use summary::{Latency, Summary};
