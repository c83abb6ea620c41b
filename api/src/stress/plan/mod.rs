//! What is done, step by step: a sequence that follows from the seed and the options alone, whatever comes of it.

mod ask;
mod choose;
#[cfg(test)]
mod tests;

pub(crate) use ask::Ask;

use super::mix::{Kind, Mix};
use crate::wire::vcpus::Target;
use choose::Chooser;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// Something to do, after which all must be at rest again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) doing: Doing,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Asks, one right after the other.
    Ask(Vec<Ask>),
    /// Asks, on several connections at once.
    Contradict(Vec<Ask>),
    /// Asks, and takes it back after a time.
    Cancel(Ask, Duration),
    /// Asks, pauses the machine after a time, asks for more, which must be refused, and resumes it.
    Pause(Ask, Duration, Ask),
    /// Asks by a client that is gone after a time, and then asks for the same by another.
    Abandon(Ask, Duration),
    /// A client is gone after half of its request.
    Half(Ask),
    /// The guest takes a CPU offline by itself, meanwhile this is asked for; then it takes it online again.
    Offline(u32, Ask),
    /// The guest is told to refuse, this is asked for, and it is told not to refuse.
    Refuse(Ask),
    /// The guest ejects a CPU by itself.
    Eject(u32),
    /// The guest starts again.
    Reboot,
    /// The guest starts again, and meanwhile this is asked for.
    Boot(Vec<Ask>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |asks: &[Ask], between: &str| {
            let asks: Vec<_> = asks.iter().map(Ask::to_string).collect();
            asks.join(between)
        };
        write!(f, "{}: ", self.kind)?;
        match &self.doing {
            Doing::Ask(asks) => f.write_str(&list(asks, "; ")),
            Doing::Contradict(asks) => f.write_str(&list(asks, " & ")),
            Doing::Cancel(ask, after) => write!(f, "{ask}; after {after:?} cancel it"),
            Doing::Pause(ask, after, more) => {
                write!(f, "{ask}; after {after:?} vm.pause; {more}; vm.resume")
            }
            Doing::Abandon(ask, after) => {
                write!(
                    f,
                    "{ask}, by a client that is gone after {after:?}; {ask} with the same Idempotency-Key"
                )
            }
            Doing::Half(ask) => write!(f, "half a request for {ask}"),
            Doing::Offline(vcpu, ask) => {
                write!(
                    f,
                    "the guest takes vCPU {vcpu} offline by itself & {ask}; online again"
                )
            }
            Doing::Refuse(ask) => write!(f, "ACPI profile off; {ask}; ACPI profile on"),
            Doing::Eject(vcpu) => write!(f, "the guest ejects vCPU {vcpu} by itself"),
            Doing::Reboot => f.write_str("vm.reboot"),
            Doing::Boot(asks) => write!(f, "vm.reboot; {}", list(asks, "; ")),
        }
    }
}

/// All steps, without an end.
#[derive(Debug)]
pub(crate) struct Plan {
    mix: Mix,
    chooser: Chooser,
    number: u64,
}

impl Plan {
    /// For a machine of `max` vCPUs that has `plugged` ones, of which at most `most` are to be there at a time.
    pub(crate) fn new(seed: u64, mix: Mix, max: u32, most: u32, plugged: BTreeSet<u32>) -> Self {
        Self {
            mix,
            chooser: Chooser::new(seed, max, most, plugged),
            number: 0,
        }
    }

    /// This kind of step, or the one that makes it possible again: where no vCPU is left, none can go.
    fn possible(&self, kind: Kind) -> Kind {
        let (to, instead) = match kind {
            Kind::Plug => (Target::Online, Kind::Unplug),
            Kind::Unplug | Kind::Offline | Kind::Refuse | Kind::Eject => {
                (Target::Offline, Kind::Plug)
            }
            _ => return kind,
        };
        match !self.chooser.can(to) && self.mix.has(instead) {
            true => instead,
            false => kind,
        }
    }

    fn doing(&mut self, kind: Kind) -> Doing {
        let choose = &mut self.chooser;
        choose.unsure = matches!(
            kind,
            Kind::Cancel | Kind::Contradict | Kind::Offline | Kind::Refuse | Kind::Boot
        );
        match kind {
            Kind::Plug => Doing::Ask(choose.plugs()),
            Kind::Unplug => Doing::Ask(choose.unplugs()),
            Kind::Resize => Doing::Ask(vec![choose.resize()]),
            Kind::Set => Doing::Ask(vec![choose.set()]),
            Kind::Cancel => {
                let ask = choose.any();
                Doing::Cancel(ask, choose.moment())
            }
            Kind::Pause => {
                let ask = choose.any();
                let after = choose.moment();
                Doing::Pause(ask, after, choose.idle())
            }
            Kind::Contradict => Doing::Contradict(choose.contradictions()),
            Kind::Abandon => match choose.one_in(4) {
                true => Doing::Half(choose.idle()),
                false => {
                    let ask = choose.any();
                    Doing::Abandon(ask, choose.moment())
                }
            },
            Kind::Offline => {
                let vcpu = choose.present();
                Doing::Offline(vcpu, choose.any())
            }
            Kind::Refuse => Doing::Refuse(choose.fewer()),
            Kind::Eject => Doing::Eject(choose.eject()),
            Kind::Reboot => {
                choose.restart();
                Doing::Reboot
            }
            Kind::Boot => {
                choose.restart();
                Doing::Boot(choose.steady())
            }
        }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.number += 1;
        let at = self.chooser.below(self.mix.total());
        let kind = self.possible(self.mix.pick(at));
        Some(Step {
            number: self.number,
            kind,
            doing: self.doing(kind),
        })
    }
}
