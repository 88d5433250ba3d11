//! Requests that change the running configuration, as the steps that do it: values change, and what does not fit is said as it would
//! be of a file.

use dray_api::{
    AnyRequest, BridgeDel, BridgeJoin, BridgeLeave, BridgeRequest, BridgeSet, ConfigRequest, ConfigSet, ErrorCode,
    FdbAdd, FdbDel, FdbRequest, LogLevel, LogRequest, PortDel, PortDown, PortRequest, PortSet, PortUp, RpcError,
    VtepAdd, VtepDel, VtepRequest,
};
use dray_config::schema::{self, Section, Value};
use dray_config::{Action, Bridge, Member, Port, Running, suggest, text};
use serde::Serialize;
use serde_json::Value as Json;
use std::net::Ipv4Addr;

/// The steps that do what `request` says; `None` if it does not change the configuration (also `fdb del` of an address that has no
/// static entry).
///
/// # Errors
/// Why the request is refused.
pub fn edit(config: &mut Running, request: &AnyRequest) -> Result<Option<Vec<Action>>, RpcError> {
    // What it is if the steps can't be done, and what it is about.
    let mut code = ErrorCode::Invalid;
    let path;
    let steps = match request {
        AnyRequest::Port(PortRequest::Add(port)) => {
            path = format!("port.{}", port.name);
            if config.port(&port.name).is_some() {
                code = ErrorCode::Exists;
            }
            let mut bridges = Vec::new();
            for bridge in &port.bridges {
                let member = bridge.parse().map_err(|why: String| invalid(why).at(&path));
                let Member { port: bridge, vlan } = member?;
                bridge_of(config, &bridge)?;
                bridges.push((bridge, vlan));
            }
            let keys = keys_of(port);
            config.read_port(&borrowed(&keys)).and_then(|port| config.add_port(port, &bridges))
        }
        AnyRequest::Port(PortRequest::Del(PortDel { name })) => {
            path = format!("port.{name}");
            port_of(config, name)?;
            if config.is_underlay(name) {
                let why = format!("port {name:?} is the underlay of [vxlan]: apply a configuration without it");
                return Err(RpcError::refused(ErrorCode::Conflict, why).at(path));
            }
            Ok(config.remove_port(name))
        }
        AnyRequest::Bridge(BridgeRequest::Add(bridge)) => {
            path = format!("bridge.{}", bridge.name);
            let vni = bridge.keys.0.get("vni").and_then(Json::as_u64).and_then(|vni| u32::try_from(vni).ok());
            if config.bridge(&bridge.name).is_some() {
                code = ErrorCode::Exists;
            } else if vni.is_some_and(|vni| config.is_vni_used(vni)) {
                code = ErrorCode::Conflict;
            }
            let keys = keys_of(bridge);
            config.read_bridge(&borrowed(&keys)).and_then(|bridge| config.add_bridge(&bridge))
        }
        AnyRequest::Bridge(BridgeRequest::Del(BridgeDel { name })) => {
            path = format!("bridge.{name}");
            bridge_of(config, name)?;
            Ok(vec![Action::RemoveBridge { name: name.clone() }])
        }
        AnyRequest::Port(PortRequest::Up(PortUp { name })) => {
            path = format!("port.{name}");
            let new = Port { admin_up: true, ..port_of(config, name)?.clone() };
            config.change_port(&new)
        }
        AnyRequest::Port(PortRequest::Down(PortDown { name })) => {
            path = format!("port.{name}");
            let new = Port { admin_up: false, ..port_of(config, name)?.clone() };
            config.change_port(&new)
        }
        AnyRequest::Port(PortRequest::Set(PortSet { name, key, values })) => {
            path = format!("port.{name}.{key}");
            let kind = port_of(config, name)?.kind.name();
            if matches!(key.as_str(), "name" | "kind") {
                return Err(invalid(format!("the {key} of a port does not change: delete it and add another")).at(path));
            }
            config.set_port(name, key, value(&schema::PORT, Some(kind), key, values).as_deref())
        }
        AnyRequest::Bridge(BridgeRequest::Set(BridgeSet { name, key, values })) => {
            path = format!("bridge.{name}.{key}");
            bridge_of(config, name)?;
            if key == "name" {
                return Err(invalid("the name of a bridge does not change: delete it and add another").at(path));
            }
            config.set_bridge(name, key, value(&schema::BRIDGE, None, key, values).as_deref())
        }
        AnyRequest::Log(LogRequest::Level(LogLevel { level })) => {
            let set = ConfigSet { table: "log".into(), key: "level".into(), values: vec![level.clone()] };
            return edit(config, &set.into());
        }
        AnyRequest::Config(ConfigRequest::Set(ConfigSet { table, key, values })) => {
            path = format!("{table}.{key}");
            let header = format!("[{table}]");
            let Some(section) = schema::SECTIONS.iter().find(|section| section.header == header) else {
                let why = match table.as_str() {
                    "port" | "bridge" => format!("there are several [[{table}]]: dray {table} set changes one of them"),
                    _ => format!("no table to be changed so is called {table:?}: fdb, balance, log or vxlan"),
                };
                return Err(invalid(why).at(table));
            };
            config.set_table(section, key, value(section, None, key, values).as_deref())
        }
        AnyRequest::Bridge(BridgeRequest::Join(BridgeJoin { name, ports })) => {
            path = format!("bridge.{name}");
            bridge_of(config, name)?;
            let is_here = |port: &Member| config.memberships(&port.port).any(|at| at == (name.as_str(), port.vlan));
            if ports.iter().any(is_here) {
                code = ErrorCode::Exists;
            }
            config.join(name, ports)
        }
        AnyRequest::Bridge(BridgeRequest::Leave(BridgeLeave { name, ports })) => {
            path = format!("bridge.{name}");
            bridge_of(config, name)?;
            let mut left = Vec::new();
            for wanted in ports {
                let member = member_of(config, name, wanted, &left)?;
                left.push(member);
            }
            Ok(config.leave(name, left))
        }
        AnyRequest::Vtep(VtepRequest::Add(VtepAdd { vteps, bridge })) => {
            path = peers_path(bridge.as_deref());
            let peers = peers_of(config, bridge.as_deref())?;
            if vteps.iter().any(|vtep| peers.contains(vtep)) {
                code = ErrorCode::Exists;
            }
            config.add_peers(bridge.as_deref(), vteps)
        }
        AnyRequest::Vtep(VtepRequest::Del(VtepDel { vteps, bridge })) => {
            path = peers_path(bridge.as_deref());
            let mut peers = peers_of(config, bridge.as_deref())?.to_vec();
            for vtep in vteps {
                let Some(at) = peers.iter().position(|peer| peer == vtep) else {
                    return Err(not_found(format!("{vtep} is not in the list")).at(path));
                };
                peers.remove(at);
            }
            Ok(config.set_peers(bridge.as_deref(), peers))
        }
        AnyRequest::Fdb(FdbRequest::Add(FdbAdd { bridge, mac, port, vtep })) => {
            path = format!("bridge.{bridge}.{mac}");
            if bridge_of(config, bridge)?.statics.get(*mac).is_some() {
                code = ErrorCode::Exists;
            }
            config.add_static(bridge, *mac, port.as_ref(), *vtep)
        }
        AnyRequest::Fdb(FdbRequest::Del(FdbDel { bridge, mac })) => {
            let is_static = bridge_of(config, bridge)?.statics.get(*mac).is_some();
            return Ok(is_static.then(|| config.del_static(bridge, *mac)));
        }
        _ => return Ok(None),
    };
    steps.map(Some).map_err(|why| RpcError::refused(code, why).at(path))
}

