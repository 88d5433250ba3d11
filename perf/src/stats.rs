//! What a few measurements say of what was measured.

use serde::{Deserialize, Serialize};

/// The median of some values, and the interval that the median of all values lies in.
///
/// The interval needs no assumption about how values are distributed: of `n` values, that the k-th smallest and the k-th
/// largest have the median of all between them has the probability 1 - 2 P(B < k), B being the heads of `n` tosses of a coin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The middle value.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// With which probability it is right.
    pub level: f64,
}

/// The least probability wanted of an interval. Fewer than five values can't give it; then theirs is from end to end.
const LEVEL: f64 = 0.9;

impl Estimate {
    /// That of these values, at least one.
    pub fn of(values: &[f64]) -> Estimate {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let (mut k, mut level) = (1, confidence(n, 1));
        while k < n / 2 && confidence(n, k + 1) >= LEVEL {
            k += 1;
            level = confidence(n, k);
        }
        let at = |i: usize| sorted.get(i).copied().unwrap_or(0.0);
        Estimate { median: median(values), low: at(k - 1), high: at(n.saturating_sub(k)), level }
    }

    /// As "1.25 (1.20 to 1.31)".
    pub fn text(&self) -> String {
        format!("{:.2} ({:.2} to {:.2})", self.median, self.low, self.high)
    }
}

/// How likely the k-th smallest and k-th largest of `n` values have the median between them.
fn confidence(n: usize, k: usize) -> f64 {
    // Of one value nothing can be said.
    let mut ways = 1.0;
    let mut outside = 0.0;
    for i in 0..k {
        outside += ways;
        ways = ways * (n - i) as f64 / (i + 1) as f64;
    }
    (1.0 - 2.0 * outside / 2f64.powi(n as i32)).max(0.0)
}

/// The middle value; of an even number, the mean of the middle two. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Which value is the middle one; of an even number, the smaller of the middle two.
pub fn middle(values: &[f64]) -> Option<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order.get(order.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn which_is_the_middle_one() {
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[7.0]), Some(0));
        assert_eq!(middle(&[3.0, 1.0, 2.0]), Some(2));
        assert_eq!(middle(&[4.0, 1.0, 2.0, 3.0]), Some(2));
    }

    #[test]
    fn intervals() {
        // All tables of the sign test have these.
        let of = |n: u32| Estimate::of(&(1..=n).map(f64::from).collect::<Vec<_>>());
        assert_eq!(of(5), Estimate { median: 3.0, low: 1.0, high: 5.0, level: 0.9375 });
        assert_eq!(of(6), Estimate { median: 3.5, low: 1.0, high: 6.0, level: 0.96875 });
        let eight = of(8);
        assert_eq!((eight.low, eight.high), (2.0, 7.0));
        assert!((eight.level - 0.9297).abs() < 1e-4, "{eight:?}");
        let twenty = of(20);
        assert_eq!((twenty.low, twenty.high), (6.0, 15.0));
        assert!((twenty.level - 0.9586).abs() < 1e-4, "{twenty:?}");
        // Too few for what is wanted.
        assert_eq!(of(2), Estimate { median: 1.5, low: 1.0, high: 2.0, level: 0.5 });
        assert_eq!(of(1), Estimate { median: 1.0, low: 1.0, high: 1.0, level: 0.0 });
        assert_eq!(Estimate::of(&[]), Estimate::default());
    }

    #[test]
    fn order_does_not_matter() {
        let e = Estimate::of(&[1.3, 1.1, 1.5, 1.2, 1.4]);
        assert_eq!(e.text(), "1.30 (1.10 to 1.50)");
    }
}
