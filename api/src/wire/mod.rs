//! The JSON of the API as owned types, one set for everybody: the routes write them and the command line's client
//! reads them, and the other way round, and the OpenAPI document is derived from them. The doc comments of the
//! types are the document's text.

pub(crate) mod change;
pub(crate) mod events;
pub(crate) mod machine;
pub(crate) mod operations;
pub(crate) mod problem;
#[cfg(test)]
mod tests;
pub(crate) mod vcpus;
