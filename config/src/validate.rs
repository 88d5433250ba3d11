//! What must fit together: names resolve, nothing is used twice, addresses are reachable. Each rule is about one object and what
//! others have, so that it is the same for a whole file and for a change of the running configuration.

use crate::error::Report;
use crate::port::pci;
use crate::read::Table;
use crate::{
    Access, Bridge, Member, Port, PortKind, Role, SocketName, StaticTo, ValidConfig, access, bridge, control, port,
    vxlan, worker,
};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::PathBuf;

pub(crate) type Span = Range<usize>;

/// Where an object's keys are in a file.
pub(crate) trait Places {
    /// Where the key's value is, if the file has it and it is right.
    fn at(&self, key: &str) -> Option<Span>;
    /// Whether it has been reported that the key's value is wrong or missing.
    fn is_wrong(&self, key: &str) -> bool;
    /// Where the object is.
    fn whole(&self) -> Span;
    /// Where `key` of the `n`th item of a list is, of those that are right, or else that item.
    fn item(&self, list: &str, n: usize, key: &str) -> Span;
}

/// Of an object that is in no file, and in which nothing is wrong by itself.
pub(crate) struct Anywhere;

impl Places for Anywhere {
    fn at(&self, _: &str) -> Option<Span> {
        Some(0..0)
    }

    fn is_wrong(&self, _: &str) -> bool {
        false
    }

    fn whole(&self) -> Span {
        0..0
    }

    fn item(&self, _: &str, _: usize, _: &str) -> Span {
        0..0
    }
}

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

/// What rules look at beside the object.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub config: &'a ValidConfig,
    /// What other objects have.
    pub taken: &'a Taken,
    /// Where `[control]` is, if there is a file that has it.
    pub control: Option<&'a dyn Places>,
    /// Where `[vxlan]` is, if that is right.
    pub vxlan: Option<&'a dyn Places>,
    /// Whether there is something that should be `[vxlan]`.
    pub has_vxlan: bool,
}

impl<'a> Context<'a> {
    /// Of a configuration that is in force.
    pub fn of(config: &'a ValidConfig, taken: &'a Taken) -> Context<'a> {
        let vxlan = config.vxlan.as_ref().map(|_| &Anywhere as &dyn Places);
        Context { config, taken, control: None, vxlan, has_vxlan: vxlan.is_some() }
    }
}

/// Gives every static entry the membership that it means, and reports everything in `config` that does not fit together.
pub(crate) fn validate(config: &mut ValidConfig, tables: &Tables<'_>, cpus: &[usize], report: &mut Report) {
    for (bridge, t) in config.bridges.iter_mut().zip(&tables.bridges) {
        bridge::resolve_statics(bridge, t, report);
    }
    if let Some(t) = &tables.control {
        control::check(&config.control, t, report);
    }
    worker::check(&config.workers, &tables.workers, cpus, report);

    let config = &*config;
    let mut taken = Taken::default();
    let nothing = Taken::default();
    let vxlan = tables.vxlan.as_ref().map(|t| t as &dyn Places);
    let control = tables.control.as_ref().map(|t| t as &dyn Places);
    let cx = Context { config, taken: &nothing, control, vxlan, has_vxlan: tables.has_vxlan };
    for (port, t) in config.ports.iter().zip(&tables.ports) {
        port::check(port, t, Context { taken: &taken, ..cx }, report);
        taken.add_port(port, t);
    }
    if let (Some(overlay), Some(t)) = (&config.vxlan, vxlan) {
        vxlan::check(overlay, t, Context { taken: &taken, ..cx }, report);
        for (n, vtep) in overlay.peers.iter().enumerate() {
            vxlan::check_number("peers", *vtep, &t.item("peers", n, ""), Context { taken: &taken, ..cx }, report);
            taken.name_vtep(*vtep);
        }
    }
    for (bridge, t) in config.bridges.iter().zip(&tables.bridges) {
        bridge::check(bridge, t, Context { taken: &taken, ..cx }, report);
        for (n, member) in bridge.ports.iter().enumerate() {
            let at = t.item("ports", n, "port");
            bridge::check_member(member, &at, Context { taken: &taken, ..cx }, report);
            taken.add_member(bridge, member, at);
        }
        for (n, vtep) in bridge.peers.iter().flatten().enumerate() {
            vxlan::check_number("peers", *vtep, &t.item("peers", n, ""), Context { taken: &taken, ..cx }, report);
            taken.name_vtep(*vtep);
        }
        let mut macs = HashMap::new();
        for (n, entry) in bridge.statics.iter().enumerate() {
            let at = t.item("static", n, "mac");
            bridge::check_once(bridge, entry.mac, first_use(&mut macs, entry.mac, &at), &at, report);
            bridge::check_static(
                bridge,
                t,
                entry,
                &t.item("static", n, "vtep"),
                Context { taken: &taken, ..cx },
                report,
            );
            if let StaticTo::Vtep(vtep) = entry.to {
                taken.name_vtep(vtep);
            }
        }
        taken.add_bridge(bridge, t);
    }
}

