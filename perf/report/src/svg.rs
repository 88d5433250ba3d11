//! Charts as SVG, coloured by the page's style sheet.

use super::axis::{Span, figure, quantity, with_interval};
use super::markup::escape;
use super::{Bars, Lines, Scale, Stacks};
use std::fmt::Write;

/// Colours of the style sheet, `c0` and so on.
const COLOURS: usize = 6;
/// Dashes of curves; as many as there are colours.
const DASHES: [&str; COLOURS] = ["", "7 3", "2 3", "9 3 2 3", "4 2", "13 4"];
/// Height of a line of text.
const LINE: f64 = 16.0;
/// Height of a bar.
const BAR: f64 = 13.0;
/// Height of a bar of parts.
const STACK: f64 = 24.0;
/// The widest chart that has its names above what they name, for want of room beside it.
const NARROW: f64 = 500.0;

/// A chart that is being drawn. Its units are pixels.
pub struct Svg {
    /// What all ids begin with.
    id: String,
    width: f64,
    out: String,
}

/// What stands before a name in a legend.
enum Sample {
    /// The line of the series with this index.
    Line(usize),
    /// The bar of the series.
    Bar(usize),
    /// The part.
    Part(usize),
    /// What is to be reached.
    Target,
}

impl Svg {
    /// An empty one; `id` is unique within the page.
    pub fn new(id: &str, width: f64) -> Svg {
        Svg { id: id.into(), width, out: String::new() }
    }

    fn narrow(&self) -> bool {
        self.width <= NARROW
    }

