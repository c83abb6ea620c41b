//! What is so: as the API, its events, the guest and the host each say.

pub(crate) mod events;
pub(crate) mod guest;
pub(crate) mod host;
