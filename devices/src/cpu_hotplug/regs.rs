//! The controller's registers: one table, which the device decodes with and the AML is generated from.
//!
//! QEMU, `docs/specs/acpi_cpu_hotplug.rst`, the *modern* interface. Little-endian:
//!
//! | offset | bytes | read | write |
//! |---|---|---|---|
//! | [`SELECTOR`] | 4 | high half of command 3's answer | selects a CPU for all that follows |
//! | [`FLAGS`] | 1 | [`ENABLED`], [`INSERT`], [`REMOVE`] | [`INSERT`], [`REMOVE`] clear the event, [`EJECT`] ejects |
//! | [`COMMAND`] | 1 | zero | a [`Command`] |
//! | [`RESERVED`] | 2 | zero | ignored |
//! | [`DATA`] | 4 | the command's answer | the command's argument |

/// Bytes of the register block.
pub const LEN: u64 = 12;

/// Offset of the selector, and of the high half of an answer.
pub const SELECTOR: u64 = 0x0;
/// Offset of the selected CPU's flags.
pub const FLAGS: u64 = 0x4;
/// Offset of the command.
pub const COMMAND: u64 = 0x5;
/// Offset of two bytes without a meaning.
pub const RESERVED: u64 = 0x6;
/// Offset of the command's data.
pub const DATA: u64 = 0x8;

/// Flag: there is a CPU in the slot.
pub const ENABLED: u8 = 1 << 0;
/// Flag: a CPU was inserted, and the guest is to look at it; written, it clears the event.
pub const INSERT: u8 = 1 << 1;
/// Flag: the guest is asked to give the CPU back; written, it clears the event.
pub const REMOVE: u8 = 1 << 2;
/// Flag, only written: the guest is done with the CPU.
pub const EJECT: u8 = 1 << 3;

const _: () = assert!(
    SELECTOR + 4 == FLAGS
        && FLAGS + 1 == COMMAND
        && COMMAND + 1 == RESERVED
        && RESERVED + 2 == DATA
        && DATA + 4 == LEN,
    "the registers cover the block"
);

/// What the guest writes to [`COMMAND`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Select the next CPU with an event, from the selected one on and around; answers with the selector.
    NextWithEvent = 0,
    /// The data that follow are the source event of an `_OST`.
    OstSource = 1,
    /// The data that follow are the status of an `_OST`, and complete it.
    OstStatus = 2,
    /// Answers with the selected CPU's local APIC id.
    ArchId = 3,
}

impl Command {
    /// The command's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The command with `number`, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::NextWithEvent),
            1 => Some(Self::OstSource),
            2 => Some(Self::OstStatus),
            3 => Some(Self::ArchId),
            _ => None,
        }
    }
}

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Selector,
    Flags,
    Command,
    Data,
}

/// An access that no register answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    #[error("no register is there")]
    NoRegister,
    #[error("a register begins before it")]
    Misaligned,
    #[error("the register has another width")]
    WrongWidth,
}

/// The register that an access of `width` bytes at `offset` means.
pub(super) fn decode(offset: u64, width: usize) -> Result<Register, Misuse> {
    let (register, bytes) = match offset {
        SELECTOR => (Register::Selector, 4),
        FLAGS => (Register::Flags, 1),
        COMMAND => (Register::Command, 1),
        DATA => (Register::Data, 4),
        RESERVED..DATA | LEN.. => return Err(Misuse::NoRegister),
        _ => return Err(Misuse::Misaligned),
    };
    if width == bytes {
        Ok(register)
    } else {
        Err(Misuse::WrongWidth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_accesses_mean_a_register_and_all_others_say_what_is_wrong() {
        for offset in 0..2 * LEN {
            for width in [1, 2, 3, 4, 8] {
                let expected = match (offset, width) {
                    (0, 4) => Ok(Register::Selector),
                    (4, 1) => Ok(Register::Flags),
                    (5, 1) => Ok(Register::Command),
                    (8, 4) => Ok(Register::Data),
                    (0 | 4 | 5 | 8, _) => Err(Misuse::WrongWidth),
                    (1..=3 | 9..=11, _) => Err(Misuse::Misaligned),
                    _ => Err(Misuse::NoRegister),
                };
                assert_eq!(decode(offset, width), expected, "{width} at {offset}");
            }
        }
    }

    #[test]
    fn commands_are_their_numbers() {
        for number in 0..=u8::MAX {
            let command = Command::from_number(number);
            assert_eq!(command.is_some(), number <= 3);
            assert!(command.is_none_or(|command| command.number() == number));
        }
    }
}
