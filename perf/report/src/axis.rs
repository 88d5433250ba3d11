//! Where an axis begins and ends, where its ticks stand, and how figures are written.

use super::Scale;

/// The largest figure of a chart.
pub const MOST: f64 = 1e100;
/// The smallest figure on a logarithmic axis.
pub const LEAST: f64 = 1e-100;

/// An axis that has found its ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    scale: Scale,
    /// The first value.
    low: f64,
    /// The last one, which is more.
    high: f64,
    /// The values with a label, ascending, round.
    pub ticks: Vec<f64>,
}

impl Span {
    /// An axis that shows `values` (no more than [`MOST`]; at least [`LEAST`] if `scale` is logarithmic) with about
    /// `count` ticks. A linear one shows zero too if `zero` says so, or if it isn't far away. Without values there is an
    /// axis all the same.
    pub fn new(scale: Scale, zero: bool, values: impl IntoIterator<Item = f64>, count: usize) -> Span {
        let (low, high) =
            values.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low > high { (1.0, 1.0) } else { (low, high) };
        match scale {
            Scale::Linear => Span::linear(low, high, zero, count.max(1)),
            Scale::Log => Span::log(low, high, count.max(1)),
        }
    }

    fn linear(mut low: f64, mut high: f64, zero: bool, count: usize) -> Span {
        if zero || low <= 0.6 * high {
            low = low.min(0.0);
        }
        if zero || high >= 0.6 * low {
            high = high.max(0.0);
        }
        // What is almost the same needs room around it.
        if high - low <= 1e-9 * high.abs().max(low.abs()) || high - low < LEAST {
            if high.abs() < LEAST {
                (low, high) = (0.0, 1.0);
            } else {
                (low, high) = (low - 0.1 * low.abs(), high + 0.1 * high.abs());
            }
        }
        let mut step = below((high - low) / count as f64);
        while mark(step) * (count as f64) < (high - low) * (1.0 - 1e-9) {
            step += 1;
        }
        // What is a tick but for rounding is one.
        let first = (low / mark(step) + 1e-6).floor() as i64;
        let last = (high / mark(step) - 1e-6).ceil() as i64;
        let ticks: Vec<f64> = (first..=last).map(|i| times_mark(i, step)).collect();
        Span { scale: Scale::Linear, low: ticks[0], high: ticks[ticks.len() - 1], ticks }
    }

    fn log(low: f64, high: f64, count: usize) -> Span {
        let (mut first, mut last) = (below(low), below(high));
        if mark(last) < high * (1.0 - 1e-9) {
            last += 1;
        }
        if first == last {
            (first, last) = (first - 1, last + 1);
        }
        let mut ticks: Vec<f64> = (first..=last).map(mark).collect();
        if ticks.len() > count + count / 2 {
            // Powers of ten, or of a hundred, or of a thousand...
            let (from, to) = (-(-first).div_euclid(3), last.div_euclid(3));
            let every = (1..).find(|every| (to - from) / every < count as i32).unwrap_or(1);
            ticks = (from..=to).filter(|e| e.rem_euclid(every) == 0).map(|e| mark(3 * e)).collect();
        }
        Span { scale: Scale::Log, low: mark(first), high: mark(last), ticks }
    }

    /// Where a value stands: 0 at the first end, 1 at the last.
    pub fn at(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).log10() / (self.high / self.low).log10(),
        }
    }

    /// The ticks' labels; on a linear axis all with as many decimals.
    pub fn labels(&self) -> Vec<String> {
        let decimals = |v: &f64| v.to_string().split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let most = self.ticks.iter().map(decimals).max().unwrap_or(0);
        let label = |&v: &f64| match self.scale {
            Scale::Linear if most <= 9 && v.abs() < 1e12 => grouped(&format!("{v:.most$}")),
            _ => plain(v),
        };
        self.ticks.iter().map(label).collect()
    }
}

/// The `i`th of the round numbers: ..., 0.5, 1, 2, 5, 10, ...; 1 is the 0th.
fn mark(i: i32) -> f64 {
    times_mark(1, i)
}

/// `n` times the `i`th round number, to the last bit.
fn times_mark(n: i64, i: i32) -> f64 {
    let digit = [1, 2, 5][i.rem_euclid(3) as usize];
    format!("{}e{}", n * digit, i.div_euclid(3)).parse().unwrap_or(0.0)
}

/// The last round number that isn't more than `v`, but for rounding.
fn below(v: f64) -> i32 {
    let mut i = 3 * v.log10().floor() as i32;
    while mark(i + 1) <= v * (1.0 + 1e-9) {
        i += 1;
    }
    i
}

/// A figure with all its digits, if they are not too many, in groups of three.
pub fn plain(v: f64) -> String {
    if v == 0.0 {
        "0".into()
    } else if !(1e-6..1e12).contains(&v.abs()) {
        format!("{v:e}")
    } else {
        grouped(&v.to_string())
    }
}

/// A measured figure: three digits, or all before the point if they are more.
pub fn figure(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    // As written, rounding included: 9.996 has three digits as 10.0.
    let text = format!("{v:.2e}");
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if !(-6..12).contains(&exponent) {
        return text;
    }
    grouped(&format!("{v:.*}", (2 - exponent).max(0) as usize))
}

