//! Colours of the report. The pictures hold those for a light page; the style sheet knows each by its value, and has
//! another one in its place where the page is dark.

use crate::cli::timeline::Who;
use plotters::style::RGBColor;

/// A colour, and what it is on a dark page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour {
    light: (u8, u8, u8),
    dark: (u8, u8, u8),
}

const fn colour(light: u32, dark: u32) -> Colour {
    Colour {
        light: parts(light),
        dark: parts(dark),
    }
}

const fn parts(rgb: u32) -> (u8, u8, u8) {
    let [_, red, green, blue] = rgb.to_be_bytes();
    (red, green, blue)
}

pub(super) const INK: Colour = colour(0x59636e, 0x9aa4af);
pub(super) const GRID: Colour = colour(0xe3e8ed, 0x262c34);
pub(super) const AXIS: Colour = colour(0xc5cdd5, 0x3d444d);
pub(super) const MEDIAN: Colour = colour(0x1a7f64, 0x4fc9a4);
pub(super) const TAIL: Colour = colour(0xb3266b, 0xf07cb4);
pub(super) const BARS: Colour = colour(0x6b5bd2, 0x9d92f5);

/// Phases in which the guest has to do something, and those in which the host has: as `hotvisor timeline --svg` has them,
/// and lighter ones beside them.
const GUEST: [Colour; 4] = [
    colour(0x2f6fde, 0x6ca4f8),
    colour(0x7facf0, 0x3f75c8),
    colour(0xb5d0f8, 0x2b4f86),
    colour(0x1b4591, 0xa9c9fb),
];
const HOST: [Colour; 4] = [
    colour(0xd9730d, 0xf0a04b),
    colour(0xf2b06a, 0xb57022),
    colour(0xf8d6ae, 0x7c4c14),
    colour(0x8f4904, 0xf7c990),
];

impl Colour {
    pub(super) fn plotted(self) -> RGBColor {
        let (red, green, blue) = self.light;
        RGBColor(red, green, blue)
    }

    pub(super) fn css(self) -> String {
        css(self.light)
    }

    /// Of each of these phases. Those that take longest have the strongest.
    pub(super) fn of_phases(phases: &[&str]) -> Vec<Self> {
        let of = |phase: &&str| match (*phase, Who::of(phase)) {
            ("notifying.begun" | "plugged", _) => GUEST[0],
            ("notifying.asked" | "announced", _) => GUEST[1],
            ("notifying.read", _) => GUEST[2],
            ("draining" | "starting", _) => HOST[0],
            ("stopping", _) => HOST[1],
            ("syncing", _) => HOST[2],
            (_, Who::Guest) => GUEST[3],
            (_, Who::Host) => HOST[3],
        };
        phases.iter().map(of).collect()
    }
}

fn css((red, green, blue): (u8, u8, u8)) -> String {
    // As the pictures have them.
    format!("#{red:02X}{green:02X}{blue:02X}")
}

/// What the pictures and the legends are in a dark page.
pub(super) fn dark() -> String {
    let all = [INK, GRID, AXIS, MEDIAN, TAIL, BARS].into_iter();
    let all = all.chain(GUEST).chain(HOST);
    let rule = |colour: Colour| {
        let (light, dark) = (css(colour.light), css(colour.dark));
        format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}")
    };
    all.map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_colours_are_the_same() {
        let all = [INK, GRID, AXIS, MEDIAN, TAIL, BARS].into_iter();
        let all: Vec<Colour> = all.chain(GUEST).chain(HOST).collect();
        let light: BTreeSet<_> = all.iter().map(|colour| colour.light).collect();
        let dark: BTreeSet<_> = all.iter().map(|colour| colour.dark).collect();
        assert_eq!([light.len(), dark.len()], [all.len(); 2]);
    }

    #[test]
    fn phases_have_the_colour_of_whose_they_are() {
        let colours =
            Colour::of_phases(&["draining", "notifying.asked", "notifying.read", "stopping"]);
        assert_eq!(colours, [HOST[0], GUEST[1], GUEST[2], HOST[1]]);
        assert_eq!(Colour::of_phases(&["overdue", "?"]), [GUEST[3], HOST[3]]);
        assert_eq!(GUEST[0].css(), "#2F6FDE");
    }
}
