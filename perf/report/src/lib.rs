//! A report: headings, sentences, tables and charts that any command fills in, as one HTML page that needs nothing
//! else, as text for the terminal, or as JSON that can be turned into the others later.
//!
//! ```
//! use dray_report::{Axis, Column, Document, Lines, Point, Table, Tone};
//!
//! let mut document = Document::new("Dray and testpmd");
//! document.fact("CPU", "two cores of a machine");
//! let section = document.section("Throughput by MACs");
//! section.paragraph("The median of five rounds.");
//! let mut table = Table::new("Rates of 60-byte frames", [Column::left("frames"), Column::right("Mpps")]);
//! table.row(["60 B, 1 flow", "86.3"]);
//! table.verdict(Tone::Good, ["60 B, 1,000 flows", "77.1"]);
//! section.add(table);
//! let mut lines = Lines::new("Throughput by MACs", Axis::log("MACs", ""), Axis::linear("throughput", "Mpps"));
//! lines.series("Dray", [Point::new(2.0, 86.3), Point::within(2_000.0, 77.1, 76.0, 78.5)]);
//! section.add(lines);
//! let page = document.html().unwrap();
//! assert!(page.starts_with("<!DOCTYPE html>"));
//! ```

#![forbid(unsafe_code)]

mod axis;
mod command;
mod html;
mod markdown;
mod markup;
mod svg;
mod text;

pub use command::{ReportArgs, run};

use serde::{Deserialize, Serialize};

/// A whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What it is about, in a few words.
    pub title: String,
    /// What was found, in a few sentences; a paragraph each, before everything else.
    #[serde(default)]
    pub summary: Vec<String>,
    /// What must be known to repeat it: date, machine, versions, options.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// The parts, in order.
    #[serde(default)]
    pub sections: Vec<Section>,
}

/// Something that must be known, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Such as "CPU".
    pub name: String,
    /// Such as "Intel Xeon, 2.6 GHz".
    pub value: String,
}

/// A part of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// What stands in it, in order.
    #[serde(default)]
    pub blocks: Vec<Block>,
}

/// What stands in a section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Block {
    /// Sentences, without markup.
    Paragraph(String),
    /// Lines that stay as they are, such as a command or a configuration file.
    Listing(Listing),
    /// A table.
    Table(Table),
    /// Curves.
    Lines(Lines),
    /// Bars side by side.
    Bars(Bars),
    /// Bars of parts that add up.
    Stacks(Stacks),
}

/// Lines that stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// What it is; may be empty.
    #[serde(default)]
    pub caption: String,
    /// The lines.
    pub text: String,
}

/// A table. Every row has a cell for every column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What it shows; may be empty.
    #[serde(default)]
    pub caption: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    #[serde(default)]
    pub rows: Vec<Row>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its header.
    pub name: String,
    /// Where its cells stand.
    #[serde(default)]
    pub align: Align,
}

/// Where a cell's text stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Align {
    /// For words.
    #[default]
    Left,
    /// For figures.
    Right,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How it stands out.
    #[serde(default)]
    pub tone: Tone,
    /// Its cells.
    pub cells: Vec<String>,
}

/// How a row stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tone {
    /// It doesn't.
    #[default]
    Plain,
    /// The row to look at first.
    Strong,
    /// What was to be reached, is.
    Good,
    /// It isn't.
    Bad,
}

/// An axis of a chart. A linear one begins at zero where that leaves the figures legible.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// In what unit; may be empty.
    #[serde(default)]
    pub unit: String,
    /// How it is divided.
    #[serde(default)]
    pub scale: Scale,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By powers of ten. All values are more than 0.
    Log,
}

/// Curves: values over a quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lines {
    /// What it shows.
    pub title: String,
    /// The quantity.
    pub x: Axis,
    /// The values.
    pub y: Axis,
    /// The curves.
    #[serde(default)]
    pub series: Vec<Series>,
}

/// A curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Whose it is.
    pub name: String,
    /// Its points, in the order of `x`.
    pub points: Vec<Point>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// What was measured there.
    pub y: f64,
    /// Between which values it lies, such as a confidence interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// Bars side by side: a group for each case, in it a bar for each series. They begin at zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// The values, on a linear axis.
    pub y: Axis,
    /// Whose bars there are.
    pub series: Vec<String>,
    /// The cases.
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// The bars of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The case.
    pub name: String,
    /// What is to be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
    /// One for each series; none where nothing was measured.
    pub bars: Vec<Option<Bar>>,
}

/// A bar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// What was measured, not negative.
    pub value: f64,
    /// Between which values it lies, such as a confidence interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

/// Bars of parts that add up, such as the time of a frame by stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stacks {
    /// What it shows.
    pub title: String,
    /// The values, on a linear axis.
    pub y: Axis,
    /// The parts' names, in order.
    pub parts: Vec<String>,
    /// The bars.
    #[serde(default)]
    pub stacks: Vec<Stack>,
}

/// A bar of parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// What it is of.
    pub name: String,
    /// One for each part, not negative; 0 where it has none.
    pub values: Vec<f64>,
}

