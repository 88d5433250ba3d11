//! RFC 2544: throughput by binary search (section 26.1), latency at the throughput and below (26.2) and the frame loss
//! rate (26.3), by frame size.

use serde::Serialize;

/// What a trial gave: frames were sent at a rate for some time, and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Trial {
    /// Million frames a second of each direction that were to be sent; absent: as many as possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intended_mpps: Option<f64>,
    /// Million frames a second of each direction that were sent. Fewer than intended if the generator was too slow, or the
    /// switch didn't take them off a ring.
    pub rate_mpps: f64,
    /// Percent of the frames sent that never came.
    pub loss: f64,
    /// Times that a frame came later than its successors, in the sample that was looked at.
    pub reordered: u64,
    /// Frames that came more than once, as far as that was seen.
    pub duplicated: u64,
}

/// What the throughput is limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The switch: it loses frames at a rate that is higher by no more than the resolution.
    Switch,
    /// The generator, or a ring that the switch leaves full: frames can't be sent faster, and none were lost.
    Generator,
    /// The highest rate that was allowed: the switch may be faster.
    Rate,
    /// Nothing: frames are lost at every rate that was tried.
    None,
}

/// What to search for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// Million frames a second of each direction, at most; `None`: as many as can be sent.
    pub max_mpps: Option<f64>,
    /// Percent of the frames that may be lost.
    pub loss: f64,
    /// When to stop: percent of the highest rate between one that is kept and one that isn't.
    pub resolution: f64,
}

impl Goal {
    /// Whether the switch keeps up in this trial. One that repeats frames doesn't: what is lost could not be told.
    pub fn kept(&self, trial: &Trial) -> bool {
        trial.rate_mpps > 0.0 && trial.loss <= self.loss && trial.duplicated == 0
    }
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The trial with the highest rate that was kept.
    pub best: Option<Trial>,
    /// What it is limited by.
    pub limit: Limit,
    /// Million frames a second of each direction that the first trial sent: the highest rate.
    pub top_mpps: f64,
    /// All trials, in the order in which they were made.
    pub trials: Vec<Trial>,
}

/// Searches for the highest rate at which no more is lost than the goal allows: the first trial is as fast as can be, each
/// next one half-way between the highest rate that was kept and the lowest that wasn't. `trial` sends at the rate that it
/// is given, million frames a second of each direction, or as fast as possible.
///
/// What it finds was kept in a trial, whatever the switch does: one that loses frames now and then, or at lower rates only,
/// is given a rate that is too low, never one at which it failed.
///
/// # Errors
/// Those of `trial`.
pub fn search(goal: &Goal, mut trial: impl FnMut(Option<f64>) -> Result<Trial, String>) -> Result<Found, String> {
    let first = trial(goal.max_mpps)?;
    let top = first.rate_mpps;
    let mut found = Found { best: None, limit: Limit::None, top_mpps: top, trials: vec![first] };
    if goal.kept(&first) {
        // A rate is kept a little less than exactly.
        let reached = goal.max_mpps.is_some_and(|max| top >= 0.99 * max);
        found.limit = if reached { Limit::Rate } else { Limit::Generator };
        found.best = Some(first);
        return Ok(found);
    }
    let (mut low, mut high) = (0.0, top);
    // At most as many halves as a number has bits, also if the resolution is nothing.
    for _ in 0..52 {
        if high - low <= top * goal.resolution / 100.0 {
            break;
        }
        let middle = (low + high) / 2.0;
        let trial = trial(Some(middle))?;
        found.trials.push(trial);
        if goal.kept(&trial) {
            low = middle;
            found.limit = Limit::Switch;
            if found.best.is_none_or(|best| best.rate_mpps < trial.rate_mpps) {
                found.best = Some(trial);
            }
        } else {
            high = middle;
        }
    }
    Ok(found)
}

