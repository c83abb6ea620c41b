use super::super::super::summary::tests::{change, contradiction, record};
use super::*;
use crate::wire::operations::Code;
use std::time::Duration;

/// Elements that have no end.
const VOID: [&str; 2] = ["meta", "!DOCTYPE"];

/// Reads a page as strictly as XML is read, and gives its text without tags.
fn read(page: &str) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some((before, from)) = rest.split_once('<') {
        assert!(
            !before.contains('>') || open.last() == Some(&"style"),
            "{before:?}"
        );
        if open.last() != Some(&"style") {
            text.push_str(before);
            text.push(' ');
        }
        let (tag, after) = from.split_once('>').unwrap_or_else(|| panic!("{from:?}"));
        assert!(!tag.contains('<'), "{tag:?}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag:?}");
        let name = tag
            .split([' ', '/', '\n'])
            .find(|name| !name.is_empty())
            .unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{tag:?}");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        rest = after;
    }
    assert_eq!(open, Vec::<&str>::new());
    text
}

#[test]
fn the_page_is_well_formed_and_asks_nobody() {
    let mut record = record();
    for contradiction in [None, Some(contradiction())] {
        record.contradiction = contradiction;
        let page = html(&record);
        read(&page);
        for fetch in [
            "http:", "https:", "src=", "href=", "url(", "@import", "<script",
        ] {
            assert!(!page.contains(fetch), "{fetch}");
        }
    }
}

#[test]
fn numbers_agree_with_the_record() {
    let text = read(&html(&record()));
    let text: Vec<&str> = text.split_whitespace().collect();
    let text = text.join(" ");
    for part in [
        "No contradiction",
        "After each of 120 steps",
        "operations 1,500",
        "changes of vCPUs 110",
        "plug: p50 50.0 ms plug: p99 99.0 ms",
        "plug 100 50.0 ms 90.0 ms 99.0 ms 100 ms",
        "notifying.begun 10 9.5 ms",
        "succeeded 110",
        "timed_out 1",
        "3,0x82 3",
        "409 paused 7",
        "seed 42",
        "cancel 40",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn evidence_is_shown_as_it_is() {
    let mut record = record();
    record.contradiction = Some(contradiction());
    record.mix = "</style><b>\"".to_owned();
    record.warnings = vec!["[    1.000000] BUG: <&>".to_owned(); 60];
    let page = html(&record);
    read(&page);
    for part in [
        "Contradiction in step 121",
        "the guest has &lt;3&gt; &amp; more online",
        "API: &lt;script&gt;alert(1)&lt;/script&gt;",
        "&lt;/style&gt;&lt;b&gt;",
        "BUG: &lt;&amp;&gt;",
        "and 10 more",
    ] {
        assert!(page.contains(part), "{part:?}");
    }
    assert!(!page.contains("The VMM's messages"));
}

#[test]
fn a_long_run_is_a_small_page() {
    let mut record = record();
    let one = |n: u64| {
        let to = if n.is_multiple_of(2) {
            Target::Online
        } else {
            Target::Offline
        };
        change(n, to, Code::Succeeded, 1 + n * 7919 % 5000)
    };
    record.changes = (0..100_000).map(one).collect();
    record.warnings = vec!["x".repeat(1 << 20)];
    record.contradiction = Some(Finding {
        views: "ä".repeat(1 << 20),
        ..contradiction()
    });
    let page = html(&record);
    assert!(page.len() < 1 << 19, "{}", page.len());
    assert!(page.contains("are left out"));
}

#[test]
fn a_run_of_nothing_has_a_page() {
    let mut record = record();
    record.changes.clear();
    record.steps.clear();
    record.elapsed = Duration::ZERO;
    let text = read(&html(&record));
    assert!(
        text.contains("No plug succeeded.") && text.contains("Nothing was refused."),
        "{text}"
    );
    assert!(!text.contains("NaN"), "{text}");
}

#[test]
fn a_vm_that_was_lost_is_no_good_run() {
    let mut record = record();
    record.lost = Some(contradiction());
    let page = html(&record);
    read(&page);
    assert!(page.contains("The VM was lost in step 121"));
    assert!(!page.contains("No contradiction"));
}