impl Document {
    /// An empty one.
    pub fn new(title: impl Into<String>) -> Document {
        Document { title: title.into(), ..Document::default() }
    }

    /// Adds a paragraph to the summary.
    pub fn summary(&mut self, text: impl Into<String>) {
        self.summary.push(text.into());
    }

    /// Adds something that must be known.
    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.push(Fact { name: name.into(), value: value.into() });
    }

    /// Adds a section, to be filled in.
    pub fn section(&mut self, heading: impl Into<String>) -> &mut Section {
        self.sections.push(Section { heading: heading.into(), blocks: Vec::new() });
        self.sections.last_mut().expect("it was just added")
    }

    /// The report as one HTML page (well-formed XML too) that refers to nothing outside.
    ///
    /// # Errors
    /// As [`Document::check`].
    pub fn html(&self) -> Result<String, String> {
        self.check()?;
        Ok(html::page(self))
    }

    /// The report as text, 100 columns wide, each line ended.
    ///
    /// # Errors
    /// As [`Document::check`].
    pub fn text(&self) -> Result<String, String> {
        self.check()?;
        Ok(text::page(self))
    }

    /// The report as Markdown, for docs/benchmarks/, and the file's name there.
    ///
    /// # Errors
    /// As [`Document::check`], and if it does not say its date and CPU.
    pub fn markdown(&self) -> Result<(String, String), String> {
        self.check()?;
        Ok((markdown::name(self)?, markdown::page(self)))
    }

    /// Whether it can be shown.
    ///
    /// # Errors
    /// If a row or group has more or fewer cells than there are columns or series, or a figure is not a number, infinite,
    /// outside its interval's order, or nothing that its axis can show. They say which.
    pub fn check(&self) -> Result<(), String> {
        for block in self.sections.iter().flat_map(|s| &s.blocks) {
            match block {
                Block::Paragraph(_) | Block::Listing(_) => {}
                Block::Table(t) => t.check()?,
                Block::Lines(c) => c.check()?,
                Block::Bars(c) => c.check()?,
                Block::Stacks(c) => c.check()?,
            }
        }
        Ok(())
    }
}

impl Section {
    /// Adds sentences.
    pub fn paragraph(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Paragraph(text.into()));
    }

    /// Adds lines that stay as they are.
    pub fn listing(&mut self, caption: impl Into<String>, text: impl Into<String>) {
        self.blocks.push(Block::Listing(Listing { caption: caption.into(), text: text.into() }));
    }

    /// Adds a table or a chart.
    pub fn add(&mut self, block: impl Into<Block>) {
        self.blocks.push(block.into());
    }
}

impl From<Table> for Block {
    fn from(t: Table) -> Block {
        Block::Table(t)
    }
}

impl From<Lines> for Block {
    fn from(c: Lines) -> Block {
        Block::Lines(c)
    }
}

impl From<Bars> for Block {
    fn from(c: Bars) -> Block {
        Block::Bars(c)
    }
}

impl From<Stacks> for Block {
    fn from(c: Stacks) -> Block {
        Block::Stacks(c)
    }
}

impl Table {
    /// One without rows.
    pub fn new(caption: impl Into<String>, columns: impl IntoIterator<Item = Column>) -> Table {
        Table { caption: caption.into(), columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row that doesn't stand out.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.verdict(Tone::Plain, cells);
    }

    /// Adds a row that stands out.
    pub fn verdict<T: Into<String>>(&mut self, tone: Tone, cells: impl IntoIterator<Item = T>) {
        self.rows.push(Row { tone, cells: cells.into_iter().map(Into::into).collect() });
    }

    fn check(&self) -> Result<(), String> {
        match self.rows.iter().find(|r| r.cells.len() != self.columns.len()) {
            None => Ok(()),
            Some(r) => Err(format!(
                "table \"{}\": a row has {} cells for {} columns",
                self.caption,
                r.cells.len(),
                self.columns.len()
            )),
        }
    }
}

impl Column {
    /// A column of words.
    pub fn left(name: impl Into<String>) -> Column {
        Column { name: name.into(), align: Align::Left }
    }

    /// A column of figures.
    pub fn right(name: impl Into<String>) -> Column {
        Column { name: name.into(), align: Align::Right }
    }
}

impl Axis {
    /// An evenly divided one; `unit` may be empty.
    pub fn linear(label: impl Into<String>, unit: impl Into<String>) -> Axis {
        Axis { label: label.into(), unit: unit.into(), scale: Scale::Linear }
    }

    /// One divided by powers of ten; `unit` may be empty.
    pub fn log(label: impl Into<String>, unit: impl Into<String>) -> Axis {
        Axis { label: label.into(), unit: unit.into(), scale: Scale::Log }
    }

    /// Label and unit.
    fn title(&self) -> String {
        if self.unit.is_empty() { self.label.clone() } else { format!("{}, {}", self.label, self.unit) }
    }

    /// A figure with its unit.
    fn with_unit(&self, figure: &str) -> String {
        if self.unit.is_empty() { figure.into() } else { format!("{figure} {}", self.unit) }
    }

