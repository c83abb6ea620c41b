//! What is shown of a contradiction: all that there is to see, while it is there.

use super::{GUEST, Run};
use crate::client::Client;
use crate::stress::guest;
use crate::stress::record::Finding;
use crate::wire::vcpus::{Timeline, Vcpu, VcpuDetail, Vcpus};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Most vCPUs whose timelines are shown.
const TIMELINES: usize = 8;
/// Lines of the VMM's log that are shown.
const LOG: usize = 120;

/// The vCPUs that are named in words.
fn named(what: &[String]) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    for said in what {
        for (at, _) in said.match_indices("vCPU ") {
            let digits: String = said[at + "vCPU ".len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            ids.extend(digits.parse::<u32>());
        }
    }
    ids
}

fn line(vcpu: &Vcpu) -> String {
    let Vcpu {
        id,
        phase,
        target,
        generation,
        last_operation,
        ..
    } = vcpu;
    let thread = match &vcpu.thread {
        Some(thread) if thread.running => "runs",
        Some(_) => "is parked",
        None => "none",
    };
    let operation = last_operation.map_or_else(|| "none".to_owned(), |id| id.to_string());
    format!(
        "vCPU {id}: {phase}, target {target:?}, generation {generation}, thread {thread}, last operation {operation}"
    )
}

fn timelines(detail: &VcpuDetail) -> Vec<String> {
    let id = detail.vcpu.id;
    let text = |what: &str, timeline: &Timeline| {
        let steps: Vec<_> = timeline
            .phases
            .iter()
            .map(|step| format!("{} {} µs", step.phase, step.us))
            .collect();
        format!(
            "vCPU {id}, last {what}, operation {}: {}",
            timeline.operation,
            steps.join(", ")
        )
    };
    let plug = detail
        .timeline
        .plug
        .as_ref()
        .map(|timeline| text("plug", timeline));
    let unplug = detail
        .timeline
        .unplug
        .as_ref()
        .map(|timeline| text("unplug", timeline));
    plug.into_iter().chain(unplug).collect()
}

async fn detail(client: &mut Client, id: u32) -> Option<VcpuDetail> {
    let answer = client.get(&format!("/api/v1/vcpus/{id}")).await.ok()?;
    answer.read().ok()
}

impl Run {
    /// Adds to what was found all else that there is to see: first what needs nobody's answer.
    pub(super) async fn evidence(&mut self, found: &mut Finding) {
        self.stream.catch_up();
        found.events = self.stream.story().lines();
        if let Some(path) = self.options.vmm_log.as_deref() {
            let tail = guest::tail(path, LOG);
            let tail = tail.unwrap_or_else(|e| format!("{}: {e}", path.display()));
            found.vmm_log = Some(tail);
        }
        let console = self.guest.console();
        found.guest_console = (!console.is_empty()).then_some(console);
        // Where the step did not get as far as its look.
        found.what.extend(self.complaints());
        let mut about = named(&found.what);
        if about.is_empty() {
            // Then it may be any of those that something was done about.
            about = self.stream.story().touched();
        }
        for id in about.into_iter().take(TIMELINES) {
            if let Some(detail) = detail(&mut self.client, id).await {
                found.timelines.extend(timelines(&detail));
            }
        }
        self.guest.expect_complaints();
        found.views = self.views().await;
        found.what.extend(self.complaints());
    }

    async fn views(&mut self) -> String {
        let mut text = "--- the API ---\n".to_owned();
        // Writing to a string does not fail.
        let answer = self.client.get("/api/v1/vcpus").await;
        match answer.and_then(|answer| answer.read::<Vcpus>()) {
            Ok(vcpus) => {
                let Vcpus {
                    desired,
                    plugged,
                    online,
                    max,
                    ..
                } = vcpus;
                let _ = writeln!(
                    text,
                    "desired {desired}, plugged {plugged}, online {online}, max {max}"
                );
                vcpus.vcpus.iter().for_each(|vcpu| {
                    let _ = writeln!(text, "{}", line(vcpu));
                });
            }
            Err(failure) => {
                let _ = writeln!(text, "{failure}");
            }
        }
        text += "--- the guest ---\n";
        let _ = match self.guest.answers() {
            false => writeln!(text, "was not asked"),
            true => match self.guest.look().await {
                Ok(cpus) => writeln!(text, "{cpus:?}"),
                Err(e) => writeln!(text, "{e} (within {GUEST:?})"),
            },
        };
        text += "--- the host ---\n";
        match self.host.as_ref().map(super::Host::threads) {
            Some(Ok(threads)) => threads.iter().for_each(|thread| {
                let _ = writeln!(text, "{thread}");
            }),
            Some(Err(e)) => {
                let _ = writeln!(text, "{e}");
            }
            None => text += "may not be seen\n",
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vcpus_that_are_named_are_found() {
        let what = [
            "vCPU 3 is online; vCPU 12".to_owned(),
            "the vCPUs [4]".to_owned(),
        ];
        assert_eq!(Vec::from_iter(named(&what)), [3, 12]);
    }
}
