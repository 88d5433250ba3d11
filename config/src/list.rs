//! Lists whose items are found by what tells them apart, however many there are.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Deref;

/// What has something that tells it from the others of its list.
pub trait Keyed {
    /// A name or an address.
    type Key: Clone + Eq + Hash;

    /// The item's own. It does not change while the item is in a list.
    fn key(&self) -> &Self::Key;
}

/// Items in an order, found by their keys. While a file is read that gives a key twice, the first item that has it is found.
#[derive(Clone, Debug)]
pub struct List<T: Keyed> {
    items: Vec<T>,
    places: HashMap<T::Key, usize>,
}

impl<T: Keyed> Default for List<T> {
    fn default() -> Self {
        List { items: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Keyed> List<T> {
    /// The item of this key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&T>
    where
        T::Key: Borrow<Q>,
    {
        self.places.get(key).map(|&at| &self.items[at])
    }

    /// The item of this key, which keeps it.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut T>
    where
        T::Key: Borrow<Q>,
    {
        self.places.get(key).map(|&at| &mut self.items[at])
    }

    /// All items, which keep their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut()
    }

    /// Appends an item, whatever others there are.
    pub fn push(&mut self, item: T) {
        self.places.entry(item.key().clone()).or_insert(self.items.len());
        self.items.push(item);
    }

    /// Puts an item in the place of the one that has its key, or else at the end. The one that was there.
    pub fn put(&mut self, item: T) -> Option<T> {
        match self.places.get(item.key()) {
            Some(&at) => Some(std::mem::replace(&mut self.items[at], item)),
            None => {
                self.push(item);
                None
            }
        }
    }

    /// Takes an item out; the others keep their order.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<T>
    where
        T::Key: Borrow<Q>,
    {
        let at = self.places.remove(key)?;
        let item = self.items.remove(at);
        if at < self.items.len() {
            self.places.values_mut().filter(|place| **place > at).for_each(|place| *place -= 1);
        }
        Some(item)
    }

    /// Takes an item out; the last one takes its place. So it costs the same however many there are.
    pub fn swap_remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<T>
    where
        T::Key: Borrow<Q>,
    {
        let at = self.places.remove(key)?;
        let item = self.items.swap_remove(at);
        if let Some(moved) = self.items.get(at) {
            self.places.insert(moved.key().clone(), at);
        }
        Some(item)
    }
}

impl<T: Keyed> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T: Keyed + PartialEq> PartialEq for List<T> {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl<T: Keyed + Eq> Eq for List<T> {}

impl<T: Keyed> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut list = List::default();
        items.into_iter().for_each(|item| list.push(item));
        list
    }
}

impl<T: Keyed> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        items.into_iter().collect()
    }
}

impl<T: Keyed> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T: Keyed> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item(u8, u32);

    impl Keyed for Item {
        type Key = u8;

        fn key(&self) -> &u8 {
            &self.0
        }
    }

    proptest! {
        #[test]
        fn items_are_found_after_whatever_was_done(steps in proptest::collection::vec((0u8..3, 0u8..8, any::<u32>()), 0..60)) {
            let (mut list, mut model) = (List::default(), Vec::new());
            for (what, key, value) in steps {
                let at = model.iter().position(|item: &Item| item.0 == key);
                match what {
                    0 => {
                        prop_assert_eq!(list.put(Item(key, value)), at.map(|at| model[at].clone()));
                        match at {
                            Some(at) => model[at].1 = value,
                            None => model.push(Item(key, value)),
                        }
                    }
                    1 => prop_assert_eq!(list.remove(&key), at.map(|at| model.remove(at))),
                    _ => prop_assert_eq!(list.swap_remove(&key), at.map(|at| model.swap_remove(at))),
                }
                prop_assert_eq!(&list[..], &model[..]);
                for key in 0..8 {
                    prop_assert_eq!(list.get(&key), model.iter().find(|item| item.0 == key));
                }
            }
        }
    }
}
