//! What to do to get from one configuration to another: computed here, done elsewhere.

use crate::schema::{KeyChange, Keys, Takes};
use crate::{Access, Bridge, Keyed, Member, Port, PortKind, StaticMac, StaticTo, Statics, ValidConfig, Vxlan, Worker};
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;

/// One step. `Display` is one line beginning with `+`, `-` or `~`; `!` if it can't be done while drayd runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Restart drayd for keys of a table. As long as that is in a plan, nothing of it is done.
    Restart {
        /// The table's header.
        table: &'static str,
        /// The keys.
        keys: Vec<KeyChange>,
    },
    /// Delete a bridge and all its FDB entries.
    RemoveBridge {
        /// Its name.
        name: String,
    },
    /// Close a port, and forget what was learned behind it. If it has changed, an `AddPort` follows; its bridges
    /// name it as before.
    RemovePort {
        /// Its name.
        name: String,
    },
    /// Open a port.
    AddPort(Port),
    /// Change a port whose link stays up, if its administrative state stays.
    UpdatePort {
        /// As it is.
        old: Port,
        /// As it will be.
        new: Port,
    },
    /// Start, change or stop the overlay. Also if its underlay port has changed or been opened anew.
    SetVxlan {
        /// As it is.
        old: Option<Vxlan>,
        /// As it will be.
        new: Option<Vxlan>,
    },
    /// Change a bridge.
    ChangeBridge(BridgeChange),
    /// Add a bridge.
    AddBridge(Bridge),
    /// Change keys of a table that there is once.
    SetKeys {
        /// The table, without brackets.
        table: &'static str,
        /// The keys.
        keys: Vec<KeyChange>,
    },
}

/// How a bridge changes.
#[derive(Clone, Debug, PartialEq)]
pub struct BridgeChange {
    /// The bridge as it will be, but without members and static entries: they may be many.
    pub bridge: Bridge,
    /// New members.
    pub added: Vec<Member>,
    /// Former members: what was learned behind them is to be forgotten.
    pub removed: Vec<Member>,
    /// Keys with another value. If the VNI is among them, what was learned behind VTEPs is to be forgotten.
    pub keys: Vec<KeyChange>,
    /// Whether the bridge's own head-end replication list changes.
    pub peers: bool,
    /// New static entries.
    pub statics_added: Vec<StaticMac>,
    /// Former static entries, also those whose address has a new place.
    pub statics_removed: Vec<StaticMac>,
}

impl BridgeChange {
    /// Of `bridge`, so far without any change.
    pub fn of(bridge: &Bridge) -> BridgeChange {
        let Bridge { name, description, vni, mtu, peers, .. } = bridge;
        let (name, description, peers) = (name.clone(), description.clone(), peers.clone());
        BridgeChange {
            bridge: Bridge { name, description, vni: *vni, mtu: *mtu, peers, ..Bridge::default() },
            added: vec![],
            removed: vec![],
            keys: vec![],
            peers: false,
            statics_added: vec![],
            statics_removed: vec![],
        }
    }
}

impl Keyed for BridgeChange {
    type Key = String;

    fn key(&self) -> &String {
        &self.bridge.name
    }
}

