//! Static FDB entries in batches: as many as a file has, without the price of a new configuration for each.

use crate::events::tell;
use crate::switch::Switch;
use dray_api::{
    ErrorCode, Event, EventKind, FdbLoaded, FdbRefused, FdbStatic, INVALID_PARAMS, MAX_BATCH, RpcError, Terms,
};
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
    pub fn fdb_load(
        &mut self,
        entries: &[FdbStatic],
        delete: bool,
        terms: &Terms,
        by: &str,
    ) -> Result<FdbLoaded, RpcError> {
        if entries.len() > MAX_BATCH {
            let message = format!("a batch has at most {MAX_BATCH} entries, not {}: send several", entries.len());
            return Err(RpcError::new(INVALID_PARAMS, message));
        }
        let mut refused = Vec::new();
        let done = if delete { Switch::unload } else { Switch::load };
        for (at, entry) in entries.iter().enumerate() {
            if let Err((code, reason)) = done(self, entry, terms) {
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
        if let Some(owner) = terms.owner.as_deref().filter(|_| done != 0) {
            self.layers.write(owner, &self.config)?;
        }
        tell(Event { kind: EventKind::Fdb, text, by: Some(by.into()), count: Some(done as u64), ..Event::default() });
        Ok(FdbLoaded { done: done as u64, refused })
    }

    /// Adds an entry, in the place of the one that its bridge has of that address.
    fn load(&mut self, entry: &FdbStatic, terms: &Terms) -> Done {
        let FdbStatic { bridge, mac, port, vtep, .. } = entry;
        let is_there = self.config.bridge(bridge).is_some_and(|bridge| bridge.statics.get(*mac).is_some());
        self.may_set(bridge, *mac, is_there, terms)?;
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
        self.layers.note_static(terms.owner.as_deref(), bridge, *mac);
        Ok(())
    }

    fn may_set(&self, bridge: &str, mac: Mac, is_there: bool, terms: &Terms) -> Done {
        let may = self.layers.may_set(terms.owner.as_deref(), bridge, mac, is_there, &self.config);
        may.map_err(|why| (ErrorCode::Conflict, why.message))
    }

    /// Deletes an entry, learned or static.
    fn unload(&mut self, FdbStatic { bridge, mac, .. }: &FdbStatic, terms: &Terms) -> Done {
        let none = |why: String| if terms.ensure { Ok(()) } else { Err((ErrorCode::NotFound, why)) };
        let Some(of) = self.config.bridge(bridge) else { return none(format!("there is no bridge {bridge:?}")) };
        let is_static = of.statics.get(*mac).is_some();
        if is_static {
            self.may_set(bridge, *mac, true, terms)?;
            self.config.remove_static(bridge, *mac);
            self.layers.note_static(None, bridge, *mac);
        }
        if self.dataplane.fdb_remove(bridge, *mac) || is_static {
            return Ok(());
        }
        none(format!("bridge {bridge:?} has no entry {mac}"))
    }
}
