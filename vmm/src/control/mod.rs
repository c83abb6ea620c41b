//! The control thread: the one writer of everything that a machine is.
//!
//! vCPU threads, devices and signals post events to it; it alone starts, stops and restarts machines.

mod console;
mod driver;
mod hotplug;
mod lifecycle;
mod pause;
mod queue;
mod signals;
mod terminal;

pub use driver::Control;
pub use signals::Signals;
