//! Debian's promtool, which knows what Prometheus expects of metrics. It comes out of the package `prometheus`,
//! which is not installed, because that would start a server.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{host, kernels, paths};

/// Checks a text of metrics.
///
/// # Errors
/// It has complaints, or cannot be had.
pub fn check(metrics: &str) -> Result<()> {
    host::ensure_package_lists()?;
    let package = kernels::unpack("prometheus", &paths::bed("promtool")?)?;
    let mut promtool = Command::new(package.join("usr/bin/promtool"))
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool")?;
    // It reads all of it before it says anything.
    let stdin = promtool.stdin.take().context("no way in")?;
    { stdin }.write_all(metrics.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.is_empty(),
        "promtool ended with {}: {said}",
        output.status
    );
    Ok(())
}
