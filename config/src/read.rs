//! TOML text to values in range, with their places. What must fit together is checked in [`crate::validate`].

use crate::error::{Errors, Report, quote, suggest};
use crate::schema::{self, Key, REQUIRED, Section, Value};
use crate::validate::{BridgePlaces, Places, PortPlaces, StaticPlaces, VxlanPlaces, validate};
use crate::{
    Access, Account, Balance, Bridge, Control, Eth, Fdb, HIDDEN_SECRET, Log, Mac, Member, Memif, Neighbour, Port,
    PortKind, Role, SocketName, StaticMac, StaticTo, StormLimits, ValidConfig, VhostUser, Vxlan, Worker,
};
use nix::unistd::{Group, User};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Range;
use std::str::FromStr;
use std::sync::OnceLock;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

type Span = Range<usize>;

/// Reads and validates a configuration file for this process: [`parse_for`] with the CPUs it may use.
///
/// # Errors
/// All that is wrong with the text, as far as it can be found at once. While it is not TOML, only that is reported.
pub fn parse(file_name: &str, text: &str) -> Result<ValidConfig, Errors> {
    parse_for(file_name, text, &allowed_cpus())
}

/// The CPUs that this process may use, ascending: those that the thread which asks first may run on. Later each thread may be kept
/// to some of them.
pub fn allowed_cpus() -> Vec<usize> {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    let ask = || {
        let mut cpus: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|id| id.id).collect();
        cpus.sort_unstable();
        cpus
    };
    CPUS.get_or_init(ask).clone()
}

/// Reads and validates a configuration file for a process that may use `cpus`. Without `[[worker]]` the last of them
/// is used; if none is given, any CPU is right.
///
/// # Errors
/// As [`parse`].
pub fn parse_for(file_name: &str, text: &str, cpus: &[usize]) -> Result<ValidConfig, Errors> {
    let mut report = Report::default();
    let (root, syntax) = DeTable::parse_recoverable(text);
    let mut lines = HashSet::new();
    for error in syntax {
        // What follows an error on its own line is mostly its echo.
        let span = error.span().unwrap_or(text.len()..text.len());
        let line_start = text.as_bytes()[..span.start.min(text.len())].iter().rposition(|b| *b == b'\n');
        if lines.insert(line_start) {
            report.add(&span, || {
                // The only message that does not say what it is about.
                let key = text.get(span.clone()).filter(|_| error.message() == "duplicate key");
                format!("not TOML: {}{}", error.message(), key.map_or(String::new(), |key| format!(" {key}")))
            });
        }
    }
    report.finish(file_name, text)?;
    let mut reader = Reader { report: Report::default() };
    let (config, places) = reader.file(root.get_ref(), cpus);
    let mut report = reader.report;
    validate(&config, &places, cpus, &mut report);
    report.finish(file_name, text)?;
    Ok(config)
}

/// A table being read.
struct Table<'a> {
    section: &'static Section,
    entries: &'a DeTable<'a>,
    span: Span,
    /// Which port kind it is, if that matters and is known.
    kind: Option<&'static str>,
    /// How messages name it: `[[port]] "web"`.
    label: String,
}

struct Reader {
    report: Report,
}

/// A value and where it is; no place if the file has no (right) value, and a default stands in.
type Placed<T> = (T, Option<Span>);

