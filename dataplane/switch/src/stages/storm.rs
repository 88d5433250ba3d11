//! Storm control: what is for all members of a bridge a port may send into it only so often in a second, broadcasts, multicasts and unicasts
//! to unknown addresses counted by themselves. What is more is dropped before it is flooded; its source was learned all the same.
//!
//! A second is one of the switch's clock. A port has its limits whichever workers receive its frames: a worker takes from what they share
//! once a burst, and writes nothing there when all is taken.

use super::{Pass, Process, Selection, parse::GROUP};
use crate::drops::Drop;
use crate::names::{Named, declare};
use crate::port::Output;
use crate::tables::Port;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

declare! { REASONS of Drop;
    /// The port had sent as many broadcasts in that second as its max-broadcast allows.
    StormBroadcast = "storm.broadcast" {
        cause: "A loop behind the port, a sender out of order, or a limit that is too low.",
        remedy: "`mac moves` in `dray port show NAME` grows with a loop. `dray port set NAME max-broadcast N` \
            raises the limit, without N removes it.",
    };
    /// The port had sent as many multicasts in that second as its max-multicast allows.
    StormMulticast = "storm.multicast" {
        cause: "As with storm.broadcast; or a stream that is multicast.",
        remedy: "`dray port set NAME max-multicast N` raises the limit, without N removes it.",
    };
    /// The port had sent as many unicasts to unknown addresses in that second as its max-unknown-unicast allows.
    StormUnknownUnicast = "storm.unknown_unicast" {
        cause: "The receiver never sends, so that its address is not learned, or is gone; or the sender tries \
            out addresses.",
        remedy: "`dray fdb add BRIDGE MAC --port PORT` says where a silent receiver is. `dray port set NAME \
            max-unknown-unicast N` raises the limit, without N removes it.",
    };
}

/// The reasons of the kinds, by number.
const BY_KIND: [Drop; 3] = [Drop::StormBroadcast, Drop::StormMulticast, Drop::StormUnknownUnicast];

/// The kind of a destination that has no place in the FDB.
#[inline(always)]
fn kind(dst: u64) -> usize {
    const BROADCAST: u64 = (1 << 48) - 1;
    match dst & BROADCAST {
        BROADCAST => 0,
        dst if dst & GROUP != 0 => 1,
        _ => 2,
    }
}

/// How many frames of a kind may pass in a second.
#[derive(Clone)]
struct Limit {
    most: NonZeroU32,
    /// How many have, in the lower half; of which second, in the upper one.
    passed: Arc<AtomicU64>,
}

impl Limit {
    /// Takes places for `frames` in the second `now`. How many there were.
    fn take(&self, frames: u32, now: u16) -> u32 {
        // No second is zero, with which nobody has been yet.
        let second = (u64::from(now) + 1) << 32;
        let mut passing = 0;
        let _ = self.passed.fetch_update(Relaxed, Relaxed, |was| {
            let passed = if was >> 32 == second >> 32 { was as u32 } else { 0 };
            passing = frames.min(self.most.get().saturating_sub(passed));
            (passing != 0).then(|| second | u64::from(passed + passing))
        });
        passing
    }
}

/// A port's limits, by kind; none: any number.
#[derive(Clone, Default)]
pub(crate) struct Limits([Option<Limit>; 3]);

impl Limits {
    /// As the port's keys say.
    pub(crate) fn new(config: &dray_config::Port, before: Option<&Limits>) -> Limits {
        let most = config.storm.limits();
        Limits(std::array::from_fn(|kind| {
            let before = before.and_then(|before| before.0[kind].as_ref());
            let passed = before.map(|before| before.passed.clone()).unwrap_or_default();
            most[kind].map(|most| Limit { most, passed })
        }))
    }
}

#[derive(Default)]
pub(crate) struct Storm;

impl Process for Storm {
    const REASONS: &[Named] = REASONS;

    fn wanted(port: &Port) -> bool {
        port.stages.storm.0.iter().any(Option::is_some)
    }

