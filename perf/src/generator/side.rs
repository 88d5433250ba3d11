//! One link: what is sent there, and what comes.

use super::{BATCH, Link};
use crate::frames::{Read, Tag, Walk};
use crate::latency::Recorder;
use crate::sequence::Sequence;
use crate::vtep::{self, Tunnel};
use dray_switch::mem::ticks;

/// What came out of one receive queue.
#[derive(Default)]
pub(super) struct Input {
    pub(super) count: u64,
    /// Of those looked at: not frames of ours.
    pub(super) foreign: u64,
    /// Of those counted: ARP, which are not foreign, and not counted as received.
    pub(super) arp: u64,
    /// One check for each queue of the sender.
    pub(super) checks: Vec<Sequence>,
}

/// The VTEP at the other end of the switch's tunnel.
pub(super) struct Vtep {
    pub(super) tunnel: Tunnel,
    /// The switch's MAC address, when it has told it.
    pub(super) switch: Option<[u8; 6]>,
    /// What the switch is to be answered.
    pub(super) reply: Option<[u8; vtep::ARP_LEN]>,
    /// Places for frames to it.
    pub(super) scratch: Walk,
}

/// Writes times into prepared frames.
pub(super) struct Stamps {
    /// Where the time is, from a frame's offset on.
    pub(super) at: usize,
    /// One frame in this many, a power of two, has one.
    pub(super) every: u32,
}

/// One link.
pub(super) struct Side<L> {
    pub(super) link: L,
    /// For each transmit queue.
    pub(super) walks: Vec<Walk>,
    /// Bytes of the frames that are sent, in turn.
    pub(super) lengths: Vec<u32>,
    pub(super) stamps: Option<Stamps>,
    /// For each receive queue.
    pub(super) inputs: Vec<Input>,
    /// Where the tag is in received frames.
    pub(super) tag_at: usize,
    pub(super) vtep: Option<Vtep>,
    pub(super) times: Option<Recorder>,
    /// Where received frames are copied to, one after the other, if they are read.
    pub(super) copy: Option<Box<[u8]>>,
    pub(super) sends: bool,
    /// Batches that were sent, and times that there was no room for one.
    pub(super) batches: u64,
    pub(super) held_up: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) bytes: u64,
}

impl Stamps {
    /// Writes the time into the next `n` frames of a walk, as far as they have one.
    pub(super) fn write(&self, link: &mut impl Link, mut walk: Walk, n: u16) {
        let time = Tag::time_bytes(ticks());
        let (mut index, count) = (walk.index(), walk.count());
        for _ in 0..n {
            let at = walk.step();
            if index & (self.every - 1) == 0 {
                link.write(at as usize + self.at, &time);
            }
            index = if index + 1 == count { 0 } else { index + 1 };
        }
    }
}

/// How many descriptors are to be written if there may be `budget`.
#[inline(always)]
pub(super) fn room<L: Link>(ring: &mut L::Tx, budget: u64) -> u16 {
    let want = budget.min(BATCH.into()) as u16;
    let n = L::free(ring).min(want);
    if n < BATCH / 2 && n < want { 0 } else { n }
}

/// Hands the switch the next `n` frames of a walk.
#[inline(always)]
pub(super) fn fill<L: Link>(ring: &mut L::Tx, walk: &mut Walk, lengths: &[u32], n: u16) {
    // A copy, because the compiler can't know that writing to the ring does not change the walk.
    let mut w = *walk;
    if let &[length] = lengths {
        L::fill(ring, (0..n).map(|_| (w.step(), length)));
    } else {
        L::fill(ring, (0..n).map(|_| w.step_mixed(lengths)));
    }
    *walk = w;
}

