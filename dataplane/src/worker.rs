//! One worker: a thread on its own CPU that polls its receive queues and runs every burst to completion.

use crate::channel::{Receiver, Sender};
use crate::counters::{Counters, ITSELF, PortCounters, QueueCounters};
use crate::punts::Punts;
use crate::rotation::{Poll, Rotation};
use crate::shares::{FRAME, Pace, Shares};
use dray_switch::burst::{BURST, HEAD};
use dray_switch::clock::Stage;
use dray_switch::mem::{prefetch_read, ticks};
use dray_switch::offload::Accepts;
use dray_switch::pipeline::{Context, Entry, Pipeline};
use dray_switch::port::Output;
use dray_switch::tables::{Port, Tables};
use dray_switch::{Burst, Drop, Drops, PuntReason, Rx, Tx, fdb::Fdb};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

/// What the control thread asks of a worker; taken up between two bursts, answered with a [`Reply`].
pub(crate) enum Command {
    /// From now on, look things up here.
    Publish(Arc<Tables>),
    /// Poll these queues too, and send through that one.
    Attach { port: u16, rx: Vec<Queue>, tx: Box<dyn Tx> },
    /// Give back this queue, for another worker: all that it brought so far has been sent then.
    Release { port: u16, index: u16 },
    /// Poll this queue too, which another worker had so far.
    Take { port: u16, queue: Queue },
    /// Give back what you have of this port.
    Detach { port: u16 },
    /// Send this frame, which enters there. Not answered.
    Inject { entry: Entry, frame: Vec<u8> },
    /// Give everything back and end.
    Stop,
}

/// A worker's answer: what it no longer uses, to be freed by the control thread.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) tables: Option<Arc<Tables>>,
    pub(crate) rx: Vec<Box<dyn Rx>>,
    pub(crate) tx: Vec<Box<dyn Tx>>,
    /// What was asked for by [`Command::Release`], and the port that it is of.
    pub(crate) released: Option<(u16, Queue)>,
}

/// One receive queue of a port.
pub(crate) struct Queue {
    /// Which of the port's.
    pub(crate) index: u16,
    pub(crate) rx: Box<dyn Rx>,
    pub(crate) counters: Arc<QueueCounters>,
}

/// A queue that is polled here.
struct RxQueue {
    port: u16,
    head_len: usize,
    /// [`Rx::watched`]
    watched: *const u8,
    queue: Queue,
    pace: Pace,
}

impl RxQueue {
    fn new(port: u16, head_len: usize, queue: Queue) -> RxQueue {
        RxQueue { port, head_len, watched: queue.rx.watched(), queue, pace: Pace::default() }
    }

    /// Asks the cache for what a poll that finds nothing looks at.
    #[inline(always)]
    fn prefetch(&self) {
        prefetch_read((&raw const *self.queue.rx).cast::<u8>());
        // An address that nothing is at costs a walk through the page tables each time.
        if !self.watched.is_null() {
            prefetch_read(self.watched);
        }
    }
}

pub(crate) struct Worker {
    pub(crate) commands: Receiver<Command>,
    pub(crate) replies: Sender<Reply>,
    pub(crate) punts: Punts,
    pub(crate) tables: Arc<Tables>,
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) counters: Arc<Counters>,
    /// Seconds, kept by the control thread.
    pub(crate) clock: Arc<AtomicU16>,
    /// How long to sleep at a time when there is nothing to do; zero: not at all.
    pub(crate) idle_sleep: Duration,
}

/// What a worker works with beside its queues.
#[derive(Default)]
struct Hands {
    tx: Vec<Option<Box<dyn Tx>>>,
    pipeline: Pipeline,
    burst: Box<Burst>,
}

/// A burst that was run to completion.
struct Done {
    /// Frames received.
    frames: usize,
    /// What they cost, as [`Pace`] counts it.
    work: u64,
}

/// Empty loops after which a worker offers its CPU to others, should there be any: on a CPU of its own it is back at once.
const IDLE: u32 = 4096;