impl Reader {
    fn file(&mut self, root: &DeTable<'_>, cpus: &[usize]) -> (ValidConfig, Places) {
        const TABLES: [(&str, bool); 8] = [
            ("control", false),
            ("worker", true),
            ("balance", false),
            ("fdb", false),
            ("log", false),
            ("port", true),
            ("bridge", true),
            ("vxlan", false),
        ];
        for (key, _) in root.iter() {
            let name: &str = key.get_ref();
            if !TABLES.iter().any(|(table, _)| *table == name) {
                self.report.add(&key.span(), || {
                    let known = TABLES.iter().map(|(table, _)| *table);
                    let otherwise =
                        ": there are [control], [[worker]], [balance], [fdb], [log], [[port]], [[bridge]] and [vxlan]";
                    format!("unknown table {}{}", quote(name), suggest(name, known, otherwise))
                });
            }
        }
        let mut places = Places::default();

        let mut control = Control::default();
        if let Some(t) = self.table(root, "control", &schema::CONTROL) {
            let (socket, place) = self.string(&t, "socket", |s| match s.parse()? {
                SocketName::Path(path) => Ok(path),
                SocketName::Abstract(_) => Err("the control socket is a path: its mode is what protects it".into()),
            });
            control.socket = socket.unwrap_or(control.socket);
            places.control_socket = place;
            let mode;
            (control.access, mode) = self.access(&t);
            if let (Some(place), 1..) = (mode, control.access.mode & 0o007) {
                self.report.add(&place, || {
                    format!(
                        "socket-mode = \"{:04o}\": who may connect to the control socket is as good as root: nothing for \
                         others, like \"0660\" with a socket-group",
                        control.access.mode
                    )
                });
            }
            control.metrics = self
                .string(&t, "metrics", |s| {
                    SocketAddr::from_str(s).map_err(|_| "an address and port, like \"127.0.0.1:9177\"".into())
                })
                .0;
        }

        let mut workers = Vec::new();
        for t in self.tables(root, "worker", &schema::WORKER, schema::MAX_WORKERS) {
            let (cpu, place) = self.integer(&t, "cpu", 0);
            let idle_sleep = self.integer(&t, "idle-sleep", 0).0 as u16;
            workers.push(Worker { cpu: cpu as usize, idle_sleep });
            places.workers.push(place);
        }
        if workers.is_empty() {
            workers.push(Worker { cpu: cpus.last().copied().unwrap_or(0), idle_sleep: 0 });
            places.workers.push(None);
        }

        let mut balance = Balance::default();
        if let Some(t) = self.table(root, "balance", &schema::BALANCE) {
            balance.interval = self.integer(&t, "interval", balance.interval.into()).0 as u16;
        }

        let mut fdb = Fdb::default();
        if let Some(t) = self.table(root, "fdb", &schema::FDB) {
            fdb.size = self.integer(&t, "size", fdb.size as u64).0 as usize;
            fdb.ageing = self.integer(&t, "ageing", fdb.ageing.into()).0 as u16;
        }

        let mut log = Log::default();
        if let Some(t) = self.table(root, "log", &schema::LOG) {
            log.level = self.string(&t, "level", log_level).0.unwrap_or(log.level);
        }

        let mut ports = Vec::new();
        let mut without_mac = Vec::new();
        for t in self.tables(root, "port", &schema::PORT, schema::MAX_PORTS) {
            let (port, has_mac, place) = self.port(t);
            without_mac.extend((!has_mac).then_some(ports.len()));
            ports.push(port);
            places.ports.push(place);
        }

        let mut bridges = Vec::new();
        for t in self.tables(root, "bridge", &schema::BRIDGE, schema::MAX_BRIDGES) {
            let (bridge, place) = self.bridge(t);
            bridges.push(bridge);
            places.bridges.push(place);
        }

        let mut vxlan = None;
        places.has_vxlan = root.get("vxlan").is_some();
        if let Some(t) = self.table(root, "vxlan", &schema::VXLAN) {
            let (mut read, place) = self.vxlan(&t);
            read.mtu = ports.iter().find(|port| port.name == read.port).map_or(0, |port| port.mtu);
            vxlan = Some(read);
            places.vxlan = place;
        }

        let mut config = ValidConfig { control, workers, balance, log, ports, bridges, vxlan, fdb };
        for i in without_mac {
            config.ports[i].mac = config.default_mac(&config.ports[i].name);
        }
        for i in 0..config.ports.len() {
            if config.ports[i].max_macs == 0 {
                config.ports[i].max_macs = config.default_max_macs(&config.ports[i]);
            }
        }
        resolve_statics(&mut config, &places, &mut self.report);
        (config, places)
    }

