//! Frames by the port they leave through, so that every port is called once a burst.

use super::{Pass, Process, Selection, leaving::Leaving};
use crate::burst::{ADDED_MAX, BURST, Burst, FRAMES};
use crate::drops::Drop;
use crate::egress::MAX_PORTS;
use crate::names::{Named, declare};
use crate::offload::{self, Accepts};
use crate::port::Output;

declare! { REASONS of Drop;
    /// The frame was to be segmented for this receiver, and with it there would have been more than 8,192 segments in its burst, those
    /// for each receiver counted: one sender must not hold up all others. Or its receiver offers buffers of less than 128 bytes.
    TxTooManyPieces = "tx.too_many_pieces" {
        cause: "Large TCP or UDP packets of a virtual machine go to many receivers that can't take them whole, \
            mostly because their address is not known.",
        remedy: "`dray fdb show --bridge BRIDGE` says which are known. Let the receivers take them whole \
            (`guest_tso4=on,guest_tso6=on,mrg_rxbuf=on` of the VM's device), or in the sender `ethtool -K \
            DEV tso off gso off`.",
    };
}

/// A list of frames for each port.
pub(crate) struct Send {
    /// For every number that there can be: an FDB entry may name a port that is not in this worker's tables yet.
    lists: Box<[List]>,
    touched: Vec<u16>,
    /// Frames handed to ports.
    switched: u32,
    /// The numbers of one port's frames.
    numbers: [u16; FRAMES],
    /// For pieces of frames on their way out; empty.
    scratch: Box<Burst>,
    /// Ports that get frames of a burst to which something is left to be done, and what they take undone.
    ports: Vec<(u16, Accepts)>,
    /// Those that get a frame in pieces.
    receivers: Vec<u16>,
}

/// A bit for each frame, and for each copy.
type List = [u64; FRAMES / BURST];

/// The numbers of a burst's frames.
const ALL: [u16; BURST] = {
    let mut all = [0; BURST];
    let mut i = 0;
    while i < BURST {
        all[i] = i as u16;
        i += 1;
    }
    all
};

impl Default for Send {
    fn default() -> Self {
        let mut scratch = Box::<Burst>::default();
        // What is sent needs no more of its body in the head.
        scratch.set_head_len(0);
        Send {
            lists: vec![List::default(); MAX_PORTS].into(),
            touched: Vec::new(),
            switched: 0,
            numbers: [0; FRAMES],
            scratch,
            ports: Vec::new(),
            receivers: Vec::new(),
        }
    }
}

impl Process for Send {
    const REASONS: &[Named] = REASONS;

    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        let switched = self.send(pass.burst, pass.leaving, pass.out);
        pass.tally.switched += switched;
        switched as usize
    }
}

impl Send {
    /// Sends the frames of all sets. How many they were.
    #[inline(always)]
    pub(crate) fn send(&mut self, burst: &mut Burst, leaving: &mut Vec<Leaving>, out: &mut impl Output) -> u32 {
        // Bursts mostly leave through one port, which needs no list.
        if let [Leaving { port, frames, copies, .. }] = leaving[..]
            && !burst.has_offloads()
        {
            leaving.clear();
            return send(port, [frames.bits(), copies.bits()], burst, &mut self.numbers, out);
        }
        for set in leaving.iter() {
            // All of a set may have been dropped since it was made.
            if set.frames.bits() | set.copies.bits() != 0 {
                self.add(set);
            }
        }
        leaving.clear();
        self.flush(burst, out);
        std::mem::take(&mut self.switched)
    }

    /// Puts the frames of `set` into their port's list, which has each of them once at most.
    #[inline(always)]
    fn add(&mut self, set: &Leaving) {
        let list = &mut self.lists[usize::from(set.port)];
        if *list == List::default() {
            self.touched.push(set.port);
        }
        list[0] |= set.frames.bits();
        list[1] |= set.copies.bits();
    }