/// The steps from `old` to `new`, in this order: what takes a restart; bridges and ports go, ports come, the overlay changes, bridges change
/// and come. What is the same in both, whatever its place in the file, is in no step.
pub fn plan(old: &ValidConfig, new: &ValidConfig) -> Vec<Action> {
    let mut removed_ports = Vec::new();
    let mut added_ports = Vec::new();
    let mut touched = HashSet::new();
    for port in &old.ports {
        if new.ports.get(&port.name).is_none_or(|new| !in_place(port, new)) {
            removed_ports.push(Action::RemovePort { name: port.name.clone() });
        }
    }
    for port in &new.ports {
        let old = old.ports.get(&port.name);
        match old {
            Some(old) if old == port => continue,
            Some(old) if in_place(old, port) => {
                added_ports.push(Action::UpdatePort { old: old.clone(), new: port.clone() });
            }
            _ => added_ports.push(Action::AddPort(port.clone())),
        }
        if old.is_none_or(|old| !is_same_underlay(old, port)) {
            touched.insert(port.name.as_str());
        }
    }

    let mut removed_bridges = Vec::new();
    let mut changed_bridges = Vec::new();
    let mut added_bridges = Vec::new();
    for bridge in &old.bridges {
        if new.bridges.get(&bridge.name).is_none() {
            removed_bridges.push(Action::RemoveBridge { name: bridge.name.clone() });
        }
    }
    for bridge in &new.bridges {
        match old.bridges.get(&bridge.name) {
            Some(old) => changed_bridges.extend(change(old, bridge).map(Action::ChangeBridge)),
            None => added_bridges.push(Action::AddBridge(bridge.clone())),
        }
    }

    let mut actions = restarts(old, new);
    actions.append(&mut removed_bridges);
    actions.append(&mut removed_ports);
    actions.append(&mut added_ports);
    let same_overlay = match (&old.vxlan, &new.vxlan) {
        (Some(old), Some(new)) => same_vxlan(old, new) && !touched.contains(new.port.as_str()),
        (old, new) => old.is_none() && new.is_none(),
    };
    if !same_overlay {
        actions.push(Action::SetVxlan { old: old.vxlan.clone(), new: new.vxlan.clone() });
    }
    actions.append(&mut changed_bridges);
    actions.append(&mut added_bridges);
    let tables = [
        ("balance", old.balance.changes(&new.balance)),
        ("fdb", old.fdb.changes(&new.fdb)),
        ("log", old.log.changes(&new.log)),
    ];
    for (table, mut keys) in tables {
        keys.retain(|change| change.takes != Takes::Restart);
        if !keys.is_empty() {
            actions.push(Action::SetKeys { table, keys });
        }
    }
    actions
}

/// What can't change while drayd runs.
fn restarts(old: &ValidConfig, new: &ValidConfig) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut restart = |table, mut keys: Vec<KeyChange>| {
        keys.retain(|change| change.takes == Takes::Restart);
        if !keys.is_empty() {
            actions.push(Action::Restart { table, keys });
        }
    };
    let workers = |config: &ValidConfig| {
        let of = |worker: &Worker| match worker.idle_sleep {
            0 => format!("cpu {}", worker.cpu),
            sleep => format!("cpu {} idle-sleep {sleep}", worker.cpu),
        };
        config.workers.iter().map(of).collect::<Vec<_>>().join(", ")
    };
    if old.workers != new.workers {
        let (old, new) = (workers(old), workers(new));
        restart("[[worker]]", vec![KeyChange { key: "workers", takes: Takes::Restart, old, new }]);
    }
    restart("[control]", old.control.changes(&new.control));
    restart("[fdb]", old.fdb.changes(&new.fdb));
    actions
}

/// The steps by which the port `old` becomes `new`.
pub(crate) fn change_port(old: &Port, new: &Port) -> Vec<Action> {
    match old {
        _ if old == new => vec![],
        _ if in_place(old, new) => vec![Action::UpdatePort { old: old.clone(), new: new.clone() }],
        _ => vec![Action::RemovePort { name: old.name.clone() }, Action::AddPort(new.clone())],
    }
}

/// Whether the overlay does not care which of both is its port: not how people call it.
pub(crate) fn is_same_underlay(old: &Port, new: &Port) -> bool {
    Port { description: None, ..old.clone() } == Port { description: None, ..new.clone() }
}

/// Whether the open port `old` can become `new`.
fn in_place(old: &Port, new: &Port) -> bool {
    old.changes(new).iter().all(|change| match change.takes {
        Takes::Live => true,
        Takes::ReopenOf(kind) => kind != new.kind.name(),
        Takes::Reopen | Takes::Restart => false,
    })
}

/// Equal, whatever the order of the peers.
pub(crate) fn same_vxlan(old: &Vxlan, new: &Vxlan) -> bool {
    same_set(&old.peers, &new.peers) && Vxlan { peers: new.peers.clone(), ..old.clone() } == *new
}

