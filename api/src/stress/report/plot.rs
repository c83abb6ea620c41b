//! The pictures of the report.

use super::bins::{Bar, Point};
use super::palette::{AXIS, BARS, Colour, GRID, INK, MEDIAN, TAIL};
use crate::cli::text;
use plotters::coord::combinators::WithKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, DefaultFormatting, KeyPointHint, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    AreaSeries, BindKeyPoints, Cartesian2d, ChartBuilder, ChartContext, Circle,
    DrawingAreaErrorKind, DrawingBackend, IntoDrawingArea, IntoFont, IntoLogRange, LineSeries,
    LogCoord, Ranged, Rectangle, SVGBackend,
};
use plotters::style::{Color, TextStyle};
use std::ops::Range;
use std::time::Duration;

/// Pixels of a picture, which is shown as wide as there is room.
const SIZE: (u32, u32) = (560, 230);
const FONT: (&str, u32) = ("sans-serif", 12);
/// Below this many points a line is only seen by its points.
const FEW: usize = 40;

/// How long changes took in the course of the run: half of them at most, and all but a hundredth at most.
pub(super) fn quantiles(points: &[Point], elapsed: Duration) -> String {
    let times = |of: fn(&Point) -> u64| {
        points
            .iter()
            .map(move |point| (point.at, float(of(point).max(1))))
    };
    let (median, tail) = (
        times(|point| point.times.p50),
        times(|point| point.times.p99),
    );
    let low = median.clone().map(|(_, time)| time).reduce(f64::min);
    let high = tail.clone().map(|(_, time)| time).reduce(f64::max);
    let range = logarithmic(low.unwrap_or(1.0) / 1.5..high.unwrap_or(10.0) * 1.5);
    draw(elapsed, range, |chart| {
        for (line, colour) in [(tail.clone(), TAIL), (median.clone(), MEDIAN)] {
            let style = colour.plotted().stroke_width(2);
            chart.draw_series(LineSeries::new(line.clone(), style))?;
            if points.len() < FEW {
                let dot = |at| Circle::new(at, 3, colour.plotted().filled());
                chart.draw_series(line.map(dot))?;
            }
        }
        Ok(())
    })
}

/// Where the time went in the course of the run: the mean of each phase, one upon the other.
pub(super) fn phases(points: &[Point], colours: &[Colour], elapsed: Duration) -> String {
    // A lone stretch is as wide as the run.
    let widened = match points {
        [only] => {
            let at = |at: f64| Point { at, ..only.clone() };
            vec![at(0.0), at(elapsed.as_secs_f64())]
        }
        _ => points.to_vec(),
    };
    let upto = |point: &Point, phase: usize| point.phases.iter().take(phase + 1).sum::<f64>();
    let high = widened
        .iter()
        .map(|point| upto(point, colours.len()))
        .fold(1.0, f64::max);
    draw(elapsed, 0.0..high * 1.08, |chart| {
        // The highest first; each that follows covers what is not its predecessor's.
        for (phase, colour) in colours.iter().enumerate().rev() {
            let line = widened.iter().map(|point| (point.at, upto(point, phase)));
            chart.draw_series(AreaSeries::new(line, 0.0, colour.plotted().filled()))?;
        }
        Ok(())
    })
}

/// A picture over the time of the run. Its vertical axis has microseconds.
fn draw<Y: Ranged<ValueType = f64> + ValueFormatter<f64>>(
    elapsed: Duration,
    range: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    series: impl FnOnce(&mut Chart<'_, '_, Times, Y>) -> Drawn,
) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    render(|area| {
        let mut chart = builder(area).build_cartesian_2d(times(seconds), range)?;
        mesh(&mut chart, &|at| since(*at, seconds), &|time| micros(*time))?;
        series(&mut chart)
    })
}

