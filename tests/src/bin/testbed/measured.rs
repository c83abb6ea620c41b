//! Files of what was measured, each with the number of its shape.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

/// What such a file holds.
pub(crate) trait Measured: DeserializeOwned {
    /// The number of the shape that this program has.
    const FORMAT: u32;
    /// The command that writes it.
    const BY: &str;

    /// The number of the shape that it was written in.
    fn format(&self) -> u32;
}

/// # Errors
/// It cannot be read, holds something else, or is of another shape.
pub(crate) fn read<T: Measured>(path: &Path) -> Result<T> {
    let by = T::BY;
    let text = fs::read(path).with_context(|| {
        let path = path.display();
        format!("cannot read what `{by}` has written from {path}")
    })?;
    let found: T = serde_json::from_slice(&text)
        .with_context(|| format!("{} was not written by `{by}`", path.display()))?;
    ensure!(
        found.format() == T::FORMAT,
        "{} has format {}, and this program reads {}: measure anew",
        path.display(),
        found.format(),
        T::FORMAT
    );
    Ok(found)
}
