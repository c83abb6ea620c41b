//! What a run may do.

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
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
