//! Checks a sample of the received frames' sequence numbers: a switch that drops, repeats or reorders frames is not fast.

/// What a check has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Frames looked at.
    pub sampled: u64,
    /// Frames missing between those looked at.
    pub lost: u64,
    /// Times that a frame came later than its successors.
    pub reordered: u64,
    /// Frames that were there more than once.
    pub duplicated: u64,
}

/// The check of one sender's frames, as they come out of one receive queue.
///
/// Between two samples, as many frames have to have come as their sequence numbers are apart. A jump forward is loss, until
/// a jump backward takes it back (then the frames came in another order); a jump backward without one before is frames that
/// came twice.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Sequence numbers are 0 to this minus 1, over and over.
    count: u64,
    /// Whether nothing else comes out of the queue, so that the frames in between can be counted.
    alone: bool,
    last: Option<(u64, u64)>,
    found: Found,
}

impl Sequence {
    /// The check of a walk of `count` frames. `alone`: all frames of the queue are of this sender; if not, only the order is
    /// checked.
    pub fn new(count: u64, alone: bool) -> Sequence {
        Sequence { count, alone, last: None, found: Found::default() }
    }

    /// What was found.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Looks at the frame that was the `number`th in the queue and says that it is the `sequence`th of the walk.
    #[inline]
    pub fn sample(&mut self, number: u64, sequence: u64) {
        self.found.sampled += 1;
        if let Some((last_number, last)) = self.last.replace((number, sequence)) {
            let passed = if self.alone { number - last_number } else { 0 };
            let expected = last + passed % self.count;
            let ahead = (sequence + 2 * self.count - expected) % self.count;
            if ahead != 0 {
                self.jump(ahead);
            }
        }
    }

    #[cold]
    fn jump(&mut self, ahead: u64) {
        let found = &mut self.found;
        let back = self.count - ahead;
        if !self.alone {
            // Ahead is what is to be seen; how many are missing can't be told.
            found.reordered += u64::from(back < ahead);
        } else if ahead <= back {
            let again = ahead.min(found.duplicated);
            found.duplicated -= again;
            found.lost += ahead - again;
        } else {
            let late = back.min(found.lost);
            found.lost -= late;
            found.reordered += u64::from(late != 0);
            found.duplicated += back - late;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(count: u64, frames: impl IntoIterator<Item = u64>, every: usize) -> Found {
        let mut s = Sequence::new(count, true);
        for (number, sequence) in frames.into_iter().enumerate().step_by(every) {
            s.sample(number as u64, sequence % count);
        }
        s.found()
    }

    #[test]
    fn all_there() {
        assert_eq!(check(256, 5..100_005, 1), Found { sampled: 100_000, ..Found::default() });
        assert_eq!(check(256, 5..100_005, 64), Found { sampled: 1563, ..Found::default() });
        assert_eq!(check(1000, 0..100_000, 64).lost, 0);
    }

    #[test]
    fn loss_between_samples() {
        let frames = (0..1000).chain(1003..2000).chain(2010..5000);
        assert_eq!(check(1024, frames.clone(), 1), Found { sampled: 4987, lost: 13, ..Found::default() });
        assert_eq!(check(1024, frames, 64), Found { sampled: 78, lost: 13, ..Found::default() });
    }

    #[test]
    fn repeated_frames() {
        let frames = (0..1000).chain(999..5000);
        assert_eq!(check(1024, frames, 64), Found { sampled: 79, duplicated: 1, ..Found::default() });
        assert_eq!(check(256, [0, 1, 2, 2, 3, 4], 1), Found { sampled: 6, duplicated: 1, ..Found::default() });
    }

    #[test]
    fn another_order() {
        assert_eq!(check(256, [0, 1, 3, 2, 4, 5], 1), Found { sampled: 6, reordered: 1, ..Found::default() });
        assert_eq!(check(256, [0, 1, 4, 5, 2, 3, 6, 7], 1), Found { sampled: 8, reordered: 1, ..Found::default() });
    }

    #[test]
    fn several_senders_in_one_queue() {
        let mut s = Sequence::new(256, false);
        for (number, sequence) in [(0, 250), (9, 255), (11, 3), (400, 2), (401, 4)] {
            s.sample(number, sequence);
        }
        assert_eq!(s.found(), Found { sampled: 5, reordered: 1, ..Found::default() });
    }
}
