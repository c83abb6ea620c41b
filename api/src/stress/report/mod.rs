//! A run as one page that needs nothing beside it, and asks nobody for anything.

mod bins;
mod page;
mod palette;
mod plot;

pub(crate) use page::html;
