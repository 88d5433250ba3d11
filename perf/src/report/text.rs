//! The report for the terminal.

use super::axis::{figure, quantity, with_interval};
use super::{Align, Bars, Block, Column, Document, Lines, Row, Scale, Stacks, Table, Tone};

/// Columns of a page.
const WIDTH: usize = 100;
/// Columns of the longest bar of a chart.
const BAR: usize = 40;
/// Columns of the names beside a chart; longer ones are cut.
const NAME: usize = 36;

/// All of it.
pub fn page(document: &Document) -> String {
    let mut out = Page(String::new());
    out.line(&document.title);
    out.line(&"═".repeat(width(&document.title).min(WIDTH)));
    for paragraph in &document.summary {
        out.paragraph(paragraph);
    }
    if !document.facts.is_empty() {
        let columns = [Column::left(""), Column::left("")];
        let row = |name: &str, value: &str| Row { tone: Tone::Plain, cells: vec![name.into(), value.into()] };
        out.line("");
        out.cells(&columns, &document.facts.iter().map(|f| row(&f.name, &f.value)).collect::<Vec<_>>());
    }
    for section in &document.sections {
        out.line("");
        out.line("");
        out.line(&section.heading);
        out.line(&"─".repeat(width(&section.heading).min(WIDTH)));
        for block in &section.blocks {
            match block {
                Block::Paragraph(text) => out.paragraph(text),
                Block::Listing(listing) => {
                    out.caption(&listing.caption);
                    for line in listing.text.lines() {
                        out.line(&format!("    {line}"));
                    }
                }
                Block::Table(table) => out.table(table),
                Block::Lines(lines) => out.lines(lines),
                Block::Bars(bars) => out.bars(bars),
                Block::Stacks(stacks) => out.stacks(stacks),
            }
        }
    }
    out.0
}

/// What was written so far.
struct Page(String);

impl Page {
    /// Adds a line. What a terminal would obey is left out.
    fn line(&mut self, line: &str) {
        self.0.extend(line.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        self.0.push('\n');
    }

    fn paragraph(&mut self, text: &str) {
        self.line("");
        for line in wrap(text, WIDTH) {
            self.line(&line);
        }
    }

    fn caption(&mut self, text: &str) {
        self.line("");
        if !text.is_empty() {
            for line in wrap(text, WIDTH) {
                self.line(&line);
            }
            self.line("");
        }
    }

    fn table(&mut self, table: &Table) {
        self.caption(&table.caption);
        self.cells(&table.columns, &table.rows);
    }

    /// Rows below their columns' names, if these have any.
    fn cells(&mut self, columns: &[Column], rows: &[Row]) {
        let head: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        let all =
            || std::iter::once(head.clone()).chain(rows.iter().map(|r| r.cells.iter().map(String::as_str).collect()));
        let mut widths: Vec<usize> =
            (0..columns.len()).map(|i| all().map(|row| width(row[i])).max().unwrap_or(0)).collect();
        let marked = rows.iter().any(|r| r.tone != Tone::Plain);
        let margin = if marked { 2 } else { 0 };
        // Two columns between cells; the widest ones are wrapped until all fit.
        while widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1) + margin > WIDTH {
            match widths.iter_mut().max() {
                Some(most) if *most > 8 => *most -= 1,
                _ => break,
            }
        }
        let mut print = |mark: &str, cells: Vec<&str>| {
            let wrapped: Vec<Vec<String>> = cells.iter().zip(&widths).map(|(cell, &w)| wrap(cell, w)).collect();
            for i in 0..wrapped.iter().map(Vec::len).max().unwrap_or(0) {
                let mut line = format!("{:margin$}", if i == 0 { mark } else { "" });
                for ((cell, column), &w) in wrapped.iter().zip(columns).zip(&widths) {
                    let part = cell.get(i).map_or("", String::as_str);
                    line += &match column.align {
                        Align::Left => format!("{part:<w$}  "),
                        Align::Right => format!("{part:>w$}  "),
                    };
                }
                self.line(&line);
            }
        };
        if head.iter().any(|name| !name.is_empty()) {
            print("", head.clone());
            let rules: Vec<String> = widths.iter().map(|&w| "─".repeat(w)).collect();
            print("", rules.iter().map(String::as_str).collect());
        }
        for row in rows {
            print(mark(row.tone), row.cells.iter().map(String::as_str).collect());
        }
    }