    /// The keys of who may connect to a socket. With the place of the first that is there.
    fn access(&mut self, t: &Table<'_>) -> (Access, Option<Span>) {
        let (mode, mode_place) = self.string(t, "socket-mode", mode);
        let (owner, owner_place) = self.string(t, "socket-owner", |name| {
            account(name, "user", |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
        });
        let (group, group_place) = self.string(t, "socket-group", |name| {
            account(name, "group", |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
        });
        let access = Access { mode: mode.unwrap_or(Access::default().mode), owner, group };
        (access, mode_place.or(owner_place).or(group_place))
    }

    /// As [`Reader::access`], of a port: it has to listen on a file for that.
    fn port_access(&mut self, t: &Table<'_>, socket: &SocketName, role: Role) -> (Access, Option<Span>) {
        let (access, place) = self.access(t);
        if let Some(place) = place.as_ref().filter(|_| access != Access::default()) {
            let why = match (role, socket) {
                (Role::Client, _) => "role = \"server\": a client's socket is its peer's",
                (Role::Server, SocketName::Abstract(_)) => {
                    "a path: who is in the network namespace may connect to @name"
                }
                (Role::Server, SocketName::Path(_)) => return (access, Some(place.clone())),
            };
            self.report.add(place, || format!("socket-mode, socket-owner and socket-group are for {why}"));
        }
        (access, place)
    }

    fn port(&mut self, mut t: Table<'_>) -> (Port, bool, PortPlaces) {
        let (name, name_place) = self.name(&mut t);
        let kind = self
            .string(&t, "kind", |s| match s {
                "memif" => Ok("memif"),
                "vhost-user" => Ok("vhost-user"),
                "eth" => Ok("eth"),
                _ => {
                    let kinds = ["memif", "vhost-user", "eth"].into_iter();
                    Err(format!("no such kind{}", suggest(s, kinds, ": \"memif\", \"vhost-user\" or \"eth\"")))
                }
            })
            .0;
        t.kind = kind;
        self.unknown_keys(&t);
        let mut place = PortPlaces { name: name_place, ..PortPlaces::default() };
        let queues = self.integer(&t, "queues", if kind == Some("vhost-user") { 16 } else { 1 }).0 as u16;
        let kind = match kind {
            Some("memif") => {
                let (socket, socket_place) = self.string(&t, "socket", str::parse::<SocketName>);
                place.socket = socket_place;
                let (id, id_place) = self.integer(&t, "id", 0);
                // Two ports that leave `id` out collide just as two that give it.
                let id_right = id_place.is_some() || !t.has("id");
                place.id = id_right.then(|| id_place.unwrap_or_else(|| t.span.clone()));
                let role = self.string(&t, "role", role);
                place.role_right = role.0.is_some() || !t.has("role");
                let socket = socket.unwrap_or(SocketName::Abstract(String::new()));
                let (access, access_place) = self.port_access(&t, &socket, role.0.unwrap_or(Role::Server));
                place.access = access_place;
                let secret = self.string(&t, "secret", |s| match s.len() {
                    _ if s == HIDDEN_SECRET => Err("it was hidden: put the secret itself here, or have the file \
                                                    written with --secrets"
                        .into()),
                    1..=23 if !s.contains('\0') => Ok(s.to_string()),
                    24 => {
                        Err("1 to 23 bytes without NUL, not 24: the protocol has 24, but peers keep the last for a NUL"
                            .into())
                    }
                    n => Err(format!("1 to 23 bytes without NUL, not {n}")),
                });
                PortKind::Memif(Memif {
                    socket,
                    access,
                    id: id as u32,
                    role: role.0.unwrap_or(Role::Server),
                    secret: secret.0,
                    ring_size: self.integer(&t, "ring-size", 1024).0 as u32,
                    buffer_size: self.integer(&t, "buffer-size", 2048).0 as u32,
                    queues,
                })
            }
            Some("vhost-user") => {
                let (socket, socket_place) = self.string(&t, "socket", str::parse::<SocketName>);
                place.socket = socket_place;
                let socket = socket.unwrap_or(SocketName::Abstract(String::new()));
                let role = self.string(&t, "role", role).0.unwrap_or(Role::Client);
                let access = self.port_access(&t, &socket, role).0;
                PortKind::VhostUser(VhostUser { socket, access, role, queues })
            }
            _ => {
                let mut device = (None, None);
                let mut ring_size = 1024;
                if kind.is_some() {
                    device = self.string(&t, "device", device_name);
                    ring_size = self.integer(&t, "ring-size", 1024).0 as u32;
                }
                place.device = device.1;
                PortKind::Eth(Eth { device: device.0.unwrap_or_default(), queues, ring_size })
            }
        };
        let description = self.string(&t, "description", description).0;
        let admin_up = self.string(&t, "admin", |s| match s {
            "up" => Ok(true),
            "down" => Ok(false),
            _ => Err("not an administrative state: \"up\" or \"down\"".into()),
        });
        let mac = self.string(&t, "mac", unicast).0;
        let mtu = self.integer(&t, "mtu", kind.default_mtu().into()).0 as u16;
        // Zero stands for the default until the whole configuration is there.
        let max_macs = self.integer(&t, "max-macs", 0).0 as u32;
        let mut limit = |key| NonZeroU32::new(self.integer(&t, key, 0).0 as u32);
        let storm = StormLimits {
            broadcast: limit("max-broadcast"),
            multicast: limit("max-multicast"),
            unknown_unicast: limit("max-unknown-unicast"),
        };
        let port = Port {
            name,
            description,
            admin_up: admin_up.0.unwrap_or(true),
            kind,
            mac: mac.unwrap_or_default(),
            mtu,
            max_macs,
            storm,
        };
        (port, mac.is_some(), place)
    }

    fn bridge(&mut self, mut t: Table<'_>) -> (Bridge, BridgePlaces) {
        let (name, name_place) = self.name(&mut t);
        self.unknown_keys(&t);
        let description = self.string(&t, "description", description).0;
        let (vni, vni_place) = self.integer(&t, "vni", 0);
        let mut place =
            BridgePlaces { name: name_place, has_vni: t.has("vni"), vni: vni_place.clone(), ..BridgePlaces::default() };

        let mut ports = Vec::new();
        for item in self.array(&t, "ports").unwrap_or_default() {
            let (port, vlan, span) = match item.get_ref() {
                DeValue::String(port) => (Some(port.to_string()), Some(None), item.span()),
                DeValue::Table(_) => {
                    let Some(m) = self.inline(item, &schema::MEMBER, &t) else { continue };
                    let (port, span) = self.string(&m, "port", |s| Ok(s.to_string()));
                    (port, self.vlan(&m), span.unwrap_or_else(|| item.span()))
                }
                other => {
                    self.report.add(&item.span(), || {
                        format!("ports: {} is no member: a port's name, or {{ port, vlan }}", show(other))
                    });
                    continue;
                }
            };
            if let (Some(port), Some(vlan)) = (port, vlan) {
                ports.push(Member { port, vlan });
                place.ports.push(span);
            }
        }

        let peers = self.peers(&t, &mut place.peers);
        place.peers_key = self.place(&t, "peers");

        let mut statics = Vec::new();
        for item in self.array(&t, "static").unwrap_or_default() {
            let Some(s) = self.inline(item, &schema::STATIC, &t) else { continue };
            let (mac, mac_place) = self.string(&s, "mac", unicast);
            let (port, port_place) = self.string(&s, "port", |s| Ok(s.to_string()));
            let (vtep, vtep_place) = self.string(&s, "vtep", address);
            let vlan = self.vlan(&s);
            let (to, to_place) = match (s.has("port"), s.has("vtep")) {
                (true, false) => (port.zip(vlan).map(|(port, vlan)| StaticTo::Port(Member { port, vlan })), port_place),
                (false, true) => {
                    if let Some(span) = self.place(&s, "vlan") {
                        self.report.add(&span, || "vlan goes with port, not with vtep: leave it out".into());
                    }
                    (vtep.map(StaticTo::Vtep), vtep_place)
                }
                (both, _) => {
                    let has = if both { "both port and vtep" } else { "neither port nor vtep" };
                    self.report.add(&item.span(), || format!("static entry with {has}: give one of them"));
                    (None, None)
                }
            };
            if let (Some(mac), Some(mac_place), Some(to), Some(to_place)) = (mac, mac_place, to, to_place) {
                statics.push(StaticMac { mac, to });
                place.statics.push(StaticPlaces { mac: mac_place, to: to_place });
            }
        }
        (Bridge { name, description, vni: vni_place.map(|_| vni as u32), ports, peers, statics }, place)
    }

    fn vxlan(&mut self, t: &Table<'_>) -> (Vxlan, VxlanPlaces) {
        let (port, port_place) = self.string(t, "port", |s| Ok(s.to_string()));
        let (local, local_place) = self.string(t, "local", |s| {
            let Some((ip, prefix)) = s.split_once('/') else {
                return Err(match address(s) {
                    Ok(ip) => format!("the prefix length is missing: \"{ip}/24\", say"),
                    Err(why) => why,
                });
            };
            let ip = address(ip)?;
            match prefix.parse::<u8>() {
                Ok(length @ 0..=32) if prefix.bytes().all(|c| c.is_ascii_digit()) => Ok((ip, length)),
                _ => Err(format!("a prefix length is 0 to 32, as in \"{ip}/24\"")),
            }
        });
        let (gateway, gateway_place) = self.string(t, "gateway", address);
        let mut places = VxlanPlaces {
            port: port_place,
            local: local_place,
            gateway: gateway_place,
            has_gateway: t.has("gateway"),
            peers: vec![],
            neighbours: vec![],
        };
        let peers = self.peers(t, &mut places.peers).unwrap_or_default();
        let mut neighbours = Vec::new();
        let items = self.array(t, "neighbours").unwrap_or_default();
        for item in items {
            let Some(n) = self.inline(item, &schema::NEIGHBOUR, t) else { continue };
            let (ip, ip_place) = self.string(&n, "address", address);
            let (mac, _) = self.string(&n, "mac", unicast);
            if let (Some(address), Some(mac), Some(place)) = (ip, mac, ip_place) {
                neighbours.push(Neighbour { address, mac });
                places.neighbours.push(place);
            }
        }
        if items.len() > schema::MAX_PEERS {
            self.report.add(&items[schema::MAX_PEERS].span(), || {
                format!("{} neighbours: at most {}", items.len(), schema::MAX_PEERS)
            });
        }
        let (local, prefix) = local.unwrap_or((Ipv4Addr::UNSPECIFIED, 0));
        let vxlan = Vxlan {
            port: port.unwrap_or_default(),
            local,
            prefix,
            gateway,
            peers,
            neighbours,
            udp_port: self.integer(t, "udp-port", 4789).0 as u16,
            learn_vteps: self.boolean(t, "learn-vteps", false),
            mtu: 0,
        };
        (vxlan, places)
    }

    /// The `name` of a port or bridge; from then on messages use it.
    fn name(&mut self, t: &mut Table<'_>) -> Placed<String> {
        let (name, place) = self.string(t, "name", |s| {
            let good = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
            if (1..=32).contains(&s.len()) && s.chars().all(good) {
                Ok(s.to_string())
            } else {
                Err("a name is 1 to 32 of A-Z a-z 0-9 _ . : -".into())
            }
        });
        if let Some(name) = &name {
            t.label = format!("{} {name:?}", t.section.header);
        }
        (name.unwrap_or_default(), place)
    }

    /// The list `peers`, if there is one, and the places of its entries.
    fn peers(&mut self, t: &Table<'_>, places: &mut Vec<Span>) -> Option<Vec<Ipv4Addr>> {
        let items = self.array(t, "peers")?;
        let mut peers = Vec::new();
        for item in items {
            let read = match item.get_ref() {
                DeValue::String(s) => address(s),
                _ => Err("an IPv4 address in quotes".into()),
            };
            match read {
                Ok(ip) => {
                    peers.push(ip);
                    places.push(item.span());
                }
                Err(why) => self.report.add(&item.span(), || format!("peers: {}: {why}", show(item.get_ref()))),
            }
        }
        if items.len() > schema::MAX_PEERS {
            self.report.add(&items[schema::MAX_PEERS].span(), || {
                format!("{} peers: at most {}", items.len(), schema::MAX_PEERS)
            });
        }
        Some(peers)
    }

    /// The key `vlan`: `None` if it is wrong, `Some(None)` if it is not there.
    fn vlan(&mut self, t: &Table<'_>) -> Option<Option<u16>> {
        if !t.has("vlan") {
            return Some(None);
        }
        let (vlan, place) = self.integer(t, "vlan", 0);
        place.map(|_| Some(vlan as u16))
    }

    /// The table `name` of the file.
    fn table<'a>(&mut self, root: &'a DeTable<'a>, name: &str, section: &'static Section) -> Option<Table<'a>> {
        let value = root.get(name)?;
        let DeValue::Table(entries) = value.get_ref() else {
            self.report.add(&value.span(), || format!("{name} is written as a table: {}", section.header));
            return None;
        };
        let t = Table { section, entries, span: value.span(), kind: None, label: section.header.into() };
        self.unknown_keys(&t);
        Some(t)
    }

