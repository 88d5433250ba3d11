//! Whose what is: the configuration file's, or a program's that has a name, its owner. What an owner has added is its layer, kept in a
//! file of its own beside the configuration file. Nobody changes what is another's.

use dray_api::{AnyRequest, BridgeRequest, ErrorCode, FdbRequest, PortRequest, RpcError};
use dray_config::{
    Action, Bridge, BridgeChange, Item, Mac, Member, Port, PortKind, Running, StaticMac, StaticTo, ValidConfig,
    read_layer, replace, write_layer, write_layer_port,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tracing::warn;

/// What belongs to somebody. In the order in which a layer's file has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    /// A port.
    Port(String),
    /// A bridge.
    Bridge(String),
    /// A member of a bridge: its port and VLAN.
    Member(String, (String, Option<u16>)),
    /// A static entry of a bridge.
    Static(String, Mac),
    /// A VTEP in the head-end replication list of a bridge, or of the overlay.
    Peer(Option<String>, Ipv4Addr),
}

impl Thing {
    fn member(bridge: &str, Member { port, vlan }: &Member) -> Thing {
        Thing::Member(bridge.into(), (port.clone(), *vlan))
    }

    /// Whether it goes with the bridge.
    fn is_of(&self, bridge: &str) -> bool {
        match self {
            Thing::Port(_) | Thing::Peer(None, _) => false,
            Thing::Bridge(of) | Thing::Member(of, _) | Thing::Static(of, _) | Thing::Peer(Some(of), _) => of == bridge,
        }
    }

    /// For programs: what an error is about.
    fn path(&self) -> String {
        match self {
            Thing::Port(name) => format!("port.{name}"),
            Thing::Bridge(name) | Thing::Member(name, _) => format!("bridge.{name}"),
            Thing::Static(bridge, mac) => format!("bridge.{bridge}.{mac}"),
            Thing::Peer(Some(bridge), _) => format!("bridge.{bridge}.peers"),
            Thing::Peer(None, _) => "vxlan.peers".into(),
        }
    }
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Thing::Port(name) => write!(f, "port {name:?}"),
            Thing::Bridge(name) => write!(f, "bridge {name:?}"),
            Thing::Member(bridge, (port, None)) => write!(f, "{port} in bridge {bridge:?}"),
            Thing::Member(bridge, (port, Some(vlan))) => write!(f, "{port}:{vlan} in bridge {bridge:?}"),
            Thing::Static(bridge, mac) => write!(f, "the static entry {mac} of bridge {bridge:?}"),
            Thing::Peer(Some(bridge), vtep) => write!(f, "the peer {vtep} of bridge {bridge:?}"),
            Thing::Peer(None, vtep) => write!(f, "the peer {vtep} of [vxlan]"),
        }
    }
}

/// How belongings change: whose a thing is, or none if it is gone.
pub type Belongings = Vec<(Thing, Option<String>)>;

/// What the owners have. What is nobody's here is the file's.
#[derive(Default)]
pub struct Layers {
    /// Where their files are.
    dir: PathBuf,
    owners: HashMap<Thing, String>,
    /// What each has.
    things: BTreeMap<String, BTreeSet<Thing>>,
    /// Ports as they were last written, and how: most of a layer stays as it is.
    written: HashMap<String, (Port, String)>,
    /// Owners in whose files is what outlives the host's next start.
    lasting: BTreeSet<String>,
}

/// Whether it means nothing after the host's next start: a port of a namespace that is then gone, or what it is a member of.
fn is_brief(thing: &Thing, config: &Running) -> bool {
    let is_tied = |port: &Port| matches!(&port.kind, PortKind::Tap(tap) if tap.netns_id.is_some());
    match thing {
        Thing::Port(name) | Thing::Member(_, (name, _)) => config.port(name).is_some_and(is_tied),
        Thing::Bridge(_) | Thing::Static(..) | Thing::Peer(..) => false,
    }
}

/// Who it is, for people.
fn called(owner: Option<&str>) -> String {
    owner.map_or_else(|| "the configuration file".into(), |owner| format!("owner {owner:?}"))
}

/// As whose the configuration file's things are asked for.
pub const FILE: &str = "file";

