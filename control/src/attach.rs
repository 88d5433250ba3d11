//! `attach`, `detach` and `expose`: each is a few requests to the control loop, and what is looked at before and waited for after these is the
//! connection's time.

use crate::ports::Waiter;
use crossbeam_channel::bounded;
use dray_api::{
    AnyRequest, Attach, Attached, ConfigChange, Detach, ErrorCode, Expose, PortAdd, PortDel, PortInfo, PortShow,
    PortShown, Request, RpcError, Terms,
};
use dray_config::Mac;
use dray_containers::{Container, Place, find};
use dray_tap::{Namespace, interface_names};
use serde_json::{Value, from_str};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Whose attachments are, unless more is said.
const OWNER: &str = "attach";
/// How long a device may take to be made.
const MADE: Duration = Duration::from_secs(10);
/// How long one may take to go.
const REMOVED: Duration = Duration::from_secs(2);
/// How often it is looked whether it has gone.
const LOOK: Duration = Duration::from_millis(1);
/// Ports of one container's name and one device's, at most.
const NAMESAKES: u32 = 9;
/// The longest name of a port.
const LONGEST: usize = 32;

/// Asks the control loop: a request, its terms, and who is told what becomes of the link of the port that it adds.
pub type Asks<'a> = dyn Fn(AnyRequest, Terms, Option<(String, Waiter)>) -> Result<String, RpcError> + 'a;

/// Names of devices that are about to be made, with their namespaces: nobody else is to choose them.
static CHOSEN: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// A name that is chosen, until its device is there.
struct Choice((String, String));

