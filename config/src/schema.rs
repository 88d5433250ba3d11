//! The keys of the configuration file: one table, which the reader, the plan's messages and the reference page share.

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// As written in the file, `[[port]]`; for the inline tables, where they are found.
    pub header: &'static str,
    /// What it describes, one sentence.
    pub meaning: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: &'static [Key],
}

/// A key of the file.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Type and range of the value.
    pub value: Value,
    /// Value if the key is left out: TOML, or words.
    pub default: &'static str,
    /// The port kinds it belongs to; none: every kind.
    pub kinds: &'static [&'static str],
    /// What it means, for the reference.
    pub meaning: &'static str,
}

/// Type and range of a value.
#[derive(Debug)]
pub enum Value {
    /// Text; the words say which.
    String(&'static str),
    /// A whole number from the first to the second, both included.
    Integer(u64, u64),
    /// A power of two from the first to the second, both included.
    PowerOfTwo(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// A list; the words say of what.
    Array(&'static str),
}

impl Value {
    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::String(_) => "string",
            Value::Integer(..) | Value::PowerOfTwo(..) => "integer",
            Value::Boolean => "boolean",
            Value::Array(_) => "array",
        }
    }

    /// What values are right, in words.
    pub fn range(&self) -> String {
        match *self {
            Value::String(words) | Value::Array(words) => words.into(),
            Value::Integer(min, max) => format!("{min} to {max}"),
            Value::PowerOfTwo(min, max) => format!("a power of two from {min} to {max}"),
            Value::Boolean => "`true`, `false`".into(),
        }
    }
}

/// At most so many `[[worker]]`.
pub const MAX_WORKERS: usize = 64;
/// At most so many `[[port]]`.
pub const MAX_PORTS: usize = 1024;
/// At most so many `[[bridge]]`.
pub const MAX_BRIDGES: usize = 4096;
/// At most so many addresses in one `peers` list.
pub const MAX_PEERS: usize = 4096;
/// At most so many VTEPs in all lists and static entries together. Tunnels have numbers of 16 bits, and while one configuration takes the
/// place of another, both have theirs, and 4,096 learned ones.
pub const MAX_VTEPS: usize = 16_384;

/// The longest `description`, characters.
pub const MAX_DESCRIPTION: usize = 128;

const DESCRIPTION: Value = Value::String("at most 128 characters, none of them a control character");
const NAME: Value = Value::String("1 to 32 of `A-Z a-z 0-9 _ . : -`, unique");
const SOCKET: Value = Value::String("an absolute path, or `@name` in the abstract namespace");
const MODE: Value = Value::String("octal digits, like `\"0660\"`");
const ACCOUNT: Value = Value::String("a name or a number of this host");
const MAC: Value = Value::String("a unicast MAC address");
const PEERS: Value = Value::Array("IPv4 addresses, at most 4096");
const ROLE: Value = Value::String("`\"server\"`, `\"client\"`");
const QUEUES: Value = Value::Integer(1, 16);
const VLAN: Value = Value::Integer(1, 4094);
const PACKETS_A_SECOND: Value = Value::Integer(1, u32::MAX as u64);

const fn key(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    Key { name, value, default, kinds: &[], meaning }
}

/// Only for these kinds of port.
const fn of(kinds: &'static [&'static str], key: Key) -> Key {
    Key { kinds, ..key }
}

const fn memif(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    of(&["memif"], key(name, value, default, meaning))
}

const fn vhost_user(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    of(&["vhost-user"], key(name, value, default, meaning))
}

const fn eth(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    of(&["eth"], key(name, value, default, meaning))
}

/// The word in [`Key::default`] of a key that must be given.
pub const REQUIRED: &str = "required";

/// `[control]`
pub static CONTROL: Section = Section {
    header: "[control]",
    meaning: "The control socket and the metrics. Changes need a restart.",
    keys: &[
        key(
            "socket",
            Value::String("an absolute path of at most 107 bytes"),
            "\"/run/dray/control/dray.sock\"",
            "Unix socket on which `drayd` takes commands. Whoever may connect to it is as good as root. Its directory, if \
             missing, is made for the socket's owner and group alone.",
        ),
        key("socket-mode", MODE, "\"0660\"", "Who may connect: the socket's permission bits. None for others."),
        key("socket-owner", ACCOUNT, "the user of `drayd`", "The socket's owner."),
        key("socket-group", ACCOUNT, "the group of `drayd`", "The socket's group."),
        key("metrics", Value::String("`address:port`"), "off", "Where OpenMetrics is served over HTTP."),
    ],
};

