//! Which of a worker's queues it polls when. A queue that has had nothing for a while rests: as long as others have work, only
//! some of those that rest are polled in each round, so that hundreds of quiet ports don't slow down a busy one. A worker with
//! nothing to do polls all of them every round. Of a pair of ports of which only one is sent anything, the other's queue is a quiet one too.

/// Rounds without anything after which a queue rests.
const REST: u32 = 64;

/// While there is work, resting queues are polled in one of so many rounds.
const EVERY: u32 = 4;

/// An eighth of them each time: then every one of them is polled once in 32 rounds. A round of a full burst takes a microsecond or
/// two: so many times that is what the first frame on a quiet port may wait longer beside a saturated one.
const PARTS: usize = 8;

/// But no more at a time, so that a busy port doesn't pay for however many quiet ones: from 128 on they wait longer instead.
const MOST: usize = 16;

/// What became of a poll.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poll {
    /// There was nothing.
    Nothing,
    /// There was something.
    Something,
    /// It was not this queue's turn, and nobody looked.
    Waits,
}

/// Queues, those that are awake first.
pub(crate) struct Rotation<Q> {
    queues: Vec<Slot<Q>>,
    awake: usize,
    /// The resting queue to be polled next.
    next: usize,
    /// Rounds until resting queues are polled.
    left: u32,
    busy: bool,
}

struct Slot<Q> {
    queue: Q,
    /// Rounds without anything, while awake.
    empty: u32,
}

impl<Q> Default for Rotation<Q> {
    fn default() -> Self {
        Rotation { queues: Vec::new(), awake: 0, next: 0, left: 0, busy: false }
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

    /// One round: `poll` says whether a queue had anything. `ahead` is told those that rest and may be polled in the next one. Whether any
    /// had something or waits.
    #[inline(always)]
    pub(crate) fn round(&mut self, mut poll: impl FnMut(&mut Q) -> Poll, ahead: impl Fn(&Q)) -> bool {
        let resting = self.queues.len() - self.awake;
        let few = resting.div_ceil(PARTS).min(MOST);
        let share = match self.left {
            _ if !self.busy => resting,
            0 => few,
            _ => 0,
        };
        self.left = self.left.checked_sub(1).unwrap_or(EVERY - 1);
        self.busy = false;
        let mut at = 0;
        while at < self.awake {
            let slot = &mut self.queues[at];
            match poll(&mut slot.queue) {
                Poll::Something => (slot.empty, self.busy) = (0, true),
                Poll::Waits => self.busy = true,
                Poll::Nothing => {
                    slot.empty += 1;
                    if slot.empty >= REST {
                        // The last one awake takes its place, and is polled there.
                        self.awake -= 1;
                        self.queues.swap(at, self.awake);
                        continue;
                    }
                }
            }
            at += 1;
        }
        for _ in 0..share {
            self.next = self.resting(self.next);
            let Some(slot) = self.queues.get_mut(self.next) else { break };
            if poll(&mut slot.queue) == Poll::Something {
                self.busy = true;
                self.wake(self.next);
            }
            self.next += 1;
        }
        if self.left == 0 {
            // In between a busy port's frames went through the caches.
            let mut at = self.next;
            for _ in 0..few {
                at = self.resting(at);
                self.queues.get(at).into_iter().for_each(|slot| ahead(&slot.queue));
                at += 1;
            }
        }
        self.busy
    }

    /// `at`, if a queue rests there; else where the first one does.
    #[inline(always)]
    fn resting(&self, at: usize) -> usize {
        if (self.awake..self.queues.len()).contains(&at) { at } else { self.awake }
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

    /// Polls `rounds` times; queue `n` has something if `has` says so. How often each was polled.
    fn polls(rotation: &mut Rotation<usize>, rounds: usize, has: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut polls = vec![0; 1 + rotation.iter_mut().max().map_or(0, |n| (*n).max(9))];
        for _ in 0..rounds {
            let poll = |&mut n: &mut usize| {
                polls[n] += 1;
                if has(n) { Poll::Something } else { Poll::Nothing }
            };
            rotation.round(poll, |_| {});
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

    /// However many there are, none waits for longer than it may; and few aren't polled in each round either.
    #[test]
    fn quiet_ones_rest_while_others_are_busy() {
        for (quiet, wait) in [(1, 4), (4, 16), (8, 32), (9, 20), (16, 32), (128, 32), (256, 64), (1024, 256)] {
            let mut rotation = Rotation::default();
            (0..=quiet).for_each(|n| rotation.push(n));
            polls(&mut rotation, REST as usize, |n| n == 0);
            let polls = polls(&mut rotation, 10 * wait, |n| n == 0);
            assert_eq!(polls[0], 10 * wait);
            assert!(polls[1..=quiet].iter().all(|n| (9..=12).contains(n)), "{quiet}: {polls:?}");
        }
    }

    #[test]
    fn what_is_polled_next_is_asked_for_ahead() {
        let mut rotation = Rotation::default();
        (0..100).for_each(|n| rotation.push(n));
        polls(&mut rotation, REST as usize, |n| n == 0);
        let (asked, mut polled) = (std::cell::RefCell::new(Vec::new()), 0);
        for round in 0..100 {
            let mut resting = Vec::new();
            let before = asked.take();
            let poll = |&mut n: &mut usize| {
                if n != 0 {
                    resting.push(n);
                }
                if n == 0 { Poll::Something } else { Poll::Nothing }
            };
            rotation.round(poll, |&n| asked.borrow_mut().push(n));
            assert!(resting.is_empty() || round == 0 || resting == before, "{resting:?}, {before:?}");
            polled += resting.len();
        }
        assert_eq!(polled, 25 * 100usize.div_ceil(PARTS));
    }

    #[test]
    fn one_that_has_something_again_wakes() {
        let mut rotation = ten();
        polls(&mut rotation, 1000, |n| n == 3);
        polls(&mut rotation, 32, |n| n == 3 || n == 7);
        assert_eq!(polls(&mut rotation, 100, |n| n == 3 || n == 7)[7], 100);
    }

    /// One whose turn it isn't has something or not, which nobody knows: it stays as it was, and is looked for again at once.
    #[test]
    fn one_that_waits_neither_wakes_nor_rests() {
        let mut rotation = ten();
        polls(&mut rotation, 1000, |n| n == 3);
        for _ in 0..1000 {
            let poll = |&mut n: &mut usize| if n == 3 || n == 7 { Poll::Waits } else { Poll::Nothing };
            assert!(rotation.round(poll, |_| {}), "it is busy");
        }
        let now = polls(&mut rotation, 320, |n| n == 3);
        assert!(now[3] == 320 && now[7] < 20, "{now:?}");
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
