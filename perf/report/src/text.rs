//! The report for the terminal.

use super::axis::{figure, quantity, with_interval};
use super::{Align, Bars, Block, Column, Document, Lines, Row, Scale, Stacks, Table, Tone};

/// Columns of a page.
const WIDTH: usize = 100;
/// Columns of the longest bar of a chart, if its names and figures leave room for it.
const BAR: usize = 40;
/// Columns of the names beside a chart; longer ones are cut.
const NAME: usize = 24;

/// All of it.
pub fn page(document: &Document) -> String {
    let mut out = Page::default();
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
        section.blocks.iter().for_each(|block| out.block(block));
    }
    out.text
}

/// One block alone.
pub fn block(block: &Block) -> String {
    let mut out = Page::default();
    out.block(block);
    out.text
}

/// What was written so far.
#[derive(Default)]
struct Page {
    text: String,
    tables: usize,
    figures: usize,
}

impl Page {
    fn block(&mut self, block: &Block) {
        match block {
            Block::Paragraph(text) => self.paragraph(text),
            Block::Listing(listing) => {
                self.caption(&listing.caption);
                for line in listing.text.lines() {
                    self.line(&format!("    {line}"));
                }
            }
            Block::Table(table) => self.table(table),
            Block::Lines(lines) => self.lines(lines),
            Block::Bars(bars) => self.bars(bars),
            Block::Stacks(stacks) => self.stacks(stacks),
        }
    }

    /// Adds a line. What a terminal would obey is left out.
    fn line(&mut self, line: &str) {
        self.text.extend(line.trim_end().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        self.text.push('\n');
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
        self.tables += 1;
        self.caption(&format!("Table {}. {}", self.tables, table.caption));
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

    /// The caption of the next chart.
    fn figure(&mut self, title: &str) {
        self.figures += 1;
        self.caption(&format!("Figure {}. {title}", self.figures));
    }

    fn lines(&mut self, chart: &Lines) {
        self.figure(&chart.title);
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
        let quantities: Vec<String> = xs.iter().map(|&x| quantity(x)).collect();
        let over = cut(&chart.x.title());
        let w = quantities.iter().chain([&over]).map(|x| width(x)).max().unwrap_or(0);
        let names = pad(chart.series.iter().map(|s| s.name.as_str()));
        let log = if chart.y.scale == Scale::Log { ", bars on a logarithmic scale" } else { "" };
        let points = |x: f64| {
            chart
                .series
                .iter()
                .zip(&names)
                .filter_map(move |(s, name)| Some((name, s.points.iter().find(|p| p.x == x)?)))
        };
        let mut rows = Vec::new();
        for (&x, quantity) in xs.iter().zip(&quantities) {
            for (i, (name, p)) in points(x).enumerate() {
                let group = if i == 0 { quantity.as_str() } else { "" };
                rows.push(Bar::new(format!("{group:>w$}  {name}"), 0.0, length(p.y), with_interval(p.y, p.interval)));
            }
        }
        let before = rows.first().map_or(w, |row| width(&row.name)) - w;
        self.line(&format!("{over:>w$}{:before$} {}{log}", "", chart.y.title()));
        self.draw(&rows);
        for s in chart.series.iter().filter(|s| s.points.is_empty()) {
            self.line(&format!("{}: nothing measured", s.name));
        }
    }

    fn bars(&mut self, chart: &Bars) {
        self.figure(&format!("{} ({})", chart.title, chart.y.title()));
        let bars = chart.groups.iter().flat_map(|g| &g.bars).flatten().map(|b| b.value);
        let most = bars.chain(chart.groups.iter().filter_map(|g| g.target)).fold(0.0, f64::max);
        let names = pad(chart.series.iter().map(String::as_str));
        let mut rows = Vec::new();
        for group in &chart.groups {
            let target = group.target.map_or(String::new(), |t| format!(" (to reach, │: {})", figure(t)));
            rows.push(Bar::heading(format!("{}{target}", group.name)));
            for (name, bar) in names.iter().zip(&group.bars) {
                rows.push(match bar {
                    Some(b) => Bar {
                        target: group.target.map(|t| t / most),
                        ..Bar::new(format!("  {name}"), 0.0, b.value / most, with_interval(b.value, b.interval))
                    },
                    None => Bar::heading(format!("  {name} not measured")),
                });
            }
        }
        self.draw(&rows);
    }

    fn stacks(&mut self, chart: &Stacks) {
        self.figure(&format!("{} ({})", chart.title, chart.y.title()));
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        let most = chart.stacks.iter().map(|s| sum(&s.values)).fold(0.0, f64::max);
        let names = pad(chart.parts.iter().map(String::as_str));
        let mut rows = Vec::new();
        for stack in &chart.stacks {
            let total = sum(&stack.values);
            rows.push(Bar::heading(format!("{}: {}", stack.name, chart.y.with_unit(&figure(total)))));
            let mut before = 0.0;
            for (name, &v) in names.iter().zip(&stack.values).filter(|(_, v)| **v > 0.0) {
                let share = format!("{} ({:.0} %)", figure(v), 100.0 * v / total);
                rows.push(Bar::new(format!("  {name}"), before / most, (before + v) / most, share));
                before += v;
            }
        }
        self.draw(&rows);
    }

    /// The rows of a chart, as wide as there is room.
    fn draw(&mut self, rows: &[Bar]) {
        let longest = |of: fn(&Bar) -> usize| rows.iter().filter(|r| !r.figures.is_empty()).map(of).max().unwrap_or(0);
        let rest = longest(|r| width(&r.name)) + longest(|r| width(&r.figures)) + 2;
        let cells = WIDTH.saturating_sub(rest).clamp(8, BAR);
        for row in rows {
            if row.figures.is_empty() {
                self.line(&row.name);
            } else {
                self.line(&format!("{} {} {}", row.name, row.cells(cells), row.figures));
            }
        }
    }
}

/// A row of a chart.
struct Bar {
    /// What stands before the bar; as wide in all rows with a bar.
    name: String,
    /// Where the bar begins, as a share of the chart's width.
    from: f64,
    /// Where it ends.
    to: f64,
    /// Where the mark of what is to be reached stands.
    target: Option<f64>,
    /// What stands after the bar; empty: there is no bar.
    figures: String,
}

impl Bar {
    fn new(name: String, from: f64, to: f64, figures: String) -> Bar {
        Bar { name, from, to, target: None, figures }
    }

    fn heading(name: String) -> Bar {
        Bar::new(name, 0.0, 0.0, String::new())
    }

    /// The bar in this many columns.
    fn cells(&self, cells: usize) -> String {
        let eighths = |share: f64| ((share * 8.0 * cells as f64).round() as usize).min(8 * cells);
        // Blocks fill a cell from the left only, so a bar begins with a whole cell, and ends with what it has of one. Not
        // even the shortest is left out.
        let (begin, mut end) = (eighths(self.from) / 8, eighths(self.to));
        if self.from < self.to {
            end = end.max(8 * begin + 1);
        }
        let target = self.target.map(|t| eighths(t).div_ceil(8).clamp(1, cells) - 1);
        (0..cells)
            .map(|cell| match end.saturating_sub(8 * cell) {
                _ if target == Some(cell) => '│',
                0 => ' ',
                _ if cell < begin => ' ',
                rest => ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'][rest.min(8) - 1],
            })
            .collect()
    }
}

/// Names as wide as the widest, within reason.
fn pad<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names: Vec<String> = names.map(cut).collect();
    let w = names.iter().map(|name| width(name)).max().unwrap_or(0);
    names.iter().map(|name| format!("{name:<w$}")).collect()
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
