//! Small numbers for names.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Gives each name a number; numbers that are released are used again.
pub(crate) struct Numbers<K> {
    of: HashMap<K, u16>,
    /// By number.
    names: Vec<Option<K>>,
    free: Vec<u16>,
}

impl<K: Hash + Eq + Clone> Numbers<K> {
    pub(crate) fn starting_at(first: u16) -> Self {
        Numbers { of: HashMap::new(), names: vec![None; first.into()], free: Vec::new() }
    }

    /// The name's number; a new one if it has none.
    pub(crate) fn number(&mut self, name: &K) -> u16 {
        if let Some(&n) = self.of.get(name) {
            return n;
        }
        let n = self.free.pop().unwrap_or_else(|| {
            self.names.push(None);
            u16::try_from(self.names.len() - 1).expect("limits of the configuration leave enough")
        });
        self.of.insert(name.clone(), n);
        self.names[usize::from(n)] = Some(name.clone());
        n
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<u16>
    where
        K: Borrow<Q>,
    {
        self.of.get(name).copied()
    }

    /// The name that has a number.
    pub(crate) fn name(&self, number: u16) -> Option<&K> {
        self.names.get(usize::from(number))?.as_ref()
    }

    /// One more than the greatest number ever given.
    pub(crate) fn end(&self) -> usize {
        self.names.len()
    }

    /// Numbers that are given or not released yet.
    pub(crate) fn used(&self) -> usize {
        self.names.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.of.iter().map(|(k, &n)| (k, n))
    }

    /// Forgets a name. Its number is nobody's until it is released.
    pub(crate) fn forget<Q: Hash + Eq + ?Sized>(&mut self, name: &Q) -> Option<u16>
    where
        K: Borrow<Q>,
    {
        let n = self.of.remove(name)?;
        self.names[usize::from(n)] = None;
        Some(n)
    }

    /// The number of a name that was forgotten may be another's.
    pub(crate) fn release(&mut self, number: u16) {
        self.free.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_again_only_when_it_is_released() {
        let mut numbers: Numbers<String> = Numbers::starting_at(1);
        let number = |numbers: &mut Numbers<String>, name: &str| numbers.number(&name.to_owned());
        assert_eq!([number(&mut numbers, "a"), number(&mut numbers, "b"), number(&mut numbers, "a")], [1, 2, 1]);
        assert_eq!(
            (numbers.forget("a"), numbers.forget("a"), numbers.get("a"), numbers.name(1)),
            (Some(1), None, None, None)
        );
        assert_eq!((number(&mut numbers, "c"), numbers.name(3).map(String::as_str)), (3, Some("c")));
        numbers.release(1);
        assert_eq!((number(&mut numbers, "d"), numbers.name(1).map(String::as_str)), (1, Some("d")));
        assert_eq!((numbers.end(), numbers.used(), numbers.iter().count()), (4, 4, 3));
    }
}
