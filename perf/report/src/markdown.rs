//! The report as a page of docs/benchmarks/: one file a run, named by its day and CPU.

use super::{Align, Block, Document, Table, text};
use std::fmt::Write;

/// All of it. Charts are as in the terminal.
pub fn page(document: &Document) -> String {
    let mut out = format!("# {}\n", plain(&document.title));
    for paragraph in &document.summary {
        let _ = write!(out, "\n{}\n", plain(paragraph));
    }
    if !document.facts.is_empty() {
        out += "\n| | |\n|---|---|\n";
        for fact in &document.facts {
            let _ = writeln!(out, "| {} | {} |", plain(&fact.name), plain(&fact.value));
        }
    }
    for section in &document.sections {
        let _ = write!(out, "\n## {}\n", plain(&section.heading));
        for block in &section.blocks {
            match block {
                Block::Paragraph(text) => {
                    let _ = write!(out, "\n{}\n", plain(text));
                }
                Block::Listing(listing) => {
                    if !listing.caption.is_empty() {
                        let _ = write!(out, "\n{}:\n", plain(&listing.caption));
                    }
                    code(&mut out, &listing.text);
                }
                Block::Table(table) => self::table(&mut out, table),
                Block::Lines(_) | Block::Bars(_) | Block::Stacks(_) => code(&mut out, &text::block(block)),
            }
        }
    }
    out
}

/// `2026-11-26-amd-epyc-9b14.md`: the day and the CPU, in lower case, each run of other characters a dash.
///
/// # Errors
/// If the report does not say its date and CPU.
pub fn name(document: &Document) -> Result<String, String> {
    let fact = |name: &str| {
        let found = document.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str());
        found.filter(|value| !value.is_empty()).ok_or(format!("the report has no fact {name:?} to be named by"))
    };
    let day = fact("Date")?.split(' ').next().unwrap_or_default();
    // Behind a comma or an @ is what is not its name.
    let cpu = fact("CPU")?.split([',', '@']).next().unwrap_or_default().to_lowercase();
    let words: Vec<&str> = cpu.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let words: Vec<&str> =
        words.into_iter().filter(|word| !matches!(*word, "r" | "tm" | "cpu" | "processor")).collect();
    Ok(format!("{day}-{}.md", words.join("-")))
}

fn table(out: &mut String, table: &Table) {
    if !table.caption.is_empty() {
        let _ = write!(out, "\n{}:\n", plain(&table.caption));
    }
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let rule = |align: Align| if align == Align::Right { "---:" } else { "---" }.to_owned();
    out.push('\n');
    *out += &row(table.columns.iter().map(|column| plain(&column.name)).collect());
    *out += &row(table.columns.iter().map(|column| rule(column.align)).collect());
    for line in &table.rows {
        *out += &row(line.cells.iter().map(|cell| plain(cell)).collect());
    }
}

fn code(out: &mut String, text: &str) {
    // A fence that is longer than any within.
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let _ = write!(out, "\n{fence}text\n{}\n{fence}\n", text.trim_matches('\n'));
}

/// Text that is nothing else in Markdown, on one line.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, Tone};

    #[test]
    fn a_run_is_a_page_named_by_its_day_and_cpu() {
        let mut document = Document::new("Dray | testpmd");
        document.fact("Date", "2026-01-02 03:04 UTC");
        document.fact("CPU", "Intel(R) Xeon(R) Platinum 8581C CPU @ 2.30GHz, 2 of them for this");
        document.summary.push("All *good*.".into());
        let section = document.section("Rates");
        section.listing("It ran", "a `b`\n");
        let mut table = Table::new("Mpps", [Column::left("frames"), Column::right("Dray")]);
        table.verdict(Tone::Good, ["60 B", "1.0"]);
        section.add(table);
        let expected = "# Dray \\| testpmd\n\nAll \\*good\\*.\n\n| | |\n|---|---|\n| Date | 2026-01-02 03:04 UTC |\n\
                        | CPU | Intel(R) Xeon(R) Platinum 8581C CPU @ 2.30GHz, 2 of them for this |\n\n## Rates\n\n\
                        It ran:\n\n```text\na `b`\n```\n\nMpps:\n\n| frames | Dray |\n| --- | ---: |\n| 60 B | 1.0 |\n";
        assert_eq!(page(&document), expected);
        assert_eq!(name(&document).unwrap(), "2026-01-02-intel-xeon-platinum-8581c.md");
        document.facts.clear();
        assert_eq!(name(&document).unwrap_err(), "the report has no fact \"Date\" to be named by");
    }
}
