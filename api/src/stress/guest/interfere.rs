//! What a guest does with its CPUs on its own account, in the midst of what is asked of it.

use super::stream::Output;
use super::{Guest, GuestError};
use std::time::Duration;

/// Where Linux says whether the ACPI hotplug profile of processors is on. Off, it refuses every request to eject one.
const PROFILE: &str = "/sys/firmware/acpi/hotplug/processor/enabled";

/// Prints a word for each thing that the guest offers, also where it has one CPU only. The firmware's node of a CPU has the
/// vCPU's id as its `uid`, and can be ejected by `eject`; 6.1 and 6.12 have both. Only root may write to either.
pub(super) const PROBE: &str = "cd /sys/devices/system/cpu; \
    if [ \"$(id -u)\" = 0 ] && [ -r cpu0/firmware_node/uid ]; then \
    [ -d hotplug ] && echo offline; [ -d /sys/firmware/acpi/hotplug/processor ] && echo eject; fi; \
    [ -w /sys/firmware/acpi/hotplug/processor/enabled ] && echo profile; \
    dmesg >/dev/null 2>&1 && echo dmesg; true";

/// What a guest offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offers {
    /// CPUs can be taken offline and online.
    pub(crate) offline: bool,
    /// The ACPI profile can be switched.
    pub(crate) profile: bool,
    /// CPUs can be ejected.
    pub(crate) eject: bool,
    /// The kernel's log can be read.
    pub(crate) log: bool,
}

impl Offers {
    pub(super) fn parse(text: &str) -> Self {
        let has = |word: &str| text.lines().any(|line| line.trim() == word);
        Self {
            offline: has("offline"),
            profile: has("profile"),
            eject: has("eject"),
            log: has("dmesg"),
        }
    }

    /// What is missing, in words.
    pub(crate) fn missing(self) -> Vec<&'static str> {
        let all = [
            (
                self.offline,
                "no CPU can be taken offline: it takes root, and a kernel with CPU hotplug and ACPI",
            ),
            (
                self.profile,
                "the ACPI hotplug profile of processors cannot be written",
            ),
            (
                self.eject,
                "no CPU can be ejected: it takes root, and a kernel with ACPI",
            ),
            (
                self.log,
                "dmesg does not work, so that kernel messages are seen on the console only",
            ),
        ];
        all.iter()
            .filter(|(there, _)| !there)
            .map(|(_, what)| *what)
            .collect()
    }
}

/// Writes to a file of the CPU whose vCPU has this id; status 44 if there is none.
fn write(vcpu: u32, value: u8, file: &str) -> String {
    format!(
        "for c in /sys/devices/system/cpu/cpu[0-9]*; do \
         {{ read -r u <$c/firmware_node/uid; }} 2>/dev/null && [ \"$u\" = {vcpu} ] && \
         {{ echo {value} >$c/{file}; exit; }}; done; exit {NONE}"
    )
}

/// The exit status that says that the guest has no such CPU.
const NONE: u8 = 44;

/// What became of something that the guest was to do with a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// It did it.
    It,
    /// It has no such CPU.
    NoCpu,
    /// It could not.
    Refused(String),
}

impl From<Output> for Did {
    fn from(output: Output) -> Self {
        match output.status {
            0 => Self::It,
            NONE => Self::NoCpu,
            status => Self::Refused(
                format!("status {status} {}", output.text)
                    .trim_end()
                    .to_owned(),
            ),
        }
    }
}

impl Guest {
    /// Has the guest take a CPU offline or online, by its vCPU's id. It stays plugged.
    pub(crate) async fn set_online(
        &mut self,
        vcpu: u32,
        online: bool,
        patience: Duration,
    ) -> Result<Did, GuestError> {
        let command = write(vcpu, online.into(), "online");
        Ok(self.run(&command, patience).await?.into())
    }

    /// Has the guest eject a CPU by itself.
    pub(crate) async fn eject(&mut self, vcpu: u32, patience: Duration) -> Result<Did, GuestError> {
        let command = write(vcpu, 1, "firmware_node/eject");
        Ok(self.run(&command, patience).await?.into())
    }

    /// Switches the ACPI hotplug profile of processors; off, the guest refuses to eject any.
    pub(crate) async fn set_profile(
        &mut self,
        enabled: bool,
        patience: Duration,
    ) -> Result<Did, GuestError> {
        let command = format!("echo {} >{PROFILE}", u8::from(enabled));
        Ok(self.run(&command, patience).await?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let all = Offers::parse("offline\neject\r\nprofile\ndmesg\n");
        assert_eq!(all.missing(), Vec::<&str>::new());
        assert_eq!(Offers::parse("nothing").missing().len(), 4);
        let missing = Offers::parse("offline\ndmesg").missing().join("; ");
        assert!(
            missing.contains("profile") && missing.contains("eject"),
            "{missing}"
        );
        assert!(!missing.contains("offline"), "{missing}");
    }

    #[test]
    fn lines_are_short_enough_for_any_terminal() {
        let leave = super::super::stream::leave("w012345", &super::super::Often::named());
        for command in [
            PROBE.to_owned(),
            write(1023, 1, "firmware_node/eject"),
            leave,
        ] {
            let line = super::super::stream::line("w0123456789abcdef", &command);
            assert!(line.len() < 1000, "{}: {line}", line.len());
            // A shell that edits lines would complete, or look for an old command.
            assert!(!line.contains(['\t', '!', '\n']), "{line}");
        }
    }

    #[test]
    fn a_guest_may_have_no_such_cpu() {
        let output = |status, text: &str| Output {
            text: text.to_owned(),
            status,
        };
        assert_eq!(Did::from(output(0, "")), Did::It);
        assert_eq!(Did::from(output(NONE, "")), Did::NoCpu);
        let busy = Did::from(output(1, "write error: Device or resource busy"));
        assert!(matches!(busy, Did::Refused(why) if why.contains("busy")));
    }
}