/// Whether there is nothing left to be done of a request: what it adds is there just so, or what it deletes is not there.
pub fn is_done(config: &Running, request: &AnyRequest) -> bool {
    let is_member = |bridge: &str, member: &Member| {
        config.memberships(&member.port).any(|(of, vlan)| (of, vlan) == (bridge, member.vlan))
    };
    match request {
        AnyRequest::Port(PortRequest::Add(port)) => {
            let keys = keys_of(port);
            let is_there = |bridge: &String| {
                let of = bridge.parse::<Member>();
                of.is_ok_and(|of| is_member(&of.port, &Member { port: port.name.clone(), vlan: of.vlan }))
            };
            let same = |there: &Port| config.read_port(&borrowed(&keys)).is_ok_and(|wanted| wanted == *there);
            config.port(&port.name).is_some_and(same) && port.bridges.iter().all(is_there)
        }
        AnyRequest::Port(PortRequest::Del(PortDel { name })) => config.port(name).is_none(),
        AnyRequest::Bridge(BridgeRequest::Add(bridge)) => {
            let (Some(there), Ok(wanted)) =
                (config.bridge(&bridge.name), config.read_bridge(&borrowed(&keys_of(bridge))))
            else {
                return false;
            };
            (&there.description, there.vni, there.mtu, &there.peers)
                == (&wanted.description, wanted.vni, wanted.mtu, &wanted.peers)
                && wanted.statics.iter().all(|entry| there.statics.get(entry.mac) == Some(entry))
                && bridge.ports.iter().all(|member| is_member(&bridge.name, member))
        }
        AnyRequest::Bridge(BridgeRequest::Del(BridgeDel { name })) => config.bridge(name).is_none(),
        AnyRequest::Bridge(BridgeRequest::Join(BridgeJoin { name, ports })) => {
            config.bridge(name).is_some() && ports.iter().all(|member| is_member(name, member))
        }
        AnyRequest::Bridge(BridgeRequest::Leave(BridgeLeave { name, ports })) => {
            // Without a VLAN any is meant.
            let is_left = |left: &Member| {
                let mut here = config.memberships(&left.port).filter(|(of, _)| of == name);
                here.all(|(_, vlan)| left.vlan.is_some() && left.vlan != vlan)
            };
            ports.iter().all(is_left)
        }
        AnyRequest::Vtep(VtepRequest::Add(VtepAdd { vteps, bridge })) => {
            peers_of(config, bridge.as_deref()).is_ok_and(|peers| vteps.iter().all(|vtep| peers.contains(vtep)))
        }
        AnyRequest::Vtep(VtepRequest::Del(VtepDel { vteps, bridge })) => {
            peers_of(config, bridge.as_deref()).is_ok_and(|peers| vteps.iter().all(|vtep| !peers.contains(vtep)))
        }
        AnyRequest::Fdb(FdbRequest::Add(FdbAdd { bridge, mac, port, vtep })) => {
            let there = config.bridge(bridge).and_then(|bridge| bridge.statics.get(*mac));
            there.is_some() && there == config.static_entry(bridge, *mac, port.as_ref(), *vtep).ok().as_ref()
        }
        AnyRequest::Fdb(FdbRequest::Del(FdbDel { bridge, .. })) => config.bridge(bridge).is_none(),
        _ => false,
    }
}

