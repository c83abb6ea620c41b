//! What stands where on the page.

use super::super::record::{Finding, Record};
use super::super::summary::{self, DIRECTIONS, Times, counted, number};
use super::palette::{self, Colour, MEDIAN, TAIL};
use super::{bins, plot};
use crate::wire::operations::moment;
use crate::wire::vcpus::Target;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;
use std::fmt::Display;

/// Most complaints of the kernel's that are shown, and most characters of each text.
const COMPLAINTS: usize = 50;
const LONGEST: usize = 60_000;

/// The page.
pub(crate) fn html(record: &Record) -> String {
    let style = format!(
        "{}@media screen and (prefers-color-scheme:dark){{{}}}",
        include_str!("style.css"),
        palette::dark()
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { "hotvisor stress, seed " (record.seed) }
                style { (PreEscaped(style)) }
            }
            body {
                (head(record))
                @if let Some((_, found)) = record.finding() { (evidence(found)) }
                @if !record.warnings.is_empty() { (complaints(&record.warnings)) }
                @for (to, name) in DIRECTIONS { (direction(record, to, name)) }
                (counts(record))
                (steps(record))
            }
        }
    };
    page.into_string()
}

/// The outcome, the figures that most are after, and what ran.
fn head(record: &Record) -> Markup {
    let steps = counted(record.steps.len() as u64, "step");
    let seconds = summary::span(record.elapsed);
    html! {
        h1 { "hotvisor stress" }
        @match (&record.contradiction, &record.lost) {
            (Some(found), _) => {
                div.verdict.bad { "Contradiction in step " (found.step) }
                p.dim { "What is so was not what must be so, after " (steps) "." }
            }
            (None, Some(found)) => {
                div.verdict.bad { "The VM was lost in step " (found.step) }
                p.dim { "After each of " (steps) " what is so was what must be so; then the VM did not answer." }
            }
            (None, None) => {
                div.verdict.good { "No contradiction" }
                p.dim { "After each of " (steps) " what is so was what must be so." }
            }
        }
        dl.facts {
            (fact("operations", &number(record.operations)))
            (fact("of them idle", &number(record.idle)))
            (fact("operations/s", &format!("{:.1}", record.rate(record.operations))))
            (fact("changes of vCPUs", &number(record.changed() as u64)))
            @for (to, name) in DIRECTIONS {
                @let [median, _, tail, _] = record.latency(to).cells();
                (fact(&format!("{name}: p50"), &median))
                (fact(&format!("{name}: p99"), &tail))
            }
            (fact("kernel complaints", &match (record.seen.log, record.warnings.len() as u64) {
                (false, 0) => "not seen".to_owned(),
                (_, warnings) => number(warnings),
            }))
        }
        dl.run {
            dt { "seed" } dd { (record.seed) }
            dt { "mix" } dd { (record.mix) }
            dt { "began" } dd { (moment(record.started_at).split('.').next().unwrap_or_default().replace('T', " ")) " UTC" }
            dt { "took" } dd { (seconds) }
            dt { "vCPUs" } dd { "up to " (record.max) }
            dt { "with" } dd { (record.with) }
            dt { "guest" } dd { @if record.seen.guest { "asked after each step" } @else { "not asked" } }
            dt { "host" } dd { @if record.seen.host { "threads compared after each step" } @else { "threads not compared" } }
            @if !record.tolerated.is_empty() {
                dt { "passed over" }
                dd { @for (text, count) in &record.tolerated { (text) ": " (number(*count)) " " } }
            }
            dt { "version" } dd { "hotvisor " (env!("CARGO_PKG_VERSION")) }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn evidence(found: &Finding) -> Markup {
    let Finding {
        step,
        asked,
        what,
        events,
        timelines,
        views,
        guest_console,
        vmm_log,
    } = found;
    html! {
        h2 { "Evidence" }
        p { "Step " (step) " asked for: " strong { (asked) } }
        ul.what { @for what in what { li.bad { (what) } } }
        (text_of("API, guest and host", views, true))
        (text_of("Timelines", &timelines.join("\n"), true))
        (text_of("Last events", &events.join("\n"), true))
        @if let Some(console) = guest_console { (text_of("The guest's console", console, true)) }
        @if let Some(log) = vmm_log { (text_of("The VMM's messages", log, true)) }
    }
}

/// The end of a text, which is where the reason stands.
fn text_of(name: &str, text: &str, open: bool) -> Markup {
    let over = text.len().saturating_sub(LONGEST);
    let from = text.char_indices().map(|(at, _)| at).find(|at| *at >= over);
    html! {
        details open[open] {
            summary { (name) }
            pre {
                @if text.trim().is_empty() { span.dim { "none" } }
                @if over > 0 { span.dim { "… " (number(over as u64)) " bytes before this are left out\n" } }
                (text[from.unwrap_or(text.len())..])
            }
        }
    }
}

fn complaints(warnings: &[String]) -> Markup {
    html! {
        h2 { "What the guest's kernel complained of" }
        @for warning in warnings.iter().take(COMPLAINTS) { pre { (text_cut(warning)) } }
        @if warnings.len() > COMPLAINTS {
            p.dim { "and " (number((warnings.len() - COMPLAINTS) as u64)) " more" }
        }
    }
}

fn text_cut(text: &str) -> String {
    text.chars().take(LONGEST / 10).collect()
}

/// Pictures of all plugs, or of all unplugs.
fn direction(record: &Record, to: Target, name: &str) -> Markup {
    let phases = record.phases(to);
    let names: Vec<&str> = phases.iter().map(|(phase, _)| *phase).collect();
    let colours = Colour::of_phases(&names);
    let timed = record.timed(to);
    let points = bins::over_time(timed.clone(), record.elapsed, &names);
    let bars = bins::histogram(timed.map(|(_, took)| took));
    let heading = match to {
        Target::Online => "Plugs",
        Target::Offline => "Unplugs",
    };
    html! {
        h2 { (heading) }
        @if points.is_empty() { p.dim { "No " (name) " succeeded." } }
        @else {
            div.pair {
                figure {
                    h3 { "Latency over time" }
                    figcaption { (key(MEDIAN, "p50")) (key(TAIL, "p99")) }
                    (PreEscaped(plot::quantiles(&points, record.elapsed)))
                }
                figure {
                    h3 { "Where the time went: mean of each phase" }
                    figcaption { @for (phase, colour) in names.iter().zip(&colours) { (key(*colour, phase)) } }
                    (PreEscaped(plot::phases(&points, &colours, record.elapsed)))
                }
                figure {
                    h3 { "How many took how long" }
                    figcaption { "The scale of times is logarithmic." }
                    (PreEscaped(plot::histogram(&bars)))
                }
                figure {
                    h3 { "By phase" }
                    figcaption { "Blue is the guest's time, orange the host's." }
                    div.wide { (times("", std::iter::once((name, record.latency(to))).chain(phases), Some(&colours))) }
                }
            }
        }
    }
}

fn key(colour: Colour, name: &str) -> Markup {
    html! { span.key { (swatch(colour)) (name) } }
}

fn swatch(colour: Colour) -> Markup {
    html! { svg viewBox="0 0 11 11" { rect width="11" height="11" rx="2" fill=(colour.css()) {} } }
}

/// A table of times. With colours, the first row is what the others are parts of.
fn times<'a>(
    head: &str,
    rows: impl Iterator<Item = (&'a str, Times)>,
    colours: Option<&[Colour]>,
) -> Markup {
    html! {
        table {
            thead { tr { th { (head) } @for name in ["count", "p50", "p90", "p99", "max"] { th { (name) } } } }
            tbody {
                @for (at, (name, times)) in rows.enumerate() {
                    tr.head[colours.is_some() && at == 0] {
                        td {
                            @match colours.and_then(|colours| colours.get(at.checked_sub(1)?)) {
                                Some(colour) => (key(*colour, name)),
                                None => (name),
                            }
                        }
                        td { (number(times.count)) }
                        @for cell in times.cells() { td { (cell) } }
                    }
                }
            }
        }
    }
}

fn counts(record: &Record) -> Markup {
    html! {
        h2 { "What became of them" }
        div.pair.narrow {
            (count_table("Outcomes of changes", &record.outcomes(), "No change has ended."))
            (count_table("Refusals by the guest's code", &record.refusals(), "Nothing was refused."))
            @if !record.answers.is_empty() {
                (count_table("Answers of the API that were a no", &record.answers, ""))
            }
        }
    }
}

/// Each with its number, the most frequent first.
fn count_table<K: Display>(title: &str, counts: &BTreeMap<K, u64>, none: &str) -> Markup {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    html! {
        figure {
            h3 { (title) }
            @if counts.is_empty() { figcaption { (none) } }
            @else {
                table { tbody { @for (name, count) in counts { tr { td { (name) } td { (number(*count)) } } } } }
            }
        }
    }
}

fn steps(record: &Record) -> Markup {
    let steps = record.steps_by_kind();
    html! {
        h2 { "Steps" }
        div.wide { (times("kind", steps.into_iter(), None)) }
    }
}

#[cfg(test)]
mod tests;