/// Notes the use of `key` at `place`; where it was used first, if this is not the first.
pub(crate) fn first_use<K: Hash + Eq>(used: &mut HashMap<K, Span>, key: K, place: &Span) -> Option<Span> {
    use std::collections::hash_map::Entry;
    match used.entry(key) {
        Entry::Occupied(first) => Some(first.get().clone()),
        Entry::Vacant(entry) => {
            entry.insert(place.clone());
            None
        }
    }
}

/// What objects have that others can't have, or must have alike; and where a file says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    /// Names of ports.
    pub ports: HashMap<String, Span>,
    /// Names of bridges.
    pub bridges: HashMap<String, Span>,
    /// The ports of each socket.
    pub sockets: HashMap<SocketName, Vec<Holder>>,
    /// memif's interface ids.
    pub ids: HashMap<(SocketName, u32), Span>,
    /// Names of devices.
    pub devices: HashMap<String, Span>,
    /// Names of TAP devices, each with where it is.
    pub interfaces: HashMap<(Option<PathBuf>, String), Span>,
    pub vnis: HashMap<u32, Span>,
    /// By port: the bridges that it is in, by VLAN.
    pub members: HashMap<String, BTreeMap<Option<u16>, (String, Span)>>,
    /// VTEPs that are named, and how often.
    pub vteps: HashMap<Ipv4Addr, usize>,
    /// Those that have come or gone since this was last emptied, and whether they were named then.
    pub touched: HashMap<Ipv4Addr, bool>,
}

/// A port that uses a socket.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub port: String,
    pub at: Span,
    /// What ports that share the socket must have alike; of a memif port.
    pub shared: Option<Shared>,
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// If that is right.
    pub role: Option<Role>,
    pub access: Access,
    pub access_at: Span,
}

/// What a device is called, if the arguments behind its name are left out: they don't make it another one.
pub(crate) fn device(name: &str) -> String {
    let name = name.split(',').next().unwrap_or_default();
    pci(name).unwrap_or_else(|| name.to_owned())
}

impl Taken {
    /// What a valid configuration has.
    pub fn by(config: &ValidConfig) -> Taken {
        let mut taken = Taken::default();
        config.ports.iter().for_each(|port| taken.add_port(port, &Anywhere));
        config.vxlan.iter().flat_map(|vxlan| &vxlan.peers).for_each(|vtep| taken.name_vtep(*vtep));
        for bridge in &config.bridges {
            taken.add_bridge_with_all(bridge);
        }
        taken.touched.clear();
        taken
    }

    /// Adds what `port` has, as far as nobody has it yet.
    pub fn add_port(&mut self, port: &Port, t: &dyn Places) {
        if let Some(at) = t.at("name") {
            self.ports.entry(port.name.clone()).or_insert(at);
        }
        if let (Some(socket), Some(at)) = (port.kind.socket(), t.at("socket")) {
            let shared = match &port.kind {
                PortKind::Memif(memif) => {
                    if !t.is_wrong("id") {
                        let id = t.at("id").unwrap_or_else(|| t.whole());
                        self.ids.entry((memif.socket.clone(), memif.id)).or_insert(id);
                    }
                    Some(Shared {
                        role: (!t.is_wrong("role")).then_some(memif.role),
                        access: memif.access.clone(),
                        access_at: access::place(t).unwrap_or_else(|| at.clone()),
                    })
                }
                _ => None,
            };
            self.sockets.entry(socket.clone()).or_default().push(Holder { port: port.name.clone(), at, shared });
        }
        if let (PortKind::Eth(eth), Some(at)) = (&port.kind, t.at("device")) {
            self.devices.entry(device(&eth.device)).or_insert(at);
        }
        if let PortKind::Tap(tap) = &port.kind
            && port::tap_is_right(t)
        {
            self.interfaces.entry((tap.place(), tap.ifname.clone())).or_insert_with(|| port::tap_place(t));
        }
    }