fn invalid(why: impl Into<String>) -> RpcError {
    RpcError::refused(ErrorCode::Invalid, why)
}

fn not_found(why: String) -> RpcError {
    RpcError::refused(ErrorCode::NotFound, why)
}

fn peers_path(bridge: Option<&str>) -> String {
    bridge.map_or_else(|| "vxlan.peers".into(), |bridge| format!("bridge.{bridge}.peers"))
}

/// What the words of a request are in TOML, for the key `key`; none: its default. If that is not of the key's type, the reader says so.
fn value(section: &Section, kind: Option<&str>, key: &str, words: &[String]) -> Option<String> {
    let of_type = section.keys_for(kind).find(|known| known.name == key).map(|known| &known.value);
    if words.is_empty() {
        return None;
    }
    Some(match of_type {
        Some(Value::Array(_)) => {
            let item = |word: &String| match toml_word(word).filter(toml::Value::is_table) {
                Some(table) => table.to_string(),
                None => text(word),
            };
            format!("[{}]", words.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        Some(Value::Integer(..) | Value::PowerOfTwo(..) | Value::Boolean) => {
            let word = words.join(" ");
            let value = toml_word(&word).filter(|value| value.is_integer() || value.is_bool());
            value.map_or_else(|| text(&word), |value| value.to_string())
        }
        Some(Value::String(_)) | None => text(words.join(" ")),
    })
}

fn port_of<'a>(config: &'a Running, name: &str) -> Result<&'a Port, RpcError> {
    config.port(name).ok_or_else(|| {
        let suggestion = suggest(name, config.ports.iter().map(|port| port.name.as_str()), "");
        not_found(format!("there is no port {name:?}{suggestion}")).at(format!("port.{name}"))
    })
}

/// The membership that is meant: of a port that has one only, without its VLAN too. Those that have `left` are none any more.
fn member_of(config: &Running, bridge: &str, wanted: &Member, left: &[Member]) -> Result<Member, RpcError> {
    let here = config.memberships(&wanted.port).filter(|(of, _)| *of == bridge);
    let here = here.map(|(_, vlan)| Member { port: wanted.port.clone(), vlan });
    let mut here: Vec<Member> = here.filter(|member| !left.contains(member)).collect();
    if here.contains(wanted) {
        return Ok(wanted.clone());
    }
    match (here.len(), wanted.vlan) {
        (1, None) => Ok(here.remove(0)),
        (2.., None) => Err(invalid(format!(
            "port {:?} is several members of bridge {bridge:?}: say which by its VLAN, {}:VLAN",
            wanted.port, wanted.port
        ))),
        _ => Err(not_found(format!("{wanted} is not in bridge {bridge:?}"))),
    }
}

/// The head-end replication list of the overlay or of a bridge.
fn peers_of<'a>(config: &'a Running, bridge: Option<&str>) -> Result<&'a [Ipv4Addr], RpcError> {
    let none = || not_found("there is no overlay: [vxlan] has it".into()).at("vxlan");
    if config.vxlan.is_some()
        && let Some(name) = bridge
        && bridge_of(config, name)?.vni.is_none()
    {
        let why = format!("bridge {name:?} is not in the overlay: give it a vni");
        return Err(RpcError::refused(ErrorCode::Conflict, why).at(format!("bridge.{name}.vni")));
    }
    config.peers(bridge).ok_or_else(none)
}

fn bridge_of<'a>(config: &'a Running, name: &str) -> Result<&'a Bridge, RpcError> {
    config.bridge(name).ok_or_else(|| {
        let suggestion = suggest(name, config.bridges.iter().map(|bridge| bridge.name.as_str()), "");
        not_found(format!("there is no bridge {name:?}{suggestion}")).at(format!("bridge.{name}"))
    })
}

