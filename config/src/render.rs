//! The configuration back to a file.

use crate::schema::Keys;
use crate::{Balance, Bridge, Control, Fdb, Log, ValidConfig, Vxlan, Worker};
use std::fmt::{Display, Write};

/// The configuration as a file, defaults left out: [`crate::parse`] reads the same from it. The workers are always
/// there, because their default depends on the host.
pub fn render(config: &ValidConfig) -> String {
    let mut out = String::new();
    table(&mut out, "[control]", &config.control, &Control::initial());
    for worker in &config.workers {
        table(&mut out, "[[worker]]", worker, &Worker::initial());
    }
    table(&mut out, "[balance]", &config.balance, &Balance::initial());
    table(&mut out, "[fdb]", &config.fdb, &Fdb::initial());
    table(&mut out, "[log]", &config.log, &Log::initial());
    for port in &config.ports {
        table(&mut out, "[[port]]", port, &config.default_port(port));
    }
    let default = Bridge::initial();
    for bridge in &config.bridges {
        table(&mut out, "[[bridge]]", bridge, &default);
    }
    if let Some(vxlan) = &config.vxlan {
        table(&mut out, "[vxlan]", vxlan, &Vxlan::initial());
    }
    out
}

/// Appends a table, if it has keys with other values than `default`.
pub(crate) fn table<T: Keys>(out: &mut String, header: &str, keys: &T, default: &T) {
    let mut written = Vec::new();
    keys.write(default, &mut written);
    if !written.is_empty() {
        let blank = if out.is_empty() { "" } else { "\n" };
        let _ = writeln!(out, "{blank}{header}");
    }
    for (key, value) in written {
        let _ = writeln!(out, "{key} = {value}");
    }
}

/// An inline table.
pub(crate) fn inline<T: Keys>(keys: &T, default: &T) -> String {
    let mut written = Vec::new();
    keys.write(default, &mut written);
    let keys: Vec<String> = written.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", keys.join(", "))
}

