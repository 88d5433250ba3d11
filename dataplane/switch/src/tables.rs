//! What the stages look things up in: built on the control thread from the validated configuration, published as one
//! immutable whole, never changed afterwards.

use crate::adjacency::Adjacencies;
use crate::burst::{HEAD, HEAD_LONG};
use crate::egress::Egress;
use crate::stages::{Stage, StageTables, Stages};
use dray_config::Mac;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// No bridge: bridges count from 1.
pub const NO_BRIDGE: u16 = 0;

/// One published snapshot. What does not change from one to the next, both share.
#[derive(Clone, Default)]
pub struct Tables {
    /// By port number.
    pub ports: Vec<Port>,
    /// Who gets what is for all of a bridge, by bridge number; number 0 is nobody's.
    pub groups: Vec<Group>,
    /// What is written before frames that leave by tunnels.
    pub adjacencies: Adjacencies,
    /// The VXLAN overlay, if there is one.
    pub overlay: Option<Overlay>,
}

/// A port, as the stages know it.
#[derive(Clone)]
pub struct Port {
    /// What its frames belong to.
    pub bridges: PortTable,
    /// What stages do with them.
    pub(crate) stages: StageTables,
    /// A bit for each stage that has to do with them.
    pub(crate) wanted: u32,
}

impl From<PortTable> for Port {
    /// A port for which no stage is configured.
    fn from(bridges: PortTable) -> Port {
        Port::with(bridges, StageTables::default())
    }
}

impl Port {
    /// As `config` says. What its stages have counted goes on from `before`, which it was until now.
    pub fn new(bridges: PortTable, config: &dray_config::Port, before: Option<&Port>) -> Port {
        Port::with(bridges, StageTables::new(config, before.map(|before| &before.stages)))
    }

    fn with(bridges: PortTable, stages: StageTables) -> Port {
        let port = Port { bridges, stages, wanted: 0 };
        Port { wanted: Stages::wanted(&port), ..port }
    }

    /// How much of each of its frames is looked at, and so copied before, bytes.
    pub fn head_len(&self) -> usize {
        if self.is_underlay() || self.wanted & 1 << Stage::Guard as u32 != 0 { HEAD_LONG } else { HEAD }
    }

    /// Whether it is the overlay's underlay port.
    pub fn is_underlay(&self) -> bool {
        matches!(self.bridges, PortTable::Underlay)
    }
}

/// What a port's frames belong to.
#[derive(Clone, Default)]
pub enum PortTable {
    /// In no bridge: all frames are dropped.
    #[default]
    Unused,
    /// The overlay's underlay port.
    Underlay,
    /// Untagged in one bridge.
    Access(u16),
    /// By VLAN: entry 0 is the untagged bridge, [`NO_BRIDGE`] where there is none.
    Trunk(Arc<[u16; 4096]>),
}

/// Adjacencies that get the same frames: all of them do.
#[derive(Clone, Default)]
pub struct Group {
    /// Of a bridge: its member ports and, if it has a VNI, the tunnels of its head-end replication list.
    pub members: Arc<[Egress]>,
}

/// Where the VXLAN overlay (RFC 7348) over IPv4 ends here: what is taken from the underlay port.
#[derive(Clone)]
pub struct Overlay {
    /// The VTEP's own MAC on the underlay.
    pub mac: Mac,
    /// The VTEP's own address.
    pub local: Ipv4Addr,
    /// UDP destination port.
    pub udp_port: u16,
    /// Whether packets of unknown VTEPs are taken.
    pub learn_vteps: bool,
    /// VNI -> bridge number.
    pub vnis: IntMap,
    /// VTEP address -> tunnel number.
    pub vteps: IntMap,
}

impl Overlay {
    /// Without networks and tunnels; unknown VTEPs are not taken.
    pub fn new(mac: Mac, local: Ipv4Addr, udp_port: u16) -> Self {
        Overlay { mac, local, udp_port, learn_vteps: false, vnis: IntMap::default(), vteps: IntMap::default() }
    }
}

/// A small map from u32 to u16: open addressing, at most a quarter full, with a secret hash. VTEPs that are learned are
/// chosen by others: whatever they are, no search looks at more than `IntMap::RUN` places.
#[derive(Clone, Default)]
pub struct IntMap {
    /// Key and value; a value of `u16::MAX` is an empty place.
    places: Arc<[(u32, u16)]>,
    /// How many are not empty.
    used: usize,
    /// Odd.
    factor: u64,
    shift: u32,
}

impl IntMap {
    /// A map of `pairs`, whose keys are distinct and whose values are below `u16::MAX`.
    pub fn new(pairs: impl ExactSizeIterator<Item = (u32, u16)>) -> Self {
        let pairs: Vec<_> = pairs.collect();
        let mut size = (pairs.len() * 4).next_power_of_two().max(16);
        loop {
            // With a fair hash the first one nearly always will do.
            for _ in 0..4 {
                let map = IntMap::with(&pairs, size, RandomState::new().hash_one(size) | 1);
                if map.longest_run() <= Self::RUN {
                    return map;
                }
            }
            size *= 2;
        }
    }

