//! What a hostile guest, or the maker of a kernel image, can give Hotvisor, made out of any bytes; and what must hold
//! whatever they are.
//!
//! Each target takes bytes, makes a sequence of accesses or a file out of them, and panics where a rule is broken.
//! libFuzzer looks for such bytes (`tests/fuzz/libfuzzer`), and the test beside this gives each target its corpus, and random
//! bytes.

mod agent;
mod boot;
mod ged;
mod image;
mod ioapic;
mod registers;
mod serial;
mod vsock;

use arbitrary::{Arbitrary, Unstructured};
pub use boot::{Way, boot};

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, each with the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("agent", agent::run),
    ("boot", boot::run),
    ("ged", ged::run),
    ("ioapic", ioapic::run),
    ("registers", registers::run),
    ("serial", serial::run),
    ("vsock", vsock::run),
];

/// The one of that name.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    #[expect(
        clippy::panic,
        reason = "a target without a name is a mistake of whoever wrote it"
    )]
    found.map_or_else(
        || panic!("there is no target {name:?}"),
        |(_, target)| *target,
    )
}

/// As many steps as the bytes are enough for.
fn steps<'a, T: Arbitrary<'a>>(bytes: &'a [u8], mut take: impl FnMut(T)) {
    let mut source = Unstructured::new(bytes);
    while !source.is_empty() {
        match T::arbitrary(&mut source) {
            Ok(step) => take(step),
            Err(_) => return,
        }
    }
}

/// An access of a guest's: KVM hands over 1 to 8 bytes at most, at any offset.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Access {
    /// Most of them hit a register.
    offset: u8,
    width: u8,
    value: u64,
}

impl Access {
    fn width(self) -> usize {
        usize::from(self.width % 8) + 1
    }

    fn data(self) -> Vec<u8> {
        self.value.to_le_bytes()[..self.width()].to_vec()
    }

    /// Within `len` bytes, and a little beyond.
    fn offset(self, len: u64) -> u64 {
        u64::from(self.offset) % (len + 4)
    }
}