    /// The tables `[[name]]` of the file. Unknown keys are checked here unless the table has a name to be read first.
    fn tables<'a>(
        &mut self,
        root: &'a DeTable<'a>,
        name: &str,
        section: &'static Section,
        max: usize,
    ) -> Vec<Table<'a>> {
        let Some(value) = root.get(name) else { return Vec::new() };
        let wrong = || format!("{name} may be given several times: write {} with two brackets", section.header);
        let DeValue::Array(array) = value.get_ref() else {
            self.report.add(&value.span(), wrong);
            return Vec::new();
        };
        if array.len() > max {
            self.report.add(&array[max].span(), || format!("{} {}: at most {max}", array.len(), section.header));
        }
        let mut tables = Vec::new();
        for item in array.iter().take(max) {
            let DeValue::Table(entries) = item.get_ref() else {
                self.report.add(&item.span(), wrong);
                continue;
            };
            let t = Table { section, entries, span: item.span(), kind: None, label: section.header.into() };
            if !section.keys.iter().any(|key| key.name == "name") {
                self.unknown_keys(&t);
            }
            tables.push(t);
        }
        tables
    }

    /// An inline table of `parent`.
    fn inline<'a>(
        &mut self,
        item: &'a Spanned<DeValue<'a>>,
        section: &'static Section,
        parent: &Table<'_>,
    ) -> Option<Table<'a>> {
        let DeValue::Table(entries) = item.get_ref() else {
            self.report
                .add(&item.span(), || format!("{} is no entry of {}: a table", show(item.get_ref()), section.header));
            return None;
        };
        // It begins with the key in backticks.
        let key = section.header.split('`').nth(1).unwrap_or_default();
        let label = format!("{key} of {}", parent.label);
        let t = Table { section, entries, span: item.span(), kind: None, label };
        self.unknown_keys(&t);
        Some(t)
    }

    /// Reports every key that the table does not have or that is for another kind of port.
    fn unknown_keys(&mut self, t: &Table<'_>) {
        for (key, _) in t.entries.iter() {
            let name: &str = key.get_ref();
            if t.section.keys_for(t.kind).any(|known| known.name == name) {
                continue;
            }
            self.report.add(&key.span(), || {
                let others = t.section.keys.iter().filter(|known| known.name == name).flat_map(|known| known.kinds);
                let others: Vec<String> = others.map(|other| quote(other)).collect();
                if let Some(kind) = t.kind.filter(|_| !others.is_empty()) {
                    let others = others.join(", ");
                    return format!("{name} does not fit kind = {kind:?} in {}: it is for {others}", t.label);
                }
                let names: Vec<&str> = t.section.keys_for(t.kind).map(|known| known.name).collect();
                let otherwise = format!(": known are {}", names.join(", "));
                format!(
                    "unknown key {} in {}{}",
                    quote(name),
                    t.label,
                    suggest(name, names.iter().copied(), &otherwise)
                )
            });
        }
    }

    /// Where the value of `name` is.
    fn place(&self, t: &Table<'_>, name: &str) -> Option<Span> {
        t.entries.get(name).map(Spanned::span)
    }

    /// The value of `name`; if it is missing and required, that is reported.
    fn value<'a>(&mut self, t: &Table<'a>, name: &str) -> Option<(&'a Spanned<DeValue<'a>>, &'static Key)> {
        let key = t.section.keys_for(t.kind).find(|key| key.name == name).expect("the reader asks for known keys");
        let value = t.entries.get(name);
        if value.is_none() && key.default == REQUIRED {
            self.report.add(&t.span, || format!("{} needs {name}: {}", t.label, key.value.range().replace('`', "")));
        }
        value.map(|value| (value, key))
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, key: &Key) {
        self.report.add(&value.span(), || {
            let right = key.value.range().replace('`', "");
            let got = value.get_ref();
            format!(
                "{} = {} is {}, not {}: {right}",
                key.name,
                show(got),
                article(got.type_str()),
                key.value.type_name()
            )
        });
    }

    fn string<T>(
        &mut self,
        t: &Table<'_>,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Placed<Option<T>> {
        let Some((value, key)) = self.value(t, name) else { return (None, None) };
        let DeValue::String(s) = value.get_ref() else {
            self.wrong_type(value, key);
            return (None, None);
        };
        match read(s) {
            Ok(read) => (Some(read), Some(value.span())),
            Err(why) => {
                self.report.add(&value.span(), || format!("{name} = {}: {why}", quote(s)));
                (None, None)
            }
        }
    }

    fn integer(&mut self, t: &Table<'_>, name: &str, default: u64) -> Placed<u64> {
        let Some((value, key)) = self.value(t, name) else { return (default, None) };
        let DeValue::Integer(n) = value.get_ref() else {
            self.wrong_type(value, key);
            return (default, None);
        };
        let read = u64::from_str_radix(n.as_str(), n.radix()).ok().filter(|n| match key.value {
            Value::Integer(min, max) => (min..=max).contains(n),
            Value::PowerOfTwo(min, max) => (min..=max).contains(n) && n.is_power_of_two(),
            _ => false,
        });
        match read {
            Some(n) => (n, Some(value.span())),
            None => {
                let shown: String = n.to_string().chars().take(64).collect();
                self.report.add(&value.span(), || format!("{name} = {shown} is out of range: {}", key.value.range()));
                (default, None)
            }
        }
    }

    fn boolean(&mut self, t: &Table<'_>, name: &str, default: bool) -> bool {
        let Some((value, key)) = self.value(t, name) else { return default };
        let DeValue::Boolean(b) = value.get_ref() else {
            self.wrong_type(value, key);
            return default;
        };
        *b
    }

    fn array<'a>(&mut self, t: &Table<'a>, name: &str) -> Option<&'a [Spanned<DeValue<'a>>]> {
        let (value, key) = self.value(t, name)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(value, key);
            return None;
        };
        Some(array)
    }
}

