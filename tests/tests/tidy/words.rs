//! What must not be written anywhere.

use crate::source::{Source, rust, tree};
use crate::{ratchet, report};

/// Files that may sleep, with how often they do. Waiting for an event, with a deadline, is better.
const SLEEPS: &[(&str, usize)] = &[];

/// Lines that sleep, whichever way it is spelled.
fn sleeps(source: &Source) -> Vec<usize> {
    let names = [
        "sleep",
        "sleep_ms",
        "sleep_until",
        "usleep",
        "nanosleep",
        "clock_nanosleep",
    ];
    let tokens = source.tokens();
    let named = tokens.windows(2).filter(|pair| {
        names.contains(&pair[1].text.as_str())
            && ["::", "Brace", ","].contains(&pair[0].text.as_str())
    });
    named.map(|pair| pair[1].line).collect()
}

#[test]
fn nothing_sleeps() {
    let found: Vec<_> = rust()
        .filter_map(|source| {
            let lines = sleeps(&source);
            let times = lines.len();
            if times > 0 {
                println!("{} sleeps in lines {lines:?}", source.name);
            }
            (times > 0).then_some((source.name, times))
        })
        .collect();
    ratchet(
        &found,
        0,
        SLEEPS,
        "wait for what you wait for, with a deadline",
    );
}

/// What a line should not say, if it does.
fn unfinished(line: &str) -> Option<&'static str> {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    if words.into_iter().any(|word| marks.contains(&word)) {
        return Some("a mark of unfinished work: do it now, or leave it out");
    }
    names_issue(line).then_some(
        "a number of somebody's tracker: say what was wrong, because the tracker may be gone tomorrow",
    )
}

/// Whether a line has a number of a tracker in it: `#` and digits, `issue` or `pull request` and a number, or
/// such an address.
fn names_issue(line: &str) -> bool {
    let starts_with_number = |text: &str| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let ends = text[digits..]
            .chars()
            .next()
            .is_none_or(|c| !c.is_alphanumeric());
        digits > 0 && ends
    };
    let lower = line.to_lowercase();
    let words = [
        "issue ",
        "issues ",
        "bug ",
        "pull request ",
        "pr ",
        "/issues/",
        "/pull/",
        "gh-",
        "#",
    ];
    words.iter().any(|word| {
        lower.match_indices(word).any(|(at, _)| {
            let before = lower[..at].chars().next_back();
            let begins =
                word.starts_with('/') || before.is_none_or(|c| !c.is_alphanumeric() && c != '&');
            let reference = *word == "#" && before.is_some_and(char::is_alphanumeric);
            (begins || reference) && starts_with_number(&lower[at + word.len()..])
        })
    })
}

#[test]
fn nothing_is_left_for_later() {
    let mut complaints = Vec::new();
    for source in tree() {
        for (line, number) in source.text.lines().zip(1..) {
            if source.name != "Cargo.lock"
                && let Some(what) = unfinished(line)
            {
                complaints.push(format!("{}:{number}: {what}", source.name));
            }
        }
    }
    report(&complaints);
}

#[test]
fn sleeping_is_seen_however_it_is_spelled() {
    let text = "use std::{thread::sleep};\nfn f() { thread::sleep(x); thread::sleep(y) }";
    assert_eq!(sleeps(&Source::sample(text)), [1, 2, 2]);
    let text = "// thread::sleep\nfn sleeps(sleep: u8) {}";
    assert_eq!(sleeps(&Source::sample(text)), [0; 0]);
}

#[test]
fn issues_and_marks_are_seen_and_nothing_else() {
    let number = 12;
    for bad in [
        format!("see #{number}"),
        format!("org/repo#{number}."),
        format!("Issue {number}"),
    ] {
        assert!(names_issue(&bad), "{bad}");
    }
    for good in [
        "#[test]",
        "# 12 monkeys",
        "&#39;",
        "#123abc",
        "tissue 5",
        "vcpu 7",
    ] {
        assert!(!names_issue(good), "{good}");
    }
    assert!(unfinished(concat!("// TO", "DO: more")).is_some());
    assert!(unfinished("a to-do list").is_none());
}
