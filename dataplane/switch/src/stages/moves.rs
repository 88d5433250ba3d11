//! Counts addresses that move from port to port: a virtual machine that migrates moves once; a loop, or two hosts with one address, move
//! it again and again.

use super::{Pass, Process};
use crate::Count;
use crate::names::{Named, declare};
use crate::port::Output;
use crate::tables::{Port, PortTable};

declare! { COUNTS of Count;
    /// Frames whose source was last heard at another port: the address has moved here.
    MacMoves = "mac_moves";
}

#[derive(Default)]
pub(crate) struct Moves;

impl Process for Moves {
    const COUNTS: &[Named] = COUNTS;

    fn wanted(port: &Port) -> bool {
        !matches!(port.bridges, PortTable::Unused)
    }

    #[inline(always)]
    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        let moves = pass.moved.len();
        pass.tally.counts[Count::MacMoves.index()] += moves as u32;
        moves
    }
}

#[cfg(test)]
mod tests {
    use crate::egress::Egress;
    use crate::tests::{A, ALL, B, Switch, frame, three_ports};
    use crate::{Count, fdb};

    fn moves(s: &mut Switch, port: u16, src: [u8; 6]) -> u32 {
        s.run(port, vec![frame(ALL, src, 60)]);
        s.tally.counts[Count::MacMoves.index()]
    }

    #[test]
    fn an_address_moves_when_it_is_heard_at_another_port() {
        let mut s = three_ports();
        // The first time is no move, nor is another second at the same port.
        assert_eq!([0, 0, 1, 1, 0, 2].map(|port| moves(&mut s, port, A)), [0, 0, 1, 0, 1, 1]);
        s.now -= 1;
        assert_eq!([1, 1, 2].map(|port| moves(&mut s, port, A)), [1, 0, 1], "within a second, too");
        // Each in a burst, and to the port that it came to.
        s.run(0, vec![frame(ALL, B, 60)]);
        s.run(1, vec![frame(ALL, A, 60), frame(A, [2, 0, 0, 0, 0, 9], 60), frame(ALL, B, 60), frame(ALL, B, 60)]);
        assert_eq!(s.tally.counts[Count::MacMoves.index()], 2);
    }

    #[test]
    fn what_stays_at_its_port_has_not_moved() {
        let mut s = three_ports();
        s.fdb.set_static(fdb::key(1, A), Egress::port(1, 0));
        assert_eq!([0, 1, 2].map(|port| moves(&mut s, port, A)), [0; 3], "a static entry");
        moves(&mut s, 0, B);
        s.fdb.set_limit(Egress::port(2, 0), 0);
        assert_eq!([2, 0].map(|port| moves(&mut s, port, B)), [0; 2], "the port may not have it");
    }
}
