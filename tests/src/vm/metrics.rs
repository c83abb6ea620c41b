//! The API's metrics, as a scraper reads them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Where they are.
pub const METRICS: &str = "/metrics";

/// What was read at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// As it came.
    pub text: String,
    /// By name and labels, as they came.
    values: BTreeMap<String, f64>,
}

impl Metrics {
    pub(super) fn read(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let value = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let values = lines.map(|line| value(line).with_context(|| format!("{line:?} is no value")));
        Ok(Self {
            text: text.to_owned(),
            values: values.collect::<Result<_>>()?,
        })
    }

    /// The value of a name with labels; 0 where it is not there, as a counter that never counted.
    #[must_use]
    pub fn value(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or_default()
    }

    /// Sum and count of a histogram with labels.
    #[must_use]
    pub fn histogram(&self, name: &str, labels: &str) -> (f64, f64) {
        let value = |part| self.value(&format!("{name}_{part}{{{labels}}}"));
        (value("sum"), value("count"))
    }

    /// All values of a name, whatever the labels, with them.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let values = self.values.iter();
        values.filter_map(move |(key, value)| {
            let labels = key.strip_prefix(name)?.strip_prefix('{')?;
            Some((labels.strip_suffix('}')?, *value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_labels() {
        let text = "# HELP a A.\n# TYPE a histogram\na_sum{x=\"1\"} 0.5\na_count{x=\"1\"} 2\nb 3\n";
        let metrics = Metrics::read(text).unwrap();
        assert_eq!(metrics.histogram("a", "x=\"1\""), (0.5, 2.0));
        assert_eq!((metrics.value("b"), metrics.value("c")), (3.0, 0.0));
        assert_eq!(
            metrics.all("a_count").collect::<Vec<_>>(),
            [("x=\"1\"", 2.0)]
        );
        assert!(Metrics::read("a\n").is_err());
    }
}
