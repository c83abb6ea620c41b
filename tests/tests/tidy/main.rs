//! Rules of the source tree that no compiler checks. Each is a test whose failure says where, and what to
//! do. The tables of exceptions are ratchets: an entry may only shrink, and goes when it is not needed.

#![cfg(test)]

mod layers;
mod named;
mod size;
mod source;
mod supply;
mod unit;
mod unsafety;
mod words;

use std::collections::BTreeMap;

/// Fails with all complaints, if there are any.
fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Holds what there is against a limit and a table of exceptions.
fn ratchet(found: &[(String, usize)], limit: usize, table: &[(&str, usize)], hint: &str) {
    let mut entries: BTreeMap<&str, usize> = table.iter().copied().collect();
    let mut complaints = Vec::new();
    for (what, size) in found.iter().filter(|(_, size)| *size > limit) {
        match entries.remove(what.as_str()) {
            None => complaints.push(format!("{what}: {size}, and {limit} is the most: {hint}")),
            Some(allowed) if *size > allowed => {
                complaints.push(format!("{what}: grew from {allowed} to {size}: {hint}"));
            }
            Some(allowed) if *size < allowed => complaints.push(format!(
                "{what}: shrank from {allowed} to {size}: write the new size into the table"
            )),
            Some(_) => {}
        }
    }
    let unused = entries.keys();
    complaints
        .extend(unused.map(|what| format!("{what}: not needed any more: take it off the table")));
    report(&complaints);
}
