//! The beginning: what there is, and whether a run makes sense with it.

use super::look::AGAIN;
use super::{Run, SOON};
use crate::client::{Client, Failure};
use crate::stress::check;
use crate::stress::check::events::{Story, Stream};
use crate::stress::check::host::Host;
use crate::stress::guest::{Channel, Guest};
use crate::stress::mix::{Kind, Mix};
use crate::stress::model::{self, Allowed, Model};
use crate::stress::plan::Plan;
use crate::stress::record::{Record, Seen};
use crate::wire::machine::{Ping, SerialMode, VmInfo, VmState};
use crate::wire::operations::Operations;
use crate::wire::vcpus::Vcpus;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Connections for changes beside the first.
const MORE: usize = 2;

/// What a run is to do, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) duration: Option<Duration>,
    pub(crate) cycles: Option<u64>,
    /// None: what is usual.
    pub(crate) mix: Option<String>,
    pub(crate) most: Option<u32>,
    /// Each operation's own.
    pub(crate) timeout: Duration,
    pub(crate) channel: Channel,
    /// Nobody in the guest takes CPUs offline by itself.
    pub(crate) ours: bool,
    pub(crate) allowed: Allowed,
    pub(crate) tolerate: Vec<String>,
    pub(crate) vmm_log: Option<PathBuf>,
    /// Tells the user something, in a line of its own.
    pub(crate) say: Say,
}

/// Takes what is to be said.
pub(crate) type Say = fn(&dyn Display);

fn bad(asked: &str, found: &str, remedy: &str) -> Failure {
    Failure::input(asked, found, remedy)
}

impl Run {
    /// Finds out what there is.
    ///
    /// # Errors
    /// The VM cannot be reached, or this cannot be done with it as it is.
    pub(crate) async fn open(mut client: Client, mut options: Options) -> Result<Self, Failure> {
        let info: VmInfo = client.get("/api/v1/vm.info").await?.read()?;
        if info.state != VmState::Running {
            let found = format!("its machine is {:?}", info.state);
            return Err(bad("a stress of the VM", &found, "have it run first"));
        }
        let serial = &info.config.serial;
        if options.channel.console.is_none() && serial.mode == SerialMode::File {
            let here = |path: &PathBuf| path.is_absolute() && path.is_file();
            options.channel.console = serial.file.clone().filter(here);
        }
        let stream = client.events(None).await?;
        let (vcpus, last) = at_rest(&mut client).await?;
        let before = super::look::operations(&mut client).await?;
        let mut guest = Guest::open(&options.channel).await?;
        let mix = mix(&options, &guest)?;
        let most = options.most.unwrap_or(vcpus.max);
        let model = Model::new(&vcpus, last, options.allowed);
        let plugged = model.plugged();
        if most == 0 || plugged.len() > usize::try_from(most).unwrap_or(usize::MAX) {
            let found = format!("the machine has {} already", plugged.len());
            return Err(bad(
                &format!("--most {most}"),
                &found,
                "allow as many at least",
            ));
        }
        if let Err(failure) = agreed(&mut guest, &plugged, options.ours).await {
            // What else is wrong with the guest does not matter any more.
            let _ = guest.tidy_up().await;
            return Err(failure);
        }
        let ping: Ping = client.get("/api/v1/vmm.ping").await?.read()?;
        let mut more = Vec::new();
        for _ in 0..MORE {
            more.push(client.another().await?);
        }
        let host = seen(ping.pid, vcpus.max, options.say);
        let plan = Plan::new(options.seed, mix.clone(), vcpus.max, most, plugged.clone());
        let seen = Seen {
            guest: guest.answers(),
            log: guest.answers() && guest.offers().log || options.channel.console.is_some(),
            host: host.is_some(),
        };
        let with = with(&options, most, &plugged);
        let record = Record::begin(options.seed, mix.to_string(), vcpus.max, with, seen);
        Ok(Self {
            model,
            stream: Stream::begin(stream, Story::begin(&vcpus)),
            options,
            client,
            more,
            guest,
            host,
            plan: Some(plan),
            record,
            started: Instant::now(),
            first: plugged,
            before,
            paused: false,
            refusing: false,
            offline: None,
            key: fastrand::u64(..),
        })
    }

    /// What is done, as it could be given to `--mix`, and with which seed.
    pub(crate) fn said(&self) -> String {
        let Record { seed, mix, .. } = &self.record;
        format!("seed {seed}, mix {mix}")
    }
}

