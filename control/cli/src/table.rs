//! Tables for people.

/// Rows under a heading: columns as wide as their widest cell, two spaces apart, numbers to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[&str]) -> Self {
        Table { rows: vec![columns.iter().map(|column| (*column).to_owned()).collect()] }
    }

    /// Adds a row of as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| if cell.is_empty() { "-".into() } else { cell }).collect());
    }

    /// The table, with a newline at the end of each line.
    pub fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |c: usize| self.rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let is_number =
            |cell: &str| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains(['.', ':']);
        let right: Vec<bool> =
            (0..columns).map(|c| self.rows.len() > 1 && self.rows[1..].iter().all(|row| is_number(&row[c]))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let width = widths[c];
                line += &if right[c] { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// A number with its thousands apart: `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as people say them: `3d 4h`, `5m 6s`.
pub fn duration(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s}s"),
        (0, ..) => format!("{h}h {m}m"),
        _ => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "RX", "MAC"]);
        table.row(["web".into(), thousands(1_234_567), "02:00:00:00:00:01".into()]);
        table.row(["database".into(), thousands(9), String::new()]);
        assert_eq!(
            table.render(),
            "NAME             RX  MAC\nweb       1,234,567  02:00:00:00:00:01\ndatabase          9  -\n"
        );
        assert_eq!(Table::new(&["A", "B"]).render(), "A  B\n");
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 123_456, 1_000_000].map(thousands), ["0", "999", "1,000", "123,456", "1,000,000"]);
        assert_eq!([0, 59, 61, 3_600, 86_400 * 3 + 4 * 3_600].map(duration), ["0s", "59s", "1m 1s", "1h 0m", "3d 4h"]);
    }
}
