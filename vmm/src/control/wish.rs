//! What somebody may ask for about the machine.

use crate::hotplug::client::MachineCall;

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Create,
    Boot,
    Pause,
    Resume,
    PressPowerButton,
    Reboot,
    Shutdown,
    Delete,
    Quit,
}

impl From<&MachineCall> for Wish {
    fn from(call: &MachineCall) -> Self {
        match call {
            MachineCall::Create(_) => Self::Create,
            MachineCall::Boot => Self::Boot,
            MachineCall::Pause => Self::Pause,
            MachineCall::Resume => Self::Resume,
            MachineCall::PressPowerButton => Self::PressPowerButton,
            MachineCall::Reboot => Self::Reboot,
            MachineCall::Shutdown => Self::Shutdown,
            MachineCall::Delete => Self::Delete,
            MachineCall::Quit => Self::Quit,
        }
    }
}

impl Wish {
    /// What is asked, in words.
    pub(super) const fn asked(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Boot => "boot",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::PressPowerButton => "power button",
            Self::Reboot => "reboot",
            Self::Shutdown => "shutdown",
            Self::Delete => "delete",
            Self::Quit => "end",
        }
    }
}
