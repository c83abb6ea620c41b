//! The kernel's own test of CPU hotplug, which is in its source and in no other package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::cached;
use crate::{host, paths, process};

const PACKAGE: &str = "linux-source-6.1";
const SCRIPT: &str = "tools/testing/selftests/cpu-hotplug/cpu-on-off-test.sh";

/// Finds `cpu-on-off-test.sh` in the cache, or fetches it. Without a network, any that was fetched does.
///
/// # Errors
/// It is not cached, and apt cannot fetch it.
pub fn cpu_on_off() -> Result<PathBuf> {
    let cache = paths::bed("kernels")?;
    let get = || {
        host::ensure_package_lists()?;
        cached(PACKAGE, "-selftest", &cache, extract)
    };
    let dir = match get() {
        Ok(dir) => dir,
        Err(error) => earlier(&cache).ok_or(error)?,
    };
    Ok(dir.join("cpu-on-off-test.sh"))
}

fn earlier(cache: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cache).ok()?.flatten();
    let mut found = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PACKAGE) && name.ends_with("-selftest")
    });
    found.next()
}

/// Takes the script, and nothing else, out of the archive of the source in the package.
fn extract(package: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let line = format!(
        "dpkg-deb --fsys-tarfile \"$0\" | tar -xO ./usr/src/{PACKAGE}.tar.xz | xz -dc | \
         tar -x --directory \"$1\" --strip-components=5 --wildcards '*/{SCRIPT}'"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).args([package, to]);
    process::output(shell.stderr(Stdio::piped()))?;
    let script = to.join("cpu-on-off-test.sh");
    ensure!(script.exists(), "{PACKAGE} holds no {SCRIPT}");
    Ok(())
}
