//! Frames by the port they leave through, in order, so that every port is called once a burst.

use crate::burst::{Burst, FRAMES};
use crate::port::Output;

/// A list of frames for each port.
#[derive(Default)]
pub(crate) struct Lists {
    lists: Vec<List>,
    touched: Vec<u16>,
    /// Frames handed to ports since this was last emptied.
    pub(crate) switched: u32,
}

struct List {
    n: usize,
    frames: [u16; FRAMES],
}

impl Lists {
    /// Makes room for ports below `ports`.
    #[inline]
    pub(crate) fn reach(&mut self, ports: usize) {
        if self.lists.len() < ports {
            self.lists.resize_with(ports, || List { n: 0, frames: [0; FRAMES] });
        }
    }

    /// Frame `i` leaves through `port`. Between two [`Lists::flush`] a port gets each frame and each copy at most once:
    /// [`FRAMES`] at most.
    #[inline(always)]
    pub(crate) fn push(&mut self, port: u16, i: u16) {
        let list = &mut self.lists[port as usize];
        if list.n == 0 {
            self.touched.push(port);
        }
        list.frames[list.n] = i;
        list.n += 1;
    }

    /// Sends everything.
    #[inline]
    pub(crate) fn flush(&mut self, burst: &mut Burst, out: &mut impl Output) {
        for port in self.touched.drain(..) {
            let list = &mut self.lists[port as usize];
            self.switched += list.n as u32;
            out.send(port, burst, &list.frames[..list.n]);
            list.n = 0;
        }
    }
}
