//! Small numbers for names.

use std::collections::HashMap;
use std::hash::Hash;

/// Gives each name a number; numbers of names that are gone are used again.
pub(crate) struct Numbers<K> {
    of: HashMap<K, u16>,
    free: Vec<u16>,
    next: u16,
}

impl<K: Hash + Eq + Clone> Numbers<K> {
    pub(crate) fn starting_at(first: u16) -> Self {
        Numbers { of: HashMap::new(), free: Vec::new(), next: first }
    }

    /// The name's number; a new one if it has none.
    pub(crate) fn number(&mut self, name: &K) -> u16 {
        if let Some(&n) = self.of.get(name) {
            return n;
        }
        let n = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.of.insert(name.clone(), n);
        n
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<u16>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.of.get(name).copied()
    }

    /// One more than the greatest number ever given.
    pub(crate) fn end(&self) -> usize {
        self.next as usize
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.of.iter().map(|(k, &n)| (k, n))
    }

    /// Forgets the names that `keep` doesn't want and returns their numbers.
    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) -> Vec<u16> {
        let gone: Vec<u16> = self.of.extract_if(|k, _| !keep(k)).map(|(_, n)| n).collect();
        self.free.extend(&gone);
        gone
    }
}
