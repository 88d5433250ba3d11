//! What an owner has added to a configuration that is another's: as text, and as steps.

use crate::error::Report;
use crate::list::List;
use crate::read::several;
use crate::render::{list, table};
use crate::schema::{self, MAX_PEERS};
use crate::{Action, Bridge, Member, Port, Running, StaticMac, StaticTo};
use std::fmt::Write;
use std::net::Ipv4Addr;
use toml::de::{DeTable, DeValue};

/// One thing of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A port.
    Port(Port),
    /// A bridge, without members and static entries.
    Bridge(Bridge),
    /// A member of a bridge that there is.
    Member(String, Member),
    /// A static entry of a bridge that there is.
    Static(String, StaticMac),
    /// A VTEP in the head-end replication list of a bridge that there is, or of the overlay.
    Peer(Option<String>, Ipv4Addr),
}

impl Item {
    /// What comes first: others may be in it.
    pub fn rank(&self) -> usize {
        match self {
            Item::Port(_) => 0,
            Item::Bridge(_) => 1,
            Item::Member(..) => 2,
            Item::Static(..) | Item::Peer(..) => 3,
        }
    }

    /// The steps that add it to a configuration.
    ///
    /// # Errors
    /// What does not fit.
    pub fn steps(&self, config: &mut Running) -> Result<Vec<Action>, String> {
        let there = |name: &str, config: &Running| match config.bridge(name) {
            Some(_) => Ok(()),
            None => Err(format!("there is no bridge {name:?}")),
        };
        match self {
            Item::Port(port) => {
                let mut port = port.clone();
                config.compute_port(&mut port);
                config.add_port(port, &[])
            }
            Item::Bridge(bridge) => config.add_bridge(bridge),
            Item::Member(bridge, member) => {
                there(bridge, config)?;
                config.join(bridge, std::slice::from_ref(member))
            }
            Item::Static(bridge, StaticMac { mac, to }) => {
                there(bridge, config)?;
                match to {
                    StaticTo::Port(member) => config.add_static(bridge, *mac, Some(member), None),
                    StaticTo::Vtep(vtep) => config.add_static(bridge, *mac, None, Some(*vtep)),
                }
            }
            Item::Peer(bridge, vtep) => {
                if let Some(bridge) = bridge {
                    there(bridge, config)?;
                    if config.bridge(bridge).is_some_and(|bridge| bridge.vni.is_none()) {
                        return Err(format!("bridge {bridge:?} is not in the overlay"));
                    }
                }
                if config.vxlan.is_none() {
                    return Err("there is no overlay".into());
                }
                config.add_peers(bridge.as_deref(), &[*vtep])
            }
        }
    }
}

/// A port as text, which [`read_layer`] reads among others. What is not said is as the defaults of `config` are.
pub fn write_layer_port(port: &Port, config: &Running) -> String {
    let mut text = String::from("\n");
    table(&mut text, "[[port]]", port, &config.default_port(port));
    text
}

/// Items as text, which [`read_layer`] reads. What is not said is as the defaults of `config` are.
pub fn write_layer(items: &[Item], config: &Running) -> String {
    let mut text = String::new();
    let overlay = items.iter().filter_map(|item| match item {
        Item::Peer(None, vtep) => Some(crate::text(vtep)),
        _ => None,
    });
    let overlay: Vec<String> = overlay.collect();
    if !overlay.is_empty() {
        let _ = writeln!(text, "peers = {}", list(&overlay));
    }
    // By bridge, in the order of their first items.
    let mut additions: List<Bridge> = List::default();
    for item in items {
        let of = match item {
            Item::Member(name, _) | Item::Static(name, _) | Item::Peer(Some(name), _) => name,
            _ => continue,
        };
        if additions.get(of).is_none() {
            additions.push(Bridge { name: of.clone(), ..Bridge::default() });
        }
        let Some(addition) = additions.get_mut(of) else { continue };
        match item {
            Item::Member(_, member) => addition.ports.push(member.clone()),
            Item::Static(_, entry) => drop(addition.statics.put(entry.clone())),
            Item::Peer(_, vtep) => addition.peers.get_or_insert_default().push(*vtep),
            _ => {}
        }
    }
    for item in items {
        match item {
            Item::Port(port) => table(&mut text, "[[port]]", port, &config.default_port(port)),
            Item::Bridge(bridge) => table(&mut text, "[[bridge]]", bridge, &Bridge::default()),
            _ => {}
        }
    }
    additions.iter().for_each(|addition| table(&mut text, "[[addition]]", addition, &Bridge::default()));
    text
}