/// What makes the bridge `new` of `old`, if they differ.
pub(crate) fn change(old: &Bridge, new: &Bridge) -> Option<BridgeChange> {
    let same_peers = match (&old.peers, &new.peers) {
        (Some(old), Some(new)) => same_set(old, new),
        (old, new) => old == new,
    };
    let others = |of: &Statics, than: &Statics| -> Vec<StaticMac> {
        of.iter().filter(|entry| than.get(entry.mac) != Some(entry)).cloned().collect()
    };
    let change = BridgeChange {
        added: missing(&new.ports, &old.ports),
        removed: missing(&old.ports, &new.ports),
        keys: old.changes(new),
        peers: !same_peers,
        statics_added: others(&new.statics, &old.statics),
        statics_removed: others(&old.statics, &new.statics),
        ..BridgeChange::of(new)
    };
    let nothing = change.added.is_empty()
        && change.removed.is_empty()
        && change.keys.is_empty()
        && !change.peers
        && change.statics_added.is_empty()
        && change.statics_removed.is_empty();
    (!nothing).then_some(change)
}

/// Those of `of` that are not in `from`.
fn missing<T: Hash + Eq + Clone>(of: &[T], from: &[T]) -> Vec<T> {
    let from: HashSet<&T> = from.iter().collect();
    of.iter().filter(|item| !from.contains(item)).cloned().collect()
}

fn same_set<T: Hash + Eq + Clone>(a: &[T], b: &[T]) -> bool {
    missing(a, b).is_empty() && missing(b, a).is_empty()
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Restart { table, keys } => write!(f, "! {table}: {}: needs a restart of drayd", joined(keys)),
            Action::RemoveBridge { name } => write!(f, "- bridge {name}"),
            Action::RemovePort { name } => write!(f, "- port {name}"),
            Action::AddPort(port) => {
                write!(f, "+ port {}: {}", port.name, port.kind.name())?;
                match &port.kind {
                    PortKind::Memif(memif) => write!(f, " {} {} id {}", memif.role, memif.socket, memif.id),
                    PortKind::VhostUser(vhost_user) => write!(f, " {} {}", vhost_user.role, vhost_user.socket),
                    PortKind::Tap(tap) => match &tap.place() {
                        Some(place) => write!(f, " {} in {}", tap.ifname, place.display()),
                        None => write!(f, " {}", tap.ifname),
                    },
                    PortKind::Eth(eth) => write!(f, " {}", eth.device),
                }?;
                port.kind.access().map_or(Ok(()), |access| access.fmt(f))?;
                if port.admin_up { Ok(()) } else { write!(f, ", admin down") }
            }
            Action::UpdatePort { old, new } => {
                write!(f, "~ port {}: {}", new.name, joined(&old.changes(new)))
            }
            Action::SetVxlan { new: None, .. } => write!(f, "- vxlan"),
            Action::SetVxlan { old: None, new: Some(vxlan) } => write!(f, "+ vxlan: {}", described(vxlan)),
            Action::SetVxlan { old: Some(old), new: Some(new) } => {
                let mut parts: Vec<String> = old.changes(new).iter().map(KeyChange::to_string).collect();
                if !same_set(&old.peers, &new.peers) {
                    parts.push(format!("peers {} -> {}", old.peers.len(), new.peers.len()));
                }
                if !same_set(&old.neighbours, &new.neighbours) {
                    parts.push(format!("neighbours {} -> {}", old.neighbours.len(), new.neighbours.len()));
                }
                // Its port has changed.
                let parts = if parts.is_empty() { described(new) } else { parts.join(", ") };
                write!(f, "~ vxlan: {parts}")
            }
            Action::ChangeBridge(change) => change.fmt(f),
            Action::AddBridge(bridge) => {
                write!(f, "+ bridge {}", bridge.name)?;
                let vni = bridge.vni.map(|vni| format!("vni {vni}"));
                let parts: Vec<String> = vni.into_iter().chain(bridge.ports.iter().map(Member::to_string)).collect();
                if parts.is_empty() { Ok(()) } else { write!(f, ": {}", parts.join(", ")) }
            }
            Action::SetKeys { table, keys } => write!(f, "~ {table}: {}", joined(keys)),
        }
    }
}

/// What there is to know of an overlay.
fn described(vxlan: &Vxlan) -> String {
    let gateway = vxlan.gateway.map_or_else(String::new, |gateway| format!(", gateway {gateway}"));
    format!("{} on {}{gateway}, peers {}", vxlan.local, vxlan.port, vxlan.peers.len())
}