/// A TOML string.
pub fn text(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

/// A TOML array, on several lines if it is long.
pub(crate) fn list(items: &[String]) -> String {
    let line = format!("[{}]", items.join(", "));
    if line.len() <= 100 { line } else { format!("[\n    {},\n]", items.join(",\n    ")) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        Access, Account, Allowed, Eth, LinkFollows, Local, Mac, Member, Memif, Neighbour, Port, PortKind, Prefix, Role,
        Route, Rps, SocketName, StaticMac, StaticTo, Statics, StormLimits, Tap, Transport, VhostUser, parse_for,
    };
    use proptest::collection::{btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};
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
        let tap = (option::of(odd_text(24)), vec((any::<u32>(), 0u8..=32), 0..3), any::<bool>(), 1u16..=16).prop_map(
            move |(netns, addresses, route, queues)| {
                let prefix = |(ip, length): &(u32, u8)| Prefix { address: IpAddr::V4((*ip).into()), length: *length };
                let to = Prefix { address: IpAddr::from([0; 16]), length: 0 };
                PortKind::Tap(Tap {
                    netns_id: netns.as_ref().filter(|_| route).map(|_| "b5c5c8f1:4711".into()),
                    container: (queues > 8).then(|| "docker:web's".into()),
                    netns: netns.map(|name| format!("/{}", name.replace(char::is_control, "'")).into()),
                    ifname: format!("tap{i}"),
                    addresses: addresses.iter().map(prefix).collect(),
                    routes: if route { vec![Route { to, via: Some(to.address) }] } else { vec![] },
                    queues,
                    rps: [Rps::Auto, Rps::On, Rps::Off][usize::from(queues % 3)],
                    gro: queues % 2 == 0,
                    link_follows: if route { LinkFollows::Underlay } else { LinkFollows::Port },
                    transport: [Transport::Auto, Transport::VhostNet, Transport::Syscall][usize::from(queues % 3)],
                })
            },
        );
        let max_macs = option::of(1u32..=1 << 26);
        let storm = [0u32.., 0u32.., 0u32..]
            .prop_map(|most| most.map(NonZeroU32::new))
            .prop_map(|[broadcast, multicast, unknown_unicast]| StormLimits { broadcast, multicast, unknown_unicast });
        let allowed = prop_oneof![
            mac().prop_map(Allowed::Mac),
            any::<u32>().prop_map(|ip| Allowed::Ip(Prefix::host(IpAddr::V4(ip.into())))),
            Just(Allowed::Ip(Prefix { address: IpAddr::from([0; 16]), length: 0 })),
        ];
        // The underlay has none.
        let allowed = option::of(if i == 0 {
            Just(vec![Allowed::Any]).boxed()
        } else {
            btree_set(allowed, 0..4).prop_map(Vec::from_iter).boxed()
        });
        let people = (option::of(description()), any::<bool>(), storm, allowed);
        (prop_oneof![memif, vhost_user, tap, eth], option::of(mac()), option::of(68u16..=9198), max_macs, people)
            .prop_map(move |(kind, mac, mtu, max_macs, (description, admin_up, storm, allowed_addresses))| Port {
                name: format!("p{i}"),
                description,
                admin_up,
                kind,
                // Zero stands for the default until the whole configuration is there.
                mtu: mtu.unwrap_or(0),
                mac: mac.unwrap_or_default(),
                max_macs: max_macs.unwrap_or(0),
                allowed_addresses,
                storm,
            })
    }

    /// Any valid configuration of up to 6 ports, of which the first is the underlay if there is an overlay.
    pub(crate) fn config() -> impl Strategy<Value = ValidConfig> {
        let ports = (1usize..=6).prop_flat_map(|n| (0..n).map(port).collect::<Vec<_>>());
        let peers = btree_set(2u8..=250, 0..4)
            .prop_map(|set| set.into_iter().map(|last| Ipv4Addr::new(10, 9, 0, last)).collect::<Vec<_>>());
        let vxlan = (peers.clone(), any::<bool>(), any::<bool>(), 1u16.., option::of(mac())).prop_map(
            |(peers, gateway, learn, udp, mac)| Vxlan {
                port: "p0".into(),
                local: Local { address: Ipv4Addr::new(10, 9, 0, 1), prefix: 24 },
                gateway: gateway.then_some(Ipv4Addr::new(10, 9, 0, 254)),
                peers,
                neighbours: mac.map(|mac| Neighbour { address: Ipv4Addr::new(10, 9, 0, 7), mac }).into_iter().collect(),
                udp_port: udp,
                learn_vteps: learn,
                mtu: 0,
            },
        );
        let bridge = (any::<bool>(), option::of(peers), vec(any::<prop::sample::Index>(), 0..4), vec(mac(), 0..4));
        let bridge = (bridge, option::of(description()), option::of(68u16..=9198));
        let control = (option::of(Just("127.0.0.1:9177".parse().unwrap())), access());
        (ports, option::of(vxlan), vec(bridge, 0..4), control, 1024usize..9999, 1u16..=32767).prop_map(
            |(ports, vxlan, parts, (metrics, access), size, ageing)| {
                let mut bridges = Vec::new();
                let first = usize::from(vxlan.is_some());
                for (i, ((vni, peers, members, macs), description, mtu)) in parts.into_iter().enumerate() {
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
                    let mut statics = Statics::default();
                    for (j, mac) in macs.into_iter().enumerate() {
                        let to = match (members.get(j), vni) {
                            (Some(member), _) => StaticTo::Port(member.clone()),
                            (None, Some(_)) => StaticTo::Vtep(Ipv4Addr::new(10, 9, 0, 77)),
                            (None, None) => continue,
                        };
                        if statics.get(mac).is_none() {
                            statics.put(StaticMac { mac, to });
                        }
                    }
                    let peers = peers.filter(|_| vni.is_some());
                    let name = format!("b:{i}");
                    bridges.push(Bridge { name, description, vni, ports: members, peers, statics, mtu });
                }
                let access = Access { mode: access.mode & 0o770, ..access };
                let control = Control { metrics, access, ..Control::default() };
                let fdb = Fdb { size, ageing };
                let log = Log { level: if size % 2 == 0 { "info" } else { "warn,port=debug" }.into() };
                let balance = Balance { interval: ageing % 3601 };
                let workers = vec![Worker { cpu: 3, idle_sleep: 0 }, Worker { cpu: 0, idle_sleep: 50 }];
                let (ports, bridges) = (ports.into(), bridges.into());
                let mut config = ValidConfig { control, workers, balance, log, ports, bridges, vxlan, fdb };
                config.compute();
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
