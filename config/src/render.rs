//! The configuration back to a file.

use crate::{Access, Balance, Control, Fdb, Log, Member, Neighbour, PortKind, Role, StaticTo, ValidConfig};
use std::fmt::{Display, Write};

/// The configuration as a file, defaults left out: [`crate::parse`] reads the same from it. The workers are always
/// there, because their default depends on the host.
pub fn render(config: &ValidConfig) -> String {
    let mut out = Out(String::new());

    let default = Control::default();
    if config.control != default {
        out.table("[control]");
        out.unless("socket", text(config.control.socket.display()), text(default.socket.display()));
        out.access(&config.control.access);
        if let Some(metrics) = config.control.metrics {
            out.key("metrics", text(metrics));
        }
    }
    for worker in &config.workers {
        out.table("[[worker]]");
        out.key("cpu", worker.cpu);
        out.unless("idle-sleep", worker.idle_sleep, 0);
    }
    let default = Balance::default();
    if config.balance != default {
        out.table("[balance]");
        out.key("interval", config.balance.interval);
    }
    let default = Fdb::default();
    if config.fdb != default {
        out.table("[fdb]");
        out.unless("size", config.fdb.size, default.size);
        out.unless("ageing", config.fdb.ageing, default.ageing);
    }
    if config.log != Log::default() {
        out.table("[log]");
        out.key("level", text(&config.log.level));
    }
    for port in &config.ports {
        out.table("[[port]]");
        out.key("name", text(&port.name));
        out.description(&port.description);
        out.key("kind", text(port.kind.name()));
        out.unless("admin", text(port.admin()), text("up"));
        match &port.kind {
            PortKind::Memif(memif) => {
                out.key("socket", text(&memif.socket));
                out.access(&memif.access);
                out.unless("id", memif.id, 0);
                out.unless("role", text(memif.role), text(Role::Server));
                if let Some(secret) = &memif.secret {
                    out.key("secret", text(secret));
                }
                out.unless("ring-size", memif.ring_size, 1024);
                out.unless("buffer-size", memif.buffer_size, 2048);
                out.unless("queues", memif.queues, 1);
            }
            PortKind::VhostUser(vhost_user) => {
                out.key("socket", text(&vhost_user.socket));
                out.access(&vhost_user.access);
                out.unless("role", text(vhost_user.role), text(Role::Client));
                out.unless("queues", vhost_user.queues, 16);
            }
            PortKind::Eth(eth) => {
                out.key("device", text(&eth.device));
                out.unless("ring-size", eth.ring_size, 1024);
                out.unless("queues", eth.queues, 1);
            }
        }
        out.unless("mac", text(port.mac), text(config.default_mac(&port.name)));
        out.unless("mtu", port.mtu, port.kind.default_mtu());
        out.unless("max-macs", port.max_macs, config.default_max_macs(port));
        for (key, limit) in port.storm.limits() {
            if let Some(most) = limit {
                out.key(key, most);
            }
        }
    }
    for bridge in &config.bridges {
        out.table("[[bridge]]");
        out.key("name", text(&bridge.name));
        out.description(&bridge.description);
        if let Some(vni) = bridge.vni {
            out.key("vni", vni);
        }
        if !bridge.ports.is_empty() {
            let members = bridge.ports.iter().map(|member| match member.vlan {
                Some(vlan) => format!("{{ port = {}, vlan = {vlan} }}", text(&member.port)),
                None => text(&member.port),
            });
            out.key("ports", list(members));
        }
        if let Some(peers) = &bridge.peers {
            out.key("peers", list(peers.iter().map(text)));
        }
        if !bridge.statics.is_empty() {
            let entries = bridge.statics.iter().map(|entry| {
                let to = match &entry.to {
                    StaticTo::Port(Member { port, vlan: Some(vlan) }) => {
                        format!("port = {}, vlan = {vlan}", text(port))
                    }
                    StaticTo::Port(Member { port, vlan: None }) => format!("port = {}", text(port)),
                    StaticTo::Vtep(vtep) => format!("vtep = {}", text(vtep)),
                };
                format!("{{ mac = {}, {to} }}", text(entry.mac))
            });
            out.key("static", list(entries));
        }
    }
    if let Some(vxlan) = &config.vxlan {
        out.table("[vxlan]");
        out.key("port", text(&vxlan.port));
        out.key("local", text(format_args!("{}/{}", vxlan.local, vxlan.prefix)));
        if let Some(gateway) = vxlan.gateway {
            out.key("gateway", text(gateway));
        }
        if !vxlan.peers.is_empty() {
            out.key("peers", list(vxlan.peers.iter().map(text)));
        }
        if !vxlan.neighbours.is_empty() {
            let entry = |n: &Neighbour| format!("{{ address = {}, mac = {} }}", text(n.address), text(n.mac));
            out.key("neighbours", list(vxlan.neighbours.iter().map(entry)));
        }
        out.unless("udp-port", vxlan.udp_port, 4789);
        out.unless("learn-vteps", vxlan.learn_vteps, false);
    }
    out.0
}

