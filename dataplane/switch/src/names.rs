//! Reasons and counters are declared where they happen, each with its name and its meaning. Here they get their numbers, from the lists of all
//! stages one after the other: whoever shows or counts them goes by these, and nothing else names them.

/// What is declared of a reason or a counter.
pub(crate) struct Named {
    /// Its name in the command, in JSON and in the metrics.
    pub name: &'static str,
    /// What it means, for people.
    pub description: &'static str,
    /// Of a drop reason: what usually makes it happen, for whoever runs the switch. Empty for a counter.
    pub cause: &'static str,
    /// Of a drop reason: what to do about it, with the command that shows or mends it. Empty for a counter.
    pub remedy: &'static str,
}

/// How many there are in all these lists.
pub(crate) const fn count(lists: &[&[Named]]) -> usize {
    let (mut all, mut list) = (0, 0);
    while list < lists.len() {
        all += lists[list].len();
        list += 1;
    }
    all
}

/// The place of `name` in all these lists, one after the other.
///
/// # Panics
/// While compiling, if it is in none of them: then its stage does not hand its list on.
pub(crate) const fn place(lists: &[&[Named]], name: &str) -> usize {
    let (mut place, mut list) = (0, 0);
    while list < lists.len() {
        let mut i = 0;
        while i < lists[list].len() {
            if is_same(lists[list][i].name, name) {
                return place;
            }
            place += 1;
            i += 1;
        }
        list += 1;
    }
    panic!("a name that no stage declares");
}

/// What is at that place.
pub(crate) const fn at(lists: &'static [&'static [Named]], mut place: usize) -> &'static Named {
    let mut list = 0;
    while place >= lists[list].len() {
        place -= lists[list].len();
        list += 1;
    }
    &lists[list][place]
}

const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

/// Makes a type of the names in `$lists`.
macro_rules! numbered {
    ($(#[$doc:meta])* $type:ident of $lists:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $type(u8);

        impl $type {
            /// How many there are.
            pub const COUNT: usize = $crate::names::count($lists);

            /// All of them, in the order of their numbers.
            pub const ALL: &'static [$type] = &{
                // Two numbers are left for `Verdict`.
                assert!($type::COUNT < u8::MAX as usize);
                let mut all = [$type(0); $type::COUNT];
                let mut i = 0;
                while i < all.len() {
                    all[i] = $type(i as u8);
                    i += 1;
                }
                all
            };

            /// The one that a stage declares by this name.
            pub(crate) const fn named(name: &str) -> $type {
                $type($crate::names::place($lists, name) as u8)
            }

            /// Its number, below [`Self::COUNT`].
            #[inline(always)]
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// Its name in the command, in JSON and in the metrics.
            pub const fn name(self) -> &'static str {
                $crate::names::at($lists, self.index()).name
            }

            /// What it means, for people.
            pub const fn description(self) -> &'static str {
                $crate::names::at($lists, self.index()).description
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

/// Declares reasons or counters in the file where they happen, as a list to be handed on: `declare! { REASONS of Drop; ... }`. Each is a
/// constant of the type, named as a variant is. A drop reason has its usual cause and its remedy beside it, from which
/// docs/troubleshooting.md is made: plain text, with commands and keys in backquotes, for it is shown by the command, too.
macro_rules! declare {
    ($list:ident of $type:ident; $(
        $(#[doc = $doc:literal])+
        $variant:ident = $name:literal $({ cause: $cause:literal, remedy: $remedy:literal, })?;
    )*) => {
        pub(crate) const $list: &[$crate::names::Named] = &[$($crate::names::Named {
            name: $name,
            description: concat!($($doc),+).trim_ascii(),
            cause: concat!($($cause)?),
            remedy: concat!($($remedy)?),
        },)*];

        #[allow(non_upper_case_globals)]
        impl $crate::$type {
            $($(#[doc = $doc])+ pub const $variant: $crate::$type = $crate::$type::named($name);)*
        }
    };
}

pub(crate) use {declare, numbered};

#[cfg(test)]
mod tests {
    use crate::{Count, Drop};
    use std::collections::HashSet;

    #[test]
    fn names_are_distinct_and_numbers_are_places() {
        let names: HashSet<_> = Drop::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Drop::COUNT);
        assert!(Drop::ALL.iter().enumerate().all(|(i, reason)| reason.index() == i));
        let names: HashSet<_> = Count::ALL.iter().map(|count| count.name()).collect();
        assert_eq!(names.len(), Count::COUNT);
        assert_eq!((Drop::VlanUnknown.name(), Drop::RxError.name()), ("vlan.unknown_vlan", "rx.error"));
        assert_eq!(Drop::TxRingFull.description(), "The receiver's ring had no free slot.");
    }
}
