//! Running other programs, with errors that show what was run and what it said.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The command as one would type it.
#[must_use]
pub fn spelled(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// It cannot be started, or it ends with a failure; the error holds what it printed.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = spelled(command);
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{line}`; is it installed?"))?;
    if !status.success() {
        bail!(
            "`{line}` ended with {status}:\n{}",
            String::from_utf8_lossy(&stderr).trim_end()
        );
    }
    Ok(stdout)
}

/// As [`output`], as text.
///
/// # Errors
/// As [`output`].
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Runs a command that talks to the user itself.
///
/// # Errors
/// It cannot be started, or it ends with a failure.
pub fn visible(command: &mut Command) -> Result<()> {
    let line = spelled(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{line}`; is it installed?"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}; its messages are above");
    }
    Ok(())
}
