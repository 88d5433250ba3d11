//! How long frames are under way, by the CPU's time-stamp counter.

use dray_switch::mem::ticks;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Instant;

/// The most ticks that are told apart: 40 bits are minutes.
const MOST: u64 = (1 << crate::frames::Tag::TIME_BITS) - 1;

/// What became of one direction's times, in nanoseconds.
///
/// A time goes from when the batch of descriptors that a frame is in is handed to the switch until the generator looks at the frame
/// where the switch wrote it. So it has in it: waiting in both rings, the switch, and up to a turn of the generator's loop,
/// in which it writes and reads a batch of descriptors of each ring. It begins when the frame is sent, not when its rate
/// wanted it sent: a frame that finds the ring full is sent, and its time begins, when there is room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Frames whose time was taken.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Half of the frames took no longer.
    pub p50: f64,
    /// 90 % took no longer.
    pub p90: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    pub p99_9: f64,
    /// 99.99 % took no longer.
    pub p99_99: f64,
    /// The most.
    pub max: f64,
}

/// Tells how long a tick is.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begin: Instant,
    ticks: u64,
}

impl Clock {
    /// One that is the more exact the longer ago this is.
    pub fn start() -> Clock {
        Clock { begin: Instant::now(), ticks: ticks() }
    }

    /// Nanoseconds of a tick.
    pub fn tick(&self) -> f64 {
        let passed = ticks().wrapping_sub(self.ticks);
        self.begin.elapsed().as_nanos() as f64 / passed.max(1) as f64
    }
}

/// Collects times.
#[derive(Clone, Debug)]
pub struct Recorder {
    histogram: Histogram<u32>,
    /// Frames that were sent before this are not counted.
    since: u64,
}

impl Recorder {
    /// An empty one, which tells times apart that differ by a thousandth.
    pub fn new() -> Recorder {
        let histogram = Histogram::new_with_bounds(1, MOST, 3).expect("bounds and digits that a histogram takes");
        Recorder { histogram, since: ticks() }
    }

    /// Forgets all.
    pub fn reset(&mut self) {
        self.histogram.reset();
        self.skip();
    }

    /// Does not count the frames that are under way: they had to wait for the generator.
    pub fn skip(&mut self) {
        self.since = ticks();
    }

    /// A frame came now that was sent at `time`, which are the lowest 40 bits of ticks.
    #[inline]
    pub fn record(&mut self, time: u64) {
        self.record_at(time, ticks());
    }

    /// A frame took this many ticks.
    pub fn add(&mut self, took: u64) {
        self.histogram.saturating_record(took);
    }

    fn record_at(&mut self, time: u64, now: u64) {
        let took = now.wrapping_sub(time) & MOST;
        if took <= now.wrapping_sub(self.since) {
            self.histogram.saturating_record(took);
        }
    }

    /// The times so far, if there are any; `tick` is a tick in nanoseconds.
    pub fn latency(&self, tick: f64) -> Option<Latency> {
        let h = &self.histogram;
        let at = |quantile| h.value_at_quantile(quantile) as f64 * tick;
        (!h.is_empty()).then(|| Latency {
            count: h.len(),
            min: h.min() as f64 * tick,
            mean: h.mean() * tick,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: h.max() as f64 * tick,
        })
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut recorder = Recorder::new();
        assert_eq!(recorder.latency(1.0), None);
        recorder.since = 0;
        for took in 1..=10_000 {
            recorder.record_at(1 << 39, (1 << 39) + took);
        }
        let l = recorder.latency(0.5).unwrap();
        assert_eq!((l.count, l.min), (10_000, 0.5));
        for (got, expected) in [(l.mean, 5000.5), (l.p50, 5000.0), (l.p90, 9000.0), (l.p99, 9900.0), (l.p99_9, 9990.0)]
        {
            assert!((got / expected / 0.5 - 1.0).abs() < 0.001, "{l:?}");
        }
        assert!(l.p99_99 >= 4999.5 && l.max >= 5000.0 && l.max < 5010.0, "{l:?}");
        recorder.reset();
        assert_eq!(recorder.latency(0.5), None);
    }

    #[test]
    fn times_go_round() {
        let mut recorder = Recorder::new();
        recorder.since = 0;
        // Sent just before the lowest 40 bits began anew.
        recorder.record_at(MOST - 9, (7 << 40) + 20);
        assert_eq!(recorder.latency(1.0).unwrap().max, 30.0);
    }

    #[test]
    fn frames_of_before_a_pause_are_not_counted() {
        let mut recorder = Recorder::new();
        recorder.since = 1000;
        recorder.record_at(999, 2000);
        assert_eq!(recorder.latency(1.0), None);
        recorder.record_at(1000, 2000);
        assert_eq!(recorder.latency(1.0).unwrap().count, 1);
    }

    #[test]
    fn a_tick_is_less_than_ten_nanoseconds() {
        let clock = Clock::start();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let tick = clock.tick();
        assert!(tick > 0.05 && tick < 10.0, "{tick}");
    }
}