/// `[[worker]]`
pub static WORKER: Section = Section {
    header: "[[worker]]",
    meaning: "A thread that moves packets, pinned to a CPU and always busy. At most 64. \
              Without any: one on the last CPU the process may use. Changes need a restart.",
    keys: &[
        key(
            "cpu",
            Value::Integer(0, 65535),
            REQUIRED,
            "The CPU. It must be one this process may use, and have no other worker.",
        ),
        key(
            "idle-sleep",
            Value::Integer(0, 1000),
            "0",
            "Microseconds to sleep at a time while there is nothing to do. 0: poll always, for the lowest latency; \
             more where the CPU is shared, at the price of that much latency for the first packet.",
        ),
    ],
};

/// `[balance]`
pub static BALANCE: Section = Section {
    header: "[balance]",
    meaning: "How receive queues are spread over the workers. One that comes up goes to the worker that polls the fewest. When \
              a worker is busy for 85 % of the time and more, and moving one of its queues to another worker brings their \
              loads closer by a quarter or more, that queue is moved. Order is kept: a queue stays where it is while a port \
              of its bridges takes frames of several workers in several rings, as NICs and memif ports with several queues do.",
    keys: &[key(
        "interval",
        Value::Integer(0, 3600),
        "5",
        "Seconds between two looks at the loads, each of which moves one queue at most. 0: queues stay where they are.",
    )],
};

/// `[fdb]`
pub static FDB: Section = Section {
    header: "[fdb]",
    meaning: "The forwarding database: which MAC address is where.",
    keys: &[
        key(
            "size",
            Value::Integer(1024, 1 << 26),
            "1048576",
            "How many MAC addresses it holds. A change needs a restart.",
        ),
        key(
            "ageing",
            Value::Integer(1, 32767),
            "300",
            "Seconds after which an address that was not seen is forgotten; it may take an eighth longer, at least 2 seconds and at most 60.",
        ),
    ],
};

/// `[log]`
pub static LOG: Section = Section {
    header: "[log]",
    meaning: "What `drayd` writes to standard error, a line an event; `dray log level` changes it.",
    keys: &[key(
        "level",
        Value::String("a level, or several `target=level` with commas between them"),
        "\"info\"",
        "The least important lines that are written: those of the level `error`, `warn`, `info`, `debug` or `trace`, or `off`. A \
         target is what a line begins with, such as `port`, `config`, `vxlan` or `control`; `\"warn,config=info\"` has one level \
         for it and another for the rest.",
    )],
};