impl Choice {
    /// The first of `PREFIX0`, `PREFIX1`... that nobody has in the namespace `netns_id`, where `taken` are.
    fn new(prefix: &str, netns_id: &str, taken: &[String]) -> Choice {
        let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
        let names = (0u32..).map(|n| (netns_id.to_owned(), format!("{prefix}{n}")));
        let mut free = names.filter(|name| !taken.contains(&name.1) && !chosen.contains(name));
        let choice = free.next().expect("there are more numbers than names");
        chosen.insert(choice.clone());
        Choice(choice)
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

fn refused(code: ErrorCode, why: impl Into<String>) -> RpcError {
    RpcError::refused(code, why)
}

/// The terms of one of several requests.
fn terms_of(terms: &Terms) -> Terms {
    Terms { owner: terms.owner.clone().or_else(|| Some(OWNER.into())), ..terms.clone() }
}

fn ask<R: Request>(asks: &Asks<'_>, request: R, terms: Terms) -> Result<R::Reply, RpcError> {
    let reply = asks(request.into(), terms, None)?;
    from_str(&reply).map_err(|error| refused(ErrorCode::Failed, error.to_string()))
}

/// A port that is to be.
struct New {
    /// What its name begins with.
    base: String,
    ifname: String,
    bridge: String,
    vlan: Option<u16>,
    keys: Vec<(&'static str, Value)>,
}

impl New {
    fn keys(&mut self, ips: Vec<String>, mac: Option<Mac>, mtu: Option<u16>) {
        self.keys.push(("kind", "tap".into()));
        self.keys.push(("ifname", self.ifname.as_str().into()));
        self.keys.push(("addresses", ips.into()));
        self.keys.extend(mac.map(|mac| ("mac", mac.to_string().into())));
        self.keys.extend(mtu.map(|mtu| ("mtu", mtu.into())));
    }

    /// The port's name: the `n`th of those that may be.
    fn name(&self, n: u32) -> String {
        let end = if n == 1 { format!(".{}", self.ifname) } else { format!(".{}-{n}", self.ifname) };
        let good = |c: char| if c.is_ascii_alphanumeric() || "_.:-".contains(c) { c } else { '-' };
        let base = self.base.chars().map(good).take(LONGEST - end.len());
        base.chain(end.chars().map(good)).collect()
    }

    /// Adds it, and waits until its device is there if it `is_awaited`.
    fn add(self, terms: &Terms, is_awaited: bool, asks: &Asks<'_>) -> Result<Attached, RpcError> {
        let mut n = 1;
        loop {
            let name = self.name(n);
            let bridge = self.vlan.map_or_else(|| self.bridge.clone(), |vlan| format!("{}:{vlan}", self.bridge));
            let mut port = PortAdd { name: name.clone(), bridges: vec![bridge], ..PortAdd::default() };
            port.keys.0.extend(self.keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            let (waiter, link) = bounded(1);
            let reply = asks(port.into(), terms_of(terms), Some((name.clone(), waiter)));
            let changes = match reply {
                Ok(reply) => from_str::<ConfigChange>(&reply).map(|change| change.changes).unwrap_or_default(),
                // Of another container of that name, or of a name that begins so.
                Err(error)
                    if n < NAMESAKES && error.data.as_ref().is_some_and(|data| data.code == ErrorCode::Exists) =>
                {
                    n += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let up = if is_awaited {
                link.recv_timeout(MADE).unwrap_or_else(|_| Err("its device was not made in time".into()))
            } else {
                Ok(())
            };
            if let Err(why) = up {
                let terms = Terms { ensure: true, if_generation: None, ..terms_of(terms) };
                let path = format!("port.{name}");
                let _ = ask(asks, PortDel { name }, terms);
                return Err(refused(ErrorCode::Failed, why).at(path));
            }
            return Ok(Attached { port: name, ifname: self.ifname, waits: None, changes });
        }
    }
}

/// Gives a container a device.
///
/// # Errors
/// Why it has none; nothing is left then.
pub fn attach(request: Attach, terms: &Terms, asks: &Asks<'_>) -> Result<Attached, RpcError> {
    let Attach { container, bridge, ips, gateways, mac, vlan, name, mtu, keep, netns } = request;
    let place = match netns {
        Some(netns) => Place { name: container, netns: Some(netns.into()) },
        None => find(&container).map_err(|why| refused(ErrorCode::NotFound, why).at("container"))?,
    };
    let follows = keep && Container::read(&place.name).is_some();
    if keep && !follows && place.netns.as_ref().is_some_and(|netns| netns.starts_with("/proc")) {
        let why = "a process does not start again: keep is for an engine's container and for a namespace with a name";
        return Err(refused(ErrorCode::Invalid, why).at("keep"));
    }
    let looked = match &place.netns {
        Some(netns) => {
            let looked = Namespace::open(netns).and_then(|namespace| namespace.look());
            Some(looked.map_err(|why| refused(ErrorCode::Failed, why).at("container"))?)
        }
        None if keep => None,
        None => {
            let why = format!("{} does not run: start it, or have it attached when it starts by keep", place.name);
            return Err(refused(ErrorCode::Conflict, why).at("container"));
        }
    };
    let (netns_id, taken) = looked.clone().unwrap_or_default();
    let mut choice = None;
    let ifname = match name {
        Some(name) => name,
        None => match already(&place.name, &bridge, vlan, terms, asks)? {
            Some(ifname) => ifname,
            None if looked.is_some() => choice.insert(Choice::new("eth", &netns_id, &taken)).0.1.clone(),
            // What the engine itself gives it is not known; mostly it is eth0.
            None => "eth1".into(),
        },
    };
    // Without its engine, and containerd's namespace or the directory.
    let base = Container::read(&place.name).map_or_else(|| place.name.clone(), |container| container.name);
    let base = base.rsplit('/').find(|part| !part.is_empty()).unwrap_or("container").to_owned();
    let mut new = New { base, ifname, bridge, vlan, keys: vec![("container", place.name.as_str().into())] };
    new.keys(ips, mac, mtu);
    let routes = gateways.iter().map(|gateway| format!("default via {gateway}"));
    new.keys.push(("routes", routes.collect::<Vec<_>>().into()));
    if let Some(netns) = place.netns.as_ref().filter(|_| !follows) {
        new.keys.push(("netns", netns.display().to_string().into()));
    }
    if !keep {
        new.keys.push(("netns_id", netns_id.into()));
    }
    let attached = new.add(terms, looked.is_some(), asks)?;
    let waits = looked.is_none().then(|| format!("{} does not run: it is attached when it starts", place.name));
    Ok(Attached { waits, ..attached })
}

/// The device that a container has in a bridge already, if there may be one.
fn already(
    container: &str,
    bridge: &str,
    vlan: Option<u16>,
    terms: &Terms,
    asks: &Asks<'_>,
) -> Result<Option<String>, RpcError> {
    if !terms.ensure {
        return Ok(None);
    }
    let is_it = |port: &PortInfo| {
        port.detail.tap().is_some_and(|tap| tap.container.as_deref() == Some(container))
            && port.bridges.iter().any(|of| of.bridge == bridge && of.vlan == vlan)
    };
    let device = own(terms, asks)?.into_iter().find(is_it);
    Ok(device.and_then(|port| port.detail.tap().map(|tap| tap.ifname.clone())))
}

/// The TAP ports of the owner.
fn own(terms: &Terms, asks: &Asks<'_>) -> Result<Vec<PortInfo>, RpcError> {
    let shown: PortShown = ask(asks, PortShow::default(), Terms::default())?;
    let owner = terms_of(terms).owner;
    Ok(shown.ports().into_iter().filter(|port| port.owner == owner && port.detail.tap().is_some()).collect())
}

/// Takes devices away.
///
/// # Errors
/// That there are none, and what there is.
pub fn detach(request: Detach, terms: &Terms, asks: &Asks<'_>) -> Result<ConfigChange, RpcError> {
    let Detach { container, name } = request;
    let own = own(terms, asks)?;
    let of = |wanted: &str| own.iter().filter(|port| is_of(port, wanted)).collect::<Vec<_>>();
    let mut ports = of(&container);
    if ports.is_empty()
        && let Ok(place) = find(&container)
    {
        ports = of(&place.name);
    }
    if ports.is_empty() && !terms.ensure {
        let all: BTreeSet<String> = own.iter().filter_map(|port| port.detail.tap()?.container.clone()).collect();
        let all: Vec<String> = all.into_iter().collect();
        let has = if all.is_empty() { "nothing is".into() } else { format!("{} are", all.join(", ")) };
        return Err(refused(ErrorCode::NotFound, format!("{container:?} is not attached: {has}")).at("container"));
    }
    if let Some(name) = &name {
        let ifname = |port: &PortInfo| port.detail.tap().map(|tap| tap.ifname.clone()).unwrap_or_default();
        let all: Vec<String> = ports.iter().map(|port| ifname(port)).collect();
        ports.retain(|port| ifname(port) == *name);
        if ports.is_empty() && !terms.ensure {
            let why = format!("{container:?} has no device {name:?} of attach: it has {}", all.join(", "));
            return Err(refused(ErrorCode::NotFound, why).at("name"));
        }
    }
    remove(&ports, terms, asks)
}

/// Whether a port is what `wanted` names.
fn is_of(port: &PortInfo, wanted: &str) -> bool {
    let Some(tap) = port.detail.tap() else { return false };
    let (container, netns) = (tap.container.as_deref().unwrap_or_default(), tap.netns.as_deref().unwrap_or_default());
    let short = dray_config::engine(container).map(|(_, name)| name);
    let last = short.and_then(|name| name.rsplit_once('/')).map(|(_, id)| id);
    !container.is_empty() && (container == wanted || short == Some(wanted) || last == Some(wanted) || netns == wanted)
}

/// Deletes ports, and waits until their devices are gone.
fn remove(ports: &[&PortInfo], terms: &Terms, asks: &Asks<'_>) -> Result<ConfigChange, RpcError> {
    let mut terms = terms_of(terms);
    let mut all = ConfigChange::default();
    for port in ports {
        let reply = ask(asks, PortDel { name: port.name.clone() }, terms.clone())?;
        // The first change is one.
        terms.if_generation = None;
        all.changes.extend(reply.changes);
    }
    let end = Instant::now() + REMOVED;
    for tap in ports.iter().filter_map(|port| port.detail.tap()) {
        let names = || match &tap.netns {
            Some(netns) => {
                Namespace::open(Path::new(netns)).and_then(|namespace| namespace.look()).map(|(_, names)| names)
            }
            None if tap.container.is_none() => interface_names().map_err(|error| error.to_string()),
            None => Ok(Vec::new()),
        };
        while names().is_ok_and(|names| names.contains(&tap.ifname)) && Instant::now() < end {
            sleep(LOOK);
        }
    }
    Ok(all)
}

/// Gives the host a device, or takes those away that it has.
///
/// # Errors
/// Why not.
pub fn expose(request: Expose, terms: &Terms, asks: &Asks<'_>) -> Result<Attached, RpcError> {
    let Expose { bridge, ips, mac, vlan, name, mtu, remove: removes } = request;
    let is_it = |port: &PortInfo| {
        let is_named = |ifname: &str| name.as_deref().is_none_or(|name| name == ifname);
        port.detail.tap().is_some_and(|tap| tap.netns.is_none() && tap.container.is_none() && is_named(&tap.ifname))
            && port.bridges.iter().any(|of| of.bridge == bridge)
    };
    if removes {
        let own = own(terms, asks)?;
        let ports: Vec<&PortInfo> = own.iter().filter(|port| is_it(port)).collect();
        if ports.is_empty() && !terms.ensure {
            let why = format!("this host has no device in bridge {bridge:?} that expose has given it");
            return Err(refused(ErrorCode::NotFound, why).at(format!("bridge.{bridge}")));
        }
        return Ok(Attached { changes: remove(&ports, terms, asks)?.changes, ..Attached::default() });
    }
    let mut choice = None;
    let there = if terms.ensure { own(terms, asks)?.into_iter().find(is_it) } else { None };
    let ifname = match (&name, there.as_ref().and_then(|port| port.detail.tap())) {
        (Some(name), _) => name.clone(),
        (None, Some(tap)) => tap.ifname.clone(),
        (None, None) => {
            let names = interface_names().map_err(|error| refused(ErrorCode::Failed, error.to_string()))?;
            choice.insert(Choice::new("dray", "", &names)).0.1.clone()
        }
    };
    let mut new = New { base: "host".into(), ifname, bridge, vlan, keys: Vec::new() };
    new.keys(ips, mac, mtu);
    new.add(terms, true, asks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_api::{PortDetail, TapDetail};

    #[test]
    fn names_that_nobody_has_are_chosen() {
        let taken = ["lo", "eth0", "eth2"].map(str::to_owned);
        let first = Choice::new("eth", "a", &taken);
        let second = Choice::new("eth", "a", &taken);
        assert_eq!([first.0.1.as_str(), &second.0.1, &Choice::new("eth", "b", &taken).0.1], ["eth1", "eth3", "eth1"]);
        drop(first);
        assert_eq!(Choice::new("eth", "a", &taken).0.1, "eth1");
    }

    #[test]
    fn names_of_ports_are_made_of_containers_and_devices() {
        let name = |base: &str, n| {
            New { base: base.into(), ifname: "eth1".into(), bridge: "b".into(), vlan: None, keys: vec![] }.name(n)
        };
        assert_eq!([name("web", 1), name("web", 2)], ["web.eth1", "web.eth1-2"]);
        assert_eq!(name("a b", 1), "a-b.eth1");
        assert_eq!(name("a-container-with-quite-a-long-name", 1), "a-container-with-quite-a-lo.eth1");
    }

    #[test]
    fn containers_are_found_by_what_people_call_them() {
        let is_of = |container: &str, netns: &str, wanted: &str| {
            let tap =
                TapDetail { container: Some(container.into()), netns: Some(netns.into()), ..TapDetail::default() };
            is_of(&PortInfo { detail: PortDetail::Tap(tap), ..PortInfo::default() }, wanted)
        };
        assert!(is_of("docker:web", "/proc/7/ns/net", "web") && is_of("docker:web", "/proc/7/ns/net", "docker:web"));
        assert!(is_of("containerd:default/web", "/x", "web") && is_of("web", "/run/netns/web", "/run/netns/web"));
        assert!(!is_of("docker:web", "/proc/7/ns/net", "docker") && !is_of("docker:web2", "/x", "web"));
    }
}