/// How many took how long.
pub(super) fn histogram(bars: &[Bar]) -> String {
    let from = bars.iter().map(|bar| bar.from).fold(f64::MAX, f64::min);
    let to = bars.iter().map(|bar| bar.to).fold(0.0, f64::max);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or_default();
    let range = logarithmic(match bars {
        [] => 1.0..10.0,
        _ => from / 1.3..to * 1.3,
    });
    render(|area| {
        let height = 0.0..f64::from(most.max(1)) * 1.08;
        let mut chart = builder(area).build_cartesian_2d(range, height)?;
        let count = |count: &f64| match count.fract() == 0.0 {
            true => format!("{count:.0}"),
            false => String::new(),
        };
        mesh(&mut chart, &|time| micros(*time), &count)?;
        let bar = |bar: &Bar| {
            let corners = [(bar.from, 0.0), (bar.to, f64::from(bar.count))];
            Rectangle::new(corners, BARS.plotted().filled())
        };
        chart.draw_series(bars.iter().map(bar))?;
        Ok(())
    })
}

type Backend<'a> = SVGBackend<'a>;
type Area<'a> = plotters::drawing::DrawingArea<Backend<'a>, plotters::coord::Shift>;
type Chart<'a, 'b, X, Y> = ChartContext<'a, Backend<'b>, Cartesian2d<X, Y>>;
type Drawn = Result<(), DrawingAreaErrorKind<<Backend<'static> as DrawingBackend>::ErrorType>>;

/// The picture as an element of a page.
fn render(picture: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        // It is drawn into memory, which cannot fail; if it does, the rest of the report is worth having.
        if picture(&area).and_then(|()| area.present()).is_err() {
            return String::new();
        }
    }
    // In a page its name space goes without saying, and its size is the style sheet's.
    let (width, height) = SIZE;
    svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "")
        .replacen(
            &format!(" width=\"{width}\" height=\"{height}\""),
            " role=\"img\"",
            1,
        )
}

fn builder<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, Backend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin(6)
        .margin_right(22)
        .x_label_area_size(26)
        .y_label_area_size(58);
    builder
}

fn mesh<X, Y>(
    chart: &mut Chart<'_, '_, X, Y>,
    x: &dyn Fn(&f64) -> String,
    y: &dyn Fn(&f64) -> String,
) -> Drawn
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let ink = INK.plotted();
    let font = TextStyle::from(FONT.into_font()).color(&ink);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .bold_line_style(GRID.plotted())
        .axis_style(AXIS.plotted())
        .label_style(font)
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(x)
        .y_label_formatter(y)
        .draw()
}

/// An axis of the run's time, with round marks.
struct Times {
    seconds: RangedCoordf64,
    marks: Vec<f64>,
}

impl Ranged for Times {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.seconds.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.seconds.range()
    }
}

fn times(seconds: f64) -> Times {
    let (unit, _) = unit(seconds);
    let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
    let powers = (0..9).map(|power| 10_f64.powi(power) * 50.0);
    let mut steps = steps.into_iter().chain(powers).map(|step| step * unit);
    let step = steps.find(|step| seconds / step <= 8.0).unwrap_or(seconds);
    let marks = std::iter::successors(Some(0.0), |at| Some(at + step));
    let marks = marks.take_while(|at| *at <= seconds * 1.0001).take(10);
    Times {
        seconds: (0.0..seconds).into(),
        marks: marks.collect(),
    }
}

/// A logarithmic axis with marks at round numbers. Left to itself, Plotters marks powers of ten only, and never comes to the
/// end of an axis without one.
fn logarithmic(range: Range<f64>) -> WithKeyPoints<LogCoord<f64>> {
    let powers = (0..=13).map(|power| 10_f64.powi(power));
    let in_range = |mark: &f64| range.contains(mark);
    let marks = |of: &[f64]| -> Vec<f64> {
        let marks = powers
            .clone()
            .flat_map(|power| of.iter().map(move |n| n * power));
        marks.filter(in_range).collect()
    };
    let each = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]];
    let few = each.map(marks).into_iter().find(|marks| marks.len() <= 7);
    range.log_scale().with_key_points(few.unwrap_or_default())
}