    /// All of it: the title, the description for those who can't see it, and what was drawn.
    fn finish(self, height: f64, title: &str, description: &str) -> String {
        let Svg { id, width, out } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-description\">\n<title id=\"{id}-title\">{}</title>\n\
             <desc id=\"{id}-description\">{}</desc>\n{out}</svg>",
            escape(title),
            escape(description)
        )
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let _ = writeln!(self.out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text));
    }

    fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        let _ =
            writeln!(self.out, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
    }

    fn rect(&mut self, style: &str, [x, y, width, height]: [f64; 4]) {
        let _ =
            writeln!(self.out, "<rect {style} x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>");
    }

    /// Draws what shows `tip` when it is pointed at.
    fn with_tip(&mut self, tip: &str, draw: impl FnOnce(&mut Svg)) {
        let _ = write!(self.out, "<g><title>{}</title>", escape(tip));
        draw(self);
        self.out += "</g>\n";
    }

    /// Rows of samples with their names from `top` on; gives where it ends.
    fn legend(&mut self, top: f64, items: &[(Sample, String)]) -> f64 {
        let (mut x, mut y) = (0.0, top + 12.0);
        for (sample, name) in items {
            let before = match sample {
                Sample::Line(_) | Sample::Bar(_) => 32.0,
                Sample::Part(_) => 24.0,
                Sample::Target => 10.0,
            };
            let name = fit(name, self.width - before);
            let width = before + text_width(&name);
            if x > 0.0 && x + width > self.width {
                (x, y) = (0.0, y + LINE + 4.0);
            }
            let middle = y - 4.0;
            match *sample {
                Sample::Line(i) => {
                    self.curve(i, &format!("M{x:.1} {middle:.1}h26"));
                    self.marker(i, x + 13.0, middle);
                }
                Sample::Bar(i) => {
                    let fill = self.fill(i);
                    self.rect(&fill, [x, y - 10.0, 26.0, 11.0]);
                }
                Sample::Part(i) => {
                    self.rect(&format!("class=\"f{}\"", i % COLOURS), [x, y - 12.0, 18.0, 16.0]);
                    self.text("key", x + 9.0, y, &letter(i));
                }
                Sample::Target => self.line("target", [x + 3.0, y - 11.0, x + 3.0, y + 2.0]),
            }
            self.text("", x + before, y, &name);
            x += width + 12.0;
        }
        if items.is_empty() { top } else { y + 8.0 }
    }

    /// The line of a series.
    fn curve(&mut self, i: usize, path: &str) {
        let dash = DASHES[(i + i / COLOURS) % COLOURS];
        let _ = writeln!(self.out, "<path class=\"curve s{}\" stroke-dasharray=\"{dash}\" d=\"{path}\"/>", i % COLOURS);
    }

    /// The mark of a series.
    fn marker(&mut self, i: usize, x: f64, y: f64) {
        let shape = match (i + i / COLOURS) % COLOURS {
            0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
            1 => "m-3.6 -3.6h7.2v7.2h-7.2z",
            2 => "m0 -5l4.8 8.4h-9.6z",
            3 => "m0 -5.2l5.2 5.2l-5.2 5.2l-5.2 -5.2z",
            4 => "m0 5l4.8 -8.4h-9.6z",
            _ => "m-5 -1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",
        };
        let _ = write!(self.out, "<path class=\"dot f{}\" d=\"M{x:.1} {y:.1}{shape}\"/>", i % COLOURS);
    }

    /// How the bars of a series are filled.
    fn fill(&self, i: usize) -> String {
        match i % COLOURS {
            0 => "class=\"f0\"".into(),
            i => format!("class=\"bar\" fill=\"url(#{}-fill-{i})\"", self.id),
        }
    }

    /// The patterns of the bars of this many series.
    fn patterns(&mut self, series: usize) {
        self.out += "<defs>\n";
        for i in 1..series.min(COLOURS) {
            let angle = [0, 45, 0, -45, 90, 20][i];
            let (gap, stroke) = [(0.0, 0.0), (5.0, 1.2), (4.0, 1.4), (7.0, 2.4), (4.0, 1.2), (9.0, 1.2)][i];
            let _ = writeln!(
                self.out,
                "<pattern id=\"{}-fill-{i}\" width=\"{gap}\" height=\"{gap}\" patternUnits=\"userSpaceOnUse\" \
                 patternTransform=\"rotate({angle})\"><rect class=\"f{i}\" width=\"{gap}\" height=\"{gap}\"/>\
                 <rect class=\"hatch\" width=\"{stroke}\" height=\"{gap}\"/></pattern>",
                self.id
            );
        }
        self.out += "</defs>\n";
    }

    /// Vertical lines and figures of a horizontal axis. Figures that would touch are left out.
    fn horizontal(&mut self, axis: &Span, [left, right]: [f64; 2], [top, bottom]: [f64; 2], title: &str, above: bool) {
        let mut free = f64::NEG_INFINITY;
        for (tick, label) in axis.ticks.iter().zip(axis.labels()) {
            let x = left + axis.at(*tick) * (right - left);
            self.line("grid", [x, top, x, bottom + 4.0]);
            let half = text_width(&label) / 2.0;
            if x - half < free {
                continue;
            }
            free = x + half + 10.0;
            // Nothing reaches out of the picture.
            let x = x.clamp(half, (self.width - half).max(half));
            self.text("tick middle", x, bottom + LINE + 2.0, &label);
            if above {
                self.text("tick middle", x, top - 6.0, &label);
            }
        }
        self.text("axis end", right, bottom + 2.0 * LINE + 4.0, &fit(title, self.width));
    }

    /// Curves.
    pub fn lines(mut self, chart: &Lines) -> String {
        let indexed = || chart.series.iter().enumerate();
        let points = || chart.series.iter().flat_map(|s| &s.points);
        let narrow = self.narrow();
        let x = Span::new(chart.x.scale, false, points().map(|p| p.x), if narrow { 5 } else { 8 });
        let ys = points().flat_map(|p| std::iter::once(p.y).chain(p.interval.into_iter().flatten()));
        let y = Span::new(chart.y.scale, true, ys, 6);
        let height = if narrow { 220.0 } else { 270.0 };
        // Names beside the ends of the curves if there is room, above them otherwise.
        let beside = !narrow && chart.series.len() as f64 * LINE <= height;
        let mut top = 0.0;
        let mut right = self.width - 12.0;
        if beside {
            let widest = indexed().map(|(_, s)| text_width(&named(s))).fold(0.0, f64::max);
            right = self.width - 28.0 - widest.min(190.0);
        } else {
            let items: Vec<_> = indexed().map(|(i, s)| (Sample::Line(i), named(s))).collect();
            top = self.legend(0.0, &items) + 4.0;
        }
        self.text("axis", 0.0, top + 12.0, &fit(&chart.y.title(), self.width));
        top += 28.0;
        let bottom = top + height;
        let left = y.labels().iter().map(|l| text_width(l)).fold(0.0, f64::max) + 8.0;
        let place = |px: f64, py: f64| (left + x.at(px) * (right - left), bottom - y.at(py) * height);
        self.horizontal(&x, [left, right], [top, bottom], &chart.x.title(), false);
        for (tick, label) in y.ticks.iter().zip(y.labels()) {
            let (_, py) = place(x.ticks[0], *tick);
            self.line("grid", [left - 4.0, py, right, py]);
            self.text("tick end", left - 7.0, py + 4.0, &label);
        }
        let floor = if chart.y.scale == Scale::Linear { bottom - y.at(0.0) * height } else { bottom };
        self.line("rule", [left, floor, right, floor]);
        for (i, s) in indexed() {
            let mut path = String::new();
            for p in &s.points {
                let (px, py) = place(p.x, p.y);
                let _ = write!(path, "{}{px:.1} {py:.1}", if path.is_empty() { "M" } else { "L" });
            }
            if s.points.len() > 1 {
                self.curve(i, &path);
            }
            for (p, [low, high]) in s.points.iter().filter_map(|p| Some((p, p.interval?))) {
                let ((px, low), (_, high)) = (place(p.x, low), place(p.x, high));
                let whisker = format!("M{px:.1} {low:.1}V{high:.1}m-4 0h8M{:.1} {low:.1}h8", px - 4.0);
                let _ = writeln!(self.out, "<path class=\"whisker s{}\" d=\"{whisker}\"/>", i % COLOURS);
            }
        }
        // Above all curves, so that each can be pointed at.
        for (i, s) in indexed() {
            for (n, p) in s.points.iter().enumerate() {
                let (px, py) = place(p.x, p.y);
                let tip = format!(
                    "{}, {}: {}",
                    s.name,
                    chart.x.with_unit(&quantity(p.x)),
                    chart.y.with_unit(&with_interval(p.y, p.interval))
                );
                self.with_tip(&tip, |svg| {
                    // Where there are many points, marks would hide the curve.
                    if s.points.len() <= 50 || n + 1 == s.points.len() {
                        svg.marker(i, px, py);
                    }
                    let _ = write!(svg.out, "<circle class=\"point\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"9\"/>");
                });
            }
        }
        if beside {
            let ends: Vec<_> = indexed().map(|(_, s)| s.points.last().map(|p| place(p.x, p.y))).collect();
            let wanted: Vec<f64> = ends.iter().map(|end| end.map_or(bottom, |(_, py)| py)).collect();
            for ((i, s), at) in indexed().zip(spread(&wanted, LINE, [top, bottom])) {
                if let Some((px, py)) = ends[i] {
                    let path = format!("M{:.1} {py:.1}L{:.1} {at:.1}", px + 8.0, right + 16.0);
                    let _ = writeln!(self.out, "<path class=\"leader s{}\" d=\"{path}\"/>", i % COLOURS);
                }
                let name = fit(&named(s), self.width - right - 20.0);
                self.text(&format!("t{}", i % COLOURS), right + 20.0, at + 4.0, &name);
            }
        }
        if points().next().is_none() {
            self.text("faint middle", (left + right) / 2.0, (top + bottom) / 2.0, "nothing measured");
        }
        let log = |scale| if scale == Scale::Log { " (logarithmic)" } else { "" };
        let mut description = format!(
            "Curves of {}{} by {}{}.",
            chart.y.title(),
            log(chart.y.scale),
            chart.x.title(),
            log(chart.x.scale)
        );
        for s in &chart.series {
            let points = s.points.iter().map(|p| format!("{} at {}", with_interval(p.y, p.interval), quantity(p.x)));
            let _ = write!(description, " {}: {}.", named(s), points.collect::<Vec<_>>().join("; "));
        }
        self.finish(bottom + 2.0 * LINE + 10.0, &chart.title, &description)
    }

    /// Bars side by side, from left to right, which leaves room for their names.
    pub fn bars(mut self, chart: &Bars) -> String {
        let narrow = self.narrow();
        let groups = || chart.groups.iter();
        let values = groups().flat_map(|g| {
            let bars = g.bars.iter().flatten();
            g.target
                .into_iter()
                .chain(bars.flat_map(|b| std::iter::once(b.value).chain(b.interval.into_iter().flatten())))
        });
        let axis = Span::new(Scale::Linear, true, values, if narrow { 5 } else { 7 });
        self.patterns(chart.series.len());
        let mut items: Vec<_> = chart.series.iter().enumerate().map(|(i, s)| (Sample::Bar(i), s.clone())).collect();
        if groups().any(|g| g.target.is_some()) {
            items.push((Sample::Target, "to reach".into()));
        }
        let legend = self.legend(0.0, &items);
        let names = groups().map(|g| g.name.as_str());
        let left = if narrow { 0.0 } else { names.map(text_width).fold(84.0, f64::max).min(270.0) + 12.0 };
        // Room for the figure behind the longest bar.
        let right = self.width - 44.0;
        let bars = (BAR + 2.0) * chart.series.len().max(1) as f64;
        let pitch = if narrow { LINE + 4.0 + bars + 10.0 } else { bars.max(2.0 * LINE) + 14.0 };
        let all = pitch * chart.groups.len().max(1) as f64;
        let above = all > 500.0;
        let top = legend + if above { LINE + 12.0 } else { 6.0 };
        let bottom = top + all;
        self.horizontal(&axis, [left, right], [top, bottom], &chart.y.title(), above);
        for (n, g) in groups().enumerate() {
            let begin = top + n as f64 * pitch;
            let mut y = begin + (pitch - bars) / 2.0;
            let target = g.target.map(|t| (left + axis.at(t) * (right - left), format!("to reach {}", figure(t))));
            if narrow {
                y = begin + LINE + 6.0;
                self.line("rule", [0.0, y - 1.0, 0.0, y + bars - 1.0]);
                self.text("name halo", 0.0, y - 5.0, &fit(&g.name, 0.7 * self.width));
                if let Some((_, reach)) = &target {
                    self.text("tick end halo", self.width, y - 5.0, reach);
                }
            } else {
                let middle = y + bars / 2.0;
                let lines = if target.is_some() { 2.0 } else { 1.0 };
                let first = middle - lines * LINE / 2.0 + 12.0;
                self.text("name end", left - 10.0, first, &fit(&g.name, left - 12.0));
                if let Some((_, reach)) = &target {
                    self.text("tick end", left - 10.0, first + LINE, reach);
                }
            }
            let rows =
                || chart.series.iter().zip(&g.bars).enumerate().map(|(i, row)| (i, y + i as f64 * (BAR + 2.0), row));
            for (i, y, (series, bar)) in rows() {
                let Some(b) = bar else { continue };
                let figures = chart.y.with_unit(&with_interval(b.value, b.interval));
                let reach = target.as_ref().map_or(String::new(), |(_, reach)| format!(", {reach}"));
                self.with_tip(&format!("{series}, {}: {figures}{reach}", g.name), |svg| {
                    let fill = svg.fill(i);
                    svg.rect(&fill, [left, y, axis.at(b.value) * (right - left), BAR]);
                });
            }
            if let Some((x, _)) = &target {
                self.line("target", [*x, y - 1.0, *x, y + bars - 1.0]);
            }
            for (_, y, (_, bar)) in rows() {
                let place = |v: f64| left + axis.at(v) * (right - left);
                let middle = y + BAR / 2.0;
                let Some(b) = bar else {
                    self.text("tick halo", left + 5.0, middle + 4.0, "not measured");
                    continue;
                };
                let mut end = place(b.value);
                if let Some([low, high]) = b.interval {
                    end = place(high);
                    let path = format!("M{:.1} {middle:.1}H{end:.1}m0 -3v6M{0:.1} {:.1}v6", place(low), middle - 3.0);
                    let _ = writeln!(self.out, "<path class=\"whisker under\" d=\"{path}\"/>");
                    let _ = writeln!(self.out, "<path class=\"whisker over\" d=\"{path}\"/>");
                }
                // Beyond the mark of what is to be reached if that is in the way.
                let (mut x, value) = (end + 5.0, figure(b.value));
                if let Some((mark, _)) = target.as_ref().filter(|t| (end - 1.0..x + text_width(&value)).contains(&t.0))
                {
                    x = mark + 5.0;
                }
                self.text("value halo", x, middle + 4.0, &value);
            }
        }
        if !narrow {
            self.line("rule", [left, top, left, bottom]);
        }
        let mut description = format!("Bars of {}.", chart.y.title());
        for g in groups() {
            let bars = chart.series.iter().zip(&g.bars).map(|(series, b)| match b {
                Some(b) => format!("{series} {}", with_interval(b.value, b.interval)),
                None => format!("{series} not measured"),
            });
            let target = g.target.map(|t| format!("to reach {}", figure(t)));
            let _ = write!(description, " {}: {}.", g.name, bars.chain(target).collect::<Vec<_>>().join(", "));
        }
        self.finish(bottom + 2.0 * LINE + 10.0, &chart.title, &description)
    }

    /// Bars of parts.
    pub fn stacks(mut self, chart: &Stacks) -> String {
        let narrow = self.narrow();
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        let axis =
            Span::new(Scale::Linear, true, chart.stacks.iter().map(|s| sum(&s.values)), if narrow { 5 } else { 7 });
        let items: Vec<_> = chart.parts.iter().enumerate().map(|(i, part)| (Sample::Part(i), part.clone())).collect();
        let top = self.legend(0.0, &items) + 6.0;
        let names = chart.stacks.iter().map(|s| s.name.as_str());
        let left = if narrow { 0.0 } else { names.map(text_width).fold(60.0, f64::max).min(270.0) + 12.0 };
        let right = self.width - 50.0;
        let pitch = if narrow { LINE + 4.0 + STACK + 10.0 } else { STACK + 14.0 };
        let bottom = top + pitch * chart.stacks.len().max(1) as f64;
        self.horizontal(&axis, [left, right], [top, bottom], &chart.y.title(), false);
        for (n, s) in chart.stacks.iter().enumerate() {
            let mut y = top + n as f64 * pitch + 7.0;
            if narrow {
                y += LINE;
                self.line("rule", [0.0, y - 1.0, 0.0, y + STACK + 1.0]);
                self.text("name halo", 0.0, y - 5.0, &fit(&s.name, self.width));
            } else {
                self.text("name end", left - 10.0, y + STACK / 2.0 + 4.0, &fit(&s.name, left - 12.0));
            }
            let mut before = 0.0;
            let total = sum(&s.values);
            let place = |v: f64| left + axis.at(v) * (right - left);
            for (i, (part, &v)) in chart.parts.iter().zip(&s.values).enumerate().filter(|(_, (_, v))| **v > 0.0) {
                let (x, end) = (place(before), place(before + v));
                let share = 100.0 * v / total;
                let tip = format!("{part}, {}: {} ({share:.0} %)", s.name, chart.y.with_unit(&figure(v)));
                self.with_tip(&tip, |svg| {
                    svg.rect(&format!("class=\"part f{}\"", i % COLOURS), [x, y, end - x, STACK]);
                    // The letter with its figure, or the letter, or nothing, as there is room.
                    let key = letter(i);
                    let labels = [format!("{key} {}", figure(v)), key];
                    if let Some(label) = labels.iter().find(|l| text_width(l) + 6.0 <= end - x) {
                        svg.text("key", (x + end) / 2.0, y + STACK / 2.0 + 4.0, label);
                    }
                });
                before += v;
            }
            self.text("value halo", place(total) + 5.0, y + STACK / 2.0 + 4.0, &figure(total));
        }
        if !narrow {
            self.line("rule", [left, top, left, bottom]);
        }
        let mut description = format!("Bars of {}, by part.", chart.y.title());
        for s in &chart.stacks {
            let parts = chart.parts.iter().zip(&s.values).filter(|(_, v)| **v > 0.0);
            let parts: Vec<String> = parts.map(|(part, &v)| format!("{part} {}", figure(v))).collect();
            let _ = write!(description, " {}: {} in all; {}.", s.name, figure(sum(&s.values)), parts.join(", "));
        }
        self.finish(bottom + 2.0 * LINE + 10.0, &chart.title, &description)
    }
}

