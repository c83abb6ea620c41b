//! Sets of CPUs, as Linux writes them.

use serde::{Deserialize, Serialize};
use std::fmt;

use hotvisor_protocol::MAX_CPUS;

const WORDS: usize = MAX_CPUS as usize / 64;

/// A set of Linux's numbers of CPUs, each below [`MAX_CPUS`].
///
/// ```
/// # use hotvisor_agent::mask::{Form, Mask};
/// let mask = Form::List.parse("0-2,5").unwrap();
/// assert_eq!(mask.without(1).list(), "0,2,5");
/// assert_eq!(Form::Hex.write(&mask), "00000027");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mask([u64; WORDS]);

/// Which of Linux's two ways a file writes sets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `0-2,5`; nothing for none.
    List,
    /// Words of 32 bits, the highest first: `00000001,00000027`.
    Hex,
}

impl Mask {
    /// These CPUs; what is no CPU is left out.
    #[must_use]
    pub fn of(cpus: impl IntoIterator<Item = u32>) -> Self {
        let mut mask = Self::default();
        for cpu in cpus {
            mask.set(cpu);
        }
        mask
    }

    fn set(&mut self, cpu: u32) {
        if let Some(word) = self.0.get_mut(cpu as usize / 64) {
            *word |= 1 << (cpu % 64);
        }
    }

    /// Whether a CPU is in it.
    #[must_use]
    pub fn has(&self, cpu: u32) -> bool {
        self.0
            .get(cpu as usize / 64)
            .is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }

    /// Its CPUs, from the lowest.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..MAX_CPUS).filter(|cpu| self.has(*cpu))
    }

    /// How many CPUs are in it.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no CPU is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// The same without one CPU.
    #[must_use]
    pub fn without(&self, cpu: u32) -> Self {
        self.minus(&Self::of([cpu]))
    }

    /// The same and one CPU.
    #[must_use]
    pub fn with(&self, cpu: u32) -> Self {
        let mut mask = *self;
        mask.set(cpu);
        mask
    }

    /// What is here and not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut mask = *self;
        mask.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(word, other)| *word &= !other);
        mask
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// As a list: `0-2,5`.
    #[must_use]
    pub fn list(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        let mut cpus = self.iter().peekable();
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| *next == last + 1) {
                last = next;
            }
            parts.push(if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            });
        }
        parts.join(",")
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mask({})", self.list())
    }
}

impl From<Mask> for String {
    fn from(mask: Mask) -> Self {
        mask.list()
    }
}

impl TryFrom<String> for Mask {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = Form::List.parse(&text);
        parsed.ok_or_else(|| format!("`{text}` is no list of CPUs below {MAX_CPUS}"))
    }
}

impl Form {
    /// Reads a set; `None` if it is none, or has CPUs that there cannot be.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Mask> {
        match self {
            Self::List => parse_list(text.trim()),
            Self::Hex => parse_hex(text.trim()),
        }
    }

    /// Writes a set.
    #[must_use]
    pub fn write(self, mask: &Mask) -> String {
        match self {
            Self::List => mask.list(),
            Self::Hex => {
                let halves = mask
                    .0
                    .iter()
                    .rev()
                    .flat_map(|word| [word >> 32, word & 0xffff_ffff]);
                let words: Vec<u64> = halves.skip_while(|word| *word == 0).collect();
                let texts: Vec<String> = words.iter().map(|word| format!("{word:08x}")).collect();
                if texts.is_empty() {
                    "0".to_owned()
                } else {
                    texts.join(",")
                }
            }
        }
    }
}

fn parse_list(text: &str) -> Option<Mask> {
    let mut mask = Mask::default();
    // `(null)` and nothing are how different kernels write that there is none.
    if text.is_empty() || text == "(null)" {
        return Some(mask);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_CPUS || first > last {
            return None;
        }
        (first..=last).for_each(|cpu| mask.set(cpu));
    }
    Some(mask)
}

fn parse_hex(text: &str) -> Option<Mask> {
    let mut mask = Mask::default();
    for (at, word) in text.rsplit(',').enumerate() {
        let word = u64::from(u32::from_str_radix(word, 16).ok()?);
        match mask.0.get_mut(at / 2) {
            Some(whole) => *whole |= word << (at % 2 * 32),
            // Kernels for many CPUs write zeros for those that there cannot be.
            None if word == 0 => {}
            None => return None,
        }
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for text in ["", "0", "0-3", "1,3-4,63-65,1023"] {
            assert_eq!(Form::List.parse(text).unwrap().list(), text);
        }
        for text in ["x", "3-1", "1024", "0-1024", "1,,2", "-1"] {
            assert_eq!(Form::List.parse(text), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_words_are_read_and_written() {
        let mask = Mask::of([0, 33, 100]);
        let text = Form::Hex.write(&mask);
        assert_eq!(text, "00000010,00000000,00000002,00000001");
        assert_eq!(Form::Hex.parse(&text), Some(mask));
        assert_eq!(Form::Hex.parse("f"), Some(Mask::of(0..4)));
        assert_eq!(Form::Hex.write(&Mask::default()), "0");
        let many = format!("{}1", "00000000,".repeat(255));
        assert_eq!(Form::Hex.parse(&many), Some(Mask::of([0])));
        assert_eq!(Form::Hex.parse(&format!("1,{many}")), None);
    }
}