    /// Gives `key` a value below `u16::MAX`, or none. However many others there are, only their places are copied.
    pub fn set(&mut self, key: u32, value: Option<u16>) {
        if self.places.is_empty() {
            *self = IntMap::new(value.map(|value| (key, value)).into_iter());
            return;
        }
        let mask = self.places.len() - 1;
        let mut at = self.start(key);
        while self.places[at].1 != u16::MAX && self.places[at].0 != key {
            at = (at + 1) & mask;
        }
        let is_there = self.places[at].1 != u16::MAX;
        match value {
            Some(value) if is_there => Arc::make_mut(&mut self.places)[at].1 = value,
            Some(value) => {
                let after = (1..).take_while(|n| self.places[(at + n) & mask].1 != u16::MAX).count();
                let before = (1..).take_while(|n| self.places[at.wrapping_sub(*n) & mask].1 != u16::MAX).count();
                self.used += 1;
                if self.used * 4 > self.places.len() || before + 1 + after > Self::RUN {
                    let pairs = self.places.iter().filter(|place| place.1 != u16::MAX).copied();
                    *self = IntMap::new(pairs.chain([(key, value)]).collect::<Vec<_>>().into_iter());
                } else {
                    Arc::make_mut(&mut self.places)[at] = (key, value);
                }
            }
            None if is_there => self.empty(at),
            None => {}
        }
    }

    /// Empties a place. What comes after it, and would not be found any more, moves up.
    fn empty(&mut self, mut hole: usize) {
        let mask = self.places.len() - 1;
        let mut places = Arc::clone(&self.places);
        let all = Arc::make_mut(&mut places);
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            if all[at].1 == u16::MAX {
                break;
            }
            let steps = |to: usize| at.wrapping_sub(to) & mask;
            if steps(self.start(all[at].0)) >= steps(hole) {
                all[hole] = all[at];
                hole = at;
            }
        }
        all[hole] = (0, u16::MAX);
        self.places = places;
        self.used -= 1;
    }

    /// Places in a row that are not empty, at most.
    const RUN: usize = 32;

    fn with(pairs: &[(u32, u16)], size: usize, factor: u64) -> Self {
        let mut map = IntMap { places: Arc::default(), used: pairs.len(), factor, shift: 64 - size.ilog2() };
        let mut places = vec![(0, u16::MAX); size];
        for &(key, value) in pairs {
            let mut at = map.start(key);
            while places[at].1 != u16::MAX {
                at = (at + 1) & (size - 1);
            }
            places[at] = (key, value);
        }
        map.places = places.into();
        map
    }

    fn longest_run(&self) -> usize {
        // Twice, for what goes on from the end to the beginning.
        let all = self.places.iter().chain(&*self.places);
        let runs = all.scan(0, |run, place| {
            *run = if place.1 == u16::MAX { 0 } else { *run + 1 };
            Some(*run)
        });
        runs.max().unwrap_or(0)
    }

    #[inline(always)]
    fn start(&self, key: u32) -> usize {
        // Multiply-shift (Dietzfelbinger et al., 1997): universal, if the factor is a secret.
        (u64::from(key).wrapping_mul(self.factor) >> self.shift) as usize
    }

    /// The value of `key`.
    #[inline(always)]
    pub fn get(&self, key: u32) -> Option<u16> {
        if self.places.is_empty() {
            return None;
        }
        let mut at = self.start(key);
        loop {
            match self.places[at] {
                (_, u16::MAX) => return None,
                (k, value) if k == key => return Some(value),
                _ => at = (at + 1) & (self.places.len() - 1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_int_map_finds_all_it_was_given_and_nothing_else() {
        let map = IntMap::new((0..4096u32).map(|n| (n * 7 + 1, n as u16)));
        assert!((0..4096u32).all(|n| map.get(n * 7 + 1) == Some(n as u16) && map.get(n * 7 + 2).is_none()));
        assert_eq!(IntMap::default().get(5), None);
    }

    #[test]
    fn an_int_map_changes_one_by_one() {
        let mut map = IntMap::default();
        let mut model = std::collections::HashMap::new();
        let mut random = 1u64;
        for step in 0..40_000u32 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // First it grows, then it shrinks.
            let (key, is_set) = ((random >> 33) as u32 % 3000, (random >> 20) % 8 < if step < 20_000 { 6 } else { 2 });
            let value = is_set.then_some(step as u16 % u16::MAX);
            map.set(key, value);
            match value {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
            if step % 1000 == 0 {
                assert!((0..3000).all(|key| map.get(key) == model.get(&key).copied()), "{step}");
                assert!(map.longest_run() <= IntMap::RUN && map.used == model.len());
            }
        }
        (0..3000).for_each(|key| map.set(key, None));
        assert!(map.used == 0 && map.longest_run() == 0);
    }

    /// Keys that all have one place if the factor is known, as that of Fibonacci hashing is, and keys that count up.
    #[test]
    fn chosen_keys_make_no_long_searches() {
        const GOLDEN: u32 = 0x9e37_79b1;
        // Newton's way to the inverse of an odd number.
        let inverse =
            (0..5).fold(GOLDEN, |inverse, _| inverse.wrapping_mul(2u32.wrapping_sub(GOLDEN.wrapping_mul(inverse))));
        assert_eq!(GOLDEN.wrapping_mul(inverse), 1);
        let collide = |n: u32| (0x1234_0000 | n).wrapping_mul(inverse);
        for key in [&collide as &dyn Fn(u32) -> u32, &|n| n, &|n| n << 8, &|n| n << 16] {
            let map = IntMap::new((0..4096).map(|n| (key(n), n as u16)));
            assert!((0..4096).all(|n| map.get(key(n)) == Some(n as u16)));
            assert!(map.longest_run() <= IntMap::RUN && map.places.len() <= 4 * 4 * 4096);
        }
        let pairs: Vec<_> = (0..4096).map(|n| (collide(n), n as u16)).collect();
        assert!(
            IntMap::with(&pairs, 1 << 14, u64::from(GOLDEN) << 32).longest_run() > 1000,
            "the test tests something"
        );
    }
}