impl Table<'_> {
    fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}

/// Gives every static entry the membership it means: the only one of its port, if it names no VLAN.
fn resolve_statics(config: &mut ValidConfig, places: &Places, report: &mut Report) {
    for (bridge, place) in config.bridges.iter_mut().zip(&places.bridges) {
        for (entry, at) in bridge.statics.iter_mut().zip(&place.statics) {
            let StaticTo::Port(wanted) = &mut entry.to else { continue };
            if bridge.ports.contains(wanted) {
                continue;
            }
            let mut of_port = bridge.ports.iter().filter(|member| member.port == wanted.port);
            match (of_port.next(), of_port.next(), wanted.vlan) {
                (Some(only), None, None) => wanted.vlan = only.vlan,
                (Some(_), Some(_), None) => report.add(&at.to, || {
                    format!(
                        "port {} is several members of bridge {:?}: say which by vlan",
                        quote(&wanted.port),
                        bridge.name
                    )
                }),
                (Some(_), _, Some(vlan)) => report.add(&at.to, || {
                    format!("port {} is not in bridge {:?} with vlan {vlan}", quote(&wanted.port), bridge.name)
                }),
                (None, ..) => report.add(&at.to, || {
                    let members = bridge.ports.iter().map(|member| member.port.as_str());
                    let suggestion = suggest(&wanted.port, members, ": a static entry's port is a member");
                    format!("port {} is not in bridge {:?}{suggestion}", quote(&wanted.port), bridge.name)
                }),
            }
        }
    }
}

