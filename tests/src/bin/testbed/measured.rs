//! Files of what was measured, each with the number of its shape.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What such a file holds.
pub(crate) trait Measured: DeserializeOwned {
    /// The number of the shape that this program has.
    const FORMAT: u32;
    /// The command that writes it.
    const BY: &str;
}

/// What files of all shapes have.
#[derive(Deserialize)]
struct Shape {
    format: u32,
}

/// # Errors
/// It cannot be read, holds something else, or is of another shape.
pub(crate) fn read<T: Measured>(path: &Path) -> Result<T> {
    let by = T::BY;
    let text = fs::read(path)
        .with_context(|| format!("cannot read {}, which `{by}` writes", path.display()))?;
    let other = || format!("{} was not written by `{by}`", path.display());
    let Shape { format } = serde_json::from_slice(&text).with_context(other)?;
    ensure!(
        format == T::FORMAT,
        "{}: written by another version of this program, or not by it (it has format {format}, and {} is read): measure anew",
        other(),
        T::FORMAT
    );
    serde_json::from_slice(&text).with_context(other)
}