/// A figure, and between which it lies.
pub fn with_interval(value: f64, interval: Option<[f64; 2]>) -> String {
    match interval {
        None => figure(value),
        Some([low, high]) => format!("{} ({} to {})", figure(value), figure(low), figure(high)),
    }
}

/// A quantity that was chosen: whole ones with all digits, others like measured ones.
pub fn quantity(v: f64) -> String {
    if v == v.round() { plain(v) } else { figure(v) }
}

/// The digits before the point in groups of three.
fn grouped(digits: &str) -> String {
    let (sign, rest) = digits.strip_prefix('-').map_or(("", digits), |rest| ("−", rest));
    let (whole, decimals) = rest.split_once('.').map_or((rest, None), |(whole, decimals)| (whole, Some(decimals)));
    let mut out = String::from(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(decimals) = decimals {
        out.push('.');
        out.push_str(decimals);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scale::{Linear, Log};

    fn labels(scale: Scale, values: &[f64], count: usize) -> Vec<String> {
        Span::new(scale, false, values.iter().copied(), count).labels()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(labels(Linear, &[0.0, 86.3], 5), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(
            labels(Linear, &[60.0, 1514.0], 8),
            ["0", "200", "400", "600", "800", "1,000", "1,200", "1,400", "1,600"]
        );
        assert_eq!(labels(Linear, &[0.0, 1.2], 3), ["0.0", "0.5", "1.0", "1.5"]);
        assert_eq!(labels(Linear, &[0.0, 100.0], 5), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(Linear, &[-3.0, 4.0], 4), ["−4", "−2", "0", "2", "4"]);
        // Far from zero.
        assert_eq!(labels(Linear, &[1000.0, 1010.0], 5), ["1,000", "1,002", "1,004", "1,006", "1,008", "1,010"]);
        assert_eq!(labels(Linear, &[-1010.0, -1000.0], 2), ["−1,010", "−1,005", "−1,000"]);
        assert_eq!(Span::new(Linear, true, [1000.0, 1010.0], 2).labels(), ["0", "1,000", "2,000"]);
    }

    #[test]
    fn linear_ticks_of_tiny_and_huge_ranges() {
        assert_eq!(labels(Linear, &[0.0, 3e-9], 3), ["0.000000000", "0.000000001", "0.000000002", "0.000000003"]);
        assert_eq!(labels(Linear, &[0.0, 3e-12], 3), ["0", "1e-12", "2e-12", "3e-12"]);
        assert_eq!(labels(Linear, &[-MOST, MOST], 2), ["-1e100", "0", "1e100"]);
        assert_eq!(labels(Linear, &[1e15, 1e15 + 0.125], 2), ["9e14", "1e15", "1.1e15"]);
        assert_eq!(labels(Linear, &[0.0, 5e-324], 2), ["0.0", "0.5", "1.0"]);
    }

    #[test]
    fn one_value_or_none_has_an_axis() {
        assert_eq!(labels(Linear, &[0.0], 2), ["0.0", "0.5", "1.0"]);
        assert_eq!(labels(Linear, &[50.0], 2), ["45", "50", "55"]);
        assert_eq!(labels(Linear, &[-50.0], 2), ["−55", "−50", "−45"]);
        assert_eq!(Span::new(Linear, true, [50.0], 5).labels(), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(labels(Linear, &[], 2), ["0.9", "1.0", "1.1"]);
        assert_eq!(labels(Log, &[], 5), ["0.5", "1", "2"]);
        assert_eq!(labels(Log, &[3.0], 5), ["2", "5"]);
        assert_eq!(labels(Log, &[10.0], 5), ["5", "10", "20"]);
    }

    #[test]
    fn logarithmic_ticks() {
        assert_eq!(labels(Log, &[2.0, 2e6], 7), ["10", "100", "1,000", "10,000", "100,000", "1,000,000"]);
        assert_eq!(labels(Log, &[1.0, 1e6], 4), ["1", "100", "10,000", "1,000,000"]);
        assert_eq!(labels(Log, &[3.0, 70.0], 5), ["2", "5", "10", "20", "50", "100"]);
        assert_eq!(labels(Log, &[101.0, 102.0], 5), ["100", "200"]);
        assert_eq!(labels(Log, &[1e-9, 1e9], 4), ["0.00001", "1", "100,000"]);
        assert_eq!(labels(Log, &[LEAST, MOST], 3), ["1e-67", "1", "1e67"]);
    }

    #[test]
    fn places() {
        let span = Span::new(Linear, true, [86.0], 5);
        assert_eq!((span.at(0.0), span.at(50.0), span.at(100.0)), (0.0, 0.5, 1.0));
        let span = Span::new(Log, false, [1.0, 1e4], 5);
        assert_eq!((span.at(1.0), span.at(100.0), span.at(1e4)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn figures() {
        let figures = [0.0, 4.9, 86.34, 9.996, 134.4, 1234.5, 1_234_567.0, 0.01234, -0.27, 1e-9, 2.5e13].map(figure);
        assert_eq!(
            figures,
            ["0", "4.90", "86.3", "10.0", "134", "1,234", "1,234,567", "0.0123", "−0.270", "1.00e-9", "2.50e13"]
        );
        let quantities = [0.0, 60.0, 1514.0, 1e6, 33.333].map(quantity);
        assert_eq!(quantities, ["0", "60", "1,514", "1,000,000", "33.3"]);
    }
}
