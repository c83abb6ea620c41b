//! A timeline as a picture that needs nothing beside it, for light and dark surroundings.

use super::super::text;
use super::{Chart, Who};

/// Sizes in pixels: the picture's width, the place of the labels and of the times, and a row's height.
const WIDTH: u32 = 860;
const LABELS: u32 = 150;
const TIMES: u32 = 80;
const ROW: u32 = 26;
const MARGIN: u32 = 20;
/// Where the first row begins.
const TOP: u32 = 78;
/// Where a bar can be.
const LEFT: u32 = MARGIN + LABELS;
const ROOM: u32 = WIDTH - LEFT - TIMES - MARGIN;
/// Shortest bar.
const SHORTEST: f64 = 1.5;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-size:16px;font-weight:600}\
.dim{fill:#59636e;font-size:12px}.time{text-anchor:end;font-variant-numeric:tabular-nums}.mid{text-anchor:middle}\
.page{fill:#fff}.grid{stroke:#d1d9e0}.guest{fill:#2f6fde}.host{fill:#d9730d}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}.page{fill:#0d1117}.grid{stroke:#30363d}\
.guest{fill:#6ca4f8}.host{fill:#f0a04b}}";

pub(super) fn render(chart: &Chart) -> String {
    let total = chart.total();
    let rows = u32::try_from(chart.timeline.phases.len()).unwrap_or_default();
    let bottom = TOP + rows * ROW;
    let height = bottom + 44;
    let title = escape(&format!("{}, {}", chart.title, text::time(total)));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"34\">{title}</text>\n\
         <text class=\"dim\" x=\"{MARGIN}\" y=\"54\">{}</text>\n",
        escape(&chart.operation)
    );
    svg += &legend();
    svg += &axis(total, bottom);
    let mut y = TOP;
    for (step, begin, end) in chart.spans() {
        let (x, right) = (place(begin, total), place(end, total));
        let width = (right - x).max(SHORTEST);
        // The last ones stay inside.
        let x = x.min(f64::from(LEFT + ROOM) - width);
        let (who, base) = (Who::of(&step.phase).name(), y + 17);
        svg += &format!(
            "<text x=\"{MARGIN}\" y=\"{base}\">{}</text>\n\
             <rect class=\"{who}\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\" rx=\"1\"/>\n\
             <text class=\"time\" x=\"{}\" y=\"{base}\">{}</text>\n",
            escape(&step.phase),
            y + 4,
            ROW - 8,
            WIDTH - MARGIN,
            text::time(step.us)
        );
        y += ROW;
    }
    svg + "</svg>\n"
}

/// Where on the picture a moment is.
#[expect(
    clippy::cast_precision_loss,
    reason = "a place on a picture, from times of seconds"
)]
fn place(at: u64, total: u64) -> f64 {
    f64::from(LEFT) + at as f64 / total.max(1) as f64 * f64::from(ROOM)
}

fn legend() -> String {
    let entry = |who: Who, x: u32, text: &str| {
        let name = who.name();
        format!(
            "<rect class=\"{name}\" x=\"{x}\" y=\"44\" width=\"12\" height=\"12\" rx=\"1\"/>\n\
             <text class=\"dim\" x=\"{}\" y=\"54\">{text}</text>\n",
            x + 18
        )
    };
    let right = WIDTH - MARGIN;
    entry(Who::Guest, right - 236, "the guest's time")
        + &entry(Who::Host, right - 108, "the host's time")
}

/// Lines at round times, with those times below.
fn axis(total: u64, bottom: u32) -> String {
    let step = round_step(total);
    let ticks = (0..).map_while(|n: u64| n.checked_mul(step).filter(|at| *at <= total));
    let tick = |at| {
        let x = place(at, total);
        format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\"/>\n\
             <text class=\"dim mid\" x=\"{x:.1}\" y=\"{}\">{}</text>\n",
            TOP - 6,
            bottom + 18,
            text::time(at).replace(".0 ", " ")
        )
    };
    ticks.map(tick).collect()
}

/// One, two or five times a power of ten, so that at most six of them are in `total`.
fn round_step(total: u64) -> u64 {
    let powers = std::iter::successors(Some(1_u64), |power| power.checked_mul(10));
    let steps = powers.flat_map(|power| [1, 2, 5].map(|n| power.saturating_mul(n)));
    let mut fits = steps.filter(|step| total / step <= 6);
    fits.next().unwrap_or(u64::MAX)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{UNPLUG, chart};
    use super::*;

    /// The values of an attribute, in order.
    fn values(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
        let elements = svg.lines().filter(|line| line.starts_with(element));
        let value = |line: &str| {
            let rest = line.split_once(&format!(" {attribute}=\""))?.1;
            rest.split_once('"')?.0.parse().ok()
        };
        elements.filter_map(value).collect()
    }

    #[test]
    fn bars_stand_where_their_time_is() {
        let svg = render(&chart(UNPLUG));
        let (x, width) = (
            values(&svg, "<rect class=\"guest\"", "x"),
            values(&svg, "<rect class=\"guest\"", "width"),
        );
        // The first is the legend's.
        assert_eq!(x.len(), 4);
        let begun = f64::from(ROOM) * 16_790.0 / 18_274.0;
        assert!((width[3] - begun).abs() < 0.1, "{width:?}");
        assert!((x[3] - place(1453, 18274)).abs() < 0.1, "{x:?}");
        let host = values(&svg, "<rect class=\"host\"", "x");
        let last = f64::from(LEFT + ROOM) - SHORTEST;
        assert!((host[3] - last).abs() < 0.1, "{host:?}");
    }

    #[test]
    fn every_phase_has_its_name_and_its_time() {
        let svg = render(&chart(UNPLUG));
        for (phase, us) in UNPLUG {
            assert!(svg.contains(&format!(">{phase}<")), "{phase}");
            assert!(svg.contains(&format!(">{}<", text::time(*us))), "{us}");
        }
        assert!(svg.contains("vCPU 3: last unplug, 18.3 ms"), "{svg}");
        assert!(svg.contains(">5 ms<") && svg.contains(">15 ms<"), "{svg}");
    }

    #[test]
    fn what_is_strange_does_no_harm() {
        assert!(render(&chart(&[("<&>", 1)])).contains("&lt;&amp;&gt;"));
        for steps in [&[][..], &[("a", 0)], &[("a", u64::MAX), ("b", u64::MAX)]] {
            let svg = render(&chart(steps));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.lines().count() < 60, "{svg}");
        }
        assert_eq!([0, 6, 7, 13, 700].map(round_step), [1, 1, 2, 2, 200]);
    }
}
