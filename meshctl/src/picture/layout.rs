//! Where everything is in a drawing: sites as cards around a rounded square, so that the middle is free for
//! the lines.

use super::{Picture, Site};

/// Of letters of 13 pixels, on the average.
const LETTER: f64 = 7.6;
const CHIP_HEIGHT: f64 = 26.0;
const GAP: f64 = 8.0;
const TITLE: f64 = 26.0;
/// Between cards at least.
const APART: f64 = 22.0;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

impl Rect {
    pub(super) fn centre(self) -> (f64, f64) {
        (self.x + self.w / 2.0, self.y + self.h / 2.0)
    }

    fn is_apart(self, other: Self) -> bool {
        self.x + self.w + APART <= other.x
            || other.x + other.w + APART <= self.x
            || self.y + self.h + APART <= other.y
            || other.y + other.h + APART <= self.y
    }
}

/// A site's card, and a chip for each of its gateways.
pub(super) struct Card {
    pub(super) frame: Rect,
    pub(super) chips: Vec<Rect>,
}

pub(super) struct Layout {
    pub(super) cards: Vec<Card>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Nothing is left of 0 or above it. At least so wide.
pub(super) fn layout(picture: &Picture, least: f64, margin: f64) -> Layout {
    let sizes: Vec<(f64, f64)> = picture.sites.iter().map(size).collect();
    let frames = around(&sizes);
    let edge = |of: fn(&Rect) -> f64, more: fn(f64, f64) -> f64| {
        frames.iter().map(of).reduce(more).unwrap_or_default()
    };
    let (left, top) = (edge(|it| it.x, f64::min), edge(|it| it.y, f64::min));
    let (right, bottom) = (
        edge(|it| it.x + it.w, f64::max),
        edge(|it| it.y + it.h, f64::max),
    );
    let width = (right - left + 2.0 * margin).max(least);
    let spare = (width - (right - left)) / 2.0;
    let cards = frames.into_iter().zip(&picture.sites).map(|(it, site)| {
        let frame = Rect {
            x: it.x - left + spare,
            y: it.y - top + margin,
            ..it
        };
        Card {
            chips: chips(site, frame),
            frame,
        }
    });
    Layout {
        cards: cards.collect(),
        width,
        height: bottom - top + 2.0 * margin,
    }
}

fn columns(site: &Site) -> usize {
    let mut columns = 1;
    while columns * columns * 2 < site.gateways.len() {
        columns += 1;
    }
    columns
}

/// Of the widest.
fn chip_width(site: &Site) -> f64 {
    let letters = site.gateways.iter().map(|it| it.name.chars().count());
    // A mark before the name.
    letters.max().unwrap_or_default() as f64 * LETTER + 34.0
}

fn size(site: &Site) -> (f64, f64) {
    let columns = columns(site);
    let rows = site.gateways.len().div_ceil(columns);
    let width = columns as f64 * (chip_width(site) + GAP) + GAP;
    let title = site.title().chars().count() as f64 * LETTER + 2.0 * GAP;
    (
        width.max(title).max(84.0),
        TITLE + rows as f64 * (CHIP_HEIGHT + GAP),
    )
}

fn chips(site: &Site, frame: Rect) -> Vec<Rect> {
    let columns = columns(site);
    let width = (frame.w - GAP) / columns as f64 - GAP;
    let chip = |number: usize| Rect {
        x: frame.x + GAP + (number % columns) as f64 * (width + GAP),
        y: frame.y + TITLE + (number / columns) as f64 * (CHIP_HEIGHT + GAP),
        w: width,
        h: CHIP_HEIGHT,
    };
    (0..site.gateways.len()).map(chip).collect()
}

/// Places for boxes of these sizes, as close as they can be without touching, clockwise from the top.
fn around(sizes: &[(f64, f64)]) -> Vec<Rect> {
    // A few stand apart all the same, with room for what is written on the lines.
    let mut half = if sizes.len() > 1 { 190.0 } else { 0.0 };
    // By then it is larger than all boxes in a row.
    for _ in 0..200 {
        let boxes = at(half, sizes);
        let neighbours = boxes.iter().zip(boxes.iter().cycle().skip(1));
        if boxes.len() < 2 || neighbours.clone().all(|(one, next)| one.is_apart(*next)) {
            return boxes;
        }
        half *= 1.05;
    }
    at(half, sizes)
}

/// The boxes with their centres on |x|⁴ + |y|⁴ = half⁴, the same way from each to the next.
fn at(half: f64, sizes: &[(f64, f64)]) -> Vec<Rect> {
    const STEPS: usize = 2_880;
    let point = |step: usize| {
        let angle = step as f64 / STEPS as f64 * std::f64::consts::TAU;
        let (sin, cos) = match sizes.len() {
            // Two face each other.
            2 => (-angle.cos(), -angle.sin()),
            _ => angle.sin_cos(),
        };
        let radius = half / (sin.powi(4) + cos.powi(4)).powf(0.25);
        (radius * sin, -radius * cos)
    };
    let step = |number: usize| {
        let (from, to) = (point(number), point(number + 1));
        (from.0 - to.0).hypot(from.1 - to.1)
    };
    let length: f64 = (0..STEPS).map(step).sum();
    let mut boxes = Vec::new();
    let mut gone = 0.0;
    for number in 0..STEPS {
        while let Some(&(w, h)) = sizes.get(boxes.len())
            && gone >= length * boxes.len() as f64 / sizes.len() as f64
        {
            let (x, y) = point(number);
            boxes.push(Rect {
                x: x - w / 2.0,
                y: y - h / 2.0,
                w,
                h,
            });
        }
        gone += step(number);
    }
    boxes
}
