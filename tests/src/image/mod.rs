//! Initial RAM file systems. The same input gives the same bytes.

mod archive;
mod guest;

pub use archive::Archive;
pub use guest::{connected, guest, loaded};
