//! Frames by the port they leave through, so that every port is called once a burst.

use crate::burst::{BURST, Burst, FRAMES};
use crate::fdb::Egress;
use crate::port::Output;
use crate::stages::Live;

/// A list of frames for each port.
pub(crate) struct Lists {
    lists: Vec<List>,
    touched: Vec<u16>,
    /// Frames handed to ports since this was last emptied.
    pub(crate) switched: u32,
    /// The numbers of one port's frames.
    numbers: [u16; FRAMES],
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

impl Default for Lists {
    fn default() -> Self {
        Lists { lists: Vec::new(), touched: Vec::new(), switched: 0, numbers: [0; FRAMES] }
    }
}

impl Lists {
    /// Makes room for ports below `ports`.
    #[inline]
    pub(crate) fn reach(&mut self, ports: usize) {
        if self.lists.len() < ports {
            self.lists.resize(ports, List::default());
        }
    }

    /// Frame or copy `i` leaves through `port`. Between two [`Lists::flush`] a port gets each of them once at most.
    #[inline(always)]
    pub(crate) fn push(&mut self, port: u16, i: u16) {
        self.add(port, i as usize / BURST, 1 << (i as usize % BURST));
    }

    /// `frames` of the burst, if there are any, leave through the port `to`.
    #[inline(never)]
    pub(crate) fn push_all(&mut self, to: Egress, frames: Live) {
        if frames.bits() != 0 {
            self.add(to.index(), 0, frames.bits());
        }
    }

    #[inline(always)]
    fn add(&mut self, port: u16, word: usize, bits: u64) {
        let list = &mut self.lists[port as usize];
        if *list == List::default() {
            self.touched.push(port);
        }
        list[word % list.len()] |= bits;
    }

    /// Sends everything.
    #[inline]
    pub(crate) fn flush(&mut self, burst: &mut Burst, out: &mut impl Output) {
        for port in self.touched.drain(..) {
            let list = std::mem::take(&mut self.lists[port as usize]);
            let frames = match list {
                // All from the first to some other.
                [frames, 0] if frames & frames.wrapping_add(1) == 0 => &ALL[..frames.trailing_ones() as usize],
                _ => {
                    let mut n = 0;
                    for (word, first) in list.into_iter().zip((0..).step_by(BURST)) {
                        for i in Live(word).iter() {
                            self.numbers[n % FRAMES] = first + i;
                            n += 1;
                        }
                    }
                    &self.numbers[..n]
                }
            };
            self.switched += frames.len() as u32;
            out.send(port, burst, frames);
        }
    }
}
