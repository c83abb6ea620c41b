//! Looks at everything after a step, when all that was asked for has ended.

use super::{Run, SOON, Stop};
use crate::client::{Client, Failure};
use crate::stress::check;
use crate::stress::model::{self, Told, With};
use crate::wire::machine::{VmInfo, VmState};
use crate::wire::vcpus::Vcpus;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long guest and host have until they are looked at again.
pub(super) const AGAIN: Duration = Duration::from_millis(20);

/// Operations that have ended so far, by the metrics.
pub(super) async fn operations(client: &mut Client) -> Result<u64, Failure> {
    let answer = client.get("/metrics").await?;
    let text = String::from_utf8_lossy(&answer.body);
    let count = |line: &str| {
        let line = line.strip_prefix("hotvisor_operations_total{")?;
        line.rsplit_once(' ')?.1.parse::<u64>().ok()
    };
    Ok(text.lines().filter_map(count).sum())
}

impl Run {
    pub(super) async fn look(&mut self, told: Vec<Told>, with: With) -> Result<(), Stop> {
        let until = Instant::now() + SOON;
        let vcpus = self.rest(until).await?;
        let ours: BTreeSet<u64> = told.iter().map(|told| told.accepted.id).collect();
        let ended: Vec<u64> = ours.iter().copied().collect();
        self.stream.reach(&vcpus, &ended, until).await?;
        self.account(&told).await?;
        let ejects =
            with.ejected.is_some() || with.busy.is_some() || self.options.allowed.timed_out;
        let story = self.stream.story();
        told.iter().for_each(|told| story.check_end(&told.ended));
        let strangers = story.check_strangers(&ours, ejects);
        let starts = story.take_starts();
        let mut found = story.take_found();
        found.extend(self.model.judge(told, with, &vcpus, &starts));
        for operation in strangers {
            self.model.hear_of(operation);
        }
        if found.is_empty() {
            found.extend(self.look_around(&vcpus, until).await?);
        }
        found.extend(self.complaints());
        match found.is_empty() {
            true => {
                self.stream.story().adopt(&vcpus);
                Ok(())
            }
            false => Err(Stop::Contradiction(found)),
        }
    }

    /// The vCPUs when nothing is under way with any of them, or as they are then.
    async fn rest(&mut self, until: Instant) -> Result<Vcpus, Stop> {
        loop {
            let vcpus: Vcpus = self.client.get("/api/v1/vcpus").await?.read()?;
            if model::moving(&vcpus).is_empty() || !self.stream.next(until).await? {
                return Ok(vcpus);
            }
        }
    }

    /// What else says how many vCPUs there are. Guest and host need a moment.
    async fn look_around(&mut self, vcpus: &Vcpus, until: Instant) -> Result<Vec<String>, Stop> {
        let mut found = Vec::new();
        let info: VmInfo = self.client.get("/api/v1/vm.info").await?.read()?;
        let boot = info.config.cpus.boot_vcpus;
        if boot != vcpus.plugged {
            let plugged = vcpus.plugged;
            found.push(format!(
                "vm.info has {boot} vCPUs, and {plugged} are plugged"
            ));
        }
        if info.state != VmState::Running {
            found.push(format!("the machine is {:?}", info.state));
        }
        let counted = operations(&mut self.client).await?;
        self.stream.catch_up();
        let told = self.before + self.stream.story().ended;
        if counted != told {
            found.push(format!(
                "by the metrics {counted} operations have ended, and by the events {told}"
            ));
        }
        loop {
            let mut open = self.look_at_host().await?;
            if open.is_empty() && self.guest.answers() {
                let guest = self.guest.look().await?;
                let plugged = self.model.plugged();
                open = check::guest::contradictions(&guest, &plugged, self.options.ours);
            }
            if open.is_empty() || Instant::now() >= until {
                found.extend(open);
                return Ok(found);
            }
            // The guest needs these CPUs as well.
            self.stream.next(until.min(Instant::now() + AGAIN)).await?;
        }
    }

    async fn look_at_host(&mut self) -> Result<Vec<String>, Stop> {
        let vcpus: Vcpus = self.client.get("/api/v1/vcpus").await?.read()?;
        let host = self.host.as_ref();
        Ok(host
            .map(|host| host.contradictions(&vcpus))
            .unwrap_or_default())
    }

    /// What the guest's kernel complains of, and is not to be passed over.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        let tolerate = &self.options.tolerate;
        let first = |said: &String| said.lines().next().unwrap_or_default().to_owned();
        let mut new = Vec::new();
        for said in self.guest.warnings() {
            // Not by what is in a stack: a task that hangs in what is tolerated is another matter.
            match tolerate.iter().find(|text| first(&said).contains(*text)) {
                Some(text) => *self.record.tolerated.entry(text.clone()).or_default() += 1,
                None => new.push(said),
            }
        }
        self.record.warnings.extend(new.iter().cloned());
        new.iter()
            .map(|said| format!("the guest's kernel complains: {}", first(said)))
            .collect()
    }
}
