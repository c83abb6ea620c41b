//! The picture of the README: what a change takes under each VMM, the guest kernel's part and all else, for light and
//! dark surroundings.

use std::fmt::Write;

use anyhow::{Result, ensure};

use super::results::{Change, Guest, Key, Peer, Results, Time, What};
use super::stats::Stats;
use super::sweep::MOST;

/// Sizes in pixels: the picture's width, the places of the groups' names, of the VMMs' and of the times, and heights.
const WIDTH: u32 = 860;
const GROUPS: u32 = 210;
const NAMES: u32 = 110;
const TIMES: u32 = 90;
const ROW: u32 = 20;
const GAP: u32 = 12;
const MARGIN: u32 = 20;
/// Where the first row begins.
const TOP: u32 = 84;
/// Where a bar can be.
const LEFT: u32 = MARGIN + GROUPS + NAMES;
const ROOM: u32 = WIDTH - LEFT - TIMES - MARGIN;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:16px;font-weight:600}\
.dim{fill:#59636e;font-size:12px}.time{text-anchor:end;font-variant-numeric:tabular-nums}\
.page{fill:#fff}.kernel{fill:#afb8c1}.ours{fill:#d9730d}.other{fill:#2f6fde}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}.page{fill:#0d1117}.kernel{fill:#59636e}\
.ours{fill:#f0a04b}.other{fill:#6ca4f8}}";

/// Bars that belong together.
struct Group {
    name: String,
    bars: Vec<Bar>,
}

/// What a change takes under one VMM, in milliseconds.
struct Bar {
    peer: Peer,
    all: f64,
    kernel: f64,
}

/// The picture of the times by instructions, or if there are none by the wall clock.
pub(super) fn of(results: &Results) -> Result<String> {
    let groups = |time| -> Vec<Group> {
        wanted()
            .into_iter()
            .filter_map(|(name, key)| group(results, time, name, &key))
            .collect()
    };
    let (time, groups) = match groups(Time::Instructions) {
        none if none.is_empty() => (Time::Wall, groups(Time::Wall)),
        some => (Time::Instructions, some),
    };
    ensure!(!groups.is_empty(), "there are no times to be drawn");
    Ok(draw(&groups, time, results))
}

/// The groups, each with the key of its times; its clock and its VMM do not count.
fn wanted() -> Vec<(String, Key)> {
    let key = |change, guest, max| Key {
        time: Time::Instructions,
        what: What::Change(change),
        guest,
        max,
        vcpus: 1,
        peer: Peer::Hotvisor,
    };
    let mut wanted = Vec::new();
    for change in [Change::Unplug, Change::Replug] {
        wanted.push((change.name().to_owned(), key(change, Guest::Plain, MOST[0])));
        for max in MOST {
            let name = match max == MOST[0] {
                true => format!("{}, expedited", change.name()),
                false => format!("{}, expedited, of {max}", change.name()),
            };
            wanted.push((name, key(change, Guest::Expedited, max)));
        }
    }
    wanted
}

fn group(results: &Results, time: Time, name: String, key: &Key) -> Option<Group> {
    let What::Change(change) = key.what else {
        return None;
    };
    let typical = |peer, what| {
        let key = Key {
            time,
            peer,
            what,
            ..key.clone()
        };
        Some(Stats::of(results.get(&key)?)?.typical())
    };
    let bar = |peer| {
        Some(Bar {
            peer,
            all: typical(peer, What::Change(change))?,
            kernel: typical(peer, What::Kernel(change))?,
        })
    };
    let bars: Vec<Bar> = results.peers().into_iter().filter_map(bar).collect();
    (!bars.is_empty()).then_some(Group { name, bars })
}

fn draw(groups: &[Group], time: Time, results: &Results) -> String {
    let bars = groups.iter().flat_map(|group| &group.bars);
    let most = bars.map(|bar| bar.all).fold(0.001, f64::max);
    let mut rows = String::new();
    let mut y = TOP;
    for group in groups {
        let _ = writeln!(
            rows,
            "<text x=\"{MARGIN}\" y=\"{}\">{}</text>",
            y + 14,
            group.name
        );
        for bar in &group.bars {
            rows += &bar.draw(y, most);
            y += ROW;
        }
        y += GAP;
    }
    let height = y + MARGIN;
    let title = "A vCPU that comes and goes: request to done";
    let about = format!(
        "Linux {}, {time}; grey is the guest kernel's own part",
        results.kernel
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"34\">{title}</text>\n\
         <text class=\"dim\" x=\"{MARGIN}\" y=\"56\">{about}</text>\n{rows}</svg>\n"
    )
}

impl Bar {
    fn draw(&self, y: u32, most: f64) -> String {
        let length = |ms: f64| ms / most * f64::from(ROOM);
        let kernel = length(self.kernel.min(self.all));
        let rest = length(self.all) - kernel;
        let class = match self.peer {
            Peer::Hotvisor => "ours",
            _ => "other",
        };
        let (base, top, height) = (y + 14, y + 3, ROW - 6);
        format!(
            "<text class=\"dim\" x=\"{}\" y=\"{base}\">{}</text>\n\
             <rect class=\"kernel\" x=\"{LEFT}\" y=\"{top}\" width=\"{kernel:.1}\" height=\"{height}\"/>\n\
             <rect class=\"{class}\" x=\"{:.1}\" y=\"{top}\" width=\"{rest:.1}\" height=\"{height}\"/>\n\
             <text class=\"time\" x=\"{}\" y=\"{base}\">{:.1} ms</text>\n",
            MARGIN + GROUPS,
            self.peer,
            f64::from(LEFT) + kernel,
            WIDTH - MARGIN,
            self.all
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::key;
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_times_and_parts() {
        let mut results = Results::new(1);
        for (peer, all, own) in [(Peer::Hotvisor, 10.0, 5.0), (Peer::Qemu, 20.0, 5.0)] {
            results.add(key(peer, What::Change(Change::Unplug)), all);
            results.add(key(peer, What::Kernel(Change::Unplug)), own);
        }
        let svg = of(&results).unwrap();
        let room = f64::from(ROOM);
        for (class, part) in [("ours", 0.25), ("other", 0.75)] {
            let bar = format!(
                "class=\"{class}\" x=\"{:.1}\"",
                f64::from(LEFT) + room / 4.0
            );
            let at = svg
                .find(&bar)
                .unwrap_or_else(|| panic!("no {bar} in {svg}"));
            let width = format!("width=\"{:.1}\"", room * part);
            assert!(svg[at..].lines().next().unwrap().contains(&width), "{svg}");
        }
    }

    #[test]
    fn nothing_is_no_picture() {
        assert!(of(&Results::new(1)).is_err());
    }
}