    fn check(&self, values: impl IntoIterator<Item = f64>) -> Result<(), String> {
        for v in values {
            if !v.is_finite() || v.abs() > axis::MOST {
                return Err(format!("{} of {v:e}, which is no figure", self.label));
            }
            if self.scale == Scale::Log && v < axis::LEAST {
                return Err(format!("{} of {v:e} on a logarithmic axis, which begins above 0", self.label));
            }
        }
        Ok(())
    }
}

/// Whether `value` lies within its `interval`.
fn in_order(value: f64, interval: Option<[f64; 2]>) -> Result<(), String> {
    match interval {
        Some([low, high]) if !(low <= value && value <= high) => {
            Err(format!("{value} is not between {low} and {high}"))
        }
        _ => Ok(()),
    }
}

impl Lines {
    /// One without curves.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Lines {
        Lines { title: title.into(), x, y, series: Vec::new() }
    }

    /// Adds a curve.
    pub fn series(&mut self, name: impl Into<String>, points: impl IntoIterator<Item = Point>) {
        self.series.push(Series { name: name.into(), points: points.into_iter().collect() });
    }

    fn check(&self) -> Result<(), String> {
        for s in &self.series {
            let place = |e| format!("chart \"{}\", {}: {e}", self.title, s.name);
            for p in &s.points {
                self.x.check([p.x]).map_err(place)?;
                self.y.check(std::iter::once(p.y).chain(p.interval.into_iter().flatten())).map_err(place)?;
                in_order(p.y, p.interval).map_err(place)?;
            }
            if !s.points.is_sorted_by(|a, b| a.x < b.x) {
                return Err(place(format!("points are not in the order of {}", self.x.label)));
            }
        }
        Ok(())
    }
}

impl Point {
    /// One without an interval.
    pub fn new(x: f64, y: f64) -> Point {
        Point { x, y, interval: None }
    }

    /// One that lies between two values.
    pub fn within(x: f64, y: f64, low: f64, high: f64) -> Point {
        Point { x, y, interval: Some([low, high]) }
    }
}

impl Bars {
    /// One without groups, with bars for these.
    pub fn new<T: Into<String>>(title: impl Into<String>, y: Axis, series: impl IntoIterator<Item = T>) -> Bars {
        Bars { title: title.into(), y, series: series.into_iter().map(Into::into).collect(), groups: Vec::new() }
    }

    /// Adds a case.
    pub fn group(&mut self, name: impl Into<String>, target: Option<f64>, bars: impl IntoIterator<Item = Option<Bar>>) {
        self.groups.push(Group { name: name.into(), target, bars: bars.into_iter().collect() });
    }

    fn check(&self) -> Result<(), String> {
        if self.y.scale != Scale::Linear {
            return Err(format!(
                "chart \"{}\": bars begin at zero, which a logarithmic axis does not have",
                self.title
            ));
        }
        for g in &self.groups {
            let place = |e| format!("chart \"{}\", {}: {e}", self.title, g.name);
            if g.bars.len() != self.series.len() {
                return Err(place(format!("{} bars for {} series", g.bars.len(), self.series.len())));
            }
            not_negative(&self.y, g.target).map_err(place)?;
            for bar in g.bars.iter().flatten() {
                not_negative(&self.y, std::iter::once(bar.value).chain(bar.interval.into_iter().flatten()))
                    .map_err(place)?;
                in_order(bar.value, bar.interval).map_err(place)?;
            }
        }
        Ok(())
    }
}

impl Bar {
    /// One without an interval.
    pub fn new(value: f64) -> Bar {
        Bar { value, interval: None }
    }

    /// One that lies between two values.
    pub fn within(value: f64, low: f64, high: f64) -> Bar {
        Bar { value, interval: Some([low, high]) }
    }
}

impl Stacks {
    /// One without bars, of these parts.
    pub fn new<T: Into<String>>(title: impl Into<String>, y: Axis, parts: impl IntoIterator<Item = T>) -> Stacks {
        Stacks { title: title.into(), y, parts: parts.into_iter().map(Into::into).collect(), stacks: Vec::new() }
    }

    /// Adds a bar.
    pub fn stack(&mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) {
        self.stacks.push(Stack { name: name.into(), values: values.into_iter().collect() });
    }

    fn check(&self) -> Result<(), String> {
        if self.y.scale != Scale::Linear {
            return Err(format!(
                "chart \"{}\": bars begin at zero, which a logarithmic axis does not have",
                self.title
            ));
        }
        for s in &self.stacks {
            let place = |e| format!("chart \"{}\", {}: {e}", self.title, s.name);
            if s.values.len() != self.parts.len() {
                return Err(place(format!("{} values for {} parts", s.values.len(), self.parts.len())));
            }
            not_negative(&self.y, s.values.iter().copied()).map_err(place)?;
        }
        Ok(())
    }
}

/// Whether an axis that begins at zero can show them.
fn not_negative(axis: &Axis, values: impl IntoIterator<Item = f64>) -> Result<(), String> {
    for v in values {
        axis.check([v])?;
        if v < 0.0 {
            return Err(format!("{} of {v}, which is below 0", axis.label));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
