//! What is wrong with a configuration file, and where: several errors at once.

use std::fmt;
use std::ops::Range;

/// At most this many errors are kept; the rest are only counted.
const MAX_ERRORS: usize = 100;

/// At most this many characters of a source line are shown.
const MAX_SHOWN: usize = 160;

/// Everything found wrong with a configuration file, in the order of its lines. Never empty.
///
/// `Display` shows each error with its source line and a caret below what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// The errors.
    pub errors: Vec<Error>,
    /// How many more there were.
    pub more: usize,
}

impl std::error::Error for Errors {}

/// One thing wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Name of the file, as given to [`crate::parse`].
    pub file: String,
    /// Where in the file.
    pub place: Place,
    /// Names the key, the value and what would be right.
    pub message: String,
    /// Another place that matters, such as the first use of a duplicate name, and what is there.
    pub note: Option<(Place, String)>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Byte offsets in the text.
    pub span: Range<usize>,
    /// The part of the source line that is shown, without control characters.
    shown: String,
    /// Characters of `shown` before the caret, and carets.
    carets: (usize, usize),
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        if self.more > 0 {
            write!(f, "\nerror: and {} more", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.show(f, "error", &self.file, &self.message)?;
        if let Some((place, message)) = &self.note {
            writeln!(f)?;
            place.show(f, "note", &self.file, message)?;
        }
        Ok(())
    }
}

impl Place {
    fn show(&self, f: &mut fmt::Formatter<'_>, level: &str, file: &str, message: &str) -> fmt::Result {
        let (before, carets) = self.carets;
        writeln!(f, "{level}: {file}:{}:{}: {message}", self.line, self.column)?;
        writeln!(f, "{:5} | {}", self.line, self.shown)?;
        write!(f, "      | {:before$}{:^<carets$}", "", "")
    }
}

/// Collects errors while a file is read.
#[derive(Default)]
pub(crate) struct Report {
    found: Vec<Found>,
    more: usize,
}

struct Found {
    span: Range<usize>,
    message: String,
    note: Option<(Range<usize>, String)>,
}

impl Report {
    /// Something is wrong at `span`. The message is only made if it will be shown.
    pub fn add(&mut self, span: &Range<usize>, message: impl FnOnce() -> String) {
        self.push(span, message, None);
    }

    /// As [`Report::add`], pointing at `other` too.
    pub fn add_with_note(
        &mut self,
        span: &Range<usize>,
        message: impl FnOnce() -> String,
        other: &Range<usize>,
        note: &str,
    ) {
        self.push(span, message, Some((other.clone(), note.into())));
    }

    fn push(&mut self, span: &Range<usize>, message: impl FnOnce() -> String, note: Option<(Range<usize>, String)>) {
        if self.found.len() < MAX_ERRORS {
            self.found.push(Found { span: span.clone(), message: message(), note });
        } else {
            self.more += 1;
        }
    }

    /// The errors of what is in no file, a line each, if there are any.
    pub fn messages(mut self) -> Result<(), String> {
        self.found.sort_by_key(|found| found.span.start);
        let mut messages: Vec<String> = self.found.into_iter().map(|found| found.message).collect();
        if self.more > 0 {
            messages.push(format!("and {} more", self.more));
        }
        if messages.is_empty() { Ok(()) } else { Err(messages.join("\n")) }
    }

    /// The errors, if there are any.
    pub fn finish(mut self, file: &str, text: &str) -> Result<(), Errors> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|found| found.span.start);
        let errors = self
            .found
            .into_iter()
            .map(|found| Error {
                file: file.into(),
                place: place(text, found.span),
                message: found.message,
                note: found.note.map(|(span, message)| (place(text, span), message)),
            })
            .collect();
        Err(Errors { errors, more: self.more })
    }
}