/// `[[port]]`
pub static PORT: Section = Section {
    header: "[[port]]",
    meaning: "A port of the switch. At most 1024. A port may be in no bridge yet.",
    keys: &[
        key("name", NAME, REQUIRED, "Its name in bridges, commands and counters."),
        key("description", DESCRIPTION, "none", "What people call it: `dray port show` has it."),
        key(
            "admin",
            Value::String("`\"up\"`, `\"down\"`"),
            "\"up\"",
            "`down` closes the port: its peer is told, its socket or device is released, and no frame is taken or sent. It stays in \
             its bridges, and keeps its counters. `dray port up` and `dray port down` change it.",
        ),
        key(
            "kind",
            Value::String("`\"memif\"`, `\"vhost-user\"`, `\"eth\"`"),
            REQUIRED,
            "`memif` is shared memory with a container, `vhost-user` with a virtual machine, \
             `eth` a NIC or a DPDK virtual device.",
        ),
        of(
            &["memif", "vhost-user"],
            key(
                "socket",
                SOCKET,
                REQUIRED,
                "The control channel's socket. Several memif servers may share one; a vhost-user port has its own.",
            ),
        ),
        of(
            &["memif", "vhost-user"],
            key(
                "socket-mode",
                MODE,
                "\"0660\"",
                "Who may connect to a server's socket: its permission bits. The ports of one socket have the same, as with \
                 owner and group.",
            ),
        ),
        of(
            &["memif", "vhost-user"],
            key("socket-owner", ACCOUNT, "the user of `drayd`", "The owner of a server's socket."),
        ),
        of(
            &["memif", "vhost-user"],
            key("socket-group", ACCOUNT, "the group of `drayd`", "The group of a server's socket."),
        ),
        memif("id", Value::Integer(0, u32::MAX as u64), "0", "Interface id, unique on the socket."),
        memif(
            "role",
            ROLE,
            "\"server\"",
            "A server listens and maps the client's memory; a client connects and brings it. \
             The ports of one socket have one role.",
        ),
        vhost_user(
            "role",
            ROLE,
            "\"client\"",
            "A client connects to the VM's side, which listens: then a restart of the switch does not hurt the VM. \
             A server listens.",
        ),
        memif("secret", Value::String("1 to 23 bytes"), "none", "Must be the same on both sides."),
        memif(
            "ring-size",
            Value::PowerOfTwo(256, 16384),
            "1024",
            "Descriptors in a ring. The client decides; a server takes what is offered up to this.",
        ),
        memif(
            "buffer-size",
            Value::Integer(256, 65536),
            "2048",
            "Bytes in a buffer, as a client. Longer frames take several.",
        ),
        eth(
            "device",
            Value::String("a PCI address, or a DPDK vdev that begins with `net_`"),
            REQUIRED,
            "The device: `\"0000:3b:00.0\"`, `\"net_af_packet0,iface=eth1\"`.",
        ),
        eth("ring-size", Value::PowerOfTwo(64, 4096), "1024", "Descriptors in a queue. The device may have fewer."),
        of(&["memif", "eth"], key("queues", QUEUES, "1", "Queue pairs. The peer or the device may have fewer.")),
        vhost_user("queues", QUEUES, "16", "The most queue pairs that the VM may use."),
        key(
            "mac",
            MAC,
            "made from the name",
            "The port's own address. Only the underlay port uses it: it is the VTEP's. \
             For `vhost-user` it is what `dray port show NAME --connect` proposes as the VM's.",
        ),
        key(
            "mtu",
            Value::Integer(68, 9198),
            "9198 (memif, vhost-user), 1500 (eth)",
            "Longest Ethernet payload sent and accepted, bytes. VLAN tags don't count. What fits all of a bridge is the smallest of \
             its members, and with a `vni` of the underlay port's less 50, which VXLAN takes: `dray bridge show` has it, and \
             `dray port show NAME --connect` proposes it to the guest. `drayd --check`, the log and `dray port show NAME` \
             warn of members with more, though that is no error: frames that are longer may go between these.",
        ),
        key(
            "max-macs",
            Value::Integer(1, 1 << 26),
            "half of `size` in `[fdb]`; for memif and vhost-user that are not the underlay 4096 at most",
            "How many MAC addresses are learned behind it, so that no port fills the FDB for all. What it has stays its own; one more, \
             or one that moves there, is not learned: it is flooded, counted and logged. Static entries don't count. On the underlay \
             port: how many behind all VTEPs together.",
        ),
        key(
            "max-broadcast",
            PACKETS_A_SECOND,
            "no limit",
            "How many broadcasts the port may send into its bridges in a second (storm control). What is more is dropped and counted \
             as `storm.broadcast`; on the underlay port that goes for all VTEPs together.",
        ),
        key("max-multicast", PACKETS_A_SECOND, "no limit", "The same of multicasts: `storm.multicast`."),
        key(
            "max-unknown-unicast",
            PACKETS_A_SECOND,
            "no limit",
            "The same of unicasts to addresses that the FDB does not have: `storm.unknown_unicast`.",
        ),
    ],
};

