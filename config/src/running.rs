//! The configuration in force. It changes by the steps of a plan, and each of the changes that come one by one is checked by the rules
//! of the file, as far as it touches what they are about: it costs the same however much there is beside it.

use crate::error::Report;
use crate::list::List;
use crate::plan::{change, change_port, is_same_underlay, same_vxlan};
use crate::read::object;
use crate::schema::{self, Keys, MAX_PEERS, Section};
use crate::validate::{Anywhere, Context, Taken, first_use};
use crate::value::{host, station};
use crate::{
    Action, Bridge, BridgeChange, KeyChange, Mac, Member, Port, PortKind, StaticMac, StaticTo, ValidConfig, Vxlan,
    bridge, plan, port, vxlan,
};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::Deref;

/// The configuration in force, and what others can't have beside it.
#[derive(Clone, Debug)]
pub struct Running {
    config: ValidConfig,
    taken: Taken,
}

impl Deref for Running {
    type Target = ValidConfig;

    fn deref(&self) -> &ValidConfig {
        &self.config
    }
}

/// Keys of an object, each with its value in TOML.
pub type KeyValues<'a> = Vec<(&'a str, String)>;

fn lines(keys: &KeyValues<'_>) -> String {
    keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

/// `of` with `key` given as `value` in TOML, or left out. What is not said is as in `default`.
fn with_key<T: Keys>(
    of: &T,
    default: &T,
    section: &'static Section,
    key: &str,
    value: Option<&str>,
) -> Result<T, String> {
    let mut keys = Vec::new();
    of.write(default, &mut keys);
    keys.retain(|(name, _)| *name != key);
    let is_key = section.keys.iter().any(|known| known.name == key);
    // One that is not there is reported as any file's is.
    let value = value.or((!is_key).then_some("true"));
    let mut text = lines(&keys);
    text.extend(value.map(|value| format!("{key} = {value}\n")));
    object(section, &text)
}

impl ValidConfig {
    /// The tables that are there once, without ports, bridges and overlay, which may be many.
    fn tables(&self) -> ValidConfig {
        let ValidConfig { control, workers, balance, log, fdb, .. } = self;
        let (control, workers, balance, log, fdb) =
            (control.clone(), workers.clone(), balance.clone(), log.clone(), fdb.clone());
        ValidConfig {
            control,
            workers,
            balance,
            log,
            fdb,
            ports: List::default(),
            bridges: List::default(),
            vxlan: None,
        }
    }

    /// Gives a key of one of these tables the value `value` in TOML, or its default.
    fn set_key(&mut self, section: &'static Section, key: &str, value: Option<&str>) -> Result<(), String> {
        match section.header {
            "[control]" => self.control = with_key(&self.control, &Keys::initial(), section, key, value)?,
            "[balance]" => self.balance = with_key(&self.balance, &Keys::initial(), section, key, value)?,
            "[log]" => self.log = with_key(&self.log, &Keys::initial(), section, key, value)?,
            _ => self.fdb = with_key(&self.fdb, &Keys::initial(), section, key, value)?,
        }
        Ok(())
    }

    /// Gives a key of one of these tables a value as a plan shows it.
    fn set_shown(&mut self, table: &str, key: &str, shown: &str) {
        let of_table = |section: &&&'static Section| section.header.trim_matches(['[', ']']) == table;
        let Some(section) = schema::SECTIONS.iter().find(of_table) else { return };
        let is_text = section.keys.iter().any(|known| known.name == key && known.value.type_name() == "string");
        let value = if is_text { crate::text(shown) } else { shown.to_owned() };
        self.set_key(section, key, Some(&value)).expect("a plan has what a file may have");
    }
}

impl Running {
    /// With a configuration in force.
    pub fn new(config: ValidConfig) -> Running {
        Running { taken: Taken::by(&config), config }
    }

    /// The configuration alone.
    pub fn into_config(self) -> ValidConfig {
        self.config
    }

    /// Has another configuration in force.
    pub fn replace(&mut self, config: ValidConfig) {
        let old = std::mem::replace(self, Running::new(config)).taken;
        let touched = &mut self.taken.touched;
        *touched = old.touched;
        for vtep in old.vteps.keys().filter(|vtep| !self.taken.vteps.contains_key(*vtep)) {
            touched.entry(*vtep).or_insert(true);
        }
        for vtep in self.taken.vteps.keys().filter(|vtep| !old.vteps.contains_key(*vtep)) {
            touched.entry(*vtep).or_insert(false);
        }
    }

    /// Whether VTEPs may have come to be named, or not to be, since [`Running::take_vteps`] was last called.
    pub fn has_other_vteps(&self) -> bool {
        !self.taken.touched.is_empty()
    }

    /// The VTEPs that have come to be named since this was last called, and those that are not named any more.
    pub fn take_vteps(&mut self) -> (Vec<Ipv4Addr>, Vec<Ipv4Addr>) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (vtep, was_named) in self.taken.touched.drain() {
            match (was_named, self.taken.vteps.contains_key(&vtep)) {
                (false, true) => come.push(vtep),
                (true, false) => gone.push(vtep),
                _ => {}
            }
        }
        (come, gone)
    }

    /// The bridges that `port` is in: name and VLAN.
    pub fn memberships(&self, port: &str) -> impl Iterator<Item = (&str, Option<u16>)> {
        let vlans = self.taken.members.get(port).into_iter().flatten();
        vlans.map(|(vlan, (bridge, _))| (bridge.as_str(), *vlan))
    }

    fn context(&self) -> Context<'_> {
        Context::of(&self.config, &self.taken)
    }

    /// A port of these keys.
    ///
    /// # Errors
    /// What is wrong with them by themselves.
    pub fn read_port(&self, keys: &KeyValues<'_>) -> Result<Port, String> {
        let mut port: Port = object(&schema::PORT, &lines(keys))?;
        self.compute_port(&mut port);
        Ok(port)
    }

    /// The steps that add a port, and put it into bridges that there are: each is named as a member of the port would be.
    ///
    /// # Errors
    /// What does not fit.
    pub fn add_port(&mut self, port: Port, bridges: &[(String, Option<u16>)]) -> Result<Vec<Action>, String> {
        let mut report = Report::default();
        port::check(&port, &Anywhere, self.context(), &mut report);
        report.messages()?;
        let mut report = Report::default();
        self.taken.add_port(&port, &Anywhere);
        let mut joined: List<BridgeChange> = List::default();
        for (name, vlan) in bridges {
            let Some(bridge) = self.config.bridges.get(name) else { continue };
            let member = Member { port: port.name.clone(), vlan: *vlan };
            bridge::check_member(&member, &(0..0), Context::of(&self.config, &self.taken), &mut report);
            self.taken.add_member(bridge, &member, 0..0);
            if joined.get(name).is_none() {
                joined.push(BridgeChange::of(bridge));
            }
            joined.get_mut(name).into_iter().for_each(|change| change.added.push(member.clone()));
        }
        self.taken.remove_port(&port);
        self.taken.members.remove(&port.name);
        report.messages()?;
        let joined = joined.into_iter().map(Action::ChangeBridge);
        Ok([Action::AddPort(port)].into_iter().chain(joined).collect())
    }

    /// The steps that delete the port `name`, which is not the underlay, with its memberships and what is static there.
    pub fn remove_port(&self, name: &str) -> Vec<Action> {
        let mut left: List<BridgeChange> = List::default();
        for (bridge, vlan) in self.memberships(name) {
            let Some(bridge) = self.config.bridges.get(bridge) else { continue };
            if left.get(&bridge.name).is_none() {
                left.push(BridgeChange::of(bridge));
            }
            let member = Member { port: name.to_owned(), vlan };
            left.get_mut(&bridge.name).into_iter().for_each(|change| change.leave(bridge, member.clone()));
        }
        let removed = [Action::RemovePort { name: name.to_owned() }];
        removed.into_iter().chain(left.into_iter().map(Action::ChangeBridge)).collect()
    }

    /// The steps that make `new` of the port of that name.
    ///
    /// # Errors
    /// What does not fit.
    pub fn change_port(&mut self, new: &Port) -> Result<Vec<Action>, String> {
        let Some(old) = self.config.ports.get(&new.name) else { return Ok(vec![]) };
        let mut report = Report::default();
        self.taken.remove_port(old);
        port::check(new, &Anywhere, Context::of(&self.config, &self.taken), &mut report);
        self.taken.add_port(old, &Anywhere);
        report.messages()?;
        let mut actions = change_port(old, new);
        if let Some(vxlan) = self.config.vxlan.as_ref().filter(|vxlan| vxlan.port == new.name)
            && !is_same_underlay(old, new)
        {
            let new = Some(Vxlan { mtu: new.mtu, ..vxlan.clone() });
            // What fits the tunnels follows.
            for port in &self.config.ports {
                let mtu = |vxlan| ValidConfig::default_mtu(port, vxlan);
                if port.mtu == mtu(Some(vxlan)) && port.mtu != mtu(new.as_ref()) {
                    actions.extend(change_port(port, &Port { mtu: mtu(new.as_ref()), ..port.clone() }));
                }
            }
            actions.push(Action::SetVxlan { old: Some(vxlan.clone()), new });
        }
        Ok(actions)
    }

    /// The steps that give a key of the port `name` the value `value` in TOML, or its default.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set_port(&mut self, name: &str, key: &str, value: Option<&str>) -> Result<Vec<Action>, String> {
        let Some(old) = self.config.ports.get(name) else { return Ok(vec![]) };
        let mut new = with_key(old, &self.default_port(old), &schema::PORT, key, value)?;
        self.compute_port(&mut new);
        self.change_port(&new)
    }

    /// Whether a bridge has this VNI.
    pub fn is_vni_used(&self, vni: u32) -> bool {
        self.taken.vnis.contains_key(&vni)
    }

    /// The bridge of these keys.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read_bridge(&self, keys: &KeyValues<'_>) -> Result<Bridge, String> {
        object(&schema::BRIDGE, &lines(keys))
    }

    /// The steps that add a bridge, of whose values nothing is known.
    ///
    /// # Errors
    /// What is wrong with them, or does not fit.
    pub fn add_bridge(&mut self, bridge: &Bridge) -> Result<Vec<Action>, String> {
        let mut keys = Vec::new();
        bridge.write(&Bridge::default(), &mut keys);
        let mut new: Bridge = object(&schema::BRIDGE, &lines(&keys))?;
        self.check_bridge(&mut new)?;
        Ok(vec![Action::AddBridge(new)])
    }

    /// Whether a bridge fits that is not among those that there are. Its static entries get the memberships that they mean.
    fn check_bridge(&mut self, new: &mut Bridge) -> Result<(), String> {
        let mut report = Report::default();
        bridge::resolve_statics(new, &Anywhere, &mut report);
        bridge::check(new, &Anywhere, self.context(), &mut report);
        self.check_members(new, &new.ports, &mut report);
        let touched = std::mem::take(&mut self.taken.touched);
        let mut named = Vec::new();
        let mut macs = HashMap::new();
        for vtep in new.peers.iter().flatten() {
            vxlan::check_number("peers", *vtep, &(0..0), self.context(), &mut report);
            self.taken.name_vtep(*vtep);
            named.push(*vtep);
        }
        for entry in &new.statics {
            bridge::check_once(new, entry.mac, first_use(&mut macs, entry.mac, &(0..0)), &(0..0), &mut report);
            bridge::check_static(new, &Anywhere, entry, &(0..0), self.context(), &mut report);
            if let StaticTo::Vtep(vtep) = entry.to {
                self.taken.name_vtep(vtep);
                named.push(vtep);
            }
        }
        named.into_iter().for_each(|vtep| self.taken.unname_vtep(vtep));
        self.taken.touched = touched;
        report.messages()
    }

    /// Whether a bridge can have these members beside those that there are.
    fn check_members(&mut self, bridge: &Bridge, members: &[Member], report: &mut Report) {
        let mut added = Vec::new();
        for member in members {
            bridge::check_member(member, &(0..0), Context::of(&self.config, &self.taken), report);
            if self.taken.members.get(&member.port).is_none_or(|vlans| !vlans.contains_key(&member.vlan)) {
                self.taken.add_member(bridge, member, 0..0);
                added.push(member);
            }
        }
        added.into_iter().for_each(|member| self.taken.remove_member(member));
    }

    /// The steps that give a key of the bridge `name` the value `value` in TOML, or its default.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set_bridge(&mut self, name: &str, key: &str, value: Option<&str>) -> Result<Vec<Action>, String> {
        let Some(old) = self.config.bridges.get(name) else { return Ok(vec![]) };
        // Without its members and static entries, which may be many.
        let head = BridgeChange::of(old).bridge;
        let mut new = with_key(&head, &Bridge::default(), &schema::BRIDGE, key, value)?;
        if matches!(key, "description" | "mtu") {
            return Ok(change(&head, &new).map(Action::ChangeBridge).into_iter().collect());
        }
        // What is looked at beside the key. Of static entries that lead to one place, one stands for all.
        let mut old = match key {
            "ports" => Bridge { ports: old.ports.clone(), statics: old.statics.samples(|to| !to.is_vtep()), ..head },
            "static" => Bridge { ports: old.ports.clone(), statics: old.statics.clone(), ..head },
            _ => Bridge { statics: old.statics.samples(StaticTo::is_vtep), ..head },
        };
        if key != "ports" {
            new.ports.clone_from(&old.ports);
        }
        if key != "static" {
            new.statics.clone_from(&old.statics);
        }
        let touched = std::mem::take(&mut self.taken.touched);
        self.taken.remove_bridge_with_all(&old);
        let result = self.check_bridge(&mut new);
        self.taken.add_bridge_with_all(&old);
        self.taken.touched = touched;
        result?;
        if key == "static" {
            return Ok(change(&old, &new).map(Action::ChangeBridge).into_iter().collect());
        }
        // They mean another membership of their port if it has only that now.
        let (before, after) = (std::mem::take(&mut old.statics), std::mem::take(&mut new.statics));
        let mut change = change(&old, &new);
        if let (Some(change), Some(bridge)) = (&mut change, self.config.bridges.get(name)) {
            for (before, after) in before.iter().zip(&after).filter(|(before, after)| before != after) {
                let moved = bridge.statics.behind(&before.to);
                change.statics_added.extend(moved.iter().map(|entry| StaticMac { to: after.to.clone(), ..*entry }));
                change.statics_removed.extend(moved);
            }
        }
        Ok(change.map(Action::ChangeBridge).into_iter().collect())
    }

    /// The steps that put `members` into the bridge `name`.
    ///
    /// # Errors
    /// What does not fit.
    pub fn join(&mut self, name: &str, members: &[Member]) -> Result<Vec<Action>, String> {
        let written = bridge::written_members(members);
        let keys = vec![("name", crate::text(name)), ("ports", format!("[{}]", written.join(", ")))];
        let Bridge { ports: members, .. } = object(&schema::BRIDGE, &lines(&keys))?;
        let Some(old) = self.config.bridges.get(name) else { return Ok(vec![]) };
        let change = BridgeChange { added: members, ..BridgeChange::of(old) };
        let mut report = Report::default();
        self.check_members(&change.bridge, &change.added, &mut report);
        report.messages()?;
        Ok(vec![Action::ChangeBridge(change)])
    }

    /// The steps that take `members` out of the bridge `name`, with what is static there.
    pub fn leave(&self, name: &str, members: Vec<Member>) -> Vec<Action> {
        let Some(bridge) = self.config.bridges.get(name) else { return vec![] };
        let mut change = BridgeChange::of(bridge);
        members.into_iter().for_each(|member| change.leave(bridge, member));
        vec![Action::ChangeBridge(change)]
    }

    /// The head-end replication list of the overlay, or of the bridge `name`: if that has none of its own, the overlay's. None if
    /// there is no overlay.
    pub fn peers(&self, name: Option<&str>) -> Option<&[Ipv4Addr]> {
        let all = &self.config.vxlan.as_ref()?.peers;
        let own = name.and_then(|name| self.config.bridges.get(name)?.peers.as_ref());
        Some(own.unwrap_or(all))
    }

    /// The steps that add VTEPs to a list that there is.
    ///
    /// # Errors
    /// What does not fit.
    pub fn add_peers(&mut self, name: Option<&str>, added: &[Ipv4Addr]) -> Result<Vec<Action>, String> {
        let mut peers = self.peers(name).unwrap_or_default().to_vec();
        let mut listed: HashSet<Ipv4Addr> = peers.iter().copied().collect();
        let mut report = Report::default();
        let touched = std::mem::take(&mut self.taken.touched);
        for vtep in added {
            let first = (!listed.insert(*vtep)).then_some(0..0);
            let cx = Context::of(&self.config, &self.taken);
            match host(*vtep) {
                Ok(()) => vxlan::check_peer("peers", *vtep, &(0..0), first, cx, &mut report),
                Err(why) => report.add(&(0..0), || format!("peers: \"{vtep}\": {why}")),
            }
            vxlan::check_number("peers", *vtep, &(0..0), cx, &mut report);
            self.taken.name_vtep(*vtep);
        }
        added.iter().for_each(|vtep| self.taken.unname_vtep(*vtep));
        self.taken.touched = touched;
        if listed.len() > MAX_PEERS {
            report.add(&(0..0), || format!("{} peers: at most {MAX_PEERS}", listed.len()));
        }
        report.messages()?;
        peers.extend_from_slice(added);
        Ok(self.set_peers(name, peers))
    }

    /// The steps that give the overlay or the bridge `name` this list, which is good.
    pub fn set_peers(&self, name: Option<&str>, peers: Vec<Ipv4Addr>) -> Vec<Action> {
        match (name, &self.config.vxlan) {
            (Some(name), _) => {
                let Some(bridge) = self.config.bridges.get(name) else { return vec![] };
                let mut change = BridgeChange { peers: true, ..BridgeChange::of(bridge) };
                change.bridge.peers = Some(peers);
                vec![Action::ChangeBridge(change)]
            }
            (None, Some(vxlan)) => {
                let new = Some(Vxlan { peers, ..vxlan.clone() });
                vec![Action::SetVxlan { old: Some(vxlan.clone()), new }]
            }
            (None, None) => vec![],
        }
    }

    /// The static entry that the bridge `name` would get; whether it has one of that address is not looked at.
    ///
    /// # Errors
    /// What is wrong with it, or does not fit.
    pub fn static_entry(
        &self,
        name: &str,
        mac: Mac,
        port: Option<&Member>,
        vtep: Option<Ipv4Addr>,
    ) -> Result<StaticMac, String> {
        let bridge = self.config.bridges.get(name).ok_or_else(|| format!("there is no bridge {name:?}"))?;
        station(mac).map_err(|why| format!("mac = \"{mac}\": {why}"))?;
        let to = match (port, vtep) {
            (Some(wanted), None) => {
                let here = self.memberships(&wanted.port).filter(|(of, _)| *of == name);
                let vlans: Vec<Option<u16>> = here.map(|(_, vlan)| vlan).collect();
                StaticTo::Port(bridge::resolve(bridge, wanted, &vlans)?)
            }
            (None, Some(vtep)) => {
                host(vtep).map_err(|why| format!("vtep = \"{vtep}\": {why}"))?;
                StaticTo::Vtep(vtep)
            }
            _ => return Err("a static entry has either a port or a vtep".into()),
        };
        let entry = StaticMac { mac, to };
        let mut report = Report::default();
        bridge::check_static(bridge, &Anywhere, &entry, &(0..0), self.context(), &mut report);
        report.messages()?;
        Ok(entry)
    }

    /// The steps that add a static entry to the bridge `name`.
    ///
    /// # Errors
    /// As [`Running::static_entry`]; or there is one of that address.
    pub fn add_static(
        &self,
        name: &str,
        mac: Mac,
        port: Option<&Member>,
        vtep: Option<Ipv4Addr>,
    ) -> Result<Vec<Action>, String> {
        let entry = self.static_entry(name, mac, port, vtep)?;
        let Some(bridge) = self.config.bridges.get(name) else { return Ok(vec![]) };
        let mut report = Report::default();
        bridge::check_once(bridge, mac, bridge.statics.get(mac).map(|_| 0..0), &(0..0), &mut report);
        report.messages()?;
        Ok(vec![Action::ChangeBridge(BridgeChange { statics_added: vec![entry], ..BridgeChange::of(bridge) })])
    }

    /// The steps that take a static entry of the bridge `name` out.
    pub fn del_static(&self, name: &str, mac: Mac) -> Vec<Action> {
        let Some(bridge) = self.config.bridges.get(name) else { return vec![] };
        let statics_removed = bridge.statics.get(mac).cloned().into_iter().collect();
        vec![Action::ChangeBridge(BridgeChange { statics_removed, ..BridgeChange::of(bridge) })]
    }

    /// Every VTEP that is named.
    pub fn vteps(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.taken.vteps.keys().copied()
    }

    /// Gives the bridge `name` a static entry, in the place of the one that has its address. That one.
    pub fn put_static(&mut self, name: &str, entry: StaticMac) -> Option<StaticMac> {
        let bridge = self.config.bridges.get_mut(name)?;
        if let StaticTo::Vtep(vtep) = entry.to {
            self.taken.name_vtep(vtep);
        }
        let old = bridge.statics.put(entry);
        self.unname(&old);
        old
    }

    /// Takes a static entry of the bridge `name` out.
    pub fn remove_static(&mut self, name: &str, mac: Mac) -> Option<StaticMac> {
        let old = self.config.bridges.get_mut(name)?.statics.remove(mac);
        self.unname(&old);
        old
    }

    fn unname(&mut self, entry: &Option<StaticMac>) {
        if let Some(StaticMac { to: StaticTo::Vtep(vtep), .. }) = entry {
            self.taken.unname_vtep(*vtep);
        }
    }

    /// The steps that give a key of a table that is there once the value `value` in TOML, or its default.
    ///
    /// # Errors
    /// What is wrong with it, or does not fit.
    pub fn set_table(
        &mut self,
        section: &'static Section,
        key: &str,
        value: Option<&str>,
    ) -> Result<Vec<Action>, String> {
        if std::ptr::eq(section, &schema::VXLAN) {
            return self.set_vxlan(key, value);
        }
        let old = self.config.tables();
        let mut new = old.clone();
        new.set_key(section, key, value)?;
        Ok(plan(&old, &new))
    }

    /// Looks at ports only if their defaults follow from the key, and at VTEPs only if the way to them does.
    fn set_vxlan(&mut self, key: &str, value: Option<&str>) -> Result<Vec<Action>, String> {
        let initial = Vxlan::initial();
        let old = self.config.vxlan.clone();
        let mut head = old.clone().unwrap_or(initial.clone());
        // They may be long, and nothing is wrong with them.
        let (peers, neighbours) = (std::mem::take(&mut head.peers), std::mem::take(&mut head.neighbours));
        let mut new = with_key(&head, &initial, &schema::VXLAN, key, value)?;
        if key != "peers" {
            new.peers = peers;
        }
        if key != "neighbours" {
            new.neighbours = neighbours;
        }
        let is_seat_new = old.as_ref().is_none_or(|old| (&old.port, old.local) != (&new.port, new.local));
        let own_mtu = |port: &Port| match port.mtu {
            mtu if mtu == self.config.default_port(port).mtu => port.kind.default_mtu(),
            mtu => mtu,
        };
        new.mtu = self.config.ports.get(&new.port).map_or(0, own_mtu);
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        if is_seat_new {
            let next = ValidConfig { vxlan: Some(new.clone()), ..self.config.tables() };
            for port in &self.config.ports {
                let is_underlay = self.config.is_underlay(&port.name) || next.is_underlay(&port.name);
                if is_underlay || matches!(port.kind, PortKind::Tap(_)) {
                    let mut steps = change_port(port, &self.followed(port, &next));
                    added.extend(steps.pop());
                    removed.append(&mut steps);
                }
            }
        }
        let before = self.config.vxlan.replace(new.clone());
        let result = self.check_vxlan(before.as_ref(), &new);
        self.config.vxlan = before;
        result?;
        if old.as_ref().is_some_and(|old| same_vxlan(old, &new)) {
            return Ok(vec![]);
        }
        let mut steps = removed;
        steps.append(&mut added);
        steps.push(Action::SetVxlan { old, new: Some(new) });
        Ok(steps)
    }

    /// `port`, of which what follows from other keys follows from those of `next`.
    fn followed(&self, port: &Port, next: &ValidConfig) -> Port {
        let (mut new, default) = (port.clone(), self.config.default_port(port));
        if new.mac == default.mac {
            new.mac = Mac::default();
        }
        if new.mtu == default.mtu {
            new.mtu = 0;
        }
        if new.max_macs == default.max_macs {
            new.max_macs = 0;
        }
        next.compute_port(&mut new);
        new
    }

    /// Whether the overlay, which is `new` and was `old`, fits what there is.
    fn check_vxlan(&mut self, old: Option<&Vxlan>, new: &Vxlan) -> Result<(), String> {
        let mut report = Report::default();
        vxlan::check(new, &Anywhere, self.context(), &mut report);
        if self.memberships(&new.port).next().is_some() {
            report.add(&(0..0), || bridge::is_underlay(&new.port));
        }
        if let Some(port) = self.config.ports.get(&new.port)
            && old.is_none_or(|old| old.port != new.port)
        {
            self.taken.remove_port(port);
            port::check(port, &Anywhere, Context::of(&self.config, &self.taken), &mut report);
            self.taken.add_port(port, &Anywhere);
        }
        let old_peers = old.map_or(&[][..], |old| &old.peers);
        if *old_peers != new.peers {
            let touched = std::mem::take(&mut self.taken.touched);
            old_peers.iter().for_each(|vtep| self.taken.unname_vtep(*vtep));
            for vtep in &new.peers {
                vxlan::check_number("peers", *vtep, &(0..0), self.context(), &mut report);
                self.taken.name_vtep(*vtep);
            }
            new.peers.iter().for_each(|vtep| self.taken.unname_vtep(*vtep));
            old_peers.iter().for_each(|vtep| self.taken.name_vtep(*vtep));
            self.taken.touched = touched;
        }
        if old.is_some_and(|old| (old.local, old.gateway) != (new.local, new.gateway)) {
            let listed: HashSet<&Ipv4Addr> = new.peers.iter().collect();
            let mut others: Vec<&Ipv4Addr> = self.taken.vteps.keys().filter(|vtep| !listed.contains(vtep)).collect();
            others.sort();
            for vtep in others {
                vxlan::check_peer("vtep", *vtep, &(0..0), None, self.context(), &mut report);
            }
        }
        report.messages()
    }

    /// Does what the steps say, in which nothing takes a restart.
    pub fn perform(&mut self, actions: &[Action]) {
        let mut added = HashSet::new();
        // What goes from one bridge to another is given up by the one before the other gets it.
        for action in actions {
            match action {
                Action::AddPort(port) => drop(added.insert(&port.name)),
                Action::ChangeBridge(change) => self.give_up(change),
                _ => {}
            }
        }
        for action in actions {
            match action {
                Action::Restart { .. } => {}
                Action::RemoveBridge { name } => {
                    let gone = self.config.bridges.remove(name);
                    gone.into_iter().for_each(|bridge| self.taken.remove_bridge_with_all(&bridge));
                }
                // The new one takes its place.
                Action::RemovePort { name } if added.contains(name) => {
                    self.config.ports.get(name).into_iter().for_each(|port| self.taken.remove_port(port));
                }
                Action::RemovePort { name } => {
                    let gone = self.config.ports.remove(name);
                    gone.into_iter().for_each(|port| self.taken.remove_port(&port));
                }
                Action::AddPort(port) => {
                    self.taken.add_port(port, &Anywhere);
                    self.config.ports.put(port.clone());
                }
                Action::UpdatePort { old, new } => {
                    self.taken.remove_port(old);
                    self.taken.add_port(new, &Anywhere);
                    self.config.ports.put(new.clone());
                }
                Action::SetVxlan { new, .. } => {
                    let old = std::mem::replace(&mut self.config.vxlan, new.clone());
                    new.iter().flat_map(|vxlan| &vxlan.peers).for_each(|vtep| self.taken.name_vtep(*vtep));
                    old.iter().flat_map(|vxlan| &vxlan.peers).for_each(|vtep| self.taken.unname_vtep(*vtep));
                }
                Action::ChangeBridge(change) => self.change_bridge(change),
                Action::AddBridge(bridge) => {
                    self.taken.add_bridge_with_all(bridge);
                    self.config.bridges.put(bridge.clone());
                }
                Action::SetKeys { table, keys } => {
                    for KeyChange { key, new, .. } in keys {
                        self.config.set_shown(table, key, new);
                    }
                }
            }
        }
    }

    /// What others can't have as long as a bridge has it and that it has no more.
    fn give_up(&mut self, change: &BridgeChange) {
        let Some(bridge) = self.config.bridges.get(&change.bridge.name) else { return };
        bridge.vni.map(|vni| self.taken.vnis.remove(&vni));
        change.removed.iter().for_each(|member| self.taken.remove_member(member));
    }

    /// After [`Running::give_up`].
    fn change_bridge(&mut self, change: &BridgeChange) {
        let Bridge { name, description, vni, mtu, peers, .. } = &change.bridge;
        let Some(bridge) = self.config.bridges.get_mut(name) else { return };
        let taken = &mut self.taken;
        (bridge.description, bridge.vni, bridge.mtu) = (description.clone(), *vni, *mtu);
        vni.map(|vni| taken.vnis.insert(vni, 0..0));
        if change.peers {
            let old = std::mem::replace(&mut bridge.peers, peers.clone());
            peers.iter().flatten().for_each(|vtep| taken.name_vtep(*vtep));
            old.iter().flatten().for_each(|vtep| taken.unname_vtep(*vtep));
        }
        if !change.removed.is_empty() {
            let removed: HashSet<&Member> = change.removed.iter().collect();
            bridge.ports.retain(|member| !removed.contains(member));
        }
        change.added.iter().for_each(|member| taken.add_member(bridge, member, 0..0));
        bridge.ports.extend_from_slice(&change.added);
        for entry in &change.statics_removed {
            self.remove_static(name, entry.mac);
        }
        for entry in &change.statics_added {
            self.put_static(name, entry.clone());
        }
    }
}

