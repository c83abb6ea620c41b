//! What a run may do, and how often it does which of it.

use crate::client::Failure;
use std::fmt;

/// A kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Plug,
    Unplug,
    Resize,
    Set,
    Cancel,
    Pause,
    Contradict,
    Abandon,
    Offline,
    Refuse,
    Eject,
    Reboot,
    Boot,
}

/// All of them, each with its weight where nobody names another.
const ALL: [(Kind, u32); 13] = [
    (Kind::Plug, 4),
    (Kind::Unplug, 4),
    (Kind::Resize, 2),
    (Kind::Set, 2),
    (Kind::Cancel, 2),
    (Kind::Pause, 1),
    (Kind::Contradict, 2),
    (Kind::Abandon, 1),
    (Kind::Offline, 1),
    (Kind::Refuse, 1),
    (Kind::Eject, 1),
    (Kind::Reboot, 1),
    (Kind::Boot, 1),
];

/// Largest weight.
const HEAVIEST: u32 = 1_000_000;

impl Kind {
    /// As `--mix` spells it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plug => "plug",
            Self::Unplug => "unplug",
            Self::Resize => "resize",
            Self::Set => "set",
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Contradict => "contradict",
            Self::Abandon => "abandon",
            Self::Offline => "offline",
            Self::Refuse => "refuse",
            Self::Eject => "eject",
            Self::Reboot => "reboot",
            Self::Boot => "boot",
        }
    }

    /// Whether it is done only where it is named: nobody's work in the guest survives it.
    const fn is_drastic(self) -> bool {
        matches!(self, Self::Reboot | Self::Boot)
    }

    /// Whether it needs a way into the guest.
    pub(crate) const fn needs_guest(self) -> bool {
        matches!(
            self,
            Self::Offline | Self::Refuse | Self::Eject | Self::Reboot | Self::Boot
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which kinds of step, and how often each; in the order of [`Kind`], none of weight 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mix(Vec<(Kind, u32)>);

impl Mix {
    /// What is done where nobody says what: what `possible` allows.
    pub(crate) fn usual(possible: impl Fn(Kind) -> bool) -> Self {
        let usual = |(kind, _): &(Kind, u32)| !kind.is_drastic() && possible(*kind);
        Self(ALL.into_iter().filter(usual).collect())
    }

    /// `plug=4,unplug=4`; `all` stands for all that is usual and `possible`.
    ///
    /// # Errors
    /// Bad input.
    pub(crate) fn parse(text: &str, possible: impl Fn(Kind) -> bool) -> Result<Self, Failure> {
        let asked = format!("--mix {text}");
        let bad = |found: String, remedy: &str| Failure::input(&asked, &found, remedy);
        let mut weights: Vec<(Kind, u32)> = Vec::new();
        for item in text.split(',') {
            let (name, weight) = item.split_once('=').unwrap_or((item, ""));
            if item == "all" {
                for (kind, weight) in Self::usual(&possible).0 {
                    weights.retain(|(known, _)| *known != kind);
                    weights.push((kind, weight));
                }
                continue;
            }
            let Some((kind, usual)) = ALL.iter().find(|(kind, _)| kind.name() == name) else {
                let known: Vec<_> = ALL.iter().map(|(kind, _)| kind.name()).collect();
                let remedy = format!("use all, {}", known.join(", "));
                return Err(bad(format!("there is no step {name:?}"), &remedy));
            };
            let weight = match item.contains('=') {
                true => weight.parse().ok().filter(|weight| *weight <= HEAVIEST),
                false => Some(*usual),
            };
            let Some(weight) = weight else {
                let remedy = format!("give a whole number up to {HEAVIEST}, as in plug=4");
                return Err(bad(format!("{item:?} has no weight"), &remedy));
            };
            weights.retain(|(known, _)| known != kind);
            weights.push((*kind, weight));
        }
        weights.retain(|(_, weight)| *weight > 0);
        weights.sort();
        if weights.is_empty() {
            return Err(bad(
                "nothing is left to do".into(),
                "give one step a weight",
            ));
        }
        match weights.iter().find(|(kind, _)| !possible(*kind)) {
            Some((kind, _)) => Err(bad(
                format!(
                    "{kind} is not possible here: it needs a guest that can be asked, and lets it be done"
                ),
                "name a way into the guest by --guest-serial or --guest-command, or leave it out",
            )),
            None => Ok(Self(weights)),
        }
    }

    /// All weights together.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(_, weight)| u64::from(*weight)).sum()
    }

    /// Whether it is done at all.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|(known, _)| *known == kind)
    }

    /// The kind at which the weights, one after the other, pass `at`.
    pub(crate) fn pick(&self, mut at: u64) -> Kind {
        for (kind, weight) in &self.0 {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => return *kind,
            }
        }
        self.0.last().map_or(Kind::Plug, |(kind, _)| *kind)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (kind, weight)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{kind}={weight}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_only(kind: Kind) -> bool {
        !kind.needs_guest()
    }

    #[test]
    fn what_is_printed_can_be_given_again() {
        let usual = Mix::usual(host_only);
        assert_eq!(
            usual.to_string(),
            "plug=4,unplug=4,resize=2,set=2,cancel=2,pause=1,contradict=2,abandon=1"
        );
        assert_eq!(Mix::parse(&usual.to_string(), host_only), Ok(usual));
        let mix = Mix::parse("all,reboot=3,pause=0", |_| true).unwrap();
        let text = mix.to_string();
        assert!(text.ends_with("eject=1,reboot=3"), "{text}");
        assert!(
            !text.contains("pause") && !text.contains("boot=1"),
            "{text}"
        );
    }

    #[test]
    fn every_weight_is_picked_as_often_as_it_says() {
        let mix = Mix::parse("set=2,plug,unplug=1", host_only).unwrap();
        let picks: Vec<_> = (0..mix.total()).map(|at| mix.pick(at)).collect();
        let count = |kind| picks.iter().filter(|pick| **pick == kind).count();
        assert_eq!(
            [count(Kind::Plug), count(Kind::Unplug), count(Kind::Set)],
            [4, 1, 2]
        );
    }

    #[test]
    fn what_cannot_be_is_said() {
        let said = |text| Mix::parse(text, host_only).unwrap_err().to_string();
        assert!(said("plugg=1").contains("no step \"plugg\""));
        assert!(said("plug=x").contains("no weight"));
        assert!(said("plug=0").contains("nothing is left"));
        assert!(said("").contains("no step"));
        assert!(said("plug=1,refuse=1").contains("refuse is not possible here"));
    }
}