/// A series' name, and that it has no points.
fn named(s: &super::Series) -> String {
    if s.points.is_empty() { format!("{} (not measured)", s.name) } else { s.name.clone() }
}

/// The letter of a part: a to z, aa to zz.
fn letter(i: usize) -> String {
    let one = |i: usize| char::from(b'a' + (i % 26) as u8);
    if i < 26 { one(i).to_string() } else { [one(i / 26 - 1), one(i)].iter().collect() }
}

/// About how wide a text is, rather too wide than not wide enough.
fn text_width(text: &str) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ':' | ';' | '|' | '\'' | '(' | ')' | ' ' | 'I' => 4.0,
        'm' | 'w' | 'M' | 'W' | '…' => 10.5,
        c if c.is_ascii_uppercase() => 8.6,
        c if c.is_ascii() => 6.9,
        _ => 9.0,
    };
    text.chars().map(width).sum()
}

/// As much of a text as fits.
fn fit(text: &str, width: f64) -> String {
    if text_width(text) <= width {
        return text.into();
    }
    let mut cut: String = text.into();
    while !cut.is_empty() && text_width(&cut) + text_width("…") > width {
        cut.pop();
    }
    cut.trim_end().to_owned() + "…"
}

/// Moves places apart until they are at least `gap` from each other, within the range if it has room for all.
fn spread(wanted: &[f64], gap: f64, [top, bottom]: [f64; 2]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut places = wanted.to_vec();
    let mut least = top;
    for &i in &order {
        places[i] = places[i].max(least);
        least = places[i] + gap;
    }
    let mut most = bottom;
    for &i in order.iter().rev() {
        places[i] = places[i].min(most);
        most = places[i] - gap;
    }
    places
}
