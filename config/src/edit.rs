//! Requests that change the running configuration, as a new configuration.

use crate::error::suggest;
use crate::render::{render, text};
use crate::rpc::{BridgeRequest, FdbRequest, PortAdd, PortRequest, Request};
use crate::{Bridge, Member, StaticMac, StaticTo, ValidConfig, parse_for};
use std::fmt::Write;

/// The configuration that `request` makes of `config`; `None` if it does not change the configuration (also `fdb del`
/// of an address that has no static entry).
///
/// # Errors
/// Why the request is refused.
pub fn edit(config: &ValidConfig, request: &Request) -> Result<Option<ValidConfig>, String> {
    let mut new = config.clone();
    let mut addition = String::new();
    match request {
        Request::Port(PortRequest::Add(port)) => {
            for bridge in &port.bridges {
                let Member { port: bridge, vlan } = bridge.parse()?;
                let member = Member { port: port.name.clone(), vlan };
                bridge_of(&mut new, &bridge)?.ports.push(member);
            }
            addition = port_table(port);
        }
        Request::Port(PortRequest::Del { name }) => {
            let Some(at) = new.ports.iter().position(|port| port.name == *name) else {
                let names = config.ports.iter().map(|port| port.name.as_str());
                return Err(format!("there is no port {name:?}{}", suggest(name, names, "")));
            };
            if config.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == *name) {
                return Err(format!("port {name:?} is the underlay of [vxlan]: apply a configuration without it"));
            }
            new.ports.remove(at);
            for bridge in &mut new.bridges {
                bridge.ports.retain(|member| member.port != *name);
                bridge.statics.retain(|entry| !matches!(&entry.to, StaticTo::Port(member) if member.port == *name));
            }
        }
        Request::Bridge(BridgeRequest::Add { name, vni, ports }) => {
            let bridge = Bridge { name: name.clone(), vni: *vni, ports: ports.clone(), peers: None, statics: vec![] };
            new.bridges.push(bridge);
        }
        Request::Bridge(BridgeRequest::Del { name }) => {
            bridge_of(&mut new, name)?;
            new.bridges.retain(|bridge| bridge.name != *name);
        }
        Request::Fdb(FdbRequest::Add { bridge, mac, port, vtep }) => {
            let to = match (port, vtep) {
                (Some(member), None) => StaticTo::Port(member.clone()),
                (None, Some(vtep)) => StaticTo::Vtep(*vtep),
                _ => return Err("a static entry has either a port or a vtep".into()),
            };
            bridge_of(&mut new, bridge)?.statics.push(StaticMac { mac: *mac, to });
        }
        Request::Fdb(FdbRequest::Del { bridge, mac }) => {
            bridge_of(&mut new, bridge)?.statics.retain(|entry| entry.mac != *mac);
            return Ok((new != *config).then_some(new));
        }
        _ => return Ok(None),
    }
    // The checks of the file are the checks of the commands. The workers run already, whatever their CPUs are.
    let file = render(&new) + &addition;
    let read = parse_for("request", &file, &[]).map_err(|errors| {
        let messages: Vec<String> = errors.errors.into_iter().map(|error| error.message).collect();
        messages.join("\n")
    })?;
    Ok(Some(read))
}

fn bridge_of<'a>(config: &'a mut ValidConfig, name: &str) -> Result<&'a mut Bridge, String> {
    let suggestion = suggest(name, config.bridges.iter().map(|bridge| bridge.name.as_str()), "");
    let found = config.bridges.iter_mut().find(|bridge| bridge.name == name);
    found.ok_or_else(|| format!("there is no bridge {name:?}{suggestion}"))
}