/// Takes what has come on a ring: its frames have the numbers from `count` on, and `look` gets those that are multiples of `every`. All
/// are read if there is a place to copy them to.
#[inline(always)]
fn take<L: Link>(
    ring: &mut L::Rx,
    count: u64,
    every: u64,
    tag_at: usize,
    copy: Option<&mut [u8]>,
    mut look: impl FnMut(u64, Read<'_>),
) -> (u16, u64) {
    let Some(copy) = copy else { return L::take(ring, 2 * BATCH, count, every, tag_at, look) };
    L::take(ring, 2 * BATCH, count, 1, tag_at, |number, read| {
        read(0, copy);
        std::hint::black_box(&*copy);
        // Of those that are not counted, all are looked at.
        if L::FILTERS || number.is_multiple_of(every) {
            look(number, read);
        }
    })
}

impl<L: Link> Side<L> {
    /// Writes descriptors for at most `budget` frames of one queue. How many there were.
    #[inline(always)]
    pub(super) fn send_on(&mut self, queue: usize, budget: u64) -> u64 {
        let n = room::<L>(&mut self.link.tx()[queue], budget);
        if n == 0 {
            self.held_up += u64::from(budget != 0);
            return 0;
        }
        self.batches += 1;
        if let Some(stamps) = &self.stamps {
            stamps.write(&mut self.link, self.walks[queue], n);
        }
        fill::<L>(&mut self.link.tx()[queue], &mut self.walks[queue], &self.lengths, n);
        self.sent += u64::from(n);
        n.into()
    }

    /// Writes descriptors for at most `budget` frames.
    #[inline(always)]
    pub(super) fn send(&mut self, mut budget: u64) {
        for queue in 0..self.walks.len() {
            budget -= self.send_on(queue, budget);
        }
    }

    /// Takes what has come, looks at one frame in `every`, and reads all of them if they are to be read.
    #[inline(always)]
    pub(super) fn receive(&mut self, every: u64, reverse: bool) {
        let Side { link, inputs, tag_at, vtep, times, copy, received, bytes, .. } = self;
        for (ring, input) in link.rx().iter_mut().zip(inputs) {
            let Input { count, foreign, arp, checks } = input;
            let mut not_frames = 0;
            let look = |number: u64, read: Read<'_>| match Tag::of(read, *tag_at) {
                Some(tag) if tag.reverse == reverse && (tag.queue as usize) < checks.len() => {
                    checks[tag.queue as usize].sample(number - *arp, tag.sequence.into());
                    if let (Some(time), Some(times)) = (tag.time, times.as_mut()) {
                        times.record(time);
                    }
                }
                _ if vtep.as_mut().is_some_and(|vtep| vtep.hear(read)) => {
                    let counted = u64::from(!L::FILTERS);
                    *arp += counted;
                    not_frames += counted;
                }
                _ => *foreign += 1,
            };
            let (n, b) = take::<L>(ring, *count + 1, every, *tag_at, copy.as_deref_mut(), look);
            *count += u64::from(n);
            *received += u64::from(n) - not_frames;
            *bytes += b;
        }
    }

    /// Begins counting and walking anew.
    pub(super) fn reset(&mut self, peer_walks: &[Walk]) {
        (self.sent, self.received, self.bytes) = (0, 0, 0);
        (self.batches, self.held_up) = (0, 0);
        // Frames of one sender may come out of several queues, as OVS's do that its threads send themselves.
        let alone = peer_walks.len() == 1 && self.inputs.len() == 1;
        for input in &mut self.inputs {
            let checks = peer_walks.iter().map(|w| Sequence::new(w.count().into(), alone)).collect();
            *input = Input { checks, ..Input::default() };
        }
        for walk in &mut self.walks {
            walk.restart();
        }
        if let Some(times) = &mut self.times {
            times.reset();
        }
    }

    /// Sends a frame that is not prepared, and not counted.
    pub(super) fn send_scratch(&mut self, frame: &[u8; vtep::ARP_LEN]) {
        let Some(vtep) = &mut self.vtep else { return };
        let at = vtep.scratch.step();
        if self.link.tx().first_mut().is_none_or(|ring| L::free(ring) == 0) {
            return;
        }
        self.link.write(at as usize + L::HEADER, frame);
        let ring = &mut self.link.tx()[0];
        L::fill(ring, std::iter::once((at, vtep::ARP_LEN as u32)));
        L::wake(ring);
    }

    /// Answers the switch if it has asked.
    pub(super) fn answer(&mut self) {
        if let Some(reply) = self.vtep.as_mut().and_then(|vtep| vtep.reply.take()) {
            self.send_scratch(&reply);
        }
    }

    /// Writes the switch's MAC address into all prepared frames.
    pub(super) fn address(&mut self, switch: [u8; 6]) {
        for walk in &mut self.walks {
            for _ in 0..walk.count() {
                self.link.write(walk.step() as usize + L::HEADER, &switch);
            }
        }
    }
}

impl Vtep {
    /// Looks at a frame that is none of ours. Whether it is ARP.
    #[cold]
    pub(super) fn hear(&mut self, read: Read<'_>) -> bool {
        let mut frame = [0; vtep::ARP_LEN];
        let len = read(0, &mut frame);
        let Some(heard) = self.tunnel.read(&frame[..len]) else { return false };
        self.switch = self.switch.or(heard.switch);
        self.reply = heard.reply.or(self.reply);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Frames;
    use crate::generator::Options;
    use std::cell::Cell;

    /// A ring on which a hundred frames have come, and how many bytes of them were read.
    struct Came;

    impl Link for Came {
        type End = ();
        type Tx = ();
        type Rx = Cell<usize>;
        type Null = ();
        const NAME: &str = "";
        const HEADER: usize = 0;

        fn take(
            rx: &mut Cell<usize>,
            _: u16,
            count: u64,
            every: u64,
            _: usize,
            mut look: impl FnMut(u64, Read<'_>),
        ) -> (u16, u64) {
            (count..count + 100).filter(|number| number.is_multiple_of(every)).for_each(|number| {
                look(number, &|at, to| {
                    let n = to.len().min(1514 - at);
                    rx.set(rx.get() + n);
                    n
                });
            });
            (100, 151_400)
        }

        fn connect(_: &Options<()>, _: [&Frames; 2]) -> Result<[Came; 2], String> {
            unreachable!()
        }
        fn tx(&mut self) -> &mut [()] {
            unreachable!()
        }
        fn rx(&mut self) -> &mut [Cell<usize>] {
            unreachable!()
        }
        fn down(&self) -> Option<String> {
            unreachable!()
        }
        fn free(_: &mut ()) -> u16 {
            unreachable!()
        }
        fn fill(_: &mut (), _: impl Iterator<Item = (u32, u32)>) {
            unreachable!()
        }
        fn write(&mut self, _: usize, _: &[u8]) {
            unreachable!()
        }
        fn wake(_: &mut ()) {
            unreachable!()
        }
        fn null_switch(_: &Came, _: &Came) -> Result<(), String> {
            unreachable!()
        }
        fn step(_: &mut ()) -> usize {
            unreachable!()
        }
    }

    #[test]
    fn all_bytes_are_read_and_a_sample_is_looked_at() {
        for (copy, read) in [(None, 0), (Some([0; 2048].as_mut_slice()), 151_400)] {
            let (mut ring, mut looked) = (Cell::new(0), Vec::new());
            let came = take::<Came>(&mut ring, 1, 32, 0, copy, |number, _| looked.push(number));
            assert_eq!((came, looked, ring.get()), ((100, 151_400), vec![32, 64, 96], read));
        }
    }
}
