//! Static FDB entries in batches: as many as a file has, without the price of a new configuration for each.

use crate::events::tell;
use crate::switch::Switch;
use dray_api::{ErrorCode, Event, EventKind, FdbLoaded, FdbRefused, FdbStatic, INVALID_PARAMS, MAX_BATCH, RpcError};
use dray_config::Mac;
use tracing::info;

/// What becomes of an entry, and what a program can act on if that is nothing.
type Done = Result<(), (ErrorCode, String)>;

/// An entry's name in the answer.
fn line(at: usize, entry: &FdbStatic) -> usize {
    if entry.line == 0 { at + 1 } else { entry.line }
}

impl Switch {
    /// Does what `fdb.load` says. Tables are published only if VTEPs come or go.
    pub fn fdb_load(&mut self, entries: &[FdbStatic], delete: bool, by: &str) -> Result<FdbLoaded, RpcError> {
        if entries.len() > MAX_BATCH {
            let message = format!("a batch has at most {MAX_BATCH} entries, not {}: send several", entries.len());
            return Err(RpcError::new(INVALID_PARAMS, message));
        }
        let mut refused = Vec::new();
        let done = if delete { Switch::unload } else { Switch::load };
        for (at, entry) in entries.iter().enumerate() {
            if let Err((code, reason)) = done(self, entry) {
                refused.push(FdbRefused { line: line(at, entry), code, reason });
            }
        }
        if self.config.has_other_vteps() {
            self.publish_change(&[]);
        }
        let done = entries.len() - refused.len();
        self.generation += u64::from(done != 0);
        let text = format!("{done} entries {}, {} refused", if delete { "deleted" } else { "added" }, refused.len());
        info!(target: "fdb", "{text} (by {by})");
        tell(Event { kind: EventKind::Fdb, text, by: Some(by.into()), count: Some(done as u64), ..Event::default() });
        Ok(FdbLoaded { done: done as u64, refused })
    }

    /// Adds an entry, in the place of the one that its bridge has of that address.
    fn load(&mut self, entry: &FdbStatic) -> Done {
        let FdbStatic { bridge, mac, port, vtep, .. } = entry;
        self.is_files(bridge, *mac)?;
        let code = match self.config.bridge(bridge) {
            None => ErrorCode::NotFound,
            Some(bridge) if vtep.is_some() && bridge.vni.is_none() => ErrorCode::Conflict,
            Some(_) => ErrorCode::Invalid,
        };
        let entry = self.config.static_entry(bridge, *mac, port.as_ref(), *vtep).map_err(|why| (code, why))?;
        if !self.dataplane.fdb_set(bridge, *mac, &entry.to) {
            let why = format!("the FDB is full: it holds {} MACs (size in [fdb])", self.dataplane.fdb_usage().1);
            return Err((ErrorCode::Conflict, why));
        }
        self.config.put_static(bridge, entry);
        Ok(())
    }

    /// Whether nobody else has the static entry.
    fn is_files(&self, bridge: &str, mac: Mac) -> Done {
        let Some(owner) = self.layers.of_static(bridge, mac) else { return Ok(()) };
        Err((ErrorCode::Conflict, format!("the entry {mac} of bridge {bridge:?} belongs to owner {owner:?}")))
    }

    /// Deletes an entry, learned or static.
    fn unload(&mut self, FdbStatic { bridge, mac, .. }: &FdbStatic) -> Done {
        let none = |why: String| (ErrorCode::NotFound, why);
        if self.config.bridge(bridge).is_none() {
            return Err(none(format!("there is no bridge {bridge:?}")));
        }
        self.is_files(bridge, *mac)?;
        let was_static = self.config.remove_static(bridge, *mac).is_some();
        let was_there = self.dataplane.fdb_remove(bridge, *mac) || was_static;
        was_there.then_some(()).ok_or_else(|| none(format!("bridge {bridge:?} has no entry {mac}")))
    }
}
