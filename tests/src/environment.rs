//! Numbers that whoever runs the tests may say by the environment, in place of those that they have.

use std::env::{self, VarError};
use std::error::Error;
use std::str::FromStr;

use anyhow::{Context, Result};

/// The number that this variable says, if it is set.
///
/// # Errors
/// It is no such number.
pub fn number<T>(variable: &str) -> Result<Option<T>>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    let said = match env::var(variable) {
        Err(VarError::NotPresent) => return Ok(None),
        said => said.with_context(|| variable.to_owned())?,
    };
    let number = said.parse().with_context(|| format!("{variable}={said}"))?;
    Ok(Some(number))
}