    /// Sends everything.
    #[inline]
    fn flush(&mut self, burst: &mut Burst, out: &mut impl Output) {
        if burst.has_offloads() {
            self.finish(burst, out);
        }
        for port in self.touched.drain(..) {
            let list = std::mem::take(&mut self.lists[port as usize]);
            self.switched += send(port, list, burst, &mut self.numbers, out);
        }
    }

    /// Does what was left to be done to frames whose receivers don't. Those that are cut leave here, each after whatever goes to the
    /// same port before it; the others stay in the lists.
    #[cold]
    #[inline(never)]
    fn finish(&mut self, burst: &mut Burst, out: &mut impl Output) {
        let mut ports = std::mem::take(&mut self.ports);
        ports.extend(self.touched.iter().filter_map(|&port| Some((port, out.accepts(port)?))));
        for i in 0..FRAMES as u16 {
            let frame = burst.frame(i);
            if frame.offload().is_none() {
                continue;
            }
            let (word, bit) = (i as usize / BURST, 1 << (i as usize % BURST));
            let needs = |&(port, accepts): &(u16, Accepts)| {
                self.lists[port as usize][word] & bit != 0 && !offload::goes_whole(frame, accepts)
            };
            if !offload::is_long(frame) {
                if ports.iter().any(needs) {
                    offload::complete(burst, i);
                }
                continue;
            }
            let mut receivers = std::mem::take(&mut self.receivers);
            receivers.extend(ports.iter().filter(|port| needs(port)).map(|&(port, _)| port));
            if !receivers.is_empty() {
                self.cut(burst, i, &receivers, out);
            }
            receivers.clear();
            self.receivers = receivers;
        }
        ports.clear();
        self.ports = ports;
    }

    /// Sends frame `i` in pieces to all `receivers`, as far as that is not too many.
    fn cut(&mut self, burst: &mut Burst, i: u16, receivers: &[u16], out: &mut impl Output) {
        let pieces = offload::pieces(burst.frame(i));
        let room = (ADDED_MAX.saturating_sub(burst.pieces) / pieces) as usize;
        let (receivers, refused) = receivers.split_at(receivers.len().min(room));
        burst.pieces += pieces * receivers.len() as u32;
        for &port in receivers.iter().chain(refused) {
            let list = &mut self.lists[port as usize];
            let first = before(*list, i);
            list.iter_mut().zip(before([u64::MAX; 2], i + 1)).for_each(|(word, gone)| *word &= !gone);
            self.switched += 1 + send(port, first, burst, &mut self.numbers, out);
        }
        receivers.iter().for_each(|&port| out.segmented(port, pieces - 1));
        for &port in refused {
            burst.drop(i, Drop::TxTooManyPieces);
            out.dropped(port, burst);
        }
        if !receivers.is_empty() {
            offload::cut(burst, i, &mut self.scratch, |scratch| {
                receivers.iter().for_each(|&port| out.send(port, scratch, &ALL[..scratch.len()]));
            });
        }
    }
}

/// Those of `list` whose number is less than `i`.
fn before(list: List, i: u16) -> List {
    let below = |first: u16| match i.saturating_sub(first) {
        n @ 0..64 => (1 << n) - 1,
        _ => u64::MAX,
    };
    [list[0] & below(0), list[1] & below(BURST as u16)]
}

/// Sends the frames in `list`, if there are any, through `port`. How many.
#[inline(always)]
fn send(port: u16, list: List, burst: &mut Burst, numbers: &mut [u16; FRAMES], out: &mut impl Output) -> u32 {
    let frames = match list {
        // All from the first to some other.
        [frames, 0] if frames & frames.wrapping_add(1) == 0 => &ALL[..frames.trailing_ones() as usize],
        _ => {
            let mut n = 0;
            for (word, first) in list.into_iter().zip((0..).step_by(BURST)) {
                for i in Selection(word).iter() {
                    numbers[n % FRAMES] = first + i;
                    n += 1;
                }
            }
            &numbers[..n]
        }
    };
    if !frames.is_empty() {
        out.send(port, burst, frames);
    }
    frames.len() as u32
}