    fn lines(&mut self, chart: &Lines) {
        self.caption(&format!("{} ({}), by {}", chart.title, chart.y.title(), chart.x.title()));
        let mut xs: Vec<f64> = chart.series.iter().flat_map(|s| s.points.iter().map(|p| p.x)).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        let ys = || chart.series.iter().flat_map(|s| &s.points).map(|p| p.y.abs());
        let (least, most) = (ys().fold(f64::INFINITY, f64::min), ys().fold(0.0, f64::max));
        let length = |y: f64| match chart.y.scale {
            Scale::Linear => y.max(0.0) / most,
            // The least has a bar too.
            Scale::Log => (1.0 + (y / least).log10()) / (1.0 + (most / least).log10()),
        };
        let names = Names::new(chart.series.iter().map(|s| s.name.as_str()));
        let quantities: Vec<String> = xs.iter().map(|&x| chart.x.with_unit(&quantity(x))).collect();
        let groups = Names::new(quantities.iter().map(String::as_str));
        for (x, group) in xs.iter().zip(&quantities) {
            let mut group = group.as_str();
            for s in &chart.series {
                if let Some(p) = s.points.iter().find(|p| p.x == *x) {
                    let value = with_interval(p.y, p.interval);
                    let bar = bar(0.0, length(p.y), None);
                    self.line(&format!("{:>w$}  {} {bar} {value}", cut(group), names.pad(&s.name), w = groups.0));
                    group = "";
                }
            }
        }
        for s in chart.series.iter().filter(|s| s.points.is_empty()) {
            self.line(&format!("{}: nothing measured", s.name));
        }
    }

    fn bars(&mut self, chart: &Bars) {
        self.caption(&format!("{} ({})", chart.title, chart.y.title()));
        let bars = chart.groups.iter().flat_map(|g| &g.bars).flatten().map(|b| b.value);
        let most = bars.chain(chart.groups.iter().filter_map(|g| g.target)).fold(0.0, f64::max);
        let names = Names::new(chart.series.iter().map(String::as_str));
        for group in &chart.groups {
            let target = group.target.map_or(String::new(), |t| format!("  (to reach, │: {})", figure(t)));
            self.line(&format!("{}{target}", group.name));
            for (name, b) in chart.series.iter().zip(&group.bars) {
                let name = names.pad(name);
                match b {
                    Some(b) => {
                        let bar = bar(0.0, b.value / most, group.target.map(|t| t / most));
                        self.line(&format!("  {name} {bar} {}", with_interval(b.value, b.interval)));
                    }
                    None => self.line(&format!("  {name} not measured")),
                }
            }
        }
    }

    fn stacks(&mut self, chart: &Stacks) {
        self.caption(&format!("{} ({})", chart.title, chart.y.title()));
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        let most = chart.stacks.iter().map(|s| sum(&s.values)).fold(0.0, f64::max);
        let names = Names::new(chart.parts.iter().map(String::as_str));
        for stack in &chart.stacks {
            self.line(&format!("{}: {}", stack.name, chart.y.with_unit(&figure(sum(&stack.values)))));
            let mut before = 0.0;
            for (name, &v) in chart.parts.iter().zip(&stack.values).filter(|(_, v)| **v > 0.0) {
                let bar = bar(before / most, (before + v) / most, None);
                self.line(&format!("  {} {bar} {}", names.pad(name), figure(v)));
                before += v;
            }
        }
    }
}

/// How wide names are.
struct Names(usize);

impl Names {
    fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
        Names(names.into_iter().map(width).max().unwrap_or(0).min(NAME))
    }

    fn pad(&self, name: &str) -> String {
        format!("{:<w$}", cut(name), w = self.0)
    }
}

fn cut(name: &str) -> String {
    if width(name) <= NAME { name.into() } else { name.chars().take(NAME - 1).chain(['…']).collect() }
}

fn mark(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "",
        Tone::Strong => "▸",
        Tone::Good => "✓",
        Tone::Bad => "✗",
    }
}

/// A bar from one share of the width to another, with a mark at a third; as wide as all bars.
fn bar(from: f64, to: f64, target: Option<f64>) -> String {
    let eighths = |share: f64| ((share * 8.0 * BAR as f64).round() as usize).min(8 * BAR);
    let (from, to) = (eighths(from), eighths(to));
    // Blocks fill a cell from the left only, so a bar begins with a whole cell, and ends with what it has of one.
    let (from, to) = (from / 8, if from < to { to.max(from / 8 * 8 + 1) } else { from / 8 * 8 });
    let target = target.map(|t| eighths(t).div_ceil(8).clamp(1, BAR) - 1);
    (0..BAR)
        .map(|cell| match to.saturating_sub(8 * cell) {
            _ if target == Some(cell) => '│',
            0 => ' ',
            _ if cell < from => ' ',
            rest => ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'][rest.min(8) - 1],
        })
        .collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Lines of at most `most` columns, at least one; longer words are broken.
fn wrap(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let last = lines.last_mut().expect("there is always a line");
            let space = usize::from(!last.is_empty());
            if width(last) + space + word.len() <= most {
                last.extend([' '].iter().take(space).chain(&word));
                break;
            } else if !last.is_empty() {
                lines.push(String::new());
            } else {
                last.extend(word.drain(..most.max(1).min(word.len())));
            }
        }
    }
    lines
}
