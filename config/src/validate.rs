//! What must fit together: names resolve, nothing is used twice, addresses are reachable.

use crate::ValidConfig;
use crate::bridge::{BridgePlaces, bridges};
use crate::error::Report;
use crate::port::{PortPlaces, ports};
use crate::vxlan::{VxlanPlaces, number_of_vteps, vxlan};
use crate::worker::workers;
use std::collections::HashMap;
use std::ops::Range;

type Span = Range<usize>;

/// Where things are in the file. `None`: not there, or not readable and already reported.
#[derive(Default)]
pub(crate) struct Places {
    pub control_socket: Option<Span>,
    pub workers: Vec<Option<Span>>,
    pub ports: Vec<PortPlaces>,
    pub bridges: Vec<BridgePlaces>,
    /// Whether there is something that should be `[vxlan]`.
    pub has_vxlan: bool,
    pub vxlan: VxlanPlaces,
}

/// Reports everything in `config` that does not fit together.
pub(crate) fn validate(config: &ValidConfig, places: &Places, cpus: &[usize], report: &mut Report) {
    workers(config, places, cpus, report);
    ports(config, places, report);
    bridges(config, places, report);
    if let Some(overlay) = &config.vxlan {
        vxlan(overlay, config, places, report);
        number_of_vteps(overlay, config, places, report);
    }
}

/// Notes the use of `key` at `place`; where it was used first, if this is not the first.
pub(crate) fn first_use<'a, K: std::hash::Hash + Eq>(
    used: &mut HashMap<K, &'a Span>,
    key: K,
    place: &'a Span,
) -> Option<&'a Span> {
    let first = *used.entry(key).or_insert(place);
    (!std::ptr::eq(first, place)).then_some(first)
}