/// Whether it is a name for an owner.
///
/// # Errors
/// It is not.
pub fn check_name(owner: &str) -> Result<(), RpcError> {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if (1..=32).contains(&owner.len()) && owner.bytes().all(good) && owner != FILE {
        return Ok(());
    }
    let why = format!("owner = {owner:?}: an owner's name is 1 to 32 of a-z 0-9 -, and not {FILE:?}");
    Err(RpcError::refused(ErrorCode::Invalid, why).at("owner"))
}

impl Layers {
    /// Those in `dir`, `OWNER.toml`, put onto what the file says. What fits no more is left out, and said.
    pub fn read(dir: PathBuf, config: &mut Running) -> Layers {
        let mut layers = Layers { dir, ..Layers::default() };
        let mut all = BTreeMap::new();
        let entries = fs::read_dir(&layers.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|is| is == "toml")) {
            let owner = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).map_err(|error| error.to_string());
            let items = check_name(&owner).map_err(|why| why.message).and(text).and_then(|text| read_layer(&text));
            match items {
                Ok(items) => {
                    layers.lasting.insert(owner.clone());
                    all.insert(owner, items);
                }
                Err(why) => warn!(target: "config", "{}: left out: {why}", path.display()),
            }
        }
        for (owner, why) in layers.put_on(&all, config) {
            warn!(target: "config", "{}: left out: {why}", called(Some(&owner)));
        }
        layers
    }

    /// Puts layers onto a configuration. What does not fit, and whose that is.
    fn put_on(&mut self, all: &BTreeMap<String, Vec<Item>>, config: &mut Running) -> Vec<(String, String)> {
        let mut items: Vec<(&String, &Item)> =
            all.iter().flat_map(|(owner, items)| items.iter().map(move |item| (owner, item))).collect();
        // What one has may be in what another one has.
        items.sort_by_key(|(_, item)| item.rank());
        let mut wrong = Vec::new();
        for (owner, item) in items {
            let done = item.steps(config).and_then(|steps| {
                let changes = self.admit(Some(owner), &steps, config).map_err(|error| error.message)?;
                config.perform(&steps);
                self.note(changes);
                Ok(())
            });
            wrong.extend(done.err().map(|why| (owner.clone(), why)));
        }
        wrong
    }

    /// `file` with all that the owners have in `config` put onto it.
    ///
    /// # Errors
    /// Something does not fit: whose it is, and why.
    pub fn over(&self, file: ValidConfig, config: &Running) -> Result<ValidConfig, RpcError> {
        if self.owners.is_empty() {
            return Ok(file);
        }
        let owners: BTreeSet<&String> = self.owners.values().collect();
        let all = owners.into_iter().map(|owner| (owner.clone(), self.items(owner, config))).collect();
        let mut merged = Running::new(file);
        let wrong = Layers::default().put_on(&all, &mut merged);
        match wrong.first() {
            None => Ok(merged.into_config()),
            Some((owner, why)) => {
                let why = format!("{} has what does not fit: {why}", called(Some(owner)));
                Err(RpcError::refused(ErrorCode::Conflict, why).at(format!("owner.{owner}")))
            }
        }
    }

    /// What is an owner's.
    fn items(&self, owner: &str, config: &Running) -> Vec<Item> {
        self.things(owner).filter_map(|thing| self.item(thing, owner, config)).collect()
    }

    /// What is an owner's, in the order in which its file has it.
    fn things(&self, owner: &str) -> impl Iterator<Item = &Thing> {
        self.things.get(owner).into_iter().flatten()
    }

    /// An owner's layer as text.
    fn text(&mut self, owner: &str, config: &Running) -> String {
        let others = self.things(owner).filter(|thing| !matches!(thing, Thing::Port(_)));
        let others: Vec<Item> = others.filter_map(|thing| self.item(thing, owner, config)).collect();
        let mut text = write_layer(&others, config);
        let Layers { things, written, .. } = self;
        for thing in things.get(owner).into_iter().flatten() {
            let Thing::Port(name) = thing else { continue };
            let Some(port) = config.port(name) else { continue };
            match written.get(name).filter(|(before, _)| before == port) {
                Some((_, written)) => text += written,
                None => {
                    let new = write_layer_port(port, config);
                    text += &new;
                    written.insert(name.clone(), (port.clone(), new));
                }
            }
        }
        text
    }

    fn item(&self, thing: &Thing, owner: &str, config: &Running) -> Option<Item> {
        Some(match thing {
            Thing::Port(name) => Item::Port(config.port(name)?.clone()),
            Thing::Bridge(name) => {
                let mut bridge = BridgeChange::of(config.bridge(name)?).bridge;
                // What others have added is theirs.
                if let Some(peers) = &mut bridge.peers {
                    let others = |vtep: &Ipv4Addr| self.owner(&Thing::Peer(Some(name.clone()), *vtep));
                    peers.retain(|vtep| others(vtep).is_none_or(|other| other == owner));
                }
                Item::Bridge(bridge)
            }
            Thing::Member(bridge, (port, vlan)) => {
                Item::Member(bridge.clone(), Member { port: port.clone(), vlan: *vlan })
            }
            Thing::Static(bridge, mac) => {
                Item::Static(bridge.clone(), config.bridge(bridge)?.statics.get(*mac)?.clone())
            }
            // Of its own bridge they are among that bridge's keys.
            Thing::Peer(Some(bridge), _) if self.owner(&Thing::Bridge(bridge.clone())) == Some(owner) => return None,
            Thing::Peer(bridge, vtep) => Item::Peer(bridge.clone(), *vtep),
        })
    }

    /// What is an owner's, as its file has it.
    pub fn shown(&self, owner: &str, secrets: bool, config: &Running) -> String {
        let mut items = self.items(owner, config);
        for item in &mut items {
            if let Item::Port(port) = item
                && !secrets
            {
                *port = port.clone().without_secret();
            }
        }
        write_layer(&items, config)
    }

    /// What is the file's of a configuration.
    pub fn of_file(&self, config: &Running) -> ValidConfig {
        let mut file = (**config).clone();
        if self.owners.is_empty() {
            return file;
        }
        let is_files = |thing: Thing| self.owner(&thing).is_none();
        file.ports = file.ports.into_iter().filter(|port| is_files(Thing::Port(port.name.clone()))).collect();
        let bridges = file.bridges.into_iter().filter(|bridge| is_files(Thing::Bridge(bridge.name.clone())));
        let all = config.vxlan.as_ref().map(|vxlan| vxlan.peers.clone()).unwrap_or_default();
        let bridges = bridges.map(|mut bridge| {
            let Bridge { name, ports, peers, statics, .. } = &mut bridge;
            ports.retain(|member| is_files(Thing::member(name, member)));
            *statics =
                statics.iter().filter(|entry| is_files(Thing::Static(name.clone(), entry.mac))).cloned().collect();
            if let Some(own) = peers {
                let before = own.len();
                own.retain(|vtep| is_files(Thing::Peer(Some(name.clone()), *vtep)));
                // An owner has made it a list of its own.
                if own.len() != before && *own == all {
                    *peers = None;
                }
            }
            bridge
        });
        file.bridges = bridges.collect();
        if let Some(vxlan) = &mut file.vxlan {
            vxlan.peers.retain(|vtep| is_files(Thing::Peer(None, *vtep)));
        }
        file
    }

    fn owner(&self, thing: &Thing) -> Option<&str> {
        self.owners.get(thing).map(String::as_str)
    }

    /// Whose the port is, if it is not the file's.
    pub fn of_port(&self, name: &str) -> Option<String> {
        self.owners.get(&Thing::Port(name.into())).cloned()
    }

    /// Whose the bridge is, if it is not the file's.
    pub fn of_bridge(&self, name: &str) -> Option<String> {
        self.owners.get(&Thing::Bridge(name.into())).cloned()
    }

    /// Whose static entries are, as far as they are not the file's: by bridge and address.
    pub fn statics(&self) -> HashMap<String, HashMap<Mac, String>> {
        let mut statics: HashMap<String, HashMap<Mac, String>> = HashMap::new();
        for (thing, owner) in &self.owners {
            if let Thing::Static(bridge, mac) = thing {
                statics.entry(bridge.clone()).or_default().insert(*mac, owner.clone());
            }
        }
        statics
    }

    /// The owners that name VTEPs.
    pub fn vteps(&self, config: &Running) -> HashMap<Ipv4Addr, BTreeSet<String>> {
        let mut vteps: HashMap<Ipv4Addr, BTreeSet<String>> = HashMap::new();
        for (thing, owner) in &self.owners {
            let vtep = match thing {
                Thing::Peer(_, vtep) => *vtep,
                Thing::Static(bridge, mac) => match config.bridge(bridge).and_then(|bridge| bridge.statics.get(*mac)) {
                    Some(StaticMac { to: StaticTo::Vtep(vtep), .. }) => *vtep,
                    _ => continue,
                },
                Thing::Port(_) | Thing::Bridge(_) | Thing::Member(..) => continue,
            };
            vteps.entry(vtep).or_default().insert(owner.clone());
        }
        vteps
    }

    /// Whether `owner`, or the file, may add the static entry, or change or delete it if it is there.
    ///
    /// # Errors
    /// It, or its bridge, is another's.
    pub fn may_set(
        &self,
        owner: Option<&str>,
        bridge: &str,
        mac: Mac,
        is_there: bool,
        config: &Running,
    ) -> Result<(), RpcError> {
        // Most switches have no owners and many entries.
        if owner.is_none() && self.owners.is_empty() {
            return Ok(());
        }
        let work = self.work(owner, config);
        if is_there { work.may(&Thing::Static(bridge.into(), mac)) } else { work.expressible(bridge, None) }
    }

    /// Notes whose a static entry is that was added, changed or deleted.
    pub fn note_static(&mut self, owner: Option<&str>, bridge: &str, mac: Mac) {
        if owner.is_some() || !self.owners.is_empty() {
            self.note(vec![(Thing::Static(bridge.into(), mac), owner.map(str::to_owned))]);
        }
    }

    fn work<'a>(&'a self, owner: Option<&'a str>, config: &'a Running) -> Work<'a> {
        Work { layers: self, owner, config, gone: HashSet::new(), changes: Vec::new() }
    }

    /// How belongings change when `owner`, or the file, does these steps to `config`.
    ///
    /// # Errors
    /// They change what is another's.
    pub fn admit(&self, owner: Option<&str>, steps: &[Action], config: &Running) -> Result<Belongings, RpcError> {
        let mut work = self.work(owner, config);
        if owner.is_none() && self.owners.is_empty() {
            return Ok(work.changes);
        }
        for step in steps {
            if let Action::RemovePort { name } = step {
                work.gone.insert(name);
            }
        }
        // Before it is said what comes.
        steps.iter().filter(|step| matches!(step, Action::AddPort(_))).try_for_each(|step| work.step(step))?;
        steps.iter().filter(|step| !matches!(step, Action::AddPort(_))).try_for_each(|step| work.step(step))?;
        Ok(work.changes)
    }

    /// Has belongings change. The owners whose layers are others now.
    pub fn note(&mut self, changes: Belongings) -> BTreeSet<String> {
        let mut owners = BTreeSet::new();
        for (thing, owner) in changes {
            owners.extend(owner.clone());
            let old = match &owner {
                Some(owner) => self.owners.insert(thing.clone(), owner.clone()),
                None => self.owners.remove(&thing),
            };
            if let Some(old) = old {
                if let Some(things) = self.things.get_mut(&old) {
                    things.remove(&thing);
                }
                if let (Thing::Port(name), None) = (&thing, &owner) {
                    self.written.remove(name);
                }
                owners.insert(old);
            }
            if let Some(owner) = owner {
                self.things.entry(owner).or_default().insert(thing);
            }
        }
        owners
    }

    /// Notes that steps are done which nobody has asked for. The owners whose layers are others now.
    pub fn forget(&mut self, steps: &[Action]) -> BTreeSet<String> {
        let mut owners = BTreeSet::new();
        for step in steps {
            let of_step: Belongings = match step {
                Action::RemovePort { name } => vec![(Thing::Port(name.clone()), None)],
                Action::ChangeBridge(change) => {
                    let name = &change.bridge.name;
                    let members = change.removed.iter().map(|member| Thing::member(name, member));
                    let statics = change.statics_removed.iter().map(|entry| Thing::Static(name.clone(), entry.mac));
                    members.chain(statics).map(|thing| (thing, None)).collect()
                }
                _ => vec![],
            };
            owners.extend(self.note(of_step));
        }
        owners
    }

    /// Whether what a request would add, and which is there already, is this owner's, or the file's.
    ///
    /// # Errors
    /// It is another's.
    pub fn is_whose(&self, request: &AnyRequest, owner: Option<&str>) -> Result<(), RpcError> {
        let thing = match request {
            AnyRequest::Port(PortRequest::Add(port)) => Thing::Port(port.name.clone()),
            AnyRequest::Bridge(BridgeRequest::Add(bridge)) => Thing::Bridge(bridge.name.clone()),
            AnyRequest::Fdb(FdbRequest::Add(entry)) => Thing::Static(entry.bridge.clone(), entry.mac),
            _ => return Ok(()),
        };
        match self.owner(&thing) {
            whose if whose == owner => Ok(()),
            whose => {
                let why = format!("{thing} belongs to {}", called(whose));
                Err(RpcError::refused(ErrorCode::Conflict, why).at(thing.path()))
            }
        }
    }

    /// Writes an owner's layer in one step: after a crash there is either the old or the new one. The disk is waited for if what the host's
    /// next start must find is in one of them.
    ///
    /// # Errors
    /// The system's reason.
    pub fn write(&mut self, owner: &str, config: &Running) -> Result<(), RpcError> {
        let file = self.dir.join(format!("{owner}.toml"));
        let lasts = !self.things(owner).all(|thing| is_brief(thing, config));
        let did_last = if lasts { !self.lasting.insert(owner.into()) } else { self.lasting.remove(owner) };
        let durable = lasts || did_last;
        let written = if self.things(owner).next().is_none() {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            let text = self.text(owner, config);
            fs::create_dir_all(&self.dir).and_then(|()| replace(&file, &text, durable))
        };
        written.map_err(|error| {
            let why = format!("{}: {error}: done, but it will not outlive drayd", file.display());
            RpcError::refused(ErrorCode::Failed, why)
        })
    }
}