/// What the steps and what is no contradiction depend on, beside the seed and the mix: as options, and what was there.
fn with(options: &Options, most: u32, plugged: &BTreeSet<u32>) -> String {
    let Allowed {
        refused,
        timed_out,
        failed,
    } = options.allowed;
    let allowed = [
        (refused, "refused"),
        (timed_out, "timed_out"),
        (failed, "failed"),
    ];
    let allowed: Vec<&str> = allowed
        .iter()
        .filter_map(|(is, name)| is.then_some(*name))
        .collect();
    let mut with = format!("--most {most} --timeout {}", options.timeout.as_secs_f64());
    if !options.ours {
        with += " --guest-online theirs";
    }
    for text in &options.tolerate {
        with += &format!(" --tolerate {text:?}");
    }
    if !allowed.is_empty() {
        with += &format!(" --allow {}", allowed.join(","));
    }
    let ids: Vec<String> = plugged.iter().map(u32::to_string).collect();
    format!("{with}, from the vCPUs {}", ids.join(","))
}

/// The VM's process, where its threads may be seen.
fn seen(pid: u32, max: u32, say: Say) -> Option<Host> {
    let host = Host::open(pid, max);
    host.inspect_err(|e| {
        say(&format_args!(
            "the threads of the VM (process {pid}) may not be seen: {e}; be root, or its user where it was started with \
             --dumpable and ptrace is allowed, to have them compared"
        ));
    })
    .ok()
}

/// Waits until the guest has the CPUs that are plugged, as one has that was just booted or asked.
async fn agreed(guest: &mut Guest, plugged: &BTreeSet<u32>, ours: bool) -> Result<(), Failure> {
    let until = tokio::time::Instant::now() + SOON;
    // It has to be asked: nothing says when it is worth it.
    let mut again = tokio::time::interval(AGAIN);
    // It needs these CPUs as well.
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while guest.answers() {
        again.tick().await;
        let cpus = guest.look().await.map_err(|e| {
            let remedy = "see whether the guest still answers";
            bad("a stress of the VM", &e.to_string(), remedy)
        })?;
        let found = check::guest::contradictions(&cpus, plugged, ours);
        if found.is_empty() {
            break;
        }
        if tokio::time::Instant::now() >= until {
            return Err(bad(
                "a stress of the VM",
                &found.join("; "),
                "bring the CPUs online that are offline in the guest, or say with --guest-online theirs that \
                 somebody else takes them offline; a guest booted with maxcpus= or nr_cpus= does not take all",
            ));
        }
    }
    Ok(())
}

fn mix(options: &Options, guest: &Guest) -> Result<Mix, Failure> {
    let offers = guest.offers();
    if guest.answers() {
        for missing in offers.missing() {
            (options.say)(&format_args!(
                "not everything can be done in the guest: {missing}"
            ));
        }
    }
    let possible = |kind: Kind| match kind {
        Kind::Offline => guest.answers() && offers.offline,
        Kind::Refuse => guest.answers() && offers.profile,
        Kind::Eject => guest.answers() && offers.eject,
        kind => guest.answers() || !kind.needs_guest(),
    };
    match &options.mix {
        None => Ok(Mix::usual(possible)),
        Some(text) => Mix::parse(text, possible),
    }
}

/// The vCPUs, none of which is under way, and the last operation.
async fn at_rest(client: &mut Client) -> Result<(Vcpus, u64), Failure> {
    let asked = "a stress of the VM";
    let operations: Operations = client.get("/api/v1/operations").await?.read()?;
    let running = operations.operations.iter().find(|o| o.ended_at.is_none());
    if let Some(operation) = running {
        let found = format!("operation {} is under way", operation.id);
        return Err(bad(asked, &found, "wait for its end, or cancel it"));
    }
    let vcpus: Vcpus = client.get("/api/v1/vcpus").await?.read()?;
    if let Some(id) = model::moving(&vcpus).first() {
        let found = format!("something is under way with vCPU {id}");
        return Err(bad(asked, &found, "wait until it is at rest"));
    }
    if vcpus.max < 2 {
        let remedy = "start it with --cpus boot=N,max=M, M being 2 or more";
        return Err(bad(asked, "it can have 1 vCPU", remedy));
    }
    let last = operations.operations.iter().map(|o| o.id).max();
    Ok((vcpus, last.unwrap_or(0)))
}
