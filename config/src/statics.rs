//! A bridge's static FDB entries: as many as a host has stations, found by address and by place.

use crate::list::List;
use crate::{Mac, StaticMac, StaticTo};
use std::collections::{HashMap, HashSet};
use std::ops::Deref;

/// Static entries. To add, find and remove one costs the same however many there are.
#[derive(Clone, Debug, Default)]
pub struct Statics {
    entries: List<StaticMac>,
    behind: HashMap<StaticTo, HashSet<Mac>>,
}

impl Statics {
    /// The entry of this address.
    pub fn get(&self, mac: Mac) -> Option<&StaticMac> {
        self.entries.get(&mac)
    }

    /// Adds an entry, in the place of the one that has its address. That one.
    pub fn put(&mut self, entry: StaticMac) -> Option<StaticMac> {
        let old = self.remove(entry.mac);
        self.push(entry);
        old
    }

    /// Takes the entry of this address out.
    pub fn remove(&mut self, mac: Mac) -> Option<StaticMac> {
        let old = self.entries.swap_remove(&mac)?;
        if let Some(macs) = self.behind.get_mut(&old.to) {
            macs.remove(&mac);
            if macs.is_empty() {
                self.behind.remove(&old.to);
            }
        }
        Some(old)
    }

    /// The entries that lead to `place`.
    pub fn behind(&self, place: &StaticTo) -> Vec<StaticMac> {
        let macs = self.behind.get(place).into_iter().flatten();
        macs.map(|&mac| StaticMac { mac, to: place.clone() }).collect()
    }

    /// Where entries lead to, each place once.
    pub fn places(&self) -> impl Iterator<Item = &StaticTo> {
        self.behind.keys()
    }

    /// One of the entries that lead to each place, of those that are wanted.
    pub(crate) fn samples(&self, is_wanted: impl Fn(&StaticTo) -> bool) -> Statics {
        let wanted = self.behind.iter().filter(|(to, _)| is_wanted(to));
        wanted.filter_map(|(to, macs)| Some(StaticMac { mac: *macs.iter().next()?, to: to.clone() })).collect()
    }

    /// Appends an entry, though there may be another one of its address.
    fn push(&mut self, entry: StaticMac) {
        self.behind.entry(entry.to.clone()).or_default().insert(entry.mac);
        self.entries.push(entry);
    }
}

impl Deref for Statics {
    type Target = [StaticMac];

    fn deref(&self) -> &[StaticMac] {
        &self.entries
    }
}

impl PartialEq for Statics {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Statics {}

impl FromIterator<StaticMac> for Statics {
    /// As a file has them, with those that it has twice.
    fn from_iter<I: IntoIterator<Item = StaticMac>>(entries: I) -> Self {
        let mut statics = Statics::default();
        entries.into_iter().for_each(|entry| statics.push(entry));
        statics
    }
}

impl<'a> IntoIterator for &'a Statics {
    type Item = &'a StaticMac;
    type IntoIter = std::slice::Iter<'a, StaticMac>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Member;

    #[test]
    fn entries_are_found_by_address_and_by_place() {
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let port = |name: &str| StaticTo::Port(Member { port: name.into(), vlan: None });
        let mut statics: Statics = [(1, "a"), (2, "b"), (3, "a")]
            .map(|(last, to)| StaticMac { mac: mac(last), to: port(to) })
            .into_iter()
            .collect();
        let sorted = |mut entries: Vec<StaticMac>| {
            entries.sort_by_key(|entry| entry.mac);
            entries.iter().map(|entry| entry.mac.0[5]).collect::<Vec<_>>()
        };
        assert_eq!(sorted(statics.behind(&port("a"))), [1, 3]);
        assert_eq!(statics.put(StaticMac { mac: mac(1), to: port("b") }).unwrap().to, port("a"));
        assert_eq!((sorted(statics.behind(&port("a"))), sorted(statics.behind(&port("b")))), (vec![3], vec![1, 2]));
        assert_eq!(statics.remove(mac(3)).unwrap().mac, mac(3));
        assert_eq!((statics.remove(mac(3)), statics.behind(&port("a")), statics.places().count()), (None, vec![], 1));
        assert_eq!(statics.get(mac(2)).unwrap().to, port("b"));
    }
}