impl Worker {
    /// Runs until [`Command::Stop`].
    pub(crate) fn run(mut self) {
        let mut queues: Rotation<RxQueue> = Rotation::default();
        let mut hands = Hands::default();
        let mut shares = Shares::default();
        let mut idle = 0u32;
        // The clock is read after every burst, and after every round without any and the sleep that may follow it. What a round does
        // beside its bursts is the next burst's: a worker that always finds one has no time to spare.
        let mut start = ticks();
        loop {
            if !self.commands.is_empty() {
                if self.obey(&mut queues, &mut hands) {
                    return;
                }
                queues.iter_mut().for_each(|q| shares.reach(q.port));
                start = ticks();
            }
            let poll = |q: &mut RxQueue| {
                if shares.must_wait(q.port, q.queue.index) {
                    return Poll::Waits;
                }
                let Some(Done { frames, work }) = self.poll(q, &mut hands) else { return Poll::Nothing };
                let now = ticks();
                let spent = now - start;
                self.counters.worker.busy_ticks.add(spent);
                q.queue.counters.ticks.add(spent);
                shares.spend(q.port, spent);
                q.pace.note(frames, work, now);
                start = now;
                Poll::Something
            };
            let busy = queues.round(poll, RxQueue::prefetch);
            shares.end_round();
            self.counters.worker.loops.add(1);
            if busy {
                idle = 0;
                continue;
            }
            idle = idle.saturating_add(1);
            if idle > IDLE {
                match self.idle_sleep {
                    Duration::ZERO => std::thread::yield_now(),
                    time => dray_tap::sleep(time),
                }
            }
            start = ticks();
        }
    }

    /// Receives a burst and runs it to completion, if there is one.
    #[inline(always)]
    fn poll(&self, q: &mut RxQueue, hands: &mut Hands) -> Option<Done> {
        let Hands { tx, pipeline, burst } = hands;
        burst.clear();
        burst.set_head_len(q.head_len);
        burst.set_most(q.pace.frames());
        pipeline.clock.begin();
        q.queue.rx.receive(burst);
        pipeline.clock.mark(Stage::Receive, burst.len());
        let refused = burst.drops.total();
        if burst.is_empty() && refused == 0 {
            return None;
        }
        let counters = &self.counters.ports[q.port as usize];
        counters.rx_packets.add(burst.len() as u64 + refused as u64);
        counters.rx_bytes.add(burst.bytes());

        let cx = Context { tables: &self.tables, fdb: self.fdb.view(), now: self.clock.load(Relaxed), port: q.port };
        let mut out = Out { tx, counters: &self.counters.ports, punts: &self.punts, work: 0 };
        let tally = pipeline.run(burst, cx, &mut out);
        let work = out.work;
        q.queue.rx.release(burst);
        pipeline.clock.mark(Stage::Release, burst.len());
        pipeline.clock.end(|stage, time| self.counters.worker.stages[stage as usize].add(time));

        counters.switched.add(tally.switched as u64);
        if tally.counts.iter().fold(tally.copies | tally.segments | tally.punted, |any, n| any | n) != 0 {
            counters.copies.add(tally.copies as u64);
            // As they were before somebody joined them.
            counters.rx_packets.add(tally.segments as u64);
            counters.punted.add(tally.punted as u64);
            counters.counts.iter().zip(tally.counts).for_each(|(counter, n)| counter.add(n as u64));
        }
        count_drops(counters, &mut burst.drops);
        self.counters.worker.bursts.add(1);
        self.counters.worker.packets.add(burst.len() as u64);
        q.queue.counters.packets.add(burst.len() as u64);
        Some(Done { frames: burst.len(), work })
    }

    /// Does what the control thread asks; true if that is to end.
    #[cold]
    fn obey(&mut self, queues: &mut Rotation<RxQueue>, hands: &mut Hands) -> bool {
        let Hands { tx, burst, pipeline } = hands;
        while let Ok(command) = self.commands.try_recv() {
            let mut reply = Reply::default();
            let mut stop = false;
            match command {
                Command::Publish(tables) => {
                    reply.tables = Some(std::mem::replace(&mut self.tables, tables));
                    queues.iter_mut().for_each(|q| q.head_len = self.head_len(q.port));
                }
                Command::Attach { port, rx, tx: handle } => {
                    let head_len = self.head_len(port);
                    rx.into_iter().for_each(|queue| queues.push(RxQueue::new(port, head_len, queue)));
                    if tx.len() <= port as usize {
                        tx.resize_with(port as usize + 1, || None);
                    }
                    reply.tx.extend(tx[port as usize].replace(handle));
                }
                Command::Release { port, index } => {
                    // What a burst brings is sent before the next command is taken up: what the queue brings elsewhere comes later.
                    let queue = queues.extract(|q| q.port == port && q.queue.index == index).pop();
                    reply.released = queue.map(|q| (port, q.queue));
                }
                Command::Take { port, queue } => queues.push(RxQueue::new(port, self.head_len(port), queue)),
                Command::Detach { port } => {
                    reply.rx.extend(queues.extract(|q| q.port == port).into_iter().map(|q| q.queue.rx));
                    reply.tx.extend(tx.get_mut(port as usize).and_then(Option::take));
                }
                Command::Inject { entry, frame } => {
                    burst.clear();
                    burst.set_head_len(HEAD);
                    burst.set_most(BURST);
                    burst.push_owned(frame);
                    let now = self.clock.load(Relaxed);
                    let cx = Context { tables: &self.tables, fdb: self.fdb.view(), now, port: ITSELF };
                    let mut out = Out { tx, counters: &self.counters.ports, punts: &self.punts, work: 0 };
                    let tally = pipeline.inject(burst, entry, cx, &mut out);
                    let itself = &self.counters.ports[usize::from(ITSELF)];
                    let through = match entry {
                        Entry::Adjacency { egress, .. } if egress.is_port() => egress.index(),
                        _ => ITSELF,
                    };
                    itself.copies.add(tally.copies.into());
                    itself.switched.add(tally.switched.into());
                    count_drops(itself, &mut burst.drops);
                    self.counters.ports[usize::from(through)].injected.add(1);
                    continue;
                }
                Command::Stop => {
                    reply.rx = queues.extract(|_| true).into_iter().map(|q| q.queue.rx).collect();
                    reply.tx = tx.drain(..).flatten().collect();
                    stop = true;
                }
            }
            // If the control thread is gone, so are we soon.
            let _ = self.replies.send(reply);
            if stop {
                return true;
            }
        }
        false
    }