/// `[[bridge]]`
pub static BRIDGE: Section = Section {
    header: "[[bridge]]",
    meaning: "A learning bridge. At most 4096.",
    keys: &[
        key("name", NAME, REQUIRED, "Its name in commands."),
        key("description", DESCRIPTION, "none", "What people call it: `dray bridge show` has it."),
        key(
            "vni",
            Value::Integer(1, 16_777_215),
            "none",
            "VXLAN network identifier, unique. With it the bridge joins the overlay; needs `[vxlan]`.",
        ),
        key(
            "ports",
            Value::Array("port names (untagged), or `{ port, vlan }`"),
            "[]",
            "Its members. A port is untagged in at most one bridge, and each of its VLANs is in at most one.",
        ),
        key(
            "peers",
            PEERS,
            "those of `[vxlan]`",
            "Head-end replication list of this bridge: VTEPs that get its broadcasts. Needs `vni`.",
        ),
        key("static", Value::Array("tables `{ mac, port, vlan }` or `{ mac, vtep }`"), "[]", "Static FDB entries."),
    ],
};

/// An entry of `ports` in `[[bridge]]`.
pub static MEMBER: Section = Section {
    header: "`ports` of `[[bridge]]`",
    meaning: "A member. The string `\"web\"` is short for `{ port = \"web\" }`.",
    keys: &[
        key("port", Value::String("the name of a `[[port]]`"), REQUIRED, "The port."),
        key("vlan", VLAN, "untagged", "The VLAN that is this bridge on that port. Its tag is popped and pushed."),
    ],
};

/// An entry of `static` in `[[bridge]]`.
pub static STATIC: Section = Section {
    header: "`static` of `[[bridge]]`",
    meaning: "A MAC address that is not learned and does not age. It has either `port` or `vtep`.",
    keys: &[
        key("mac", MAC, REQUIRED, "The address, once in a bridge."),
        key("port", Value::String("a member of the bridge"), "none", "The port it is behind."),
        key("vlan", VLAN, "the port's only membership", "Which of the port's memberships, if it has several."),
        key("vtep", Value::String("an IPv4 address"), "none", "The VTEP it is behind. Needs `vni`."),
    ],
};

/// `[vxlan]`
pub static VXLAN: Section = Section {
    header: "[vxlan]",
    meaning: "The overlay: VXLAN (RFC 7348) over IPv4. The outer DF bit is set, the outer TTL is 64; DSCP and ECN are those of the \
              inner packet, which is told of congestion (RFC 6040). At most 16384 VTEPs in all lists and static entries together.",
    keys: &[
        key("port", Value::String("the name of a `[[port]]`"), REQUIRED, "The underlay: a port in no bridge."),
        key(
            "local",
            Value::String("an IPv4 address with prefix length"),
            REQUIRED,
            "The VTEP's own address and the underlay's network: `\"10.9.0.1/24\"`.",
        ),
        key("gateway", Value::String("an IPv4 address on that network"), "none", "Next hop to all other networks."),
        key("peers", PEERS, "[]", "Head-end replication list of the bridges that have none of their own."),
        key(
            "neighbours",
            Value::Array("tables `{ address, mac }`, at most 4096"),
            "[]",
            "Hosts of the underlay's network whose MAC is given: VTEPs, or the gateway. They are not asked for, and no ARP packet \
             changes them.",
        ),
        key("udp-port", Value::Integer(1, 65535), "4789", "UDP destination port."),
        key(
            "learn-vteps",
            Value::Boolean,
            "false",
            "Whether packets of VTEPs that are not configured are taken, and their addresses learned.",
        ),
    ],
};

/// An entry of `neighbours` in `[vxlan]`.
pub static NEIGHBOUR: Section = Section {
    header: "`neighbours` of `[vxlan]`",
    meaning: "A next hop whose MAC address is not asked for.",
    keys: &[
        key(
            "address",
            Value::String("an IPv4 address on the underlay's network"),
            REQUIRED,
            "Its address, once in the list.",
        ),
        key("mac", MAC, REQUIRED, "Its MAC address."),
    ],
};

/// All tables, in the order of the reference.
pub static SECTIONS: &[&Section] =
    &[&CONTROL, &WORKER, &BALANCE, &FDB, &LOG, &PORT, &BRIDGE, &MEMBER, &STATIC, &VXLAN, &NEIGHBOUR];

impl Section {
    /// The keys that fit `kind`; all if it is not known.
    pub fn keys_for(&self, kind: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.kinds.is_empty() || kind.is_none_or(|kind| key.kinds.contains(&kind)))
    }
}
