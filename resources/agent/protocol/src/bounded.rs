//! Values that are bounded where they are decoded.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::MAX_CPUS;

/// A number that no machine has a CPU for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no CPU: ids and numbers of CPUs are below {MAX_CPUS}")]
pub struct OutOfRange(pub u32);

macro_rules! cpu {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u32", into = "u32")]
        pub struct $name(u32);

        impl TryFrom<u32> for $name {
            type Error = OutOfRange;

            fn try_from(number: u32) -> Result<Self, OutOfRange> {
                if number < MAX_CPUS { Ok(Self(number)) } else { Err(OutOfRange(number)) }
            }
        }

        impl From<$name> for u32 {
            fn from(cpu: $name) -> u32 {
                cpu.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

cpu! {
    /// A vCPU, by its APIC id: what host and guest both know it by. Below [`MAX_CPUS`].
    ApicId
}
cpu! {
    /// A CPU, by the number that Linux in the guest gave it; it need not be the APIC id. Below [`MAX_CPUS`].
    CpuNumber
}

/// A text of at most `MAX` bytes, without control characters.
///
/// What is longer is cut between two characters, and `?` stands for what a terminal would obey: a name is only ever shown, and
/// a message is not worth losing for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Text<const MAX: usize>(String);

/// Whether a terminal, or whoever lays out a text, obeys this character instead of showing it.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<const MAX: usize> Text<MAX> {
    /// Takes as much of a text as there is room for.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut kept = String::new();
        for c in text.chars().map(|c| if is_obeyed(c) { '?' } else { c }) {
            if kept.len() + c.len_utf8() > MAX {
                break;
            }
            kept.push(c);
        }
        Self(kept)
    }
}

impl<const MAX: usize> From<&str> for Text<MAX> {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cut<const MAX: usize>;

        impl<const MAX: usize> Visitor<'_> for Cut<MAX> {
            type Value = Text<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<MAX>, E> {
                Ok(Text::new(text))
            }
        }

        deserializer.deserialize_str(Cut)
    }
}

/// At most `MAX` entries. A line with more is malformed; the one after the last is not decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// Takes the first entries, as many as there is room for.
    pub fn new(entries: impl IntoIterator<Item = T>) -> Self {
        Self(entries.into_iter().take(MAX).collect())
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtMost<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} entries")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MAX {
                    match entries.next_element()? {
                        Some(entry) => kept.push(entry),
                        None => return Ok(List(kept)),
                    }
                }
                match entries.next_element::<serde::de::IgnoredAny>()? {
                    Some(_) => Err(A::Error::custom(format_args!(
                        "a list of more than {MAX} entries"
                    ))),
                    None => Ok(List(kept)),
                }
            }
        }

        deserializer.deserialize_seq(AtMost(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_below_the_limit() {
        assert_eq!(
            serde_json::from_str::<ApicId>("1023").unwrap(),
            ApicId(1023)
        );
        let error = serde_json::from_str::<ApicId>("1024").unwrap_err();
        assert!(error.to_string().contains("below 1024"), "{error}");
        serde_json::from_str::<CpuNumber>("-1").unwrap_err();
    }

    #[test]
    fn texts_are_cut_between_characters_and_obey_nobody() {
        let text: Text<4> = serde_json::from_str(r#""abc\u00e4""#).unwrap();
        assert_eq!(&*text, "abc");
        assert_eq!(&*Text::<9>::new("a\u{1b}[2J\nb\u{202e}"), "a?[2J?b?");
    }

    #[test]
    fn lists_end() {
        type Two = List<u8, 2>;
        assert_eq!(
            serde_json::from_str::<Two>("[1,2]").unwrap(),
            Two::new([1, 2, 3])
        );
        let error = serde_json::from_str::<Two>("[1,2,[3]]").unwrap_err();
        assert!(error.to_string().contains("more than 2"), "{error}");
    }
}