    fn head_len(&self, port: u16) -> usize {
        self.tables.ports.get(port as usize).map_or(HEAD, Port::head_len)
    }
}

fn count_drops(counters: &PortCounters, drops: &mut Drops) {
    drops.take(|reason, n| counters.drops[reason.index()].add(n as u64));
}

/// Where the pipeline's frames go: this worker's transmit queues.
struct Out<'a> {
    tx: &'a mut [Option<Box<dyn Tx>>],
    counters: &'a [PortCounters],
    punts: &'a Punts,
    /// What the frames cost, as [`Pace`] counts it.
    work: u64,
}

impl Output for Out<'_> {
    #[inline]
    fn send(&mut self, port: u16, burst: &mut Burst, frames: &[u16]) {
        let counters = &self.counters[port as usize];
        match self.tx.get_mut(port as usize) {
            Some(Some(tx)) => {
                let sent = tx.send(burst, frames);
                counters.tx_packets.add(sent.packets as u64);
                counters.tx_bytes.add(sent.bytes);
                self.work += sent.bytes + frames.len() as u64 * FRAME;
            }
            _ => burst.drop(frames, Drop::TxLinkDown),
        }
        count_drops(counters, &mut burst.tx_drops);
    }

    fn accepts(&self, port: u16) -> Option<Accepts> {
        self.tx.get(port as usize)?.as_ref().map(|tx| tx.accepts())
    }

    fn segmented(&mut self, port: u16, added: u32) {
        self.counters[port as usize].segments.add(added.into());
    }

    fn dropped(&mut self, port: u16, burst: &mut Burst) {
        count_drops(&self.counters[port as usize], &mut burst.tx_drops);
    }

    fn punt(&mut self, reason: PuntReason, port: u16, bridge: u16, frame: impl FnOnce() -> Vec<u8>) -> bool {
        self.punts.punt(reason, port, bridge, frame)
    }
}

