//! The unit for systemd, as `systemd-analyze` sees it.

use std::fs;
use std::process::Command;

use hotvisor_tests::{host, paths};

const UNIT: &str = "resources/systemd/hotvisor@.service";

/// The README's figure: of 10, of which 0 is the best.
fn stated() -> f64 {
    let readme = fs::read_to_string(paths::workspace().join("README.md")).unwrap();
    let words: Vec<&str> = readme.split_whitespace().collect();
    let found = words
        .windows(3)
        .find(|words| words[..2] == ["exposure", "of"]);
    found.expect("the README states it")[2].parse().unwrap()
}

#[test]
fn the_unit_exposes_no_more_than_the_readme_says() {
    host::ensure(&["systemd"]).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={:.0}", stated() * 10.0))
        .arg(paths::workspace().join(UNIT))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    assert!(
        output.status.success(),
        "{last}: the README says {}\n{said}{}",
        stated(),
        String::from_utf8_lossy(&output.stderr)
    );
}