/// Steps that are looked at.
struct Work<'a> {
    layers: &'a Layers,
    owner: Option<&'a str>,
    config: &'a Running,
    /// Ports that go: what is behind them goes too, whoever's it is.
    gone: HashSet<&'a String>,
    changes: Belongings,
}

impl<'a> Work<'a> {
    fn refuse(&self, thing: &Thing, whose: Option<&str>) -> RpcError {
        let why = format!("{thing} belongs to {}: {} can't change it", called(whose), called(self.owner));
        RpcError::refused(ErrorCode::Conflict, why).at(thing.path())
    }

    /// Whether the thing may be changed.
    fn may(&self, thing: &Thing) -> Result<(), RpcError> {
        let whose = self.layers.owner(thing);
        if whose == self.owner { Ok(()) } else { Err(self.refuse(thing, whose)) }
    }

    /// A thing comes.
    fn come(&mut self, thing: Thing) {
        if let Some(owner) = self.owner {
            self.changes.push((thing, Some(owner.into())));
        }
    }

    /// A thing goes.
    fn go(&mut self, thing: Thing) {
        self.changes.push((thing, None));
    }

    fn step(&mut self, step: &'a Action) -> Result<(), RpcError> {
        match step {
            Action::RemovePort { name } => {
                let thing = Thing::Port(name.clone());
                self.may(&thing)?;
                if !self.changes.iter().any(|(other, _)| *other == thing) {
                    self.go(thing);
                }
            }
            Action::AddPort(port) => self.come(Thing::Port(port.name.clone())),
            Action::UpdatePort { old, .. } => self.may(&Thing::Port(old.name.clone()))?,
            Action::RemoveBridge { name } => {
                self.may(&Thing::Bridge(name.clone()))?;
                let of_it: Vec<&Thing> = self.layers.owners.keys().filter(|thing| thing.is_of(name)).collect();
                for thing in of_it {
                    self.may(thing)?;
                    self.go(thing.clone());
                }
            }
            Action::AddBridge(bridge) => {
                self.come(Thing::Bridge(bridge.name.clone()));
                for member in &bridge.ports {
                    self.expressible(&bridge.name, Some(&member.port))?;
                    self.come(Thing::member(&bridge.name, member));
                }
                for entry in &bridge.statics {
                    self.come(Thing::Static(bridge.name.clone(), entry.mac));
                }
            }
            Action::ChangeBridge(change) => self.change_bridge(change)?,
            Action::SetVxlan { old, new } => {
                let (before, after) = (old.as_ref().map(|old| &old.peers), new.as_ref().map(|new| &new.peers));
                self.peers(None, before.map_or(&[], |peers| peers), after.map_or(&[], |peers| peers))?;
                // Its other keys are the file's.
                if let (Some(old), Some(new), Some(owner)) = (old, new, self.owner) {
                    let mut old = old.clone();
                    old.peers.clone_from(&new.peers);
                    if old != *new {
                        return Err(self.not_the_files("[vxlan]", owner));
                    }
                }
            }
            Action::SetKeys { table, .. } => {
                if let Some(owner) = self.owner {
                    return Err(self.not_the_files(&format!("[{table}]"), owner));
                }
            }
            Action::Restart { .. } => {}
        }
        Ok(())
    }