fn joined(changes: &[KeyChange]) -> String {
    changes.iter().map(KeyChange::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Access {
    /// What is not the default, each with a comma before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mode != Access::default().mode {
            write!(f, ", mode {:04o}", self.mode)?;
        }
        for (what, account) in [("owner", &self.owner), ("group", &self.group)] {
            if let Some(account) = account {
                write!(f, ", {what} {}", account.name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for BridgeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.keys.iter().map(KeyChange::to_string));
        parts.extend(self.removed.iter().map(|member| format!("-{member}")));
        parts.extend(self.added.iter().map(|member| format!("+{member}")));
        if self.peers {
            parts.push(match &self.bridge.peers {
                Some(peers) => format!("peers {}", peers.len()),
                None => "peers of [vxlan]".into(),
            });
        }
        let text = |entry: &StaticMac| match &entry.to {
            StaticTo::Port(member) => format!("{} at {member}", entry.mac),
            StaticTo::Vtep(vtep) => format!("{} at {vtep}", entry.mac),
        };
        parts.extend(self.statics_removed.iter().map(|entry| format!("-static {}", text(entry))));
        parts.extend(self.statics_added.iter().map(|entry| format!("+static {}", text(entry))));
        write!(f, "~ bridge {}: {}", self.bridge.name, parts.join(", "))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Fdb, Mac, Running, parse_for};
    use proptest::prelude::*;

    const BASE: &str = r#"
        [[worker]]
        cpu = 1
        [[port]]
        name = "a"
        kind = "memif"
        socket = "/m"
        id = 0
        [[port]]
        name = "b"
        kind = "memif"
        socket = "/m"
        id = 1
        [[port]]
        name = "up"
        kind = "eth"
        device = "net_tap0"
        [[bridge]]
        name = "blue"
        vni = 42
        ports = ["a", { port = "b", vlan = 10 }]
        static = [{ mac = "02:00:00:00:00:01", port = "a" }]
        [[bridge]]
        name = "red"
        ports = ["b"]
        [vxlan]
        port = "up"
        local = "10.9.0.1/24"
        peers = ["10.9.0.2", "10.9.0.3"]
    "#;

    fn config(text: &str) -> ValidConfig {
        parse_for("test", text, &[0, 1, 2]).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// That a port of BASE becomes what it is in `new`.
    fn update(new: &ValidConfig, at: usize) -> Action {
        Action::UpdatePort { old: config(BASE).ports[at].clone(), new: new.ports[at].clone() }
    }

    #[test]
    fn administrative_state_and_descriptions_change_in_place() {
        assert_eq!(lines("id = 1", "id = 1\nadmin = \"down\""), ["~ port b: admin up -> down"]);
        assert_eq!(
            lines("device", "description = \"to \\\"r1\\\"\"\ndevice"),
            [r#"~ port up: description none -> "to \"r1\"""#]
        );
        assert_eq!(lines("vni = 42", "vni = 42\ndescription = \"x\""), ["~ bridge blue: description none -> \"x\""]);
        let more = "[[port]]\nname = \"c\"\nkind = \"memif\"\nsocket = \"@x\"\nadmin = \"down\"\n[[bridge]]";
        assert_eq!(lines("[[bridge]]", more), ["+ port c: memif server @x id 0, admin down"]);
    }

    /// The lines of the plan from BASE to BASE with `from` replaced by `to`.
    fn lines(from: &str, to: &str) -> Vec<String> {
        assert!(BASE.contains(from));
        let actions = plan(&config(BASE), &config(&BASE.replacen(from, to, 1)));
        actions.iter().map(Action::to_string).collect()
    }

    #[test]
    fn nothing_changes_nothing() {
        assert_eq!(plan(&config(BASE), &config(BASE)), vec![]);
    }

    #[test]
    fn order_is_no_change() {
        let (before, bridges) = BASE.split_once("[[bridge]]").unwrap();
        let (one, vxlan) = bridges.split_once("[vxlan]").unwrap();
        let (blue, red) = one.split_once("[[bridge]]").unwrap();
        let vxlan = vxlan.replace(r#""10.9.0.2", "10.9.0.3""#, r#""10.9.0.3", "10.9.0.2""#);
        let blue = blue.replace(r#""a", { port = "b", vlan = 10 }"#, r#"{ port = "b", vlan = 10 }, "a""#);
        let turned = format!("{before}[[bridge]]{red}\n[[bridge]]{blue}\n[vxlan]{vxlan}");
        assert_ne!(config(BASE), config(&turned));
        assert_eq!(plan(&config(BASE), &config(&turned)), vec![]);
    }

    #[test]
    fn ports_come_and_go() {
        let more = "[[port]]\nname = \"c\"\nkind = \"memif\"\nsocket = \"@x\"\nrole = \"client\"\n[[bridge]]";
        assert_eq!(lines("[[bridge]]", more), ["+ port c: memif client @x id 0"]);
        let new = config(&BASE.replacen("[[bridge]]", more, 1));
        assert_eq!(plan(&new, &config(BASE)), vec![Action::RemovePort { name: "c".into() }]);
    }

    #[test]
    fn a_changed_port_is_opened_anew_and_its_bridge_untouched() {
        let actions = plan(&config(BASE), &config(&BASE.replace("id = 1", "id = 2")));
        let port = config(&BASE.replace("id = 1", "id = 2")).ports[1].clone();
        assert_eq!(actions, [Action::RemovePort { name: "b".into() }, Action::AddPort(port)]);
        assert_eq!(
            actions.iter().map(Action::to_string).collect::<Vec<_>>(),
            ["- port b", "+ port b: memif server /m id 2"]
        );
    }

    #[test]
    fn mac_and_mtu_change_in_place_where_they_can() {
        let new = config(&BASE.replace("device", "mac = \"02:00:00:00:00:09\"\ndevice"));
        let actions = plan(&config(BASE), &new);
        let vxlan = Action::SetVxlan { old: config(BASE).vxlan, new: new.vxlan.clone() };
        assert_eq!(actions, [update(&new, 2), vxlan]);
        let new = config(&BASE.replace("id = 1", "id = 1\nmtu = 1500\nmac = \"02:00:00:00:00:09\""));
        assert_eq!(plan(&config(BASE), &new), vec![update(&new, 1)]);
        assert_eq!(
            lines("id = 1", "id = 1\nmtu = 1500\nmac = \"02:00:00:00:00:09\""),
            [format!("~ port b: mac {} -> 02:00:00:00:00:09, mtu 9198 -> 1500", config(BASE).ports[1].mac)]
        );
    }

    #[test]
    fn the_number_of_macs_changes_in_place() {
        let changed = lines("id = 1", "id = 1\nmax-macs = 7");
        assert_eq!(changed, ["~ port b: max-macs 4096 -> 7"]);
        // What the default is, depends on the size of the FDB and on what is behind the port.
        let of = |name: &str, text: &str| config(text).port(name).unwrap().max_macs;
        assert_eq!(["a", "up"].map(|name| of(name, BASE)), [4096, 524_288]);
        assert_eq!(["a", "up"].map(|name| of(name, &format!("{BASE}[fdb]\nsize = 2048\n"))), [1024, 1024]);
        assert_eq!(
            of(
                "a",
                &BASE
                    .replace("port = \"up\"", "port = \"a\"")
                    .replace("ports = [\"a\", ", "ports = [")
                    .replace("static", "#")
            ),
            524_288
        );
    }

    /// A list that is a port's alone is a value as any other.
    #[test]
    fn a_device_gets_other_addresses_by_being_opened_anew() {
        let base = BASE.replace("[vxlan]", "[[port]]\nname = \"c\"\nkind = \"tap\"\nifname = \"c0\"\n[vxlan]");
        let lines = |keys: &str| {
            let new = config(&base.replace("ifname = \"c0\"", keys));
            plan(&config(&base), &new).iter().map(Action::to_string).collect::<Vec<_>>()
        };
        let anew = ["- port c", "+ port c: tap c0"];
        assert_eq!(lines("ifname = \"c0\"\naddresses = [\"10.0.0.1/24\"]"), anew);
        assert_eq!(lines("ifname = \"c0\"\nroutes = [\"10.1.0.0/24\"]"), anew);
        assert_eq!(lines("ifname = \"c0\"\naddresses = []"), [""; 0]);
    }

    #[test]
    fn a_vhost_user_port_changes_in_place_only_what_its_peer_does_not_know() {
        let base = BASE.replace("[vxlan]", "[[port]]\nname = \"vm\"\nkind = \"vhost-user\"\nsocket = \"/v\"\n[vxlan]");
        let lines = |keys: &str| {
            let new = config(&base.replace("socket = \"/v\"", keys));
            plan(&config(&base), &new).iter().map(Action::to_string).collect::<Vec<_>>()
        };
        // What is written out is what was left out.
        assert_eq!(lines("socket = \"/v\"\nrole = \"client\"\nqueues = 16\nmtu = 9198"), [""; 0]);
        assert_eq!(
            lines("socket = \"/v\"\nmtu = 1500\nmac = \"02:00:00:00:00:09\""),
            [format!("~ port vm: mac {} -> 02:00:00:00:00:09, mtu 9198 -> 1500", Mac::of_name("vm", None))]
        );
        assert_eq!(lines("socket = \"@v\""), ["- port vm", "+ port vm: vhost-user client @v"]);
        assert_eq!(lines("socket = \"/v\"\nrole = \"server\""), ["- port vm", "+ port vm: vhost-user server /v"]);
        assert_eq!(lines("socket = \"/v\"\nqueues = 2"), ["- port vm", "+ port vm: vhost-user client /v"]);
        let memif = config(&base.replace("vhost-user", "memif"));
        let actions = plan(&config(&base), &memif);
        assert_eq!(
            actions.iter().map(Action::to_string).collect::<Vec<_>>(),
            ["- port vm", "+ port vm: memif server /v id 0"]
        );
    }

    #[test]
    fn the_overlay_follows_its_port() {
        let (port, vxlan) = ("- port up", "~ vxlan: 10.9.0.1/24 on up, peers 2");
        assert_eq!(lines("net_tap0", "net_tap1"), [port, "+ port up: eth net_tap1", vxlan]);
        assert_eq!(lines("device", "mtu = 9000\ndevice"), [port, "+ port up: eth net_tap0", vxlan]);
    }

    #[test]
    fn the_overlay_changes() {
        assert_eq!(lines("peers", "gateway = \"10.9.0.254\"\npeers"), ["~ vxlan: gateway none -> 10.9.0.254"]);
        assert_eq!(lines(", \"10.9.0.3\"", ""), ["~ vxlan: peers 2 -> 1"]);
        let more = "neighbours = [{ address = \"10.9.0.2\", mac = \"02:00:00:00:00:02\" }]\nlearn-vteps = true\npeers";
        assert_eq!(lines("peers", more), ["~ vxlan: learn-vteps false -> true, neighbours 0 -> 1"]);
        let (without, _) = BASE.split_once("[vxlan]").unwrap();
        let without = config(&without.replace("vni = 42", ""));
        let actions = plan(&config(BASE), &without);
        // The port's default MAC address was made from the VTEP's address too.
        assert_eq!(actions[..2], [update(&without, 2), Action::SetVxlan { old: config(BASE).vxlan, new: None }]);
        assert_eq!(actions[2].to_string(), "~ bridge blue: vni 42 -> none");
        assert_eq!(actions.len(), 3);
        let back: Vec<String> = plan(&without, &config(BASE)).iter().map(Action::to_string).collect();
        assert_eq!(back[1], "+ vxlan: 10.9.0.1/24 on up, peers 2");
    }

    #[test]
    fn bridges_change() {
        assert_eq!(lines("ports = [\"b\"]", "ports = [{ port = \"a\", vlan = 7 }]"), ["~ bridge red: -b, +a:7"]);
        assert_eq!(lines("vni = 42", "vni = 42\nmtu = 1450"), ["~ bridge blue: mtu none -> 1450"]);
        assert_eq!(lines("vni = 42", "vni = 43"), ["~ bridge blue: vni 42 -> 43"]);
        assert_eq!(lines("vni = 42", "vni = 42\npeers = [\"10.9.0.2\"]"), ["~ bridge blue: peers 1"]);
        assert_eq!(
            lines("mac = \"02:00:00:00:00:01\", port = \"a\"", "mac = \"02:00:00:00:00:01\", port = \"b\""),
            ["~ bridge blue: -static 02:00:00:00:00:01 at a, +static 02:00:00:00:00:01 at b:10"]
        );
        assert_eq!(lines("name = \"red\"", "name = \"green\""), ["- bridge red", "+ bridge green: b"]);
    }

    #[test]
    fn a_bridge_change_as_data() {
        let new = config(&BASE.replace("ports = [\"b\"]", "ports = [\"b\", { port = \"a\", vlan = 7 }]"));
        let change = BridgeChange {
            added: vec![Member { port: "a".into(), vlan: Some(7) }],
            ..BridgeChange::of(&new.bridges[1])
        };
        assert_eq!((change.bridge.name.as_str(), change.bridge.ports.len()), ("red", 0));
        assert_eq!(plan(&config(BASE), &new), vec![Action::ChangeBridge(change)]);
    }

    #[test]
    fn keys_of_other_tables_change() {
        let lines = |table: &str| lines("[[worker]]", &format!("{table}\n[[worker]]"));
        assert_eq!(lines("[fdb]\nageing = 60"), ["~ fdb: ageing 300 -> 60"]);
        assert_eq!(lines("[balance]\ninterval = 0"), ["~ balance: interval 5 -> 0"]);
        assert_eq!(lines("[log]\nlevel = \"warn\""), ["~ log: level info -> warn"]);
    }

    #[test]
    fn steps_have_an_order() {
        let new = config(
            &BASE
                .replace("name = \"red\"", "name = \"green\"")
                .replace("id = 0", "id = 9")
                .replace("vni = 42", "vni = 7")
                .replace("\"10.9.0.2\", ", ""),
        );
        let order: Vec<String> = plan(&config(BASE), &new).iter().map(Action::to_string).collect();
        assert_eq!(
            order,
            [
                "- bridge red",
                "- port a",
                "+ port a: memif server /m id 9",
                "~ vxlan: peers 2 -> 1",
                "~ bridge blue: vni 42 -> 7",
                "+ bridge green: b",
            ]
        );
    }

    #[test]
    fn some_things_need_a_restart() {
        let new = config(
            &format!("[control]\nsocket = \"/x\"\nmetrics = \"[::1]:1\"\n[fdb]\nsize = 2048\nageing = 60\n{BASE}")
                .replace("cpu = 1", "cpu = 2"),
        );
        let lines: Vec<String> = plan(&config(BASE), &new).iter().map(Action::to_string).collect();
        assert_eq!(
            lines,
            [
                "! [[worker]]: workers cpu 1 -> cpu 2: needs a restart of drayd",
                "! [control]: socket /run/dray/control/dray.sock -> /x, metrics none -> [::1]:1: needs a restart of drayd",
                "! [fdb]: size 1048576 -> 2048: needs a restart of drayd",
                "~ port a: max-macs 4096 -> 1024",
                "~ port b: max-macs 4096 -> 1024",
                "~ port up: max-macs 524288 -> 1024",
                "~ vxlan: 10.9.0.1/24 on up, peers 2",
                "~ fdb: ageing 300 -> 60",
            ]
        );
    }

    /// Without the order of what has none.
    pub(crate) fn sorted(mut config: ValidConfig) -> ValidConfig {
        let (mut ports, mut bridges) = (config.ports.to_vec(), config.bridges.to_vec());
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        bridges.sort_by(|a, b| a.name.cmp(&b.name));
        for bridge in &mut bridges {
            bridge.ports.sort_by_key(ToString::to_string);
            let mut statics = bridge.statics.to_vec();
            statics.sort_by_key(|entry| entry.mac);
            bridge.statics = statics.into_iter().collect();
            bridge.peers.iter_mut().for_each(|peers| peers.sort());
        }
        (config.ports, config.bridges) = (ports.into(), bridges.into());
        config.vxlan.iter_mut().for_each(|vxlan| vxlan.peers.sort());
        config
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_any_configuration_to_any_other(
            a in crate::render::tests::config(), b in crate::render::tests::config(),
        ) {
            let mut running = Running::new(a.clone());
            running.perform(&plan(&a, &b));
            // What takes a restart is not done.
            let b = ValidConfig { workers: a.workers.clone(), control: a.control.clone(), fdb: Fdb { size: a.fdb.size, ..b.fdb.clone() }, ..b };
            prop_assert_eq!(sorted((*running).clone()), sorted(b.clone()));
            // And so do the names by which things are found, and all that is taken.
            running.assert_whole();
        }
    }
}
