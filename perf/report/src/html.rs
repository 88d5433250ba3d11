//! The report as a page.

use super::markup::escape;
use super::svg::Svg;
use super::{Align, Block, Document, Listing, Table, Tone};
use std::fmt::Write;

/// All of it.
pub fn page(document: &Document) -> String {
    let title = escape(&document.title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n\
         <body>\n<main>\n<header>\n<h1>{title}</h1>\n",
        include_str!("page.css")
    );
    for paragraph in &document.summary {
        let _ = writeln!(out, "<p class=\"summary\">{}</p>", escape(paragraph));
    }
    if !document.facts.is_empty() {
        out += "<dl>\n";
        for fact in &document.facts {
            let _ = writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(&fact.name), escape(&fact.value));
        }
        out += "</dl>\n";
    }
    out += "</header>\n";
    let (mut tables, mut figures) = (0, 0);
    for section in &document.sections {
        let _ = writeln!(out, "<section>\n<h2>{}</h2>", escape(&section.heading));
        for block in &section.blocks {
            match block {
                Block::Paragraph(text) => {
                    let _ = writeln!(out, "<p>{}</p>", escape(text));
                }
                Block::Listing(listing) => out += &list(listing),
                Block::Table(table) => {
                    tables += 1;
                    out += &tabulate(table, tables);
                }
                Block::Lines(chart) => out += &figure(&chart.title, &mut figures, |svg| svg.lines(chart)),
                Block::Bars(chart) => out += &figure(&chart.title, &mut figures, |svg| svg.bars(chart)),
                Block::Stacks(chart) => out += &figure(&chart.title, &mut figures, |svg| svg.stacks(chart)),
            }
        }
        out += "</section>\n";
    }
    out + "</main>\n</body>\n</html>\n"
}

/// A chart with its caption, for wide windows and for narrow ones: scaled down, its letters would be too small.
fn figure(title: &str, figures: &mut usize, draw: impl Fn(Svg) -> String) -> String {
    *figures += 1;
    let n = *figures;
    let wide = draw(Svg::new(&format!("figure-{n}"), 720.0));
    let narrow = draw(Svg::new(&format!("figure-{n}-narrow"), 380.0));
    format!(
        "<figure>\n<figcaption><b>Figure {n}.</b> {}</figcaption>\n<div class=\"wide\">{wide}</div>\n\
         <div class=\"narrow\">{narrow}</div>\n</figure>\n",
        escape(title)
    )
}

fn list(listing: &Listing) -> String {
    let caption = match listing.caption.as_str() {
        "" => String::new(),
        caption => format!("<figcaption>{}</figcaption>\n", escape(caption)),
    };
    format!("<figure>\n{caption}<pre tabindex=\"0\">{}</pre>\n</figure>\n", escape(&listing.text))
}

fn tabulate(table: &Table, n: usize) -> String {
    let caption = if table.caption.is_empty() { String::new() } else { format!(" {}", escape(&table.caption)) };
    // Room for the marks.
    let marked = table.rows.iter().any(|row| matches!(row.tone, Tone::Good | Tone::Bad));
    let class = if marked { " class=\"marked\"" } else { "" };
    let mut out = format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Table {n}\" tabindex=\"0\">\n<table{class}>\n\
         <caption><b>Table {n}.</b>{caption}</caption>\n<thead><tr>"
    );
    let class = |align: Align| if align == Align::Right { " class=\"number\"" } else { "" };
    for column in &table.columns {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column.align), escape(&column.name));
    }
    out += "</tr></thead>\n<tbody>\n";
    for row in &table.rows {
        let (tone, mark) = match row.tone {
            Tone::Plain => ("", ""),
            Tone::Strong => (" class=\"strong\"", ""),
            Tone::Good => (" class=\"good\"", "<span class=\"mark\" role=\"img\" aria-label=\"reached\">✓</span>"),
            Tone::Bad => (" class=\"bad\"", "<span class=\"mark\" role=\"img\" aria-label=\"not reached\">✗</span>"),
        };
        let _ = write!(out, "<tr{tone}>");
        for (i, (cell, column)) in row.cells.iter().zip(&table.columns).enumerate() {
            let mark = if i == 0 { mark } else { "" };
            let _ = write!(out, "<td{}>{mark}{}</td>", class(column.align), escape(cell));
        }
        out += "</tr>\n";
    }
    out + "</tbody>\n</table>\n</div>\n"
}
