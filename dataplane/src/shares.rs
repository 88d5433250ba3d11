//! How much of a worker's time each port gets: deficit round robin in time-stamp ticks (Shreedhar and Varghese, 1995), for each port
//! whatever its queues. What a burst costs is known only after it, so a port is charged afterwards, and waits while others that have
//! frames catch up. A port that finds nobody else busy never waits. And how many frames a burst may have, so that a single one is not long.

use dray_switch::burst::BURST;

/// Ticks by which a port may be ahead of the others before it waits: some 50 us. Ordinary bursts take a microsecond or two. A port that
/// is polled less often has fuller bursts, which cost less a frame, so small differences are left alone.
const SLACK: u64 = 1 << 17;

/// Ticks by which a port is ahead at most: some 3 ms, more than any burst takes. The clock goes on while another process has the CPU, or
/// another machine the host's, which is no port's fault.
const MOST: u64 = 1 << 23;

/// What each port has used.
pub(crate) struct Shares {
    /// By port number.
    ports: Vec<Share>,
    /// Ports that had frames in this round, or wait.
    active: Vec<u16>,
    round: u32,
    /// Whether any port waits.
    waiting: bool,
}

impl Default for Shares {
    fn default() -> Self {
        // Those that were never active were so in round 0.
        Shares { ports: Vec::new(), active: Vec::new(), round: 1, waiting: false }
    }
}

#[derive(Clone, Default)]
struct Share {
    /// Ticks used beyond those of the port that used the least of those that were busy meanwhile.
    ahead: u64,
    /// The last round in which it was active.
    round: u32,
    /// The queue that was the first not to be polled when its port began to wait, and is the first afterwards.
    first: Option<u16>,
}

impl Shares {
    /// Makes room for port number `port`.
    pub(crate) fn reach(&mut self, port: u16) {
        if self.ports.len() <= port as usize {
            self.ports.resize(port as usize + 1, Share::default());
        }
    }

    /// Whether queue number `queue` of `port` is not to be polled in this round.
    #[inline(always)]
    pub(crate) fn must_wait(&mut self, port: u16, queue: u16) -> bool {
        self.waiting && self.is_ahead(port, queue)
    }

    #[cold]
    #[inline(never)]
    fn is_ahead(&mut self, port: u16, queue: u16) -> bool {
        let share = &mut self.ports[port as usize];
        let waits = if share.ahead > SLACK {
            share.first.get_or_insert(queue);
            true
        } else if share.first == Some(queue) {
            share.first = None;
            false
        } else {
            share.first.is_some()
        };
        if waits {
            self.activate(port);
        }
        waits
    }

    /// Charges `port` with the `ticks` of a burst.
    #[inline(always)]
    pub(crate) fn spend(&mut self, port: u16, ticks: u64) {
        self.activate(port);
        let share = &mut self.ports[port as usize];
        share.ahead += ticks;
        self.waiting |= share.ahead > SLACK;
    }

    #[inline(always)]
    fn activate(&mut self, port: u16) {
        let share = &mut self.ports[port as usize];
        if share.round != self.round {
            // What it was ahead by is forgotten once it had no frames.
            if share.round.wrapping_add(1) != self.round {
                share.ahead = 0;
            }
            share.round = self.round;
            self.active.push(port);
        }
    }

    /// All queues were polled once, or had to wait.
    #[inline(always)]
    pub(crate) fn end_round(&mut self) {
        match self.active[..] {
            [] => {}
            [port] if !self.waiting => self.ports[port as usize].ahead = 0,
            _ => self.settle(),
        }
        self.active.clear();
        self.round = self.round.wrapping_add(1);
    }

    /// Nobody is ahead of the one that used the least.
    #[inline(never)]
    fn settle(&mut self) {
        let least = self.active.iter().map(|&port| self.ports[port as usize].ahead).min().unwrap_or(0);
        self.waiting = false;
        for &port in &self.active {
            let share = &mut self.ports[port as usize];
            if share.ahead <= SLACK {
                // It was free to be polled, and is gone or has nothing.
                share.first = None;
            }
            share.ahead = (share.ahead - least).min(MOST);
            self.waiting |= share.ahead > SLACK || share.first.is_some();
        }
    }
}

