//! Which of a worker's queues it polls when. A queue that has had nothing for a while rests: as long as others have work, only
//! some of those that rest are polled in each round, so that hundreds of quiet ports don't slow down a busy one. A worker with
//! nothing to do polls all of them every round. Of a pair of ports of which only one is sent anything, the other's queue is a quiet one too.

/// Rounds without anything after which a queue rests.
const REST: u32 = 64;

/// While there is work, every resting queue is polled once in this many rounds. A round of a full burst takes a microsecond or
/// two: so many times that is what the first frame on a quiet port may wait longer beside a saturated one.
const SHARE: usize = 32;

/// As if there were so many at least: few of them are polled more often, but not in each round.
const FEW: usize = 8;

/// Queues, those that are awake first.
pub(crate) struct Rotation<Q> {
    queues: Vec<Slot<Q>>,
    awake: usize,
    /// The resting queue to be polled next.
    next: usize,
    /// What of a poll is due, in parts of [`SHARE`].
    due: usize,
    busy: bool,
}

struct Slot<Q> {
    queue: Q,
    /// Rounds without anything, while awake.
    empty: u32,
}

impl<Q> Default for Rotation<Q> {
    fn default() -> Self {
        Rotation { queues: Vec::new(), awake: 0, next: 0, due: 0, busy: false }
    }
}

impl<Q> Rotation<Q> {
    /// Adds a queue, awake.
    pub(crate) fn push(&mut self, queue: Q) {
        self.queues.push(Slot { queue, empty: 0 });
        self.wake(self.queues.len() - 1);
    }

    /// Takes out the queues for which `gone` says so.
    pub(crate) fn extract(&mut self, mut gone: impl FnMut(&Q) -> bool) -> Vec<Q> {
        let out = self.queues.extract_if(.., |slot| gone(&slot.queue)).map(|slot| slot.queue).collect();
        // Who rested is found out again.
        self.awake = self.queues.len();
        out
    }

    /// All queues.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Q> {
        self.queues.iter_mut().map(|slot| &mut slot.queue)
    }

    /// One round: `poll` says whether a queue had anything. Whether any had.
    #[inline(always)]
    pub(crate) fn round(&mut self, mut poll: impl FnMut(&mut Q) -> bool) -> bool {
        let resting = self.queues.len() - self.awake;
        let share = if self.busy {
            let due = self.due + resting.max(FEW);
            self.due = due % SHARE;
            due / SHARE
        } else {
            resting
        };
        self.busy = false;
        let mut at = 0;
        while at < self.awake {
            let slot = &mut self.queues[at];
            if poll(&mut slot.queue) {
                (slot.empty, self.busy) = (0, true);
            } else {
                slot.empty += 1;
                if slot.empty >= REST {
                    // The last one awake takes its place, and is polled there.
                    self.awake -= 1;
                    self.queues.swap(at, self.awake);
                    continue;
                }
            }
            at += 1;
        }
        for _ in 0..share {
            if !(self.awake..self.queues.len()).contains(&self.next) {
                self.next = self.awake;
            }
            let Some(slot) = self.queues.get_mut(self.next) else { break };
            if poll(&mut slot.queue) {
                self.busy = true;
                self.wake(self.next);
            }
            self.next += 1;
        }
        self.busy
    }

    fn wake(&mut self, at: usize) {
        self.queues[at].empty = 0;
        self.queues.swap(at, self.awake);
        self.awake += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls `rounds` times; queue `n` has something if `has` says so. How often each of ten was polled.
    fn polls(rotation: &mut Rotation<usize>, rounds: usize, has: impl Fn(usize) -> bool) -> [usize; 10] {
        let mut polls = [0; 10];
        for _ in 0..rounds {
            rotation.round(|&mut n| {
                polls[n] += 1;
                has(n)
            });
        }
        polls
    }

    fn ten() -> Rotation<usize> {
        let mut rotation = Rotation::default();
        (0..10).for_each(|n| rotation.push(n));
        rotation
    }

    #[test]
    fn all_are_polled_while_there_is_nothing_to_do() {
        assert_eq!(polls(&mut ten(), 1000, |_| false), [1000; 10]);
    }

    #[test]
    fn quiet_ones_rest_while_others_are_busy() {
        let mut rotation = ten();
        polls(&mut rotation, REST as usize, |n| n == 3);
        let polls = polls(&mut rotation, 1600, |n| n == 3);
        assert_eq!(polls[3], 1600);
        for n in (0..10).filter(|n| *n != 3) {
            assert!((1600 / SHARE - 1..=1600 / SHARE + 1).contains(&polls[n]), "{polls:?}");
        }
    }

    /// However many there are, none waits for longer than it may; and one isn't polled in each round either.
    #[test]
    fn few_quiet_ones_are_polled_more_often() {
        for (quiet, least) in [(1, SHARE / FEW), (4, 4 * SHARE / FEW), (8, SHARE), (9, SHARE)] {
            let mut rotation = Rotation::default();
            (0..=quiet).for_each(|n| rotation.push(n));
            polls(&mut rotation, REST as usize, |n| n == 0);
            let polls = polls(&mut rotation, 10 * least, |n| n == 0);
            assert_eq!(polls[0], 10 * least);
            assert!(polls[1..=quiet].iter().all(|n| (9..=11).contains(n)), "{quiet}: {polls:?}");
        }
    }

    #[test]
    fn one_that_has_something_again_wakes() {
        let mut rotation = ten();
        polls(&mut rotation, 1000, |n| n == 3);
        polls(&mut rotation, SHARE, |n| n == 3 || n == 7);
        assert_eq!(polls(&mut rotation, 100, |n| n == 3 || n == 7)[7], 100);
    }

    #[test]
    fn queues_come_and_go() {
        let mut rotation = ten();
        polls(&mut rotation, 1000, |n| n == 3);
        assert_eq!(rotation.extract(|n| n % 2 == 1).len(), 5);
        rotation.push(1);
        let now = polls(&mut rotation, 1000, |_| false);
        // In the round in which one goes to rest, another may take its turn.
        assert!(
            (0..10).all(|n| if n == 1 || n % 2 == 0 { (998..=1002).contains(&now[n]) } else { now[n] == 0 }),
            "{now:?}"
        );
        assert_eq!(rotation.iter_mut().count(), 6);
    }
}