/// The file's keys in a request, and their values in TOML.
fn keys_of(request: &impl Serialize) -> Vec<(String, String)> {
    let keys = match serde_json::to_value(request) {
        Ok(Json::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let key = |(key, value): (String, Json)| Some((key.replace('_', "-"), toml_of(&value)?.to_string()));
    keys.into_iter().filter(|(key, _)| key != "bridges").filter_map(key).collect()
}

fn borrowed(keys: &[(String, String)]) -> Vec<(&str, String)> {
    keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect()
}

/// A value in TOML. In a list, text may stand for a table.
fn toml_of(value: &Json) -> Option<toml::Value> {
    match value {
        Json::Array(items) => {
            let table = |item: &Json| toml_word(item.as_str()?).filter(toml::Value::is_table);
            let items = items.iter().filter_map(|item| table(item).or_else(|| toml_of(item)));
            Some(toml::Value::Array(items.collect()))
        }
        value => toml::Value::try_from(value).ok(),
    }
}

/// A word that is a value in TOML.
fn toml_word(word: &str) -> Option<toml::Value> {
    format!("x = {word}").parse::<toml::Table>().ok()?.remove("x")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_api::{BridgeAdd, PortAdd, StatusShow};
    use dray_config::{ValidConfig, merge, parse, parse_for, plan, render};

    fn base() -> ValidConfig {
        parse_for("example.toml", dray_config::EXAMPLE, &[]).unwrap()
    }

    /// The plan's lines for the request.
    fn changes(request: impl Into<AnyRequest>) -> Result<Vec<String>, String> {
        let mut running = Running::new(base());
        let Some(steps) = edit(&mut running, &request.into()).map_err(|error| error.message)? else {
            return Ok(vec![]);
        };
        // They are what a plan would have, and lead to what a file may have.
        running.perform(&steps);
        let text = render(&running);
        let read = parse_for("edited", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(plan(&running, &read), vec![], "{text}");
        let lines = |steps: &[Action]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(lines(&plan(&base(), &read)), lines(&steps));
        Ok(lines(&steps))
    }

    fn add() -> PortAdd {
        let port = PortAdd { name: "new".into(), ..PortAdd::default() };
        with(&port, &[("kind", "memif".into()), ("socket", "/m\"".into())])
    }

    /// The port with these keys, too.
    fn with(port: &PortAdd, keys: &[(&str, Json)]) -> PortAdd {
        let mut port = port.clone();
        port.keys.0.extend(keys.iter().map(|(key, value)| ((*key).into(), value.clone())));
        port
    }

    fn bridge(name: &str, vni: u32) -> BridgeAdd {
        let keys = [("vni", vni.into())].into();
        BridgeAdd { name: name.into(), keys, ..BridgeAdd::default() }
    }

    #[test]
    fn ports() {
        let bridges = vec!["blue".into(), "local:7".into()];
        let request = PortAdd { bridges, ..add() };
        assert_eq!(
            changes(request),
            Ok(vec![
                "+ port new: memif server /m\" id 0".into(),
                "~ bridge blue: +new".into(),
                "~ bridge local: +new:7".into(),
            ])
        );
        let request = PortDel { name: "trunk".into() };
        assert_eq!(
            changes(request),
            Ok(vec![
                "- port trunk".into(),
                "~ bridge blue: -trunk:10, -static 02:00:00:00:00:0a at trunk:10".into(),
                "~ bridge local: -trunk:20".into(),
            ])
        );
    }

    #[test]
    fn vhost_user_ports() {
        let port = with(&add(), &[("kind", "vhost-user".into()), ("socket", "@new".into())]);
        let request = |port: PortAdd| changes(port);
        assert_eq!(request(port.clone()), Ok(vec!["+ port new: vhost-user client @new".into()]));
        let server = with(&port, &[("role", "server".into()), ("queues", 4.into())]);
        assert_eq!(request(server), Ok(vec!["+ port new: vhost-user server @new".into()]));
        assert_eq!(
            request(with(&port, &[("socket", "/run/dray/vm1/vm1.sock".into())])),
            Err("socket = \"/run/dray/vm1/vm1.sock\" of port \"new\" is already port \"vm1\"'s: \
                 a vhost-user port has its own"
                .into())
        );
        assert_eq!(
            request(with(&port, &[("id", 1.into()), ("ring_size", 512.into())])),
            Err("id does not fit kind = \"vhost-user\" in [[port]] \"new\": it is for \"memif\"\n\
                 ring-size does not fit kind = \"vhost-user\" in [[port]] \"new\": it is for \"memif\", \"eth\""
                .into())
        );
    }

    #[test]
    fn wrong_ports_are_refused_with_the_files_messages() {
        let request = |port: PortAdd| changes(port).unwrap_err();
        assert_eq!(
            request(with(&add(), &[("mtu", 10.into()), ("mac", "x".into())])),
            "mac = \"x\": a MAC address is six hexadecimal bytes, like \"02:00:00:00:00:01\"\n\
             mtu = 10 is out of range: 68 to 9198"
        );
        assert_eq!(
            request(PortAdd { name: "web".into(), ..add() }),
            "port name \"web\" is already used: names are unique"
        );
        assert_eq!(
            request(PortAdd { bridges: vec!["bleu".into()], ..add() }),
            "there is no bridge \"bleu\"; did you mean \"blue\"?"
        );
        let del = |name: &str| changes(PortDel { name: name.into() }).unwrap_err();
        assert_eq!(del("wbe"), "there is no port \"wbe\"; did you mean \"web\"?");
        assert_eq!(del("uplink"), "port \"uplink\" is the underlay of [vxlan]: apply a configuration without it");
    }

    #[test]
    fn bridges() {
        let ports = vec![Member { port: "db".into(), vlan: Some(3) }];
        assert_eq!(changes(BridgeAdd { ports, ..bridge("new", 7) }), Ok(vec!["+ bridge new: vni 7, db:3".into()]));
        let used = "vni = 42 is already used: each bridge has its own";
        assert_eq!(changes(bridge("new", 42)), Err(used.into()));
        // Any key of the file.
        let mut all = bridge("new", 7);
        let more = [
            ("mtu", 1450.into()),
            ("peers", vec!["10.9.0.2"].into()),
            ("static", vec!["{ mac = '02:00:00:00:00:07', vtep = '10.9.0.2' }"].into()),
        ];
        all.keys.0.extend(more.map(|(key, value): (&str, Json)| (key.into(), value)));
        let steps = edit(&mut Running::new(base()), &all.into()).unwrap().unwrap();
        let [Action::AddBridge(new)] = &steps[..] else { panic!("{steps:?}") };
        let peer = Ipv4Addr::new(10, 9, 0, 2);
        assert_eq!((new.mtu, new.peers.as_deref(), new.statics.len()), (Some(1450), Some(&[peer][..]), 1));
        let request = BridgeDel { name: "blue".into() };
        assert_eq!(changes(request), Ok(vec!["- bridge blue".into()]));
    }

    #[test]
    fn static_entries() {
        let mac = "02:00:00:00:00:0c".parse().unwrap();
        let request = |mac, port: Option<Member>, vtep: Option<&str>| {
            let vtep = vtep.map(|ip| ip.parse().unwrap());
            changes(FdbAdd { bridge: "blue".into(), mac, port, vtep })
        };
        // The port's only membership is meant.
        let member = Some(Member { port: "trunk".into(), vlan: None });
        let added = request(mac, member.clone(), None);
        assert_eq!(added, Ok(vec!["~ bridge blue: +static 02:00:00:00:00:0c at trunk:10".into()]));
        let added = request(mac, None, Some("10.9.0.2"));
        assert_eq!(added, Ok(vec!["~ bridge blue: +static 02:00:00:00:00:0c at 10.9.0.2".into()]));
        assert!(request(mac, None, None).is_err());
        assert!(request(mac, None, Some("224.0.0.1")).is_err());
        assert!(request("01:00:00:00:00:00".parse().unwrap(), member, None).is_err());
        let del = |mac: &str| changes(FdbDel { bridge: "blue".into(), mac: mac.parse().unwrap() });
        assert_eq!(del("02:00:00:00:00:0a"), Ok(vec!["~ bridge blue: -static 02:00:00:00:00:0a at trunk:10".into()]));
        assert_eq!(del("02:00:00:00:00:0c"), Ok(vec![]));
    }

    fn set(table: &str, key: &str, values: &[&str]) -> AnyRequest {
        let (key, values) = (key.to_owned(), values.iter().map(|value| (*value).to_owned()).collect());
        match table.split_once(' ') {
            Some(("port", name)) => PortSet { name: name.into(), key, values }.into(),
            Some(("bridge", name)) => BridgeSet { name: name.into(), key, values }.into(),
            _ => ConfigSet { table: table.into(), key, values }.into(),
        }
    }

    #[test]
    fn keys_are_set_and_unset() {
        let lines = |table: &str, key: &str, values: &[&str]| changes(set(table, key, values)).unwrap();
        assert_eq!(lines("port trunk", "mtu", &["9000"]), ["~ port trunk: mtu 1500 -> 9000"]);
        assert_eq!(lines("port trunk", "mtu", &[]), ["~ port trunk: mtu 1500 -> 9198"]);
        assert_eq!(lines("port web", "mtu", &[]), [""; 0]);
        assert_eq!(lines("port web", "admin", &["down"]), ["~ port web: admin up -> down"]);
        let text = lines("port web", "description", &["the", "\"shop\"", "1"]);
        assert_eq!(text, [r#"~ port web: description none -> "the \"shop\" 1""#]);
        assert_eq!(
            lines("port db", "secret", &["7"]),
            ["- port db", "+ port db: memif server /run/dray/db/memif.sock id 1"]
        );
        assert_eq!(lines("bridge blue", "vni", &["43"]), ["~ bridge blue: vni 42 -> 43"]);
        assert_eq!(lines("bridge blue", "peers", &["10.9.0.2", "10.9.0.4"]), ["~ bridge blue: peers 2"]);
        assert_eq!(lines("bridge blue", "peers", &[]), ["~ bridge blue: peers of [vxlan]"]);
        let members =
            lines("bridge blue", "ports", &["web", "{ port = \"trunk\", vlan = 10 }", "{ port = \"db\", vlan = 5 }"]);
        assert_eq!(members, ["~ bridge blue: +db:5"]);
        assert_eq!(lines("fdb", "ageing", &["60"]), ["~ fdb: ageing 300 -> 60"]);
        assert_eq!(lines("balance", "interval", &["0"]), ["~ balance: interval 5 -> 0"]);
        assert_eq!(lines("log", "level", &["warn,port=debug"]), ["~ log: level info -> warn,port=debug"]);
        assert_eq!(lines("vxlan", "learn-vteps", &["true"]), ["~ vxlan: learn-vteps false -> true"]);
    }

    #[test]
    fn what_is_set_is_checked_as_the_file_is() {
        let error = |table: &str, key: &str, values: &[&str]| changes(set(table, key, values)).unwrap_err();
        assert_eq!(error("port web", "mtu", &["10"]), "mtu = 10 is out of range: 68 to 9198");
        assert_eq!(error("port web", "mtu", &["big"]), "mtu = \"big\" is a string, not integer: 68 to 9198");
        for values in [&["1"][..], &[]] {
            assert_eq!(
                error("port web", "mtuu", values),
                "unknown key \"mtuu\" in [[port]] \"web\"; did you mean \"mtu\"?"
            );
        }
        assert_eq!(error("port wbe", "mtu", &["68"]), "there is no port \"wbe\"; did you mean \"web\"?");
        assert_eq!(
            error("port trunk", "socket", &[]).lines().next(),
            Some("[[port]] \"trunk\" needs socket: an absolute path, or @name in the abstract namespace")
        );
        assert_eq!(
            error("port web", "admin", &["off"]),
            "admin = \"off\": not an administrative state: \"up\" or \"down\""
        );
        assert!(error("port web", "description", &["a\nb"]).contains("without control characters"));
        assert!(error("port web", "description", &[&"x".repeat(129)]).ends_with("at most 128 characters, not 129"));
        assert!(error("port web", "kind", &["eth"]).contains("does not change"));
        assert!(error("bridge blue", "name", &["red"]).contains("does not change"));
        assert!(error("port", "mtu", &["68"]).contains("dray port set"));
        for wrong in ["loud", "", "info,", "port=", "=info", "a b=info", "info;port=debug"] {
            assert!(error("log", "level", &[wrong]).contains("is no level: off, error"), "{wrong}");
        }
        assert!(error("fbd", "ageing", &["60"]).ends_with("fdb, balance, log or vxlan"));
    }

    #[test]
    fn members_and_peers_come_and_go() {
        let member = |text: &str| vec![text.parse::<Member>().unwrap()];
        let join = |port| changes(BridgeJoin { name: "blue".into(), ports: member(port) });
        let leave = |port| changes(BridgeLeave { name: "blue".into(), ports: member(port) });
        assert_eq!(join("vm1:30"), Ok(vec!["~ bridge blue: +vm1:30".into()]));
        let error = join("db").unwrap_err();
        assert!(error.starts_with("port \"db\" is already in bridge \"local\" untagged"), "{error}");
        assert_eq!(join("dbb"), Err("unknown port \"dbb\"; did you mean \"db\"?".into()));
        assert_eq!(leave("web"), Ok(vec!["~ bridge blue: -web".into()]));
        // Its only membership is meant, and what is static there goes with it.
        let gone = "~ bridge blue: -trunk:10, -static 02:00:00:00:00:0a at trunk:10";
        assert_eq!(leave("trunk"), Ok(vec![gone.into()]));
        assert_eq!(leave("trunk:11"), Err("trunk:11 is not in bridge \"blue\"".into()));
        assert_eq!(leave("db"), Err("db is not in bridge \"blue\"".into()));

        let ip = |last| Ipv4Addr::new(10, 9, 0, last);
        let add =
            |last, bridge: Option<&str>| changes(VtepAdd { vteps: vec![ip(last)], bridge: bridge.map(Into::into) });
        let del =
            |last, bridge: Option<&str>| changes(VtepDel { vteps: vec![ip(last)], bridge: bridge.map(Into::into) });
        assert!(add(4, None).unwrap()[0].ends_with("peers 2 -> 3"));
        assert!(del(2, None).unwrap()[0].ends_with("peers 2 -> 1"));
        assert_eq!(add(4, Some("blue")), Ok(vec!["~ bridge blue: peers 2".into()]));
        assert_eq!(del(3, Some("blue")), Ok(vec!["~ bridge blue: peers 0".into()]));
        assert_eq!(add(2, None), Err("peers: \"10.9.0.2\" is listed twice: once is enough".into()));
        assert_eq!(del(9, None), Err("10.9.0.9 is not in the list".into()));
        assert!(add(4, Some("local")).unwrap_err().contains("not in the overlay"));
    }

    #[test]
    fn ports_go_up_and_down() {
        let up = |name: &str| changes(PortUp { name: name.into() });
        let down = |name: &str| changes(PortDown { name: name.into() });
        assert_eq!((down("web"), up("web")), (Ok(vec!["~ port web: admin up -> down".into()]), Ok(vec![])));
        assert!(down("wbe").is_err());
    }

    #[test]
    fn refusals_have_codes_and_say_what_they_are_about() {
        use ErrorCode::{Conflict, Exists, Invalid, NotFound};
        fn refusal(request: impl Into<AnyRequest>) -> (ErrorCode, String) {
            let data = edit(&mut Running::new(base()), &request.into()).unwrap_err().data.unwrap();
            (data.code, data.path.unwrap_or_default())
        }
        let port = |name: &str| PortAdd { name: name.into(), ..add() };
        let members = |text: &str| vec![text.parse::<Member>().unwrap()];
        assert_eq!(refusal(port("web")), (Exists, "port.web".into()));
        assert_eq!(refusal(with(&port("x"), &[("mtu", 1.into())])), (Invalid, "port.x".into()));
        assert_eq!(refusal(PortAdd { bridges: vec!["no".into()], ..port("x") }), (NotFound, "bridge.no".into()));
        assert_eq!(refusal(PortDel { name: "no".into() }), (NotFound, "port.no".into()));
        assert_eq!(refusal(PortDel { name: "uplink".into() }), (Conflict, "port.uplink".into()));
        assert_eq!(refusal(set("port web", "mtu", &["1"])), (Invalid, "port.web.mtu".into()));
        assert_eq!(refusal(set("port no", "mtu", &["1"])), (NotFound, "port.no".into()));
        assert_eq!(refusal(set("fdb", "ageing", &["x"])), (Invalid, "fdb.ageing".into()));
        assert_eq!(refusal(bridge("blue", 7)), (Exists, "bridge.blue".into()));
        assert_eq!(refusal(bridge("new", 42)), (Conflict, "bridge.new".into()));
        let join = |port| BridgeJoin { name: "blue".into(), ports: members(port) };
        assert_eq!((refusal(join("web")), refusal(join("no")).0), ((Exists, "bridge.blue".into()), Invalid));
        let vteps = vec![Ipv4Addr::new(10, 9, 0, 2)];
        assert_eq!(refusal(VtepAdd { vteps: vteps.clone(), bridge: None }), (Exists, "vxlan.peers".into()));
        let local = VtepAdd { vteps, bridge: Some("local".into()) };
        assert_eq!(refusal(local), (Conflict, "bridge.local.vni".into()));
    }

    #[test]
    fn what_is_there_just_so_is_done() {
        let mut running = Running::new(base());
        let new = PortAdd { bridges: vec!["blue".into()], ..add() };
        let steps = edit(&mut running, &new.clone().into()).unwrap().unwrap();
        running.perform(&steps);
        let done = |request: AnyRequest| is_done(&running, &request);
        assert!(done(new.clone().into()) && done(add().into()));
        assert!(!done(with(&new, &[("mtu", 1500.into())]).into()));
        assert!(!done(PortAdd { bridges: vec!["blue:9".into()], ..new }.into()));
        let mut blue = bridge("blue", 42);
        let there = base().bridge("blue").unwrap().clone();
        blue.keys.0.extend(there.description.map(|text| ("description".into(), text.into())));
        blue.keys.0.extend(there.mtu.map(|mtu| ("mtu".into(), mtu.into())));
        let peers = there.peers.map(|peers| peers.iter().map(ToString::to_string).collect::<Vec<_>>());
        blue.keys.0.extend(peers.map(|peers| ("peers".into(), peers.into())));
        assert!(done(blue.clone().into()));
        blue.keys.0.insert("mtu".into(), 1400.into());
        assert!(!done(blue.into()) && !done(bridge("blue", 43).into()));
        assert!(done(PortDel { name: "no".into() }.into()) && !done(PortDel { name: "web".into() }.into()));
        assert!(done(BridgeDel { name: "no".into() }.into()) && !done(BridgeDel { name: "blue".into() }.into()));
        let member = |text: &str| vec![text.parse::<Member>().unwrap()];
        let join = |port| BridgeJoin { name: "blue".into(), ports: member(port) }.into();
        let leave = |port| BridgeLeave { name: "blue".into(), ports: member(port) }.into();
        assert_eq!([done(join("web")), done(join("trunk:10")), done(join("trunk"))], [true, true, false]);
        assert_eq!([done(leave("web")), done(leave("trunk")), done(leave("trunk:11"))], [false, false, true]);
        let ip = |last| vec![Ipv4Addr::new(10, 9, 0, last)];
        let add = |vteps| VtepAdd { vteps, bridge: None }.into();
        let del = |vteps| VtepDel { vteps, bridge: None }.into();
        assert_eq!(
            [done(add(ip(2))), done(add(ip(9))), done(del(ip(2))), done(del(ip(9)))],
            [true, false, false, true]
        );
        let entry = |mac: &str, port: &str| {
            let (mac, port) = (mac.parse().unwrap(), port.parse().ok());
            FdbAdd { bridge: "blue".into(), mac, port, vtep: None }.into()
        };
        assert!(done(entry("02:00:00:00:00:0a", "trunk")) && !done(entry("02:00:00:00:00:0a", "web")));
        assert!(!done(entry("02:00:00:00:00:0b", "web")) && !done(StatusShow {}.into()));
    }

    #[test]
    fn other_requests_change_nothing() {
        assert_eq!(edit(&mut Running::new(base()), &StatusShow {}.into()), Ok(None));
    }

    const FILE: &str = r#"# The shop's host.

# Ann's machine
[[port]]
name = 'web'            # do not rename
kind = "memif"
socket = "/run/m.sock"
mtu = 9_198             # as the others have it

[[bridge]]
name = "blue"
# Both floors.
ports = [
    "web",              # ground floor
    { port = "db", vlan = 7 },  # first floor
]

[[port]]
name = "db"             # Bob's
kind = "memif"
id = 0x1
socket = "/run/m.sock"

[fdb]
ageing = 60             # short
# The end.
"#;

    /// The file after commands of `dray`.
    fn after(file: &str, requests: &[&str]) -> String {
        let mut config = Running::new(parse("file", file).unwrap_or_else(|errors| panic!("{errors}")));
        for request in requests {
            let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,{request}}}");
            let request = AnyRequest::decode(line.as_bytes()).1.unwrap_or_else(|error| panic!("{error}"));
            let steps = edit(&mut config, &request).unwrap().unwrap();
            config.perform(&steps);
        }
        merge(file, &render(&config))
    }

    /// The lines that differ.
    fn changed(requests: &[&str]) -> Vec<String> {
        let new = after(FILE, requests);
        let (old, new): (Vec<&str>, Vec<&str>) = (FILE.lines().collect(), new.lines().collect());
        let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("-{line}"));
        let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+{line}"));
        gone.chain(come).collect()
    }

    #[test]
    fn what_did_not_change_stays_as_it_is() {
        assert_eq!(after(FILE, &[]), FILE);
    }

    #[test]
    fn values_change_and_comments_stay() {
        let set = r#""method":"port.set","params":{"name":"web","key":"mtu","values":["1500"]}"#;
        assert_eq!(
            changed(&[set]),
            ["-mtu = 9_198             # as the others have it", "+mtu = 1500             # as the others have it"]
        );
        let set = r#""method":"port.set","params":{"name":"db","key":"description","values":["x"]}"#;
        assert_eq!(changed(&[set]), ["+description = \"x\""]);
        let set = r#""method":"config.set","params":{"table":"fdb","key":"ageing","values":["300"]}"#;
        assert_eq!(changed(&[set]), ["-[fdb]", "-ageing = 60             # short"]);
        let set = r#""method":"config.set","params":{"table":"balance","key":"interval","values":["9"]}"#;
        assert_eq!(changed(&[set]), ["+[balance]", "+interval = 9"]);
    }

    #[test]
    fn members_come_and_go_and_others_keep_their_comments() {
        let join = r#""method":"bridge.join","params":{"name":"blue","ports":[{"port":"web","vlan":9}]}"#;
        assert_eq!(changed(&[join]), ["+    { port = \"web\", vlan = 9 },"]);
        let leave = r#""method":"bridge.leave","params":{"name":"blue","ports":[{"port":"web"}]}"#;
        let new = after(FILE, &[leave]);
        assert!(
            new.contains("# Both floors.\nports = [\n    { port = \"db\", vlan = 7 },  # first floor\n]\n"),
            "{new}"
        );
        let leave = r#""method":"bridge.leave","params":{"name":"blue","ports":[{"port":"db"}]}"#;
        let new = after(FILE, &[leave]);
        assert!(new.contains("ports = [\n    \"web\",              # ground floor\n]\n"), "{new}");
    }

    #[test]
    fn a_port_goes_with_its_comments_and_leaves_others() {
        let del = r#""method":"port.del","params":{"name":"web"}"#;
        let new = after(FILE, &[del]);
        assert!(new.starts_with("# The shop's host.\n") && !new.contains("Ann's"), "{new}");
        assert!(new.contains("name = \"db\"             # Bob's\n") && new.contains("id = 0x1\n"), "{new}");
        let add = r#""method":"port.add","params":{"name":"new","kind":"memif","socket":"@x","role":"client"}"#;
        let new = after(FILE, &[add]);
        assert!(
            new.contains("\n[[port]]\nname = \"new\"\nkind = \"memif\"\nsocket = \"@x\"\nrole = \"client\"\n"),
            "{new}"
        );
        assert!(FILE.lines().all(|line| new.contains(line)), "{new}");
        // Deleted and added again it is where it was first, and no comment is lost that is not about it.
        let again = r#""method":"port.add","params":{"name":"db","kind":"memif","socket":"/run/m.sock","id":1}"#;
        let del = r#""method":"port.del","params":{"name":"db"}"#;
        let join = r#""method":"bridge.join","params":{"name":"blue","ports":[{"port":"db","vlan":7}]}"#;
        assert_eq!(after(FILE, &[del, again, join]), FILE);
    }
}
