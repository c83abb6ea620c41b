//! `hotvisor check`.

use super::say;
use hotvisor_vmm::kvm::probe::{self, Findings, Mode};
use hotvisor_vmm::kvm::{self, DEVICE};
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;

/// Say what this host's KVM can do, by trying
///
/// Runs a few instructions in 16-, 32- and 64-bit mode in a scratch VM, and lists the capabilities that a
/// machine needs. The exit code is 0 if a 64-bit guest can run here, and 1 if not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) fn run(&self) -> ExitCode {
        let findings = kvm::open_any().map(|kvm| probe::examine(&kvm));
        let can = findings.as_ref().is_ok_and(can_run);
        match findings {
            Ok(findings) if self.json => print(&format!("{}\n", as_json(&findings))),
            Ok(findings) => print(&as_text(&findings)),
            Err(error) if self.json => {
                print(&format!(
                    "{}\n",
                    json!({ "device": DEVICE, "error": error.to_string() })
                ));
            }
            Err(error) => say(&error),
        }
        ExitCode::from(u8::from(!can))
    }
}

/// Prints on standard output; a reader that has gone away has seen enough.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Whether a 64-bit guest can run.
fn can_run(findings: &Findings) -> bool {
    let long = |(mode, result): &(Mode, Result<(), String>)| *mode == Mode::Long && result.is_ok();
    findings.modes.iter().any(long) && findings.required.iter().all(|(_, _, there)| *there)
}

fn as_json(findings: &Findings) -> serde_json::Value {
    let caps = |caps: &[(String, &str, bool)]| -> Vec<_> {
        caps.iter()
            .map(|(name, what, there)| json!({ "name": name, "for": what, "there": there }))
            .collect()
    };
    let modes: Vec<_> = findings
        .modes
        .iter()
        .map(|(mode, result)| {
            json!({ "bits": mode.bits(), "runs": result.is_ok(), "error": result.as_ref().err() })
        })
        .collect();
    json!({
        "device": DEVICE,
        "modes": modes,
        "max_vcpus": findings.max_vcpus,
        "required": caps(&findings.required),
        "optional": caps(&findings.optional),
    })
}

fn as_text(findings: &Findings) -> String {
    let can = if can_run(findings) { "can" } else { "cannot" };
    let mut lines = vec![format!("{DEVICE} {can} run a 64-bit guest"), String::new()];
    for (mode, result) in &findings.modes {
        let result = match result {
            Ok(()) => "runs".to_owned(),
            Err(why) => format!("does not run: {why}"),
        };
        lines.push(format!("  {}-bit code  {result}", mode.bits()));
    }
    lines.push(format!(
        "  vCPUs        at most {} in one VM",
        findings.max_vcpus
    ));
    for (title, caps) in [
        ("needed", &findings.required),
        ("used if there", &findings.optional),
    ] {
        lines.push(format!("\n{title}:"));
        for (name, what, there) in caps {
            let there = if *there { "yes" } else { "no" };
            lines.push(format!("  {there:<4} {name:<18} {what}"));
        }
    }
    lines.join("\n") + "\n"
}