/// A file's permission bits.
fn mode(s: &str) -> Result<u32, String> {
    let is_octal = (3..=4).contains(&s.len()) && s.bytes().all(|c| c.is_ascii_digit());
    let mode = u32::from_str_radix(s, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| "permission bits are octal digits, like \"0660\"".into())
}

/// A user or a group by name or number; `look` finds the number of a name.
fn account(s: &str, kind: &str, look: impl FnOnce(&str) -> nix::Result<Option<u32>>) -> Result<Account, String> {
    let is_number = !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    let id = match s.parse::<u32>() {
        // -1 is no number of anybody (chown(2)).
        Ok(id) if is_number => Some(id).filter(|id| *id != u32::MAX),
        _ if is_number || s.is_empty() || s.contains(char::is_control) => None,
        _ => look(s).map_err(|error| format!("looking for the {kind}: {error}"))?,
    };
    let id = id.ok_or_else(|| format!("this host has no such {kind}: an existing name, or a number"))?;
    Ok(Account { name: s.into(), id })
}

/// A text for people, which is shown in a line of its own or in a table.
fn description(s: &str) -> Result<String, String> {
    let characters = s.chars().count();
    if characters > schema::MAX_DESCRIPTION {
        Err(format!("at most {} characters, not {characters}", schema::MAX_DESCRIPTION))
    } else if s.is_empty() || s.contains(char::is_control) {
        Err("a text without control characters; leave it out if there is none".into())
    } else {
        Ok(s.into())
    }
}

