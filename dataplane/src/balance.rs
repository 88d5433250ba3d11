//! Which receive queue is to be polled by another worker: a pure decision on loads.

/// A worker that is busy for less of its time needs no help.
const BUSY: f64 = 0.85;

/// How much closer the loads of two workers must come for a queue to be moved, as a share of their distance. What is less would
/// be moved back by chance.
const IMPROVEMENT: f64 = 0.25;

/// A worker's load in the last interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Load<Q> {
    /// Share of the time that it was busy, 0..=1.
    pub(crate) busy: f64,
    /// The queues that may be moved, with the share of the worker's time that each took.
    pub(crate) queues: Vec<(Q, f64)>,
}

/// The queue to be moved, and the number of the worker that is to have it: of the busiest worker, whichever brings it and
/// another one closest.
pub(crate) fn decide<Q: Copy>(loads: &[Load<Q>]) -> Option<(Q, usize)> {
    let (from, busiest) = loads.iter().enumerate().max_by(|a, b| a.1.busy.total_cmp(&b.1.busy))?;
    if busiest.busy < BUSY {
        return None;
    }
    let others = || loads.iter().enumerate().filter(|(to, _)| *to != from);
    let distances = busiest.queues.iter().flat_map(|(queue, share)| {
        others().filter_map(move |(to, load)| {
            let (before, after) = (busiest.busy - load.busy, (busiest.busy - load.busy - 2.0 * share).abs());
            (after <= before * (1.0 - IMPROVEMENT)).then_some((*queue, to, load.busy + share, after))
        })
    });
    // The lower of the loads that the other one would have decides between distances that are as good as the same.
    let (queue, to, ..) = distances.min_by(|a, b| a.3.total_cmp(&b.3).then(a.2.total_cmp(&b.2)))?;
    Some((queue, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a worker: how busy it is, and its queues' shares.
    type Worker<'a> = (f64, &'a [(char, f64)]);

    fn loads(workers: &[Worker]) -> Vec<Load<char>> {
        workers.iter().map(|&(busy, queues)| Load { busy, queues: queues.to_vec() }).collect()
    }

    #[test]
    fn a_queue_goes_from_a_busy_worker_to_an_idle_one() {
        let two = loads(&[(1.0, &[('a', 0.6), ('b', 0.4)]), (0.1, &[])]);
        assert_eq!(decide(&two), Some(('b', 1)));
        let three = loads(&[(0.5, &[('a', 0.5)]), (0.9, &[('b', 0.5), ('c', 0.3), ('d', 0.1)]), (0.2, &[('e', 0.2)])]);
        assert_eq!(decide(&three), Some(('c', 2)), "0.6 and 0.5, not 0.4 and 0.7");
    }

    #[test]
    fn what_helps_nobody_stays() {
        let cases: [&[Worker]; 6] = [
            &[],
            &[(1.0, &[('a', 0.5), ('b', 0.5)])],
            // The only queue of a worker: it would be another one's then.
            &[(1.0, &[('a', 1.0)]), (0.0, &[])],
            // No worker is busy.
            &[(0.8, &[('a', 0.4), ('b', 0.4)]), (0.0, &[])],
            // All are.
            &[(1.0, &[('a', 0.5), ('b', 0.5)]), (1.0, &[('c', 1.0)])],
            // A little closer is not enough.
            &[(0.9, &[('a', 0.85), ('b', 0.05)]), (0.4, &[('c', 0.4)])],
        ];
        for case in cases {
            assert_eq!(decide(&loads(case)), None, "{case:?}");
        }
    }

    #[test]
    fn queues_that_may_not_move_stay() {
        assert_eq!(decide(&loads(&[(1.0, &[]), (0.0, &[])])), None);
        assert_eq!(decide(&loads(&[(1.0, &[('b', 0.2)]), (0.0, &[])])), Some(('b', 1)));
    }

    /// Queues whose peers want a share of a worker each, which they get in proportion if they want more than there is. From
    /// wherever they begin, they come to rest soon, and no worker is overloaded then that could be helped by one move.
    #[test]
    fn loads_come_to_rest() {
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (seed >> 33) % n
        };
        for _ in 0..2000 {
            let (workers, queues) = (2 + random(4) as usize, 1 + random(12) as usize);
            let wants: Vec<f64> = (0..queues).map(|_| random(150) as f64 / 100.0).collect();
            let mut at: Vec<usize> = (0..queues).map(|_| random(workers as u64) as usize).collect();
            let mut moves = 0;
            loop {
                let wanted = |w: usize| (0..queues).filter(|&q| at[q] == w).map(|q| wants[q]).sum::<f64>();
                let load = |w: usize| {
                    let scale = 1.0 / wanted(w).max(1.0);
                    let own = (0..queues).filter(|&q| at[q] == w).map(|q| (q, wants[q] * scale)).collect();
                    Load { busy: wanted(w).min(1.0), queues: own }
                };
                let Some((queue, to)) = decide(&(0..workers).map(load).collect::<Vec<_>>()) else { break };
                assert_ne!(at[queue], to);
                at[queue] = to;
                moves += 1;
                assert!(moves <= 3 * queues, "{wants:?} on {workers} workers: still moving");
            }
        }
    }
}
