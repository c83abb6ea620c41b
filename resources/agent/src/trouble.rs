//! What did not work, for people.

use std::fmt;

/// What was tried, what was found, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Trouble {
    tried: String,
    found: String,
    remedy: &'static str,
}

impl Trouble {
    /// One of a file, a call, a word of somebody's.
    #[must_use]
    pub fn new(tried: impl Into<String>, found: impl fmt::Display, remedy: &'static str) -> Self {
        Self {
            tried: tried.into(),
            found: found.to_string(),
            remedy,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.tried, self.found, self.remedy)
    }
}

/// What may have gone wrong.
pub type Result<T> = std::result::Result<T, Trouble>;