/// The flags as a `[[port]]` of a file.
fn port_table(port: &PortAdd) -> String {
    let quoted = |value: &Option<String>| value.as_ref().map(text);
    let number = |value: Option<u64>| value.map(|n| n.to_string());
    let keys = [
        ("name", Some(text(&port.name))),
        ("kind", Some(text(&port.kind))),
        ("socket", quoted(&port.socket)),
        ("socket-mode", quoted(&port.socket_mode)),
        ("socket-owner", quoted(&port.socket_owner)),
        ("socket-group", quoted(&port.socket_group)),
        ("id", number(port.id)),
        ("role", quoted(&port.role)),
        ("secret", quoted(&port.secret)),
        ("ring-size", number(port.ring_size)),
        ("buffer-size", number(port.buffer_size)),
        ("queues", number(port.queues)),
        ("mac", quoted(&port.mac)),
        ("mtu", number(port.mtu)),
        ("max-macs", number(port.max_macs)),
        ("device", quoted(&port.device)),
    ];
    let mut table = String::from("\n[[port]]\n");
    for (key, value) in keys {
        if let Some(value) = value {
            let _ = writeln!(table, "{key} = {value}");
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    fn base() -> ValidConfig {
        parse_for("example.toml", include_str!("../example.toml"), &[]).unwrap()
    }

    /// The plan's lines for the request.
    fn changes(request: Request) -> Result<Vec<String>, String> {
        let base = base();
        let Some(new) = edit(&base, &request)? else { return Ok(vec![]) };
        Ok(plan(&base, &new).unwrap().iter().map(ToString::to_string).collect())
    }

    fn add() -> PortAdd {
        PortAdd { name: "new".into(), kind: "memif".into(), socket: Some("/m\"".into()), ..PortAdd::default() }
    }

    #[test]
    fn ports() {
        let bridges = vec!["blue".into(), "local:7".into()];
        let request = Request::Port(PortRequest::Add(Box::new(PortAdd { bridges, ..add() })));
        assert_eq!(
            changes(request),
            Ok(vec![
                "+ port new: memif server /m\" id 0".into(),
                "~ bridge blue: +new".into(),
                "~ bridge local: +new:7".into(),
            ])
        );
        let request = Request::Port(PortRequest::Del { name: "trunk".into() });
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
        let port = PortAdd { kind: "vhost-user".into(), socket: Some("@new".into()), ..add() };
        let request = |port| changes(Request::Port(PortRequest::Add(Box::new(port))));
        assert_eq!(request(port.clone()), Ok(vec!["+ port new: vhost-user client @new".into()]));
        let server = PortAdd { role: Some("server".into()), queues: Some(4), ..port.clone() };
        assert_eq!(request(server), Ok(vec!["+ port new: vhost-user server @new".into()]));
        assert_eq!(
            request(PortAdd { socket: Some("/run/dray/vm1/vm1.sock".into()), ..port.clone() }),
            Err("socket = \"/run/dray/vm1/vm1.sock\" of port \"new\" is already port \"vm1\"'s: \
                 a vhost-user port has its own"
                .into())
        );
        assert_eq!(
            request(PortAdd { id: Some(1), ring_size: Some(512), ..port }),
            Err("id does not fit kind = \"vhost-user\" in [[port]] \"new\": it is for \"memif\"\n\
                 ring-size does not fit kind = \"vhost-user\" in [[port]] \"new\": it is for \"memif\", \"eth\""
                .into())
        );
    }

    #[test]
    fn wrong_ports_are_refused_with_the_files_messages() {
        let request = |port| changes(Request::Port(PortRequest::Add(Box::new(port)))).unwrap_err();
        assert_eq!(
            request(PortAdd { mtu: Some(10), mac: Some("x".into()), ..add() }),
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
        let del = |name: &str| changes(Request::Port(PortRequest::Del { name: name.into() })).unwrap_err();
        assert_eq!(del("wbe"), "there is no port \"wbe\"; did you mean \"web\"?");
        assert_eq!(del("uplink"), "port \"uplink\" is the underlay of [vxlan]: apply a configuration without it");
    }

    #[test]
    fn bridges() {
        let ports = vec![Member { port: "db".into(), vlan: Some(3) }];
        let request = Request::Bridge(BridgeRequest::Add { name: "new".into(), vni: Some(7), ports });
        assert_eq!(changes(request), Ok(vec!["+ bridge new: vni 7, db:3".into()]));
        let request = Request::Bridge(BridgeRequest::Add { name: "new".into(), vni: Some(42), ports: vec![] });
        assert_eq!(changes(request), Err("vni = 42 is already used: each bridge has its own".into()));
        let request = Request::Bridge(BridgeRequest::Del { name: "blue".into() });
        assert_eq!(changes(request), Ok(vec!["- bridge blue".into()]));
    }

    #[test]
    fn static_entries() {
        let mac = "02:00:00:00:00:0c".parse().unwrap();
        let request = |mac, port: Option<Member>, vtep: Option<&str>| {
            let vtep = vtep.map(|ip| ip.parse().unwrap());
            changes(Request::Fdb(FdbRequest::Add { bridge: "blue".into(), mac, port, vtep }))
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
        let del =
            |mac: &str| changes(Request::Fdb(FdbRequest::Del { bridge: "blue".into(), mac: mac.parse().unwrap() }));
        assert_eq!(del("02:00:00:00:00:0a"), Ok(vec!["~ bridge blue: -static 02:00:00:00:00:0a at trunk:10".into()]));
        assert_eq!(del("02:00:00:00:00:0c"), Ok(vec![]));
    }

    #[test]
    fn other_requests_change_nothing() {
        assert_eq!(edit(&base(), &Request::Status {}), Ok(None));
    }
}
