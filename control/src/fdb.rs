//! Static FDB entries in batches: as many as a file has, without the price of a new configuration for each.

use crate::events::tell;
use crate::switch::Switch;
use dray_api::{Event, EventKind, FdbLoaded, FdbRefused, FdbStatic, INVALID_PARAMS, MAX_BATCH, RpcError};
use dray_config::{Mac, StaticMac, StaticTo, Statics};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use tracing::info;

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
        let vteps = if delete { self.unload(entries, &mut refused) } else { self.load(entries, &mut refused) };
        if vteps {
            self.set_overlay();
            self.publish();
        }
        refused.sort_by_key(|refused: &FdbRefused| refused.line);
        let done = entries.len() - refused.len();
        let text = format!("{done} entries {}, {} refused", if delete { "deleted" } else { "added" }, refused.len());
        info!(target: "fdb", "{text} (by {by})");
        tell(Event { kind: EventKind::Fdb, text, by: Some(by.into()), count: Some(done as u64), ..Event::default() });
        Ok(FdbLoaded { done: done as u64, refused })
    }

    /// Adds entries. Whether VTEPs came or went.
    fn load(&mut self, entries: &[FdbStatic], refused: &mut Vec<FdbRefused>) -> bool {
        let mut statics = Statics::new(&self.config);
        let mut refuse = |at: usize, reason| refused.push(FdbRefused { line: line(at, &entries[at]), reason });
        // Of several for one address the last one counts.
        let mut last: HashMap<(usize, Mac), usize> = HashMap::with_capacity(entries.len());
        let mut good: Vec<(usize, usize, StaticMac)> = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            match statics.check(&entry.bridge, entry.mac, entry.port.as_ref(), entry.vtep) {
                Ok((bridge, entry)) => {
                    last.insert((bridge, entry.mac), at);
                    good.push((at, bridge, entry));
                }
                Err(why) => refuse(at, why),
            }
        }
        good.retain(|(at, bridge, entry)| last[&(*bridge, entry.mac)] == *at);

        let behind_vteps = good.iter().any(|(.., entry)| matches!(entry.to, StaticTo::Vtep(_)));
        let before = if behind_vteps { self.config.vteps() } else { HashSet::new() };
        let mut vteps = false;
        // By bridge: the addresses that have an entry already.
        let mut replaced: HashMap<usize, HashSet<Mac>> = HashMap::new();
        let (_, size) = self.dataplane.fdb_usage();
        good.retain(|(at, bridge, entry)| {
            let name = &self.config.bridges[*bridge].name;
            vteps |= matches!(entry.to, StaticTo::Vtep(vtep) if !before.contains(&vtep));
            let was_static = self.dataplane.fdb_is_static(name, entry.mac);
            let is_set = self.dataplane.fdb_set(name, entry.mac, &entry.to);
            if is_set {
                if was_static {
                    replaced.entry(*bridge).or_default().insert(entry.mac);
                }
            } else {
                refuse(*at, format!("the FDB is full: it holds {size} MACs (size in [fdb])"));
            }
            is_set
        });
        let old = self.forget(&replaced);
        for (_, bridge, entry) in good {
            self.config.bridges[bridge].statics.push(entry);
        }
        vteps || self.is_unused(&old)
    }

    /// Deletes entries. Whether VTEPs went with them.
    fn unload(&mut self, entries: &[FdbStatic], refused: &mut Vec<FdbRefused>) -> bool {
        let statics = Statics::new(&self.config);
        let mut gone: HashMap<usize, HashSet<Mac>> = HashMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let deleted = statics.bridge(&entry.bridge).and_then(|bridge| {
                if self.dataplane.fdb_is_static(&entry.bridge, entry.mac) {
                    gone.entry(bridge).or_default().insert(entry.mac);
                }
                let was_there = self.dataplane.fdb_remove(&entry.bridge, entry.mac);
                let nothing = || format!("bridge {:?} has no entry {}", entry.bridge, entry.mac);
                was_there.then_some(()).ok_or_else(nothing)
            });
            if let Err(reason) = deleted {
                refused.push(FdbRefused { line: line(at, entry), reason });
            }
        }
        let old = self.forget(&gone);
        self.is_unused(&old)
    }

    /// Whether nothing names one of these VTEPs.
    fn is_unused(&self, vteps: &HashSet<Ipv4Addr>) -> bool {
        !vteps.is_empty() && !vteps.is_subset(&self.config.vteps())
    }

    /// Takes static entries out of the running configuration; the VTEPs that were in them.
    fn forget(&mut self, gone: &HashMap<usize, HashSet<Mac>>) -> HashSet<Ipv4Addr> {
        let mut vteps = HashSet::new();
        for (&bridge, macs) in gone {
            for entry in self.config.bridges[bridge].statics.extract_if(.., |entry| macs.contains(&entry.mac)) {
                if let StaticTo::Vtep(vtep) = entry.to {
                    vteps.insert(vtep);
                }
            }
        }
        vteps
    }
}