#[cfg(all(test, feature = "loom"))]
mod models;

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::tests::{change_to, nothing};
    use crate::{Dataplane, PortCounts};
    use dray_switch::offload::{Gso, Offload};
    use dray_switch::port::Sent;
    use std::time::Instant;

    /// Receives one broadcast of 300 bytes that is to become five datagrams.
    struct Guest {
        frame: Option<Vec<u8>>,
    }

    impl Rx for Guest {
        fn receive(&mut self, burst: &mut Burst) {
            if let Some(frame) = self.frame.take() {
                burst.push_owned(frame);
                let offload = Offload { csum_start: 34, csum_offset: 6, gso: Gso::Udp4, gso_size: 60, ecn: false };
                assert!(burst.set_offload(offload));
            }
        }

        fn release(&mut self, _: &mut Burst) {}
    }

    /// Takes nothing undone, and only three frames.
    struct Plain {
        room: usize,
    }

    impl Tx for Plain {
        fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
            let sent = &frames[..frames.len().min(self.room)];
            self.room -= sent.len();
            let bytes = sent.iter().map(|&i| burst.frame(i).len() as u64).sum();
            burst.drop(&frames[sent.len()..], Drop::TxRingFull);
            Sent { packets: sent.len() as u32, bytes }
        }
    }

    /// Has a frame whenever the worker has just slept.
    struct Seldom {
        polls: u32,
    }

    impl Rx for Seldom {
        fn receive(&mut self, burst: &mut Burst) {
            self.polls += 1;
            if self.polls == IDLE + 2 {
                self.polls = 0;
                burst.push_owned(vec![0; 60]);
            }
        }

        fn release(&mut self, _: &mut Burst) {}
    }

    /// A switch with the ports p0 and p1 in one bridge, and with these workers.
    fn two_ports(workers: &str) -> Dataplane {
        let port = |id| format!("[[port]]\nname = \"p{id}\"\nkind = \"memif\"\nsocket = \"@none\"\nid = {id}\n");
        let bridge = "[[bridge]]\nname = \"b\"\nports = [\"p0\", \"p1\"]\n";
        let text = workers.to_owned() + &port(0) + &port(1) + bridge;
        let config = dray_config::parse("test", &text).expect("a good configuration");
        let (mut dataplane, _punts) = Dataplane::start(&config).expect("a worker");
        change_to(&mut dataplane, &nothing(), &config);
        dataplane
    }

    /// What `look` sees, once it is as it should be.
    fn wait_for<T: std::fmt::Debug>(look: impl Fn() -> T, done: impl Fn(&T) -> bool) -> T {
        let begin = Instant::now();
        loop {
            let seen = look();
            if done(&seen) {
                return seen;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{seen:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Always has a frame, and takes its time to say so.
    struct Always {
        spin: Duration,
    }

    impl Rx for Always {
        fn receive(&mut self, burst: &mut Burst) {
            let begin = Instant::now();
            while begin.elapsed() < self.spin {
                std::hint::spin_loop();
            }
            burst.push_owned(vec![0; 60]);
        }

        fn release(&mut self, _: &mut Burst) {}
    }

    /// A port whose bursts are long, on two queues, has no more of the worker than one whose bursts are short.
    #[test]
    fn a_port_with_long_bursts_leaves_others_their_share() {
        let mut dataplane = two_ports("");
        let always = |micros| Box::new(Always { spin: Duration::from_micros(micros) }) as Box<dyn Rx>;
        let plain =
            |dataplane: &Dataplane| (0..dataplane.workers()).map(|_| Box::new(Plain { room: 0 }) as _).collect();
        dataplane.link_up("p0", vec![always(500), always(500)], plain(&dataplane), true);
        dataplane.link_up("p1", vec![always(1)], plain(&dataplane), true);
        dataplane.settle_all();
        let before = dataplane.worker_stats();
        let ticks = || dataplane.worker_stats()[0].since(&before[0]).queues.iter().map(|q| q.ticks).collect::<Vec<_>>();
        let second = 1e9 * dataplane.ticks_per_ns();
        let ticks = wait_for(ticks, |ticks| ticks.iter().sum::<u64>() as f64 > second);
        let all: u64 = ticks.iter().sum();
        let shares: Vec<u64> = ticks.iter().map(|n| n * 100 / all).collect();
        let [15..=35, 15..=35, 40..=60] = shares[..] else { panic!("{shares:?}: a quarter, a quarter, and half") };
    }

    #[test]
    fn a_sleep_is_nobodys_work() {
        let mut dataplane = two_ports("[[worker]]\ncpu = 0\nidle-sleep = 1000\n");
        dataplane.link_up("p0", vec![Box::new(Seldom { polls: 0 })], vec![Box::new(Plain { room: 0 })], true);
        dataplane.settle_all();
        let only = || <[_; 1]>::try_from(dataplane.worker_stats()).expect("one worker");
        let [stats] = wait_for(only, |[stats]| stats.bursts >= 50);
        let sleeps = stats.bursts as f64 * 1e6 * dataplane.ticks_per_ns();
        assert!((stats.busy_ticks as f64) < sleeps, "{stats:?}, slept for {sleeps} ticks at least");
    }

    #[test]
    fn frames_that_segmentation_adds_are_counted() {
        let mut dataplane = two_ports("");

        let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[8, 0, 0x45, 0]].concat();
        frame.resize(34 + 8 + 300, 0);
        frame[23] = 17;
        let plain =
            |room| -> Vec<Box<dyn Tx>> { (0..dataplane.workers()).map(|_| Box::new(Plain { room }) as _).collect() };
        let (to, from) = (plain(3), plain(0));
        dataplane.link_up("p1", Vec::new(), to, true);
        dataplane.link_up("p0", vec![Box::new(Guest { frame: Some(frame) })], from, true);
        dataplane.settle_all();

        let total = wait_for(|| dataplane.total(), |total| total.tx_packets + total.drops.iter().sum::<u64>() == 5);
        let PortCounts { rx_packets: 1, tx_packets: 3, tx_bytes: 306, segments: 4, copies: 0, .. } = total else {
            panic!("{total:?}");
        };
        assert_eq!(dataplane.port_counts("p1").expect("it is there").segments, 4);
        assert_eq!(total.tx_drops(), 2);
    }
}
