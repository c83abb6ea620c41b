//! Puts down what became of each change, and how long it took.

use super::{Run, Stop};
use crate::stress::model::Told;
use crate::stress::record::{ChangeDone, Phase, Took};
use crate::wire::operations::{Code, Operation, Part};
use crate::wire::vcpus::{Target, Timeline, VcpuDetail};
use hotvisor_vmm::hotplug::phase as machine;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

fn moment(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// A phase by its name, without a copy of it for each change.
fn known(phase: &Phase) -> Phase {
    let known = machine::Phase::STAGES.iter().find(|name| *name == phase);
    known.map_or_else(|| phase.clone(), |name| Phase::Borrowed(name))
}

fn took(timeline: &Timeline) -> Took {
    let micros = Duration::from_micros;
    let phases = timeline.phases.iter();
    Took {
        total: micros(timeline.total_us),
        phases: phases
            .map(|step| (known(&step.phase), micros(step.us)))
            .collect(),
    }
}

impl Run {
    pub(super) async fn account(&mut self, told: &[Told]) -> Result<(), Stop> {
        let mut details: BTreeMap<u32, VcpuDetail> = BTreeMap::new();
        for told in told {
            self.record.idle += u64::from(told.ended.vcpus.is_empty());
            for part in &told.ended.vcpus {
                let made = part
                    .outcome
                    .as_ref()
                    .is_some_and(|o| o.code == Code::Succeeded);
                if made && !details.contains_key(&part.id) {
                    let path = format!("/api/v1/vcpus/{}", part.id);
                    details.insert(part.id, self.client.get(&path).await?.read()?);
                }
                let change = self.change(&told.ended, part, details.get(&part.id));
                self.record.changes.extend(change);
            }
        }
        Ok(())
    }

    fn change(
        &self,
        operation: &Operation,
        part: &Part,
        detail: Option<&VcpuDetail>,
    ) -> Option<ChangeDone> {
        let outcome = part.outcome.as_ref()?;
        let ended = operation.ended_at.as_deref().and_then(moment);
        let at = ended.and_then(|at| at.duration_since(self.record.started_at).ok());
        let timeline = detail.and_then(|vcpu| match part.to {
            Target::Online => vcpu.timeline.plug.as_ref(),
            Target::Offline => vcpu.timeline.unplug.as_ref(),
        });
        // A later change the same way has taken its place, or an earlier one did the work of this.
        let same = |timeline: &&Timeline| timeline.operation == operation.id;
        let timeline = timeline.filter(same);
        Some(ChangeDone {
            at: at.unwrap_or_default(),
            to: part.to,
            code: outcome.code,
            ost: outcome.ost,
            took: timeline.map(took),
        })
    }
}