/// Microseconds, to be read at an axis.
fn micros(time: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a label of an axis"
    )]
    let us = time.round() as u64;
    if us == 0 {
        return "0".to_owned();
    }
    text::time(us).replace(".0 ", " ")
}

/// The unit that suits a run's length, in seconds.
fn unit(seconds: f64) -> (f64, &'static str) {
    match seconds {
        ..180.0 => (1.0, "s"),
        180.0..10_800.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    }
}

/// A moment of the run.
fn since(at: f64, seconds: f64) -> String {
    let (unit, name) = unit(seconds);
    let number = format!("{:.2}", at / unit);
    let number = number.trim_end_matches('0').trim_end_matches('.');
    format!("{number} {name}")
}

#[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::super::super::summary::tests::record;
    use super::super::bins;
    use super::*;
    use crate::wire::vcpus::Target;
    use plotters::coord::ranged1d::BoldPoints;

    #[test]
    fn axes_have_words_that_can_be_read() {
        assert_eq!(
            [0.0, 12.0, 1000.0, 2500.0].map(micros),
            ["0", "12 µs", "1 ms", "2.5 ms"]
        );
        assert_eq!(since(20.0, 60.0), "20 s");
        assert_eq!(since(2.5, 10.0), "2.5 s");
        assert_eq!(since(600.0, 3600.0), "10 min");
        assert_eq!(since(0.0, 600.0), "0 min");
        assert_eq!(since(5400.0, 36_000.0), "1.5 h");
    }

    #[test]
    fn marks_are_round_and_few() {
        assert_eq!(
            times(600.0).key_points(BoldPoints(7)),
            [0.0, 120.0, 240.0, 360.0, 480.0, 600.0]
        );
        assert_eq!(times(4.0).key_points(BoldPoints(7)).len(), 9);
        assert_eq!(
            logarithmic(4e3..6e4).key_points(BoldPoints(7)),
            [5e3, 1e4, 2e4, 5e4]
        );
        assert_eq!(
            logarithmic(1.0..2e3).key_points(BoldPoints(7)),
            [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3]
        );
        assert!(times(0.001).key_points(BoldPoints(7)).len() < 11);
        assert!(times(1e9).key_points(BoldPoints(7)).len() < 11);
        assert!(logarithmic(1.0..1e13).key_points(BoldPoints(7)).len() < 14);
    }

    #[test]
    fn a_bar_is_as_high_as_its_count() {
        let bar = |from: f64, count| Bar {
            from,
            to: from * 1.2,
            count,
        };
        let svg = histogram(&[bar(1e3, 50), bar(2e3, 100)]);
        let heights: Vec<f64> = svg
            .split("<rect ")
            .filter(|rect| rect.contains(&BARS.css()))
            .filter_map(|rect| {
                rect.split_once("height=\"")?
                    .1
                    .split_once('"')?
                    .0
                    .parse()
                    .ok()
            })
            .collect();
        assert_eq!(heights.len(), 2, "{svg}");
        assert!((heights[1] / heights[0] - 2.0).abs() < 0.03, "{heights:?}");
    }

    #[test]
    fn a_run_of_one_or_none_is_drawn_as_well() {
        for svg in [
            quantiles(&[], Duration::ZERO),
            phases(&[], &[], Duration::ZERO),
            histogram(&[]),
            quantiles(
                &[Point {
                    at: 1.0,
                    times: Default::default(),
                    phases: Vec::new(),
                }],
                Duration::from_secs(2),
            ),
        ] {
            assert!(svg.starts_with("<svg") && svg.contains("</svg>"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("http"), "{svg}");
        }
    }

    #[test]
    fn phases_stand_one_upon_the_other() {
        let record = record();
        let names = ["starting", "announced", "plugged"];
        let points = bins::over_time(record.timed(Target::Online), record.elapsed, &names);
        let svg = phases(&points, &Colour::of_phases(&names), record.elapsed);
        assert_eq!(svg.matches("<polygon").count(), 3, "{svg}");
    }
}