    #[inline(never)]
    fn run<O: Output>(&mut self, pass: &mut Pass<O>) -> usize {
        let mut kinds = [Selection::NONE; 3];
        for i in pass.groups.iter().flat_map(|set| set.frames.iter()) {
            kinds[kind(pass.burst.meta.dst[i])].add(i);
        }
        for ((frames, limit), reason) in kinds.into_iter().zip(&pass.port.stages.storm.0).zip(BY_KIND) {
            let Some(limit) = limit.as_ref().filter(|_| frames.len() != 0) else { continue };
            let over = frames.after(limit.take(frames.len() as u32, pass.cx.now));
            over.drop(pass.burst, reason);
            pass.groups.iter_mut().for_each(|set| set.frames = set.frames.without(over));
        }
        kinds.iter().map(|frames| frames.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Stage;
    use crate::tables::PortTable;
    use crate::tests::{A, ALL, B, C, Switch, frame, three_ports};

    const GROUP_ADDRESS: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 5];

    fn port(keys: &str, before: Option<&Port>) -> Port {
        let text = format!("[[port]]\nname = \"p\"\nkind = \"memif\"\nsocket = \"@none\"\n{keys}");
        let config = dray_config::parse("test", &text).unwrap_or_else(|errors| panic!("{errors}"));
        Port::new(PortTable::Access(1), &config.ports[0], before)
    }

    /// Port 0 of three with these keys.
    fn limited(keys: &str) -> Switch {
        let mut s = three_ports();
        s.tables.ports[0] = port(keys, None);
        s
    }

    #[test]
    fn what_is_for_all_passes_so_often_in_a_second() {
        let mut s = limited("max-broadcast = 3\nmax-multicast = 2\nmax-unknown-unicast = 1\n");
        s.run(1, vec![frame(ALL, B, 60)]);
        let of = |dst, n: usize| (0..n).map(move |i| frame(dst, A, 60 + i));
        let burst = || of(ALL, 5).chain(of(B, 4)).chain(of(GROUP_ADDRESS, 4)).chain(of(C, 3)).collect::<Vec<_>>();
        let passing = |s: &mut Switch, frames| -> Vec<Vec<u8>> {
            s.run(0, frames).into_iter().filter(|(port, _)| *port == 1).map(|(_, bytes)| bytes).collect()
        };
        let drops = |counts: [u32; 3]| BY_KIND.into_iter().zip(counts).collect::<Vec<_>>();
        for _ in 0..2 {
            // The first ones of each kind, in order; what has a place is no storm.
            let first = passing(&mut s, burst());
            let expected = of(ALL, 3).chain(of(B, 4)).chain(of(GROUP_ADDRESS, 2)).chain(of(C, 1));
            let sorted = |mut frames: Vec<Vec<u8>>| {
                frames.sort();
                frames
            };
            assert_eq!(sorted(first), sorted(expected.collect()));
            assert_eq!(s.drops, drops([2, 2, 2]));
            s.now -= 1;
            assert_eq!(passing(&mut s, burst()), of(B, 4).collect::<Vec<_>>());
            assert_eq!(s.drops, drops([5, 4, 3]));
        }
        // Other ports are not its affair, nor are the kinds each other's.
        assert_eq!(
            s.run(
                2,
                of(ALL, 9)
                    .map(|mut f| {
                        f[6..12].copy_from_slice(&C);
                        f
                    })
                    .collect()
            )
            .len(),
            18
        );
        let mut s = limited("max-multicast = 1");
        s.run(0, burst());
        assert_eq!(s.drops, [(Drop::StormMulticast, 3)]);
    }

    #[test]
    fn a_new_configuration_does_not_begin_a_new_second() {
        let mut s = limited("max-broadcast = 3");
        s.run(0, vec![frame(ALL, A, 60); 2]);
        for (keys, passing) in [("max-broadcast = 3", 1), ("max-broadcast = 5", 2), ("max-broadcast = 1", 0), ("", 9)] {
            s.tables.ports[0] = port(keys, Some(&s.tables.ports[0]));
            s.now -= 1;
            assert_eq!(s.run(0, vec![frame(ALL, A, 60); 9]).len(), 2 * passing, "{keys}");
        }
    }

    #[test]
    fn a_port_without_limits_does_not_want_it() {
        let wants = |keys| port(keys, None).wanted & 1 << Stage::Storm as u32 != 0;
        assert_eq!([wants(""), wants("max-unknown-unicast = 1")], [false, true]);
    }
}