/// The frame loss rate (RFC 2544 section 26.3): trials from the highest rate downwards in steps of a tenth, until two in a row
/// lose nothing. Each with the percentage of the highest rate.
///
/// # Errors
/// Those of `trial`.
pub fn loss_rates(
    top_mpps: f64,
    mut trial: impl FnMut(Option<f64>) -> Result<Trial, String>,
) -> Result<Vec<(u32, Trial)>, String> {
    let mut trials = Vec::new();
    let mut without = 0;
    for percent in (10..=100).rev().step_by(10) {
        let trial = trial(Some(top_mpps * f64::from(percent) / 100.0))?;
        trials.push((percent, trial));
        without = if trial.loss == 0.0 { without + 1 } else { 0 };
        if without == 2 {
            break;
        }
    }
    Ok(trials)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal { max_mpps: None, loss: 0.0, resolution: 1.0 };

    /// A generator of at most 100 Mpps, and a switch that loses this percentage at a rate.
    fn device(mut loss: impl FnMut(f64) -> f64) -> impl FnMut(Option<f64>) -> Result<Trial, String> {
        move |intended| {
            let rate = intended.unwrap_or(100.0).min(100.0);
            Ok(Trial { intended_mpps: intended, rate_mpps: rate, loss: loss(rate), ..Trial::default() })
        }
    }

    /// What a switch loses that does so many and no more.
    fn steady(most: f64) -> impl FnMut(f64) -> f64 {
        move |rate| (100.0 * (1.0 - most / rate)).max(0.0)
    }

    fn rate(found: &Found) -> f64 {
        found.best.map_or(0.0, |best| best.rate_mpps)
    }

    #[test]
    fn it_converges() {
        for most in [2.0, 10.0, 33.3, 50.0, 77.7, 99.5] {
            let found = search(&GOAL, device(steady(most))).unwrap();
            assert_eq!((found.limit, found.top_mpps), (Limit::Switch, 100.0));
            assert!(rate(&found) <= most && rate(&found) >= most - 1.0, "{most}: {found:?}");
            // One at full speed, and then half the interval each time.
            assert_eq!(found.trials.len(), 1 + 7);
        }
        let fine = search(&Goal { resolution: 0.001, ..GOAL }, device(steady(42.0))).unwrap();
        assert!((rate(&fine) - 42.0).abs() < 0.001, "{fine:?}");
        let finest = search(&Goal { resolution: 0.0, ..GOAL }, device(steady(42.0))).unwrap();
        assert!((rate(&finest) - 42.0).abs() < 1e-9 && finest.trials.len() <= 53);
    }

    #[test]
    fn some_loss_may_be_tolerated() {
        // 10 % of 50 Mpps are lost if 45 get through.
        let goal = Goal { loss: 10.0, ..GOAL };
        let found = search(&goal, device(steady(45.0))).unwrap();
        assert!((49.0..=50.0).contains(&rate(&found)), "{found:?}");
        assert!(found.best.unwrap().loss > 5.0);
    }

    #[test]
    fn a_switch_faster_than_the_generator() {
        let found = search(&GOAL, device(|_| 0.0)).unwrap();
        assert_eq!((found.limit, rate(&found), found.trials.len()), (Limit::Generator, 100.0, 1));
        // The highest rate allowed is another matter, if it was reached.
        let found = search(&Goal { max_mpps: Some(40.0), ..GOAL }, device(|_| 0.0)).unwrap();
        assert_eq!((found.limit, rate(&found)), (Limit::Rate, 40.0));
        let found = search(&Goal { max_mpps: Some(400.0), ..GOAL }, device(|_| 0.0)).unwrap();
        assert_eq!((found.limit, rate(&found)), (Limit::Generator, 100.0));
    }

    #[test]
    fn the_highest_rate_allowed_bounds_the_search() {
        let mut highest = 0.0f64;
        let mut loss = steady(30.0);
        let found = search(
            &Goal { max_mpps: Some(64.0), ..GOAL },
            device(|rate| {
                highest = highest.max(rate);
                loss(rate)
            }),
        );
        let found = found.unwrap();
        assert!((29.0..=30.0).contains(&rate(&found)), "{found:?}");
        assert_eq!(highest, 64.0);
    }

    #[test]
    fn no_throughput_at_all() {
        let found = search(&GOAL, device(|_| 0.5)).unwrap();
        assert_eq!((found.limit, found.best), (Limit::None, None));
        assert_eq!(found.trials.len(), 8);
        // Nothing can even be sent.
        let none = |intended| Ok(Trial { intended_mpps: intended, ..Trial::default() });
        let found = search(&GOAL, none).unwrap();
        assert_eq!((found.limit, found.best, found.trials.len()), (Limit::None, None, 1));
    }

    #[test]
    fn a_switch_that_is_worse_at_lower_rates() {
        // Keeps up to 20 and from 40 to 60.
        let keeps = |rate: f64| rate <= 20.0 || (40.0..=60.0).contains(&rate);
        let found = search(&GOAL, device(|rate| if keeps(rate) { 0.0 } else { 1.0 })).unwrap();
        assert_eq!(found.limit, Limit::Switch);
        assert!(keeps(rate(&found)) && !keeps(rate(&found) + 1.0), "{found:?}");
        // Loses something every third time.
        let mut n = 0;
        let mut most = steady(80.0);
        let moody = device(|rate| {
            n += 1;
            if n % 3 == 0 { 0.1 } else { most(rate) }
        });
        let found = search(&GOAL, moody).unwrap();
        let best = found.best.unwrap();
        assert!(best.loss == 0.0 && best.rate_mpps <= 80.0, "{found:?}");
    }

    #[test]
    fn frames_that_come_twice_are_not_kept() {
        let twice = |intended: Option<f64>| {
            let rate = intended.unwrap_or(100.0);
            let duplicated = if rate > 10.0 { 5 } else { 0 };
            Ok(Trial { intended_mpps: intended, rate_mpps: rate, duplicated, ..Trial::default() })
        };
        let found = search(&GOAL, twice).unwrap();
        assert!((9.0..=10.0).contains(&rate(&found)), "{found:?}");
    }

    #[test]
    fn errors_end_a_search() {
        let mut n = 0;
        let breaks = |intended| {
            n += 1;
            if n == 3 { Err("link A is down".into()) } else { device(steady(1.0))(intended) }
        };
        assert_eq!(search(&GOAL, breaks), Err("link A is down".into()));
    }

    #[test]
    fn loss_rates_end_with_two_that_lose_nothing() {
        let rates = loss_rates(100.0, device(steady(75.0))).unwrap();
        let table: Vec<(u32, f64)> = rates.iter().map(|(p, t)| (*p, t.loss.round())).collect();
        assert_eq!(table, [(100, 25.0), (90, 17.0), (80, 6.0), (70, 0.0), (60, 0.0)]);
        assert_eq!(loss_rates(100.0, device(|_| 0.0)).unwrap().len(), 2);
        assert_eq!(loss_rates(100.0, device(|_| 1.0)).unwrap().len(), 10);
        // One alone is not enough.
        let rates = loss_rates(100.0, device(|rate| if rate == 80.0 { 0.0 } else { 1.0 })).unwrap();
        assert_eq!(rates.len(), 10);
    }
}
