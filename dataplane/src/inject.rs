//! What the control thread sends enters the switch at one of two places.

use crate::worker::Command;
use crate::{Dataplane, Place};
use dray_switch::egress::Egress;
use dray_switch::pipeline;
use dray_switch::tables::NO_BRIDGE;

/// Where what the control thread sends enters, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Into a bridge: it goes to where its destination is, or to all members.
    Bridge(String),
    /// Out of an adjacency, with what is written before it there: through a port, or to a VTEP of the bridge that is named.
    Adjacency(Place, Option<String>),
}

impl Entry {
    /// Out of a port, untagged.
    pub fn port(name: &str) -> Entry {
        Entry::Adjacency(Place::Port { port: name.into(), vlan: None }, None)
    }
}

impl Dataplane {
    /// Sends `frame` (at most 9,216 bytes), from the control thread. It is lost if no worker runs, or if nothing has that name.
    pub fn inject(&self, entry: &Entry, frame: Vec<u8>) {
        let Some(entry) = self.entry(entry) else { return };
        // Any worker can: the first one that takes up what it is told, for those that come one after the other to stay in order.
        if let Some(worker) = self.workers.iter().find(|worker| worker.is_done() && worker.silence().is_none()) {
            worker.tell(Command::Inject { entry, frame });
        }
    }

    /// The same by number.
    fn entry(&self, entry: &Entry) -> Option<pipeline::Entry> {
        let bridge = |name: &String| self.names.bridges.get(name);
        let (place, of) = match entry {
            Entry::Bridge(name) => return bridge(name).map(pipeline::Entry::Bridge),
            Entry::Adjacency(place, of) => (place, of),
        };
        let egress = match place {
            Place::Port { port, vlan } => Egress::port(self.names.ports.get(port)?, vlan.unwrap_or(0)),
            Place::Vtep(vtep) => Egress::tunnel(self.names.vteps.get(vtep)?),
        };
        let bridge = of.as_ref().map_or(Some(NO_BRIDGE), bridge)?;
        Some(pipeline::Entry::Adjacency { egress, bridge })
    }
}