/// Finds the line and column of `span`, and what to show of that line.
fn place(text: &str, span: Range<usize>) -> Place {
    let floor = |mut i: usize| {
        i = i.min(text.len());
        while !text.is_char_boundary(i) {
            i -= 1;
        }
        i
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let column = text[line_start..start].chars().count();
    let wanted = text[start..end.min(line_end)].trim_end().chars().count();

    // Of a long line, a window that begins shortly before the caret.
    let skip = if column < MAX_SHOWN / 2 { 0 } else { column - MAX_SHOWN / 4 };
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = text[line_start..line_end].chars().skip(skip).take(MAX_SHOWN).map(clean).collect();
    let shown = shown.trim_end().to_string();
    let before = column - skip;
    let carets = wanted.clamp(1, (MAX_SHOWN - before).max(1));
    Place {
        line: text[..line_start].matches('\n').count() + 1,
        column: column + 1,
        span: start..end,
        shown,
        carets: (before, carets),
    }
}

/// Those of `known` nearest to `wanted`, as the end of a message: `; did you mean "x"?`, or `otherwise`.
pub fn suggest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    let limit = wanted.chars().count().max(3) / 3;
    let near = known
        .filter(|name| wanted.len() <= 64 && !name.is_empty())
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min();
    match near {
        Some((_, name)) => format!("; did you mean {name:?}?"),
        None => otherwise.to_string(),
    }
}

/// Edit distance with transpositions (optimal string alignment), in which `-` and `_`, and the case, do not count.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| if c == '_' { '-' } else { c.to_ascii_lowercase() };
    let a: Vec<char> = a.chars().map(fold).collect();
    let b: Vec<char> = b.chars().map(fold).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(row[j - 1] + 1).min(above[j] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// A value as messages show it: quoted, control characters escaped, and not too long.
pub(crate) fn quote(value: &str) -> String {
    let short: String = value.chars().take(64).collect();
    let dots = if short.len() < value.len() { "..." } else { "" };
    format!("{short:?}{dots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str, span: Range<usize>) -> String {
        let mut report = Report::default();
        report.add(&span, || "wrong".into());
        report.finish("f.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn shows_line_and_caret() {
        assert_eq!(
            one("a = 1\nbé = \"x\"\n", 12..15),
            "error: f.toml:2:6: wrong\n    2 | bé = \"x\"\n      |      ^^^"
        );
    }

    #[test]
    fn survives_any_span() {
        let text = "é\r\n\u{1b}[31m\t日本語";
        for start in 0..text.len() + 3 {
            for end in 0..text.len() + 3 {
                let shown = one(text, start..end);
                assert!(shown.contains('^'));
                assert!(!shown.contains('\u{1b}'), "an escape sequence reached the terminal");
            }
        }
        assert!(one("", 0..0).contains("f.toml:1:1:"));
    }

    #[test]
    fn shows_a_window_of_a_long_line() {
        let text = "x".repeat(10_000);
        let shown = one(&text, 5_000..9_000);
        assert!(shown.starts_with("error: f.toml:1:5001: wrong\n"));
        assert!(shown.lines().all(|line| line.len() < 200));
    }

    #[test]
    fn counts_what_is_too_many() {
        let mut report = Report::default();
        for i in 0..250 {
            report.add(&(i..i), || "wrong".into());
        }
        let errors = report.finish("f", &"\n".repeat(250)).unwrap_err();
        assert_eq!((errors.errors.len(), errors.more), (100, 150));
        assert!(errors.to_string().ends_with("error: and 150 more"));
    }

    #[test]
    fn suggests_the_nearest() {
        let known = || ["ring-size", "buffer-size", "mtu", "mac"].into_iter();
        assert_eq!(suggest("ring_size", known(), "!"), "; did you mean \"ring-size\"?");
        assert_eq!(suggest("mtux", known(), "!"), "; did you mean \"mtu\"?");
        assert_eq!(suggest("mut", known(), "!"), "; did you mean \"mtu\"?");
        assert_eq!(suggest("colour", known(), "!"), "!");
    }
}