/// Reads what [`write_layer`] has written.
///
/// # Errors
/// What is wrong with it.
pub fn read_layer(text: &str) -> Result<Vec<Item>, String> {
    let mut report = Report::default();
    let root = DeTable::parse(text).map_err(|error| format!("not TOML: {}", error.message()))?;
    let root = root.get_ref();
    let (ports, _) = several::<Port>(root, "port", &schema::PORT, schema::MAX_PORTS, &mut report);
    let (bridges, _) = several::<Bridge>(root, "bridge", &schema::BRIDGE, schema::MAX_BRIDGES, &mut report);
    let (additions, _) = several::<Bridge>(root, "addition", &schema::BRIDGE, schema::MAX_BRIDGES, &mut report);
    report.messages()?;
    let mut items: Vec<Item> = ports.into_iter().map(Item::Port).collect();
    items.extend(bridges.into_iter().map(Item::Bridge));
    if let Some(DeValue::Array(peers)) = root.get("peers").map(|peers| peers.get_ref()) {
        for peer in peers.iter().take(MAX_PEERS) {
            let vtep = peer.get_ref().as_str().and_then(|vtep| vtep.parse().ok());
            items.push(Item::Peer(None, vtep.ok_or("peers: not an IPv4 address")?));
        }
    }
    for Bridge { name, ports, statics, peers, .. } in additions {
        items.extend(ports.into_iter().map(|member| Item::Member(name.clone(), member)));
        items.extend(statics.iter().map(|entry| Item::Static(name.clone(), entry.clone())));
        items.extend(peers.into_iter().flatten().map(|vtep| Item::Peer(Some(name.clone()), vtep)));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_read_as_it_was_written() {
        let config = crate::parse_for("example.toml", crate::EXAMPLE, &[0, 1]).unwrap();
        let mut running = Running::new(config);
        let port = object_port(&running);
        let bridge = Bridge { name: "own".into(), vni: Some(77), ..Bridge::default() };
        let member = |vlan| Member { port: "new".into(), vlan };
        let entry = StaticMac { mac: "02:00:00:00:00:99".parse().unwrap(), to: StaticTo::Port(member(Some(5))) };
        let items = vec![
            Item::Port(port),
            Item::Bridge(bridge),
            Item::Peer(None, Ipv4Addr::new(10, 9, 0, 77)),
            Item::Member("own".into(), member(None)),
            Item::Member("blue".into(), member(Some(5))),
            Item::Static("blue".into(), entry),
            Item::Peer(Some("own".into()), Ipv4Addr::new(10, 9, 0, 78)),
        ];
        let text = write_layer(&items, &running);
        let read = read_layer(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
        let computed = |item: &Item| match item.clone() {
            Item::Port(mut port) => {
                running.compute_port(&mut port);
                Item::Port(port)
            }
            item => item,
        };
        assert_eq!(write_layer(&read.iter().map(computed).collect::<Vec<_>>(), &running), text);
        for item in &read {
            let steps = item.steps(&mut running).unwrap_or_else(|why| panic!("{item:?}: {why}"));
            running.perform(&steps);
        }
        running.assert_whole();
        assert_eq!(running.memberships("new").count(), 2);
        // Once more it does not fit.
        assert!(read.iter().all(|item| item.steps(&mut running).is_err()));
        for wrong in ["[[port]]\nname = 1\n", "= x", "peers = [1]", "[[addition]]\n"] {
            assert!(read_layer(wrong).is_err(), "{wrong}");
        }
    }

    fn object_port(running: &Running) -> Port {
        let keys = [("name", "new"), ("kind", "memif"), ("socket", "@new"), ("secret", "s\"")];
        running.read_port(&keys.map(|(key, value)| (key, crate::text(value))).into()).unwrap()
    }
}