    /// Takes out what a port of a valid configuration has.
    pub fn remove_port(&mut self, port: &Port) {
        self.ports.remove(&port.name);
        if let Some(socket) = port.kind.socket()
            && let Some(holders) = self.sockets.get_mut(socket)
        {
            holders.retain(|holder| holder.port != port.name);
            if holders.is_empty() {
                self.sockets.remove(socket);
            }
        }
        match &port.kind {
            PortKind::Memif(memif) => drop(self.ids.remove(&(memif.socket.clone(), memif.id))),
            PortKind::Tap(tap) => drop(self.interfaces.remove(&(tap.place(), tap.ifname.clone()))),
            PortKind::Eth(eth) => drop(self.devices.remove(&device(&eth.device))),
            PortKind::VhostUser(_) => {}
        }
    }

    /// Adds a bridge's own keys, as far as nobody has them yet.
    pub fn add_bridge(&mut self, bridge: &Bridge, t: &dyn Places) {
        if let Some(at) = t.at("name") {
            self.bridges.entry(bridge.name.clone()).or_insert(at);
        }
        if let (Some(vni), Some(at)) = (bridge.vni, t.at("vni")) {
            self.vnis.entry(vni).or_insert(at);
        }
    }

    /// Adds a bridge of a valid configuration.
    pub fn add_bridge_with_all(&mut self, bridge: &Bridge) {
        self.add_bridge(bridge, &Anywhere);
        bridge.ports.iter().for_each(|member| self.add_member(bridge, member, 0..0));
        vteps_of(bridge).for_each(|vtep| self.name_vtep(vtep));
    }

    /// Takes a bridge of a valid configuration out.
    pub fn remove_bridge_with_all(&mut self, bridge: &Bridge) {
        self.bridges.remove(&bridge.name);
        bridge.vni.map(|vni| self.vnis.remove(&vni));
        bridge.ports.iter().for_each(|member| self.remove_member(member));
        vteps_of(bridge).for_each(|vtep| self.unname_vtep(vtep));
    }

    /// Adds a membership, if the port's VLAN is in no bridge yet.
    pub fn add_member(&mut self, bridge: &Bridge, member: &Member, at: Span) {
        let of_port = self.members.entry(member.port.clone()).or_default();
        of_port.entry(member.vlan).or_insert_with(|| (bridge.name.clone(), at));
    }

    pub fn remove_member(&mut self, member: &Member) {
        if let Some(of_port) = self.members.get_mut(&member.port) {
            of_port.remove(&member.vlan);
            if of_port.is_empty() {
                self.members.remove(&member.port);
            }
        }
    }

    pub fn name_vtep(&mut self, vtep: Ipv4Addr) {
        let count = self.vteps.entry(vtep).or_default();
        if *count == 0 {
            self.touched.entry(vtep).or_insert(false);
        }
        *count += 1;
    }

    pub fn unname_vtep(&mut self, vtep: Ipv4Addr) {
        if let Some(count) = self.vteps.get_mut(&vtep) {
            *count -= 1;
            if *count == 0 {
                self.vteps.remove(&vtep);
                self.touched.entry(vtep).or_insert(true);
            }
        }
    }
}

/// Every VTEP that a bridge names, as often as it does.
fn vteps_of(bridge: &Bridge) -> impl Iterator<Item = Ipv4Addr> {
    let statics = bridge.statics.iter().filter_map(|entry| match entry.to {
        StaticTo::Vtep(vtep) => Some(vtep),
        StaticTo::Port(_) => None,
    });
    bridge.peers.iter().flatten().copied().chain(statics)
}
