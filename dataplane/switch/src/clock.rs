//! Where the time goes: how long each stage takes, from a sample of the bursts. To read the time-stamp counter around every
//! stage of every burst would cost small bursts dearly; in all but one of 31 a stage costs a comparison.
//!
//! The CPU works on several instructions at once and does not wait for one stage's last to begin with the next one's first: what a stage
//! leaves unfinished, such as a cache miss that nobody waits for yet, is found where it is waited for.

use crate::mem::ticks;

/// One burst in so many is timed. It is prime, so that of queues that are polled in turn all get theirs.
const PERIOD: u32 = 31;

pub use crate::stages::Stage;

/// What a stage took, in the bursts that were timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTime {
    /// Time-stamp ticks.
    pub ticks: u64,
    /// Frames that it had to do with.
    pub frames: u64,
    /// Bursts in which there were any.
    pub bursts: u64,
}

/// A worker's clock for its stages.
#[derive(Debug)]
pub struct StageClock {
    /// Bursts until the next one that is timed; 0: it is this one.
    left: u32,
    /// When the last stage was done.
    last: u64,
    /// What it takes to read the clock.
    cost: u64,
    times: [StageTime; Stage::COUNT],
}

impl Default for StageClock {
    fn default() -> Self {
        let cost = (0..100).map(|_| {
            let last = ticks();
            ticks().saturating_sub(last)
        });
        StageClock { left: PERIOD - 1, last: 0, cost: cost.min().unwrap_or(0), times: Default::default() }
    }
}

impl StageClock {
    /// A burst may begin now.
    #[inline(always)]
    pub fn begin(&mut self) {
        if self.left == 0 {
            self.last = ticks();
        }
    }

    /// A stage is done that had to do with so many frames. If with none, the little it took is the next one's.
    #[inline(always)]
    pub fn mark(&mut self, stage: Stage, frames: usize) {
        if self.left == 0 {
            self.note(stage, frames);
        }
    }

    #[cold]
    #[inline(never)]
    fn note(&mut self, stage: Stage, frames: usize) {
        if frames == 0 {
            return;
        }
        let now = ticks();
        let time = &mut self.times[stage as usize];
        time.ticks += now.saturating_sub(self.last).saturating_sub(self.cost);
        time.frames += frames as u64;
        time.bursts += 1;
        self.last = ticks();
    }

    /// A burst is done. If it was timed, what each stage took in it goes to `take`.
    #[inline(always)]
    pub fn end(&mut self, take: impl FnMut(Stage, StageTime)) {
        if self.left == 0 {
            self.hand_over(take);
        }
        self.left -= 1;
    }

    #[cold]
    #[inline(never)]
    fn hand_over(&mut self, mut take: impl FnMut(Stage, StageTime)) {
        for &stage in Stage::ALL {
            let time = std::mem::take(&mut self.times[stage as usize]);
            if time.bursts != 0 {
                take(stage, time);
            }
        }
        self.left = PERIOD;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One burst: 3 frames are received, 2 are learned, none is decapsulated. What the clock said of it.
    fn burst(clock: &mut StageClock) -> Vec<(Stage, u64, u64)> {
        clock.begin();
        clock.mark(Stage::Receive, 3);
        std::thread::sleep(std::time::Duration::from_micros(10));
        clock.mark(Stage::Decap, 0);
        clock.mark(Stage::Learn, 2);
        let mut said = Vec::new();
        clock.end(|stage, time| {
            assert!(stage != Stage::Learn || time.ticks > 1000, "{time:?}: what decap took counts here");
            said.push((stage, time.frames, time.bursts));
        });
        said
    }

    #[test]
    fn one_burst_of_many_is_timed() {
        let mut clock = StageClock::default();
        for n in 1..=3 * PERIOD {
            let expected: &[_] = if n % PERIOD == 0 { &[(Stage::Receive, 3, 1), (Stage::Learn, 2, 1)] } else { &[] };
            assert_eq!(burst(&mut clock), expected, "burst {n}");
        }
    }

    #[test]
    fn bursts_that_did_not_come_are_not_counted() {
        let mut clock = StageClock::default();
        (1..PERIOD).for_each(|_| drop(burst(&mut clock)));
        // Polls in vain.
        (0..100).for_each(|_| clock.begin());
        assert_eq!(burst(&mut clock).len(), 2);
    }
}