/// Which lines are logged: `level` and `target=level`, with commas between them.
fn log_level(s: &str) -> Result<String, String> {
    for part in s.split(',') {
        let (target, level) = part.split_once('=').unwrap_or(("all", part));
        let is_target = !target.is_empty() && target.bytes().all(|c| c.is_ascii_alphanumeric());
        if !is_target || !["off", "error", "warn", "info", "debug", "trace"].contains(&level) {
            return Err(format!(
                "{} is no level: off, error, warn, info, debug, trace, or one of them for a target, like \"port=debug\"",
                quote(part)
            ));
        }
    }
    Ok(s.into())
}

fn role(s: &str) -> Result<Role, String> {
    match s {
        "server" => Ok(Role::Server),
        "client" => Ok(Role::Client),
        _ => Err("not a role: \"server\" or \"client\"".into()),
    }
}

fn unicast(s: &str) -> Result<Mac, String> {
    let mac: Mac = s.parse()?;
    station(mac).map(|()| mac)
}

/// Whether a station can have this address.
pub(crate) fn station(mac: Mac) -> Result<(), String> {
    if mac.is_unicast() {
        Ok(())
    } else if mac == Mac::default() {
        Err("the address of a station is not all zeros".into())
    } else {
        Err("a group address: the first byte of a station's is even".into())
    }
}

