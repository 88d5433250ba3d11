//! What must fit together: names resolve, nothing is used twice, addresses are reachable.

use crate::error::Report;
use crate::read::Table;
use crate::{ValidConfig, bridge, control, port, vxlan, worker};
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

type Span = Range<usize>;

/// Where the tables of a configuration are in the file, as far as they are there.
pub(crate) struct Tables<'a> {
    pub control: Option<Table<'a>>,
    /// As [`ValidConfig::workers`]; none, if that has the default.
    pub workers: Vec<Table<'a>>,
    /// As [`ValidConfig::ports`].
    pub ports: Vec<Table<'a>>,
    /// As [`ValidConfig::bridges`].
    pub bridges: Vec<Table<'a>>,
    /// Whether there is something that should be `[vxlan]`.
    pub has_vxlan: bool,
    pub vxlan: Option<Table<'a>>,
}

/// Gives every static entry the membership that it means, and reports everything in `config` that does not fit together.
pub(crate) fn validate(config: &mut ValidConfig, tables: &Tables<'_>, cpus: &[usize], report: &mut Report) {
    bridge::resolve_statics(config, &tables.bridges, report);
    if let Some(t) = &tables.control {
        control::check(&config.control, t, report);
    }
    worker::check(&config.workers, &tables.workers, cpus, report);
    port::check(config, &tables.ports, tables.control.as_ref(), report);
    bridge::check(config, tables, report);
    vxlan::check(config, tables, report);
}

/// Notes the use of `key` at `place`; where it was used first, if this is not the first.
pub(crate) fn first_use<K: Hash + Eq>(used: &mut HashMap<K, Span>, key: K, place: &Span) -> Option<Span> {
    let first = used.entry(key).or_insert_with(|| place.clone());
    (first != place).then(|| first.clone())
}