impl BridgeChange {
    /// A member goes, with what is static there.
    fn leave(&mut self, bridge: &Bridge, member: Member) {
        let place = StaticTo::Port(member);
        self.statics_removed.extend(bridge.statics.behind(&place));
        if let StaticTo::Port(member) = place {
            self.removed.push(member);
        }
    }
}

#[cfg(test)]
impl Running {
    /// Everything is found by its name, and taken is what the configuration has.
    pub(crate) fn assert_whole(&self) {
        let named = Running::new(self.config.clone()).taken;
        let sorted = |taken: &Taken| {
            let mut sockets: Vec<String> = Vec::new();
            for (socket, holders) in &taken.sockets {
                sockets.extend(holders.iter().map(|holder| format!("{socket} {}", holder.port)));
            }
            sockets.sort();
            let Taken { ports, bridges, ids, devices, vnis, members, vteps, .. } = taken.clone();
            (sockets, ports, bridges, ids, devices, (vnis, members, vteps))
        };
        assert_eq!(sorted(&self.taken), sorted(&named));
        assert!(self.config.ports.iter().all(|port| self.config.port(&port.name) == Some(port)));
        assert!(self.config.bridges.iter().all(|bridge| self.config.bridge(&bridge.name) == Some(bridge)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_for;
    use crate::plan::tests::sorted;
    use crate::render::{render, tests::config};
    use proptest::prelude::*;
    use toml_edit::{DocumentMut, Table};

    /// What a file is with a key of one of its tables given another value, or left out.
    fn edited(
        config: &ValidConfig,
        table: impl Fn(&mut DocumentMut) -> &mut Table,
        key: &str,
        value: Option<&str>,
    ) -> Result<ValidConfig, String> {
        let mut file: DocumentMut = render(config).parse().unwrap();
        let table = table(&mut file);
        match value {
            Some(value) => drop(table.insert(key, format!("x = {value}").parse::<DocumentMut>().unwrap()["x"].clone())),
            None => drop(table.remove(key)),
        }
        parse_for("edited", &file.to_string(), &[]).map_err(|errors| errors.to_string())
    }

    /// That steps lead where the file with the same edit does, or that both are refused.
    fn assert_same(running: &mut Running, steps: Result<Vec<Action>, String>, file: Result<ValidConfig, String>) {
        match (steps, file) {
            (Ok(steps), Ok(file)) => {
                // Static entries have no order.
                let parts = |steps: &[Action]| {
                    let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
                    let mut parts: Vec<String> = lines.join("\n").split(", ").map(str::to_owned).collect();
                    parts.sort();
                    parts
                };
                assert_eq!(parts(&steps), parts(&plan(running, &file)));
                running.perform(&steps);
                assert_eq!(sorted((**running).clone()), sorted(file));
                running.assert_whole();
            }
            (Err(_), Err(_)) => {}
            (steps, file) => panic!("{steps:?}\n{file:?}"),
        }
    }

    const OF_VXLAN: &[(&str, Option<&str>)] = &[
        ("port", Some("'p0'")),
        ("port", Some("'p1'")),
        ("port", Some("'p9'")),
        ("local", Some("'10.9.0.2/24'")),
        ("local", Some("'10.9.0.77/24'")),
        ("local", Some("'10.8.0.1/16'")),
        ("gateway", Some("'10.9.0.253'")),
        ("gateway", Some("'10.9.0.1'")),
        ("gateway", None),
        ("peers", Some("['10.9.0.3', '10.9.0.77']")),
        ("peers", Some("['10.9.0.1']")),
        ("peers", Some("['11.0.0.1']")),
        ("peers", None),
        ("neighbours", Some("[{ address = '10.9.0.3', mac = '02:00:00:00:00:03' }]")),
        ("neighbours", None),
        ("udp-port", Some("8472")),
        ("learn-vteps", Some("true")),
        ("learn-vteps", None),
    ];

    const OF_BRIDGE: &[(&str, Option<&str>)] = &[
        ("vni", Some("1")),
        ("vni", Some("77")),
        ("vni", None),
        ("peers", Some("['10.9.0.3', '10.9.0.77']")),
        ("peers", Some("['10.9.0.1']")),
        ("peers", None),
        ("ports", Some("['p1', { port = 'p2', vlan = 1 }]")),
        ("ports", Some("[{ port = 'p1', vlan = 9 }, { port = 'p2', vlan = 9 }, { port = 'p3', vlan = 9 }]")),
        ("ports", Some("['p0', 'p1', { port = 'p1', vlan = 9 }]")),
        ("ports", None),
        ("static", Some("[{ mac = '02:00:00:00:00:01', vtep = '10.9.0.3' }]")),
        ("static", Some("[{ mac = '02:00:00:00:00:01', port = 'p1' }]")),
        ("static", None),
        ("mtu", Some("1400")),
    ];

    proptest! {
        #[test]
        fn a_key_that_is_set_does_what_it_does_in_the_file(
            config in config(), of_vxlan in 0..OF_VXLAN.len(), of_bridge in 0..OF_BRIDGE.len(), at in any::<prop::sample::Index>(),
        ) {
            if config.vxlan.is_some() {
                let mut running = Running::new(config.clone());
                let (key, value) = OF_VXLAN[of_vxlan];
                let file = edited(&config, |file| file["vxlan"].as_table_mut().unwrap(), key, value);
                let steps = running.set_table(&schema::VXLAN, key, value);
                assert_same(&mut running, steps, file);
            }
            if !config.bridges.is_empty() {
                let mut running = Running::new(config.clone());
                let (key, value) = OF_BRIDGE[of_bridge];
                let at = at.index(config.bridges.len());
                let file =
                    edited(&config, |file| file["bridge"].as_array_of_tables_mut().unwrap().get_mut(at).unwrap(), key, value);
                let steps = running.set_bridge(&config.bridges[at].name.clone(), key, value);
                assert_same(&mut running, steps, file);
            }
        }
    }
}