    fn not_the_files(&self, table: &str, owner: &str) -> RpcError {
        let why = format!("{table} belongs to the configuration file: owner {owner:?} can't change it");
        RpcError::refused(ErrorCode::Conflict, why).at(table.trim_matches(['[', ']']))
    }

    /// The file can have nothing in what it does not have.
    fn expressible(&self, bridge: &str, port: Option<&String>) -> Result<(), RpcError> {
        if self.owner.is_some() {
            return Ok(());
        }
        let things = [Some(Thing::Bridge(bridge.into())), port.map(|port| Thing::Port(port.clone()))];
        let foreign = things.into_iter().flatten().find(|thing| self.layers.owner(thing).is_some());
        match foreign {
            Some(thing) => Err(self.refuse(&thing, self.layers.owner(&thing))),
            None => Ok(()),
        }
    }

    fn change_bridge(&mut self, change: &'a BridgeChange) -> Result<(), RpcError> {
        let name = &change.bridge.name;
        if !change.keys.is_empty() {
            self.may(&Thing::Bridge(name.clone()))?;
        }
        for member in &change.removed {
            let thing = Thing::member(name, member);
            if !self.gone.contains(&member.port) {
                self.may(&thing)?;
            }
            self.go(thing);
        }
        for entry in &change.statics_removed {
            let thing = Thing::Static(name.clone(), entry.mac);
            let is_free = matches!(&entry.to, StaticTo::Port(Member { port, .. }) if self.gone.contains(port));
            if !is_free {
                self.may(&thing)?;
            }
            self.go(thing);
        }
        for member in &change.added {
            self.expressible(name, Some(&member.port))?;
            self.come(Thing::member(name, member));
        }
        for entry in &change.statics_added {
            self.expressible(name, None)?;
            self.come(Thing::Static(name.clone(), entry.mac));
        }
        if change.peers {
            let all = self.config.vxlan.as_ref().map_or(&[][..], |vxlan| &vxlan.peers);
            let before = self.config.peers(Some(name)).unwrap_or_default();
            let after = change.bridge.peers.as_deref().unwrap_or(all);
            self.peers(Some(name), before, after)?;
        }
        Ok(())
    }

    fn peers(&mut self, bridge: Option<&String>, before: &[Ipv4Addr], after: &[Ipv4Addr]) -> Result<(), RpcError> {
        let sets: [HashSet<&Ipv4Addr>; 2] = [before.iter().collect(), after.iter().collect()];
        for vtep in sets[0].difference(&sets[1]) {
            let thing = Thing::Peer(bridge.cloned(), **vtep);
            self.may(&thing)?;
            self.go(thing);
        }
        for vtep in sets[1].difference(&sets[0]) {
            if let Some(bridge) = bridge {
                self.expressible(bridge, None)?;
            }
            self.come(Thing::Peer(bridge.cloned(), **vtep));
        }
        Ok(())
    }
}