struct Out(String);

impl Out {
    fn table(&mut self, header: &str) {
        let blank = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{blank}{header}");
    }

    fn key(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name} = {value}");
    }

    fn unless<T: Display + PartialEq>(&mut self, name: &str, value: T, default: T) {
        if value != default {
            self.key(name, value);
        }
    }
}

impl Out {
    fn description(&mut self, description: &Option<String>) {
        if let Some(description) = description {
            self.key("description", text(description));
        }
    }

    /// The keys of who may connect to a socket.
    fn access(&mut self, access: &Access) {
        if access.mode != Access::default().mode {
            self.key("socket-mode", text(format_args!("{:04o}", access.mode)));
        }
        for (key, account) in [("socket-owner", &access.owner), ("socket-group", &access.group)] {
            if let Some(account) = account {
                self.key(key, text(&account.name));
            }
        }
    }
}

/// A TOML string.
pub fn text(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

/// A TOML array, on several lines if it is long.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let line = format!("[{}]", items.join(", "));
    if line.len() <= 100 { line } else { format!("[\n    {},\n]", items.join(",\n    ")) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        Account, Bridge, Eth, Mac, Memif, Port, SocketName, StaticMac, StormLimits, VhostUser, Vxlan, Worker, parse_for,
    };
    use proptest::collection::{btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;

    #[test]
    fn renders_the_example_without_its_defaults() {
        let config = parse_for("example.toml", include_str!("../example.toml"), &[0, 1]).unwrap();
        assert_eq!(render(&config), include_str!("../tests/example-rendered.toml"));
        assert_eq!(parse_for("", &render(&config), &[0, 1]).unwrap(), config);
    }

    #[test]
    fn renders_an_empty_configuration() {
        let config = parse_for("", "", &[2, 5]).unwrap();
        assert_eq!(render(&config), "[[worker]]\ncpu = 5\n");
    }

    /// A unicast MAC.
    fn mac() -> impl Strategy<Value = Mac> {
        any::<[u8; 6]>().prop_map(|mut m| {
            m[0] = m[0] & 0xfe | 2;
            Mac(m)
        })
    }

    /// Anything that can be in a secret or a socket's name, quotes and control characters included.
    fn odd_text(max: usize) -> impl Strategy<Value = String> {
        vec(prop_oneof![any::<char>(), proptest::char::range(' ', '~'), Just('"'), Just('\\'), Just('\n')], 1..=max)
            .prop_map(|chars| chars.into_iter().filter(|c| *c != '\0').collect::<String>())
            .prop_filter("not empty", |s| !s.is_empty())
    }

    fn description() -> impl Strategy<Value = String> {
        odd_text(20).prop_map(|text| text.replace(char::is_control, "'"))
    }

    /// Who may connect; by numbers, as a host need not know any name.
    fn access() -> impl Strategy<Value = Access> {
        let account = || option::of((0u32..u32::MAX).prop_map(|id| Account { name: id.to_string(), id }));
        (0u32..=0o777, account(), account()).prop_map(|(mode, owner, group)| Access { mode, owner, group })
    }

    fn port(i: usize) -> impl Strategy<Value = Port> {
        let memif =
            (odd_text(24), any::<bool>(), any::<bool>(), option::of(odd_text(6)), 8u32..=14, 256u32..=65536, access())
                .prop_map(move |(name, is_path, server, secret, ring, buffer_size, access)| {
                    let name = name.replace(char::is_control, "'");
                    // The number keeps sockets apart, so that roles and ids never clash.
                    let socket = if is_path {
                        SocketName::Path(format!("/{i}/{name}").into())
                    } else {
                        SocketName::Abstract(format!("{i}{name}"))
                    };
                    PortKind::Memif(Memif {
                        socket,
                        access: if is_path && server { access } else { Access::default() },
                        id: i as u32 * 3,
                        role: if server { Role::Server } else { Role::Client },
                        secret,
                        ring_size: 1 << ring,
                        buffer_size,
                        queues: 1,
                    })
                });
        let vhost_user = (odd_text(24), any::<bool>(), any::<bool>(), 1u16..=16, access()).prop_map(
            move |(name, is_path, server, queues, access)| {
                let name = name.replace(char::is_control, "'");
                let socket = if is_path {
                    SocketName::Path(format!("/{i}/{name}").into())
                } else {
                    SocketName::Abstract(format!("{i}{name}"))
                };
                let role = if server { Role::Server } else { Role::Client };
                let access = if is_path && server { access } else { Access::default() };
                PortKind::VhostUser(VhostUser { socket, access, role, queues })
            },
        );
        let eth = (6u32..=12, 1u16..=16).prop_map(move |(ring, queues)| {
            PortKind::Eth(Eth { device: format!("net_tap{i},iface=\"x\""), queues, ring_size: 1 << ring })
        });
        let max_macs = option::of(1u32..=1 << 26);
        let storm = [0u32.., 0u32.., 0u32..]
            .prop_map(|most| most.map(NonZeroU32::new))
            .prop_map(|[broadcast, multicast, unknown_unicast]| StormLimits { broadcast, multicast, unknown_unicast });
        let people = (option::of(description()), any::<bool>(), storm);
        (prop_oneof![memif, vhost_user, eth], option::of(mac()), option::of(68u16..=9198), max_macs, people).prop_map(
            move |(kind, mac, mtu, max_macs, (description, admin_up, storm))| Port {
                name: format!("p{i}"),
                description,
                admin_up,
                mtu: mtu.unwrap_or(kind.default_mtu()),
                kind,
                // All zeros stands for the default until the whole configuration is there.
                mac: mac.unwrap_or_default(),
                max_macs: max_macs.unwrap_or(0),
                storm,
            },
        )
    }

    /// Any valid configuration of up to 6 ports, of which the first is the underlay if there is an overlay.
    pub(crate) fn config() -> impl Strategy<Value = ValidConfig> {
        let ports = (1usize..=6).prop_flat_map(|n| (0..n).map(port).collect::<Vec<_>>());
        let peers = btree_set(2u8..=250, 0..4)
            .prop_map(|set| set.into_iter().map(|last| Ipv4Addr::new(10, 9, 0, last)).collect::<Vec<_>>());
        let vxlan = (peers.clone(), any::<bool>(), any::<bool>(), 1u16.., option::of(mac())).prop_map(
            |(peers, gateway, learn, udp, mac)| Vxlan {
                port: "p0".into(),
                local: Ipv4Addr::new(10, 9, 0, 1),
                prefix: 24,
                gateway: gateway.then_some(Ipv4Addr::new(10, 9, 0, 254)),
                peers,
                neighbours: mac.map(|mac| Neighbour { address: Ipv4Addr::new(10, 9, 0, 7), mac }).into_iter().collect(),
                udp_port: udp,
                learn_vteps: learn,
                mtu: 0,
            },
        );
        let bridge = (any::<bool>(), option::of(peers), vec(any::<prop::sample::Index>(), 0..4), vec(mac(), 0..4));
        let bridge = (bridge, option::of(description()));
        let control = (option::of(Just("127.0.0.1:9177".parse().unwrap())), access());
        (ports, option::of(vxlan), vec(bridge, 0..4), control, 1024usize..9999, 1u16..=32767).prop_map(
            |(ports, vxlan, parts, (metrics, access), size, ageing)| {
                let mut bridges = Vec::new();
                let first = usize::from(vxlan.is_some());
                for (i, ((vni, peers, members, macs), description)) in parts.into_iter().enumerate() {
                    let vni = (vni && vxlan.is_some()).then_some(i as u32 + 1);
                    let mut members: Vec<Member> = members
                        .into_iter()
                        .filter(|_| ports.len() > first)
                        .map(|index| Member {
                            port: format!("p{}", first + index.index(ports.len() - first)),
                            vlan: (i > 0).then_some(i as u16),
                        })
                        .collect();
                    members.sort_by(|a, b| a.port.cmp(&b.port));
                    members.dedup();
                    let mut statics: Vec<StaticMac> = Vec::new();
                    for (j, mac) in macs.into_iter().enumerate() {
                        let to = match (members.get(j), vni) {
                            (Some(member), _) => StaticTo::Port(member.clone()),
                            (None, Some(_)) => StaticTo::Vtep(Ipv4Addr::new(10, 9, 0, 77)),
                            (None, None) => continue,
                        };
                        if !statics.iter().any(|entry| entry.mac == mac) {
                            statics.push(StaticMac { mac, to });
                        }
                    }
                    let peers = peers.filter(|_| vni.is_some());
                    bridges.push(Bridge { name: format!("b:{i}"), description, vni, ports: members, peers, statics });
                }
                let access = Access { mode: access.mode & 0o770, ..access };
                let control = Control { metrics, access, ..Control::default() };
                let fdb = Fdb { size, ageing };
                let log = Log { level: if size % 2 == 0 { "info" } else { "warn,port=debug" }.into() };
                let balance = Balance { interval: ageing % 3601 };
                let workers = vec![Worker { cpu: 3, idle_sleep: 0 }, Worker { cpu: 0, idle_sleep: 50 }];
                let mut config = ValidConfig { control, workers, balance, log, ports, bridges, vxlan, fdb };
                for i in 0..config.ports.len() {
                    if config.ports[i].mac == Mac::default() {
                        config.ports[i].mac = config.default_mac(&config.ports[i].name);
                    }
                    if config.ports[i].max_macs == 0 {
                        config.ports[i].max_macs = config.default_max_macs(&config.ports[i]);
                    }
                }
                if let Some(vxlan) = &mut config.vxlan {
                    vxlan.mtu = config.ports[0].mtu;
                }
                config
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_the_same(config in config()) {
            let text = render(&config);
            match parse_for("rendered", &text, &[0, 1, 2, 3]) {
                Ok(read) => prop_assert_eq!(read, config),
                Err(errors) => prop_assert!(false, "{}\n{}", errors, text),
            }
        }
    }
}
