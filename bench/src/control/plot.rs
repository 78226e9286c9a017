//! How the cost of a join grows with the mesh, as a picture (SVG).

use super::table::{Figure, Figures};
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Around the axes: left, right, top, bottom.
const MARGINS: [f64; 4] = [64.0, 24.0, 64.0, 48.0];
/// Lines across, and down.
const TICKS: usize = 4;

const SERIES: [(Figure, &str); 2] = [(Figure::Join, "#0969da"), (Figure::JoinWork, "#bf3989")];

/// The picture; nothing where fewer than two sizes were measured.
pub fn plot(figures: &Figures) -> Option<String> {
    let series = SERIES.map(|(figure, colour)| (figure, colour, figures.of(figure)));
    let points = || series.iter().flat_map(|(_, _, points)| points);
    let most = points().map(|(gateways, _)| *gateways).max()?;
    let longest = points().map(|(_, value)| *value).fold(0.0, f64::max);
    if series.iter().any(|(_, _, points)| points.len() < 2) || longest <= 0.0 {
        return None;
    }
    let top = round_up(longest * 1000.0);
    let [left, right, above, below] = MARGINS;
    let x = |gateways: f64| left + gateways / most as f64 * (WIDTH - left - right);
    let y = |millis: f64| HEIGHT - below - millis / top * (HEIGHT - above - below);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for tick in 0..=TICKS {
        let share = tick as f64 / TICKS as f64;
        let (gateways, millis) = (share * most as f64, share * top);
        let _ = writeln!(
            svg,
            "<path d=\"M{:.1} {:.1}H{:.1}\" stroke=\"#d0d7de\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{millis:.0} ms</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{gateways:.0}</text>",
            x(0.0),
            y(millis),
            x(most as f64),
            x(0.0) - 8.0,
            y(millis) + 4.0,
            x(gateways),
            y(0.0) + 20.0,
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">gateways in the mesh</text>",
        x(most as f64 / 2.0),
        HEIGHT - 8.0
    );
    for (row, (figure, colour, points)) in series.iter().enumerate() {
        // As long as the largest says, if it were linear.
        if let Some((gateways, value)) = points.last() {
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{colour}\" stroke-dasharray=\"3 5\" opacity=\"0.6\"/>",
                x(0.0),
                y(0.0),
                x(*gateways as f64),
                y(value * 1000.0)
            );
        }
        let at = |(gateways, value): &(usize, f64)| (x(*gateways as f64), y(value * 1000.0));
        let line: Vec<String> = points
            .iter()
            .map(|it| {
                let (x, y) = at(it);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y) in points.iter().map(at) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{:.1}\" fill=\"{colour}\">{figure}</text>",
            22.0 + 18.0 * row as f64
        );
    }
    Some(svg + "</svg>\n")
}

/// The next of 1, 2, 4, 6, 8, 10, 20, and so on.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0];
    let step = steps.into_iter().map(|step| step * power);
    step.into_iter()
        .find(|it| *it >= value)
        .unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_as_many_points_as_there_are_sizes() {
        let mut figures = Figures::default();
        assert_eq!(plot(&figures), None);
        for (gateways, value) in [(250, 0.010), (500, 0.019), (2_000, 0.081)] {
            figures.set(Figure::Join, gateways, value);
            figures.set(Figure::JoinWork, gateways, value);
        }
        let svg = plot(&figures).unwrap();
        assert_eq!(svg.matches("<circle").count(), 6);
        // The last is at the right, and below the top.
        assert!(svg.contains("<circle cx=\"696.0\" cy=\"118.7\""), "{svg}");
        assert!(svg.contains(">100 ms</text>"), "{svg}");
    }

    #[test]
    fn an_axis_ends_with_a_round_number() {
        for (value, end) in [(0.7, 0.8), (1.0, 1.0), (81.0, 100.0), (150.0, 200.0)] {
            assert!((round_up(value) - end).abs() < 1e-9, "{value}");
        }
    }
}