/// What a burst may cost, in bytes sent to all receivers: some 0.1 ms.
const WORK: u64 = 1 << 20;

/// What a frame costs beside its bytes, in such bytes.
pub(crate) const FRAME: u64 = 256;

/// Ticks after which a queue whose bursts were shortened may take twice as many frames again: some 0.1 s. A sender of which only one burst
/// now and then is long holds nobody up for a hundredth of the time.
const PAUSE: u64 = 1 << 28;

/// How many frames a queue's bursts may have: as many as keep a burst short, by what they cost of late. Counted in work and not in time,
/// which passes for other reasons too.
pub(crate) struct Pace {
    frames: u16,
    /// When it may be more.
    raise: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { frames: BURST as u16, raise: 0 }
    }
}

impl Pace {
    /// How many frames the next burst may have: 1 to [`BURST`].
    #[inline(always)]
    pub(crate) fn frames(&self) -> usize {
        self.frames.into()
    }

    /// Takes note of a burst of `frames` frames that was `work`, in bytes, and ended at the tick `now`.
    #[inline(always)]
    pub(crate) fn note(&mut self, frames: usize, work: u64, now: u64) {
        if work > WORK || usize::from(self.frames) < BURST {
            self.adapt(frames, work, now);
        }
    }

    #[cold]
    #[inline(never)]
    fn adapt(&mut self, frames: usize, work: u64, now: u64) {
        if work > WORK {
            self.frames = (frames as u64 * WORK / work).clamp(1, BURST as u64) as u16;
            self.raise = now + PAUSE;
        } else if now >= self.raise {
            self.frames = (2 * self.frames).min(BURST as u16);
            self.raise = now + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of a port: what a burst costs, in ticks, and in how many of so many rounds it has one.
    #[derive(Clone, Copy)]
    struct Queue {
        port: u16,
        cost: u64,
        has: (u64, u64),
    }

    const fn queue(port: u16, cost: u64) -> Queue {
        Queue { port, cost, has: (1, 1) }
    }

    /// What a worker does with these queues in `ticks` ticks: what each of them got, and the longest time between two polls of each.
    fn run(queues: &[Queue], ticks: u64) -> (Vec<u64>, Vec<u64>) {
        let mut shares = Shares::default();
        queues.iter().for_each(|queue| shares.reach(queue.port));
        let (mut got, mut longest, mut last) = (vec![0; queues.len()], vec![0; queues.len()], vec![0; queues.len()]);
        let mut now = 0;
        let mut rounds = 0;
        while now < ticks {
            for (n, q) in queues.iter().enumerate() {
                if shares.must_wait(q.port, n as u16) {
                    continue;
                }
                longest[n] = longest[n].max(now - last[n]);
                last[n] = now;
                if rounds % q.has.1 < q.has.0 {
                    shares.spend(q.port, q.cost);
                    got[n] += q.cost;
                    now += q.cost;
                }
            }
            shares.end_round();
            now += 1;
            rounds += 1;
        }
        (got, longest)
    }

    /// In hundredths.
    fn shares(queues: &[Queue]) -> Vec<u64> {
        let (got, _) = run(queues, 3_000_000_000);
        let all: u64 = got.iter().sum();
        got.iter().map(|n| (n * 100 + all / 2) / all).collect()
    }

    #[test]
    fn busy_ports_get_as_much_each_whatever_their_bursts_cost() {
        assert_eq!(shares(&[queue(0, 3_000), queue(1, 1_000_000)]), [50, 50]);
        assert_eq!(shares(&[queue(0, 1_000_000), queue(1, 300)]), [50, 50]);
        assert_eq!(shares(&[queue(0, 2_000), queue(1, 2_000)]), [50, 50]);
        assert_eq!(
            shares(&[queue(0, 1_000), queue(1, 500_000), queue(2, 30_000), queue(3, 3_000_000)]),
            [25, 25, 25, 25]
        );
    }

    /// However many queues it has; and its queues share what is the port's.
    #[test]
    fn a_port_with_more_queues_gets_no_more() {
        let three = [queue(0, 500_000), queue(1, 3_000), queue(0, 500_000), queue(0, 500_000)];
        assert_eq!(shares(&three), [17, 50, 17, 17]);
        let small = [queue(0, 3_000), queue(1, 3_000), queue(0, 3_000), queue(0, 3_000)];
        assert_eq!(shares(&small), [17, 50, 17, 17]);
        let only = [queue(0, 500_000), queue(0, 500_000), queue(0, 500_000)];
        assert_eq!(shares(&only), [33, 33, 33]);
    }

    /// A port that has less to do than its share gets all of it, and the others share the rest.
    #[test]
    fn what_one_leaves_is_the_others() {
        let seldom = Queue { port: 0, cost: 3_000, has: (1, 100) };
        let (got, _) = run(&[seldom, queue(1, 3_000)], 3_000_000_000);
        assert!(got[1] > 2_960_000_000, "{got:?}");
        let (got, _) = run(&[queue(0, 4_000_000)], 3_000_000_000);
        assert!(got[0] > 2_990_000_000, "{got:?}");
        // Bursts that come just when they are looked for don't hold up one that is always there.
        let often = Queue { port: 0, cost: 100, has: (9, 10) };
        let (got, _) = run(&[often, queue(1, 6_000)], 3_000_000_000);
        assert!(got[1] > 2_900_000_000, "{got:?}");
    }

    /// Nobody waits for longer than a burst of each of the others, and what they may be ahead by.
    #[test]
    fn a_small_port_waits_for_one_burst_of_each_of_the_others() {
        let (_, longest) =
            run(&[queue(0, 3_000), queue(1, 900_000), queue(2, 900_000), queue(2, 900_000)], 3_000_000_000);
        assert!(longest[0] <= 3 * 900_000 + 10_000, "{longest:?}");
    }

    /// A port that had nothing for a round saves nothing up, and owes nothing.
    #[test]
    fn nothing_is_saved_up() {
        let mut shares = Shares::default();
        (0..2).for_each(|port| shares.reach(port));
        for _ in 0..1000 {
            shares.spend(0, 1_000_000);
            shares.end_round();
        }
        shares.spend(0, 1_000);
        shares.spend(1, 1_000);
        shares.end_round();
        assert!(!shares.must_wait(0, 0) && !shares.must_wait(1, 0));
        // One is ahead, and has nothing in the next round.
        shares.spend(0, SLACK);
        shares.spend(1, 1);
        shares.end_round();
        shares.end_round();
        shares.spend(0, SLACK / 2);
        shares.spend(1, 1);
        shares.end_round();
        assert!(!shares.must_wait(0, 0));
    }

    /// The queue that is next may have gone to another worker.
    #[test]
    fn a_queue_that_is_gone_holds_up_no_other() {
        let mut shares = Shares::default();
        shares.reach(0);
        shares.spend(0, 10 * SLACK);
        assert!(shares.must_wait(0, 1));
        shares.end_round();
        assert!(shares.must_wait(0, 0), "it is the other one's turn");
        shares.end_round();
        assert!(!shares.must_wait(0, 0));
    }

    #[test]
    fn bursts_are_as_long_as_their_cost_allows() {
        let mut pace = Pace::default();
        let mut now = 5 * PAUSE;
        // 64 frames of 1,514 bytes to eight receivers, 9,216 bytes to one.
        for work in [8 * 64 * (1514 + FRAME), 64 * (9216 + FRAME)] {
            pace.note(64, work, now);
            assert_eq!(pace.frames(), 64);
        }
        // To sixteen, and once a thousand pieces to eight.
        pace.note(64, 16 * 64 * (1514 + FRAME), now);
        assert_eq!(pace.frames(), 37);
        pace.note(37, 16 * 37 * (1514 + FRAME), now);
        assert_eq!(pace.frames(), 37);
        pace.note(2, 8 * 1024 * (118 + FRAME), now);
        assert_eq!(pace.frames(), 1);
        // It is more again after a while, whatever comes meanwhile.
        for frames in [1, 2, 4, 8, 16, 32, 64, 64] {
            for _ in 0..100 {
                pace.note(pace.frames(), 1000, now);
                assert_eq!(pace.frames(), frames);
            }
            now += PAUSE;
        }
    }
}