/// An IPv4 address that a station can have.
fn address(s: &str) -> Result<Ipv4Addr, String> {
    let ip: Ipv4Addr = match s.parse() {
        Ok(ip) => ip,
        Err(_) if s.split('/').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()) => {
            return Err("IPv6 is not in this version: an IPv4 address".into());
        }
        Err(_) => return Err("not an IPv4 address, like \"10.9.0.2\"".into()),
    };
    host(ip).map(|()| ip)
}

/// Whether a station can have this address.
pub(crate) fn host(ip: Ipv4Addr) -> Result<(), String> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
        return Err("not the address of a station: an IPv4 unicast address, like \"10.9.0.2\"".into());
    }
    Ok(())
}

/// A PCI address or a vdev; the rest is for the device to judge.
fn device_name(s: &str) -> Result<String, String> {
    let name = s.split(',').next().unwrap_or_default();
    let vdev = name.strip_prefix("net_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
    });
    if (vdev || pci(name).is_some()) && !s.contains(char::is_control) {
        Ok(s.to_string())
    } else {
        Err("a PCI address like \"0000:3b:00.0\", or a DPDK vdev like \"net_af_packet0,iface=eth1\"".into())
    }
}

/// A PCI address `[domain:]bus:device.function` with its domain, in lower case.
pub(crate) fn pci(name: &str) -> Option<String> {
    let hex = |s: &str, len: usize| s.len() == len && s.bytes().all(|c| c.is_ascii_hexdigit());
    let (address, function) = name.split_once('.')?;
    let parts: Vec<&str> = address.split(':').collect();
    let (domain, bus, device) = match parts[..] {
        [domain, bus, device] => (domain, bus, device),
        [bus, device] => ("0000", bus, device),
        _ => return None,
    };
    let good = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7']);
    good.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

/// A value as messages show it.
fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => quote(s),
        DeValue::Integer(n) => n.to_string().chars().take(64).collect(),
        DeValue::Float(n) => n.to_string().chars().take(64).collect(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => d.to_string(),
        DeValue::Array(_) => "[..]".into(),
        DeValue::Table(_) => "{..}".into(),
    }
}

fn article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}
