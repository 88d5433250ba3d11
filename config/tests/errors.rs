//! Every error that a configuration can have, with its text and its place.

use dray_config::{Error, parse_for};

/// The errors of `text` as `line:column: message`, with the note as `note line:column: message`.
fn errors(text: &str) -> Vec<String> {
    let errors = parse_for("dray.toml", text, &[0, 1, 2, 3]).expect_err("it is wrong");
    let mut lines = Vec::new();
    for Error { file, place, message, note } in &errors.errors {
        assert_eq!(file, "dray.toml");
        lines.push(format!("{}:{}: {message}", place.line, place.column));
        if let Some((place, message)) = note {
            lines.push(format!("note {}:{}: {message}", place.line, place.column));
        }
    }
    lines
}

#[test]
fn shown_like_a_compiler_shows_them() {
    let text = "[[port]]\nname = \"web\"\nkind = \"memif\"\nsocket = \"/a\"\n\
                \n[[port]]\nname = \"web\"\nkind = \"memif\"\nsocket = \"/b\"\nmtux = 3\n";
    let shown = parse_for("etc/dray.toml", text, &[]).unwrap_err().to_string();
    let right = "\
error: etc/dray.toml:7:8: port name \"web\" is already used: names are unique
    7 | name = \"web\"
      |        ^^^^^
note: etc/dray.toml:2:8: first used here
    2 | name = \"web\"
      |        ^^^^^
error: etc/dray.toml:10:1: unknown key \"mtux\" in [[port]] \"web\"; did you mean \"mtu\"?
   10 | mtux = 3
      | ^^^^";
    assert_eq!(shown, right);
}

#[test]
fn too_many_of_everything() {
    let port = |i: usize| format!("[[port]]\nname = \"p{i}\"\nkind = \"memif\"\nsocket = \"/m\"\nid = {i}\n");
    let ports = |n: usize| (0..n).map(port).collect::<String>();
    assert_eq!(parse_for("", &ports(1024), &[]).unwrap().ports.len(), 1024);
    assert_eq!(errors(&ports(1025)), ["5121:1: 1025 [[port]]: at most 1024"]);

    let bridges = |n: usize| (0..n).map(|i| format!("[[bridge]]\nname = \"b{i}\"\n")).collect::<String>();
    assert_eq!(parse_for("", &bridges(4096), &[]).unwrap().bridges.len(), 4096);
    assert_eq!(errors(&bridges(4097)), ["8193:1: 4097 [[bridge]]: at most 4096"]);

    let workers = |n: usize| (0..n).map(|i| format!("[[worker]]\ncpu = {i}\n")).collect::<String>();
    assert_eq!(parse_for("", &workers(64), &[]).unwrap().workers.len(), 64);
    let many = parse_for("", &workers(65), &[]).unwrap_err();
    assert_eq!(many.errors.len(), 1);
    assert_eq!(many.errors[0].message, "65 [[worker]]: at most 64");

    let peers = |n: usize| {
        let list: String = (0..n).map(|i| format!("\"10.1.{}.{}\",\n", i / 256, i % 256)).collect();
        let underlay = "[[port]]\nname = \"e\"\nkind = \"eth\"\ndevice = \"net_tap0\"\n";
        format!("{underlay}[vxlan]\nport = \"e\"\nlocal = \"10.0.0.1/8\"\npeers = [\n{list}]\n")
    };
    assert_eq!(parse_for("", &peers(4096), &[]).unwrap().vxlan.unwrap().peers.len(), 4096);
    assert_eq!(errors(&peers(4097)), ["4105:1: 4097 peers: at most 4096"]);

    // Tunnels have numbers of 16 bits.
    let vteps = |bridges: u32, last: u32| {
        let list = |n: u32| {
            (0..if n == bridges { last } else { 4096 })
                .map(|i| format!("\"10.{n}.{}.{}\",\n", i / 256, i % 256))
                .collect::<String>()
        };
        let bridge = |n| format!("[[bridge]]\nname = \"b{n}\"\nvni = {n}\npeers = [\n{}]\n", list(n));
        peers(0) + &(1..=bridges).map(bridge).collect::<String>()
    };
    assert_eq!(parse_for("", &vteps(4, 4096), &[]).unwrap().vteps().len(), 16_384);
    let wrong = "peers: \"10.5.0.0\" is VTEP number 16385: at most 16384 in all lists and entries together";
    assert_eq!(errors(&vteps(5, 2)), [format!("16418:1: {wrong}")]);
}

#[test]
fn neighbours_are_others_on_the_link() {
    let config = |list: &str| {
        let underlay = "[[port]]\nname = \"e\"\nkind = \"eth\"\ndevice = \"net_tap0\"\n";
        format!("{underlay}[vxlan]\nport = \"e\"\nlocal = \"10.9.0.1/24\"\nneighbours = [\n{list}]\n")
    };
    let entry = |ip: &str| format!("{{ address = \"{ip}\", mac = \"02:00:00:00:00:01\" }},\n");
    let good = parse_for("", &config(&entry("10.9.0.2")), &[]).unwrap().vxlan.unwrap();
    assert_eq!((good.neighbours.len(), good.neighbours[0].address.octets()), (1, [10, 9, 0, 2]));
    let wrong = [entry("10.9.0.2"), entry("10.9.0.2"), entry("10.9.0.1"), entry("10.8.0.2")].concat();
    assert_eq!(
        errors(&config(&wrong)),
        [
            "10:13: neighbours: \"10.9.0.2\" is listed twice: once is enough",
            "note 9:13: first used here",
            "11:13: neighbours: \"10.9.0.1\" is our own address (local): only others",
            "12:13: neighbours: \"10.8.0.2\" is not on-link: an address of 10.9.0.0/24",
        ]
    );
    assert_eq!(
        errors(&config("{ address = \"10.9.0.2\", mac = \"01:00:00:00:00:01\" }, { mac = \"02:00:00:00:00:01\" }, 7"))
            .len(),
        3
    );
}

#[test]
fn what_looks_odd_but_is_right() {
    let text = r#"
[[port]]
name = "in.no:bridge_1-"
kind = "memif"
socket = "@abstract"
[[port]]
name = "trunk"
kind = "memif"
socket = "@abstract"
id = 4294967295
secret = "12345678901234567890123"
ring-size = 0x4000
buffer-size = 65_536
[[bridge]]
name = "trunk"
ports = ["trunk", { port = "trunk", vlan = 1 }]
[[bridge]]
name = "other"
ports = [{ port = "trunk", vlan = 4094 }]
[[bridge]]
name = "empty"
"#;
    let config = parse_for("", text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.bridges[0].ports.len(), 2);
    assert_eq!(parse_for("", "", &[3, 7]).unwrap().workers[0].cpu, 7);
}

#[test]
fn default_mac_is_unicast_and_differs_by_vtep() {
    let text = |local: &str| {
        format!(
            "[[port]]\nname = \"e\"\nkind = \"eth\"\ndevice = \"net_tap0\"\n\
             [[port]]\nname = \"f\"\nkind = \"eth\"\ndevice = \"net_tap1\"\n\
             [vxlan]\nport = \"e\"\nlocal = \"{local}/24\"\n"
        )
    };
    let [one, again, two] =
        ["10.9.0.1", "10.9.0.1", "10.9.0.2"].map(|local| parse_for("", &text(local), &[]).unwrap().ports);
    assert_eq!(one, again);
    assert_eq!((one[0].mac.0[0], one[0].mac.is_unicast()), (2, true));
    assert_ne!(one[0].mac, one[1].mac);
    assert_ne!(one[0].mac, two[0].mac);
    assert_eq!(one[1].mac, two[1].mac);
}

#[test]
fn toml_syntax_several_lines_at_once() {
    let text = r#"x = 
[[port]
name = "a"
"#;
    assert_eq!(
        errors(text),
        [
            "1:5: not TOML: string values must be quoted, expected literal string",
            "2:8: not TOML: unclosed array table, expected `]`",
        ]
    );
}

#[test]
fn a_duplicate_key() {
    let text = r#"[fdb]
size = 2048
size = 4096
"#;
    assert_eq!(errors(text), ["3:1: not TOML: duplicate key size",]);
}

#[test]
fn unknown_tables() {
    let text = r#"speed = 1
[vxlna]
port = "e"
"#;
    assert_eq!(
        errors(text),
        [
            r#"1:1: unknown table "speed": there are [control], [[worker]], [balance], [fdb], [log], [[port]], [[bridge]] and [vxlan]"#,
            r#"2:2: unknown table "vxlna"; did you mean "vxlan"?"#,
        ]
    );
}

#[test]
fn the_wrong_kind_of_table() {
    let text = r#"[[fdb]]
size = 2048
[worker]
cpu = 0
"#;
    assert_eq!(
        errors(text),
        [
            "1:1: fdb is written as a table: [fdb]",
            "3:1: worker may be given several times: write [[worker]] with two brackets",
        ]
    );
}

#[test]
fn not_a_table() {
    let text = r#"fdb = 3
port = [1]
"#;
    assert_eq!(
        errors(text),
        [
            "1:7: fdb is written as a table: [fdb]",
            "2:9: port may be given several times: write [[port]] with two brackets",
        ]
    );
}

#[test]
fn unknown_keys() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
mut = 1500
colour = "red"
"#;
    assert_eq!(
        errors(text),
        [
            r#"5:1: unknown key "mut" in [[port]] "a"; did you mean "mtu"?"#,
            r#"6:1: unknown key "colour" in [[port]] "a": known are name, description, admin, kind, socket, socket-mode, socket-owner, socket-group, id, role, secret, ring-size, buffer-size, queues, mac, mtu, max-macs, max-broadcast, max-multicast, max-unknown-unicast"#,
        ]
    );
}

#[test]
fn wrong_types() {
    let text = r#"[fdb]
size = "many"
ageing = 1.5
[[bridge]]
name = "b"
ports = "a"
[control]
socket = 3
"#;
    assert_eq!(
        errors(text),
        [
            r#"2:8: size = "many" is a string, not integer: 1024 to 67108864"#,
            "3:10: ageing = 1.5 is a float, not integer: 1 to 32767",
            r#"6:9: ports = "a" is a string, not array: port names (untagged), or { port, vlan }"#,
            "8:10: socket = 3 is an integer, not string: an absolute path of at most 107 bytes",
        ]
    );
}

#[test]
fn a_wrong_boolean() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
learn-vteps = "yes"
"#;
    assert_eq!(errors(text), [r#"8:15: learn-vteps = "yes" is a string, not boolean: true, false"#,]);
}

#[test]
fn missing_keys() {
    let text = r#"[[worker]]
[[port]]
[[port]]
name = "a"
kind = "memif"
[[port]]
name = "e"
kind = "eth"
[[port]]
name = "v"
kind = "vhost-user"
[[bridge]]
[vxlan]
"#;
    assert_eq!(
        errors(text),
        [
            "1:1: [[worker]] needs cpu: 0 to 65535",
            "2:1: [[port]] needs name: 1 to 32 of A-Z a-z 0-9 _ . : -, unique",
            r#"2:1: [[port]] needs kind: "memif", "vhost-user", "eth""#,
            r#"3:1: [[port]] "a" needs socket: an absolute path, or @name in the abstract namespace"#,
            r#"6:1: [[port]] "e" needs device: a PCI address, or a DPDK vdev that begins with net_"#,
            r#"9:1: [[port]] "v" needs socket: an absolute path, or @name in the abstract namespace"#,
            "12:1: [[bridge]] needs name: 1 to 32 of A-Z a-z 0-9 _ . : -, unique",
            "13:1: [vxlan] needs port: the name of a [[port]]",
            "13:1: [vxlan] needs local: an IPv4 address with prefix length",
        ]
    );
}

#[test]
fn kinds() {
    let text = r#"[[port]]
name = "v"
kind = "vhost_user"
socket = "/v"
[[port]]
name = "x"
kind = "menif"
[[port]]
name = "y"
kind = "tap"
"#;
    assert_eq!(
        errors(text),
        [
            r#"3:8: kind = "vhost_user": no such kind; did you mean "vhost-user"?"#,
            r#"7:8: kind = "menif": no such kind; did you mean "memif"?"#,
            r#"10:8: kind = "tap": no such kind: "memif", "vhost-user" or "eth""#,
        ]
    );
}

#[test]
fn keys_of_another_kind() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
device = "net_tap0"
[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
id = 1
secret = "x"
buffer-size = 2048
role = "client"
[[port]]
name = "v"
kind = "vhost-user"
socket = "/v"
id = 0
secret = "x"
ring-size = 256
buffer-size = 2048
device = "net_tap1"
"#;
    assert_eq!(
        errors(text),
        [
            r#"5:1: device does not fit kind = "memif" in [[port]] "a": it is for "eth""#,
            r#"10:1: id does not fit kind = "eth" in [[port]] "e": it is for "memif""#,
            r#"11:1: secret does not fit kind = "eth" in [[port]] "e": it is for "memif""#,
            r#"12:1: buffer-size does not fit kind = "eth" in [[port]] "e": it is for "memif""#,
            r#"13:1: role does not fit kind = "eth" in [[port]] "e": it is for "memif", "vhost-user""#,
            r#"18:1: id does not fit kind = "vhost-user" in [[port]] "v": it is for "memif""#,
            r#"19:1: secret does not fit kind = "vhost-user" in [[port]] "v": it is for "memif""#,
            r#"20:1: ring-size does not fit kind = "vhost-user" in [[port]] "v": it is for "memif", "eth""#,
            r#"21:1: buffer-size does not fit kind = "vhost-user" in [[port]] "v": it is for "memif""#,
            r#"22:1: device does not fit kind = "vhost-user" in [[port]] "v": it is for "eth""#,
        ]
    );
}

#[test]
fn control() {
    let text = r#"[control]
socket = "dray.sock"
metrics = "localhost"
"#;
    assert_eq!(
        errors(text),
        [
            r#"2:10: socket = "dray.sock": a socket is an absolute path, or "@name" in the abstract namespace"#,
            r#"3:11: metrics = "localhost": an address and port, like "127.0.0.1:9177""#,
        ]
    );
}

#[test]
fn an_abstract_control_socket() {
    let text = r#"[control]
socket = "@dray"
"#;
    assert_eq!(
        errors(text),
        [r#"2:10: socket = "@dray": the control socket is a path: its mode is what protects it"#,]
    );
}

#[test]
fn names() {
    let text = r#"[[port]]
name = ""
kind = "eth"
device = "net_tap0"
[[bridge]]
name = "a b"
[[bridge]]
name = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
"#;
    assert_eq!(
        errors(text),
        [
            r#"2:8: name = "": a name is 1 to 32 of A-Z a-z 0-9 _ . : -"#,
            r#"6:8: name = "a b": a name is 1 to 32 of A-Z a-z 0-9 _ . : -"#,
            r#"8:8: name = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": a name is 1 to 32 of A-Z a-z 0-9 _ . : -"#,
        ]
    );
}

#[test]
fn duplicate_port_names() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[port]]
name = "a"
kind = "memif"
socket = "/n"
"#;
    assert_eq!(errors(text), [r#"6:8: port name "a" is already used: names are unique"#, "note 2:8: first used here",]);
}

#[test]
fn duplicate_bridge_names() {
    let text = r#"[[bridge]]
name = "b"
[[bridge]]
name = "b"
"#;
    assert_eq!(
        errors(text),
        [r#"4:8: bridge name "b" is already used: names are unique"#, "note 2:8: first used here",]
    );
}

#[test]
fn memif_ranges() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
id = 4294967296
role = "slave"
secret = "1234567890123456789012345"
ring-size = 1000
buffer-size = 255
queues = 17
mtu = 67
"#;
    assert_eq!(
        errors(text),
        [
            "5:6: id = 4294967296 is out of range: 0 to 4294967295",
            r#"6:8: role = "slave": not a role: "server" or "client""#,
            r#"7:10: secret = "1234567890123456789012345": 1 to 23 bytes without NUL, not 25"#,
            "8:13: ring-size = 1000 is out of range: a power of two from 256 to 16384",
            "9:15: buffer-size = 255 is out of range: 256 to 65536",
            "10:10: queues = 17 is out of range: 1 to 16",
            "11:7: mtu = 67 is out of range: 68 to 9198",
        ]
    );
}

#[test]
fn the_ends_of_memif_ranges() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
ring-size = 128
[[port]]
name = "b"
kind = "memif"
socket = "/b"
ring-size = 32768
buffer-size = 65537
queues = 0
mtu = 9199
secret = ""
id = -1
[[port]]
name = "c"
kind = "memif"
socket = "/m"
id = 1
secret = "123456789012345678901234"
"#;
    assert_eq!(
        errors(text),
        [
            "5:13: ring-size = 128 is out of range: a power of two from 256 to 16384",
            "10:13: ring-size = 32768 is out of range: a power of two from 256 to 16384",
            "11:15: buffer-size = 65537 is out of range: 256 to 65536",
            "12:10: queues = 0 is out of range: 1 to 16",
            "13:7: mtu = 9199 is out of range: 68 to 9198",
            r#"14:10: secret = "": 1 to 23 bytes without NUL, not 0"#,
            "15:6: id = -1 is out of range: 0 to 4294967295",
            "21:10: secret = \"123456789012345678901234\": 1 to 23 bytes without NUL, not 24: the protocol has 24, \
             but peers keep the last for a NUL",
        ]
    );
}

#[test]
fn eth_ranges() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
ring-size = 8192
queues = -1
[[port]]
name = "f"
kind = "eth"
device = "net_tap1"
ring-size = 32
"#;
    assert_eq!(
        errors(text),
        [
            "5:13: ring-size = 8192 is out of range: a power of two from 64 to 4096",
            "6:10: queues = -1 is out of range: 1 to 16",
            "11:13: ring-size = 32 is out of range: a power of two from 64 to 4096",
        ]
    );
}

#[test]
fn fdb_ranges() {
    let text = r#"[fdb]
size = 1000
ageing = 32768
"#;
    assert_eq!(
        errors(text),
        ["2:8: size = 1000 is out of range: 1024 to 67108864", "3:10: ageing = 32768 is out of range: 1 to 32767",]
    );
}

#[test]
fn mac_addresses() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
mac = "01:00:5e:00:00:01"
[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
mac = "00:00:00:00:00:00"
[[port]]
name = "f"
kind = "eth"
device = "net_tap1"
mac = "2:0:0:0:0:1"
"#;
    assert_eq!(
        errors(text),
        [
            r#"5:7: mac = "01:00:5e:00:00:01": a group address: the first byte of a station's is even"#,
            r#"10:7: mac = "00:00:00:00:00:00": the address of a station is not all zeros"#,
            r#"15:7: mac = "2:0:0:0:0:1": a MAC address is six hexadecimal bytes, like "02:00:00:00:00:01""#,
        ]
    );
}

#[test]
fn sockets() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "m.sock"
[[port]]
name = "b"
kind = "memif"
socket = "@"
[[port]]
name = "c"
kind = "memif"
socket = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
"#;
    assert_eq!(
        errors(text),
        [
            r#"4:10: socket = "m.sock": a socket is an absolute path, or "@name" in the abstract namespace"#,
            r#"8:10: socket = "@": a socket is an absolute path, or "@name" in the abstract namespace"#,
            r#"12:10: socket = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"...: a socket's name has at most 107 bytes, not 108"#,
        ]
    );
}

#[test]
fn the_same_socket_and_id() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[port]]
name = "b"
kind = "memif"
socket = "/m"
"#;
    assert_eq!(
        errors(text),
        ["5:1: id = 0 is already used on this socket: give each port its own id", "note 1:1: first used here",]
    );
}

#[test]
fn the_same_socket_and_id_given() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
id = 7
[[port]]
name = "b"
kind = "memif"
socket = "//m"
id = 7
"#;
    assert_eq!(
        errors(text),
        ["10:6: id = 7 is already used on this socket: give each port its own id", "note 5:6: first used here",]
    );
}

#[test]
fn both_roles_on_a_socket() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[port]]
name = "b"
kind = "memif"
socket = "/m"
id = 1
role = "client"
"#;
    assert_eq!(
        errors(text),
        [
            r#"8:10: socket = "/m" has a server already and cannot have a client: one role per socket"#,
            "note 4:10: first used here",
        ]
    );
}

#[test]
fn vhost_user_ranges() {
    let text = r#"[[port]]
name = "v"
kind = "vhost-user"
socket = "vm.sock"
role = "slave"
queues = 17
mac = "01:00:5e:00:00:01"
mtu = 9199
[[port]]
name = "w"
kind = "vhost-user"
socket = "@wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww"
queues = 0
"#;
    assert_eq!(
        errors(text),
        [
            r#"4:10: socket = "vm.sock": a socket is an absolute path, or "@name" in the abstract namespace"#,
            r#"5:8: role = "slave": not a role: "server" or "client""#,
            "6:10: queues = 17 is out of range: 1 to 16",
            r#"7:7: mac = "01:00:5e:00:00:01": a group address: the first byte of a station's is even"#,
            "8:7: mtu = 9199 is out of range: 68 to 9198",
            r#"12:10: socket = "@wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww"...: a socket's name has at most 107 bytes, not 108"#,
            "13:10: queues = 0 is out of range: 1 to 16",
        ]
    );
}

#[test]
fn vhost_user_ports_on_a_socket() {
    let text = r#"[[port]]
name = "v"
kind = "vhost-user"
socket = "/v"
[[port]]
name = "w"
kind = "vhost-user"
socket = "/v"
role = "server"
[[port]]
name = "m"
kind = "memif"
socket = "/v"
[[port]]
name = "n"
kind = "memif"
socket = "/n"
[[port]]
name = "x"
kind = "vhost-user"
socket = "//n"
"#;
    assert_eq!(
        errors(text),
        [
            r#"8:10: socket = "/v" of port "w" is already port "v"'s: a vhost-user port has its own"#,
            "note 4:10: first used here",
            r#"13:10: socket = "/v" of port "m" is already port "v"'s: a vhost-user port has its own"#,
            "note 4:10: first used here",
            r#"21:10: socket = "//n" of port "x" is already port "n"'s: a vhost-user port has its own"#,
            "note 17:10: first used here",
        ]
    );
}

#[test]
fn the_control_socket_as_a_vhost_user_port_s() {
    let text = r#"[[port]]
name = "v"
kind = "vhost-user"
socket = "/run/dray/control/dray.sock"
"#;
    assert_eq!(
        errors(text),
        [r#"4:10: socket = "/run/dray/control/dray.sock" is the control socket's: give vhost-user its own"#,]
    );
}

#[test]
fn the_control_socket_as_memif_s() {
    let text = r#"[control]
socket = "/m"
[[port]]
name = "a"
kind = "memif"
socket = "/m"
"#;
    assert_eq!(
        errors(text),
        [r#"6:10: socket = "/m" is the control socket's: give memif its own"#, "note 2:10: the control socket",]
    );
}

#[test]
fn the_default_control_socket_as_memif_s() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/run/dray/control/dray.sock"
"#;
    assert_eq!(
        errors(text),
        [r#"4:10: socket = "/run/dray/control/dray.sock" is the control socket's: give memif its own"#,]
    );
}

#[test]
fn devices() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = ""
[[port]]
name = "f"
kind = "eth"
device = "eth0"
"#;
    assert_eq!(
        errors(text),
        [
            r#"4:10: device = "": a PCI address like "0000:3b:00.0", or a DPDK vdev like "net_af_packet0,iface=eth1""#,
            r#"8:10: device = "eth0": a PCI address like "0000:3b:00.0", or a DPDK vdev like "net_af_packet0,iface=eth1""#,
        ]
    );
}

#[test]
fn a_device_twice() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "0000:3b:00.0"
[[port]]
name = "f"
kind = "eth"
device = "3B:00.0"
"#;
    assert_eq!(
        errors(text),
        [r#"8:10: device "3B:00.0" already has a port: one port per device"#, "note 4:10: first used here",]
    );
}

#[test]
fn a_vdev_twice() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[[port]]
name = "f"
kind = "eth"
device = "net_tap0,iface=x"
"#;
    assert_eq!(
        errors(text),
        [r#"8:10: device "net_tap0" already has a port: one port per device"#, "note 4:10: first used here",]
    );
}

#[test]
fn workers() {
    let text = r#"[[worker]]
cpu = 1
[[worker]]
cpu = 1
[[worker]]
cpu = 4
"#;
    assert_eq!(
        errors(text),
        [
            "4:7: cpu = 1 already has a worker: every worker needs its own",
            "note 2:7: its first worker",
            "6:7: cpu = 4: this process may only use 0-3",
        ]
    );
}

#[test]
fn unknown_ports_in_a_bridge() {
    let text = r#"[[port]]
name = "web"
kind = "memif"
socket = "/m"
[[bridge]]
name = "b"
ports = ["wbe", { port = "firewall", vlan = 3 }]
"#;
    assert_eq!(
        errors(text),
        [
            r#"7:10: unknown port "wbe"; did you mean "web"?"#,
            r#"7:26: unknown port "firewall": no [[port]] has this name"#,
        ]
    );
}

#[test]
fn a_port_untagged_in_two_bridges() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[bridge]]
name = "b"
ports = ["a"]
[[bridge]]
name = "c"
ports = [{ port = "a" }]
"#;
    assert_eq!(
        errors(text),
        [
            r#"10:19: port "a" is already in bridge "b" untagged: it can be untagged in one bridge only; { port, vlan } puts a VLAN of it in another"#,
            "note 7:10: first used here",
        ]
    );
}

#[test]
fn a_port_twice_in_one_bridge() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[bridge]]
name = "b"
ports = ["a", "a"]
"#;
    assert_eq!(
        errors(text),
        [
            r#"7:15: port "a" is already in bridge "b" untagged: it can be untagged in one bridge only; { port, vlan } puts a VLAN of it in another"#,
            "note 7:10: first used here",
        ]
    );
}

#[test]
fn a_vlan_of_a_port_in_two_bridges() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[bridge]]
name = "b"
ports = [{ port = "a", vlan = 5 }]
[[bridge]]
name = "c"
ports = [{ port = "a", vlan = 5 }]
"#;
    assert_eq!(
        errors(text),
        [
            r#"10:19: port "a" is already in bridge "b" with vlan 5: each of its VLANs can be in one bridge only"#,
            "note 7:19: first used here",
        ]
    );
}

#[test]
fn vlans() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[bridge]]
name = "b"
ports = [{ port = "a", vlan = 0 }, { port = "a", vlan = 4095 }]
"#;
    assert_eq!(
        errors(text),
        ["7:31: vlan = 0 is out of range: 1 to 4094", "7:57: vlan = 4095 is out of range: 1 to 4094",]
    );
}

#[test]
fn members() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[bridge]]
name = "b"
ports = [1, { vlan = 3 }, { port = "a", vlna = 3 }]
"#;
    assert_eq!(
        errors(text),
        [
            "7:10: ports: 1 is no member: a port's name, or { port, vlan }",
            r#"7:13: ports of [[bridge]] "b" needs port: the name of a [[port]]"#,
            r#"7:41: unknown key "vlna" in ports of [[bridge]] "b"; did you mean "vlan"?"#,
        ]
    );
}

#[test]
fn the_underlay_in_a_bridge() {
    let text = r#"[[bridge]]
name = "b"
ports = ["e"]
[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
"#;
    assert_eq!(errors(text), [r#"3:10: port "e" is the underlay and can be in no bridge"#, "note 9:8: the underlay",]);
}

#[test]
fn vni_twice() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
[[bridge]]
name = "b"
vni = 7
[[bridge]]
name = "c"
vni = 7
"#;
    assert_eq!(errors(text), ["13:7: vni = 7 is already used: each bridge has its own", "note 10:7: first used here",]);
}

#[test]
fn vni_ranges() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
[[bridge]]
name = "b"
vni = 0
[[bridge]]
name = "c"
vni = 16777216
"#;
    assert_eq!(
        errors(text),
        ["10:7: vni = 0 is out of range: 1 to 16777215", "13:7: vni = 16777216 is out of range: 1 to 16777215",]
    );
}

#[test]
fn a_vni_without_an_overlay() {
    let text = r#"[[bridge]]
name = "b"
vni = 7
"#;
    assert_eq!(errors(text), ["3:7: vni = 7 needs the overlay: add [vxlan] with port and local",]);
}

#[test]
fn local_without_prefix() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1"
"#;
    assert_eq!(errors(text), [r#"7:9: local = "10.9.0.1": the prefix length is missing: "10.9.0.1/24", say"#,]);
}

#[test]
fn local_is_ipv6() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "fd00::1/64"
"#;
    assert_eq!(errors(text), [r#"7:9: local = "fd00::1/64": IPv6 is not in this version: an IPv4 address"#,]);
}

#[test]
fn prefix_length() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/33"
"#;
    assert_eq!(errors(text), [r#"7:9: local = "10.9.0.1/33": a prefix length is 0 to 32, as in "10.9.0.1/24""#,]);
}

#[test]
fn local_is_the_network() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.0/24"
"#;
    assert_eq!(errors(text), [r#"7:9: local = "10.9.0.0/24" is the network itself: a host's address on it"#,]);
}

#[test]
fn local_is_the_broadcast_address() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.255/24"
"#;
    assert_eq!(
        errors(text),
        [r#"7:9: local = "10.9.0.255/24" is the network's broadcast address: a host's address on it"#,]
    );
}

#[test]
fn local_is_no_station() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "224.0.0.1/24"
"#;
    assert_eq!(
        errors(text),
        [r#"7:9: local = "224.0.0.1/24": not the address of a station: an IPv4 unicast address, like "10.9.0.2""#,]
    );
}

#[test]
fn the_underlay_is_unknown() {
    let text = r#"[vxlan]
port = "e"
local = "10.9.0.1/24"
"#;
    assert_eq!(errors(text), [r#"2:8: unknown port "e": no [[port]] has this name"#,]);
}

#[test]
fn gateway_not_on_link() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
gateway = "10.9.1.254"
"#;
    assert_eq!(
        errors(text),
        [
            r#"8:11: gateway = "10.9.1.254" is not on-link: an address of 10.9.0.0/24"#,
            "note 7:9: the underlay's network",
        ]
    );
}

#[test]
fn gateway_is_local() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
gateway = "10.9.0.1"
"#;
    assert_eq!(
        errors(text),
        [r#"8:11: gateway = "10.9.0.1" is our own address: another on 10.9.0.0/24"#, "note 7:9: our own address",]
    );
}

#[test]
fn gateway_is_no_address() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
gateway = "10.9.0"
"#;
    assert_eq!(errors(text), [r#"8:11: gateway = "10.9.0": not an IPv4 address, like "10.9.0.2""#,]);
}

#[test]
fn peers() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
peers = ["10.9.0.1", "10.9.0.2", "10.9.0.2", "fd00::2", "10.9.1.2", 5, "0.0.0.0"]
"#;
    assert_eq!(
        errors(text),
        [
            r#"8:10: peers: "10.9.0.1" is our own address (local): only other VTEPs"#,
            r#"8:34: peers: "10.9.0.2" is listed twice: once is enough"#,
            "note 8:22: first used here",
            r#"8:46: peers: "fd00::2": IPv6 is not in this version: an IPv4 address"#,
            r#"8:57: peers: "10.9.1.2" is not on the network 10.9.0.0/24 and there is no gateway: give one in [vxlan]"#,
            "8:69: peers: 5: an IPv4 address in quotes",
            r#"8:72: peers: "0.0.0.0": not the address of a station: an IPv4 unicast address, like "10.9.0.2""#,
        ]
    );
}

#[test]
fn a_bridge_peers() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
[[bridge]]
name = "b"
vni = 7
peers = ["10.9.0.1", "10.9.0.3", "10.9.0.3"]
"#;
    assert_eq!(
        errors(text),
        [
            r#"11:10: peers: "10.9.0.1" is our own address (local): only other VTEPs"#,
            r#"11:34: peers: "10.9.0.3" is listed twice: once is enough"#,
            "note 11:22: first used here",
        ]
    );
}

#[test]
fn peers_of_a_local_bridge() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
[[bridge]]
name = "b"
peers = ["10.9.0.2"]
"#;
    assert_eq!(errors(text), ["10:9: peers is for a bridge in the overlay: give it a vni, or leave peers out",]);
}

#[test]
fn udp_port() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
udp-port = 0
"#;
    assert_eq!(errors(text), ["8:12: udp-port = 0 is out of range: 1 to 65535",]);
}

#[test]
fn static_entries() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
[[bridge]]
name = "b"
vni = 7
ports = ["a"]
static = [
  { mac = "02:00:00:00:00:01", port = "a" },
  { mac = "02:00:00:00:00:01", vtep = "10.9.0.2" },
  { mac = "02:00:00:00:00:02" },
  { mac = "02:00:00:00:00:03", port = "a", vtep = "10.9.0.2" },
  { mac = "03:00:00:00:00:04", port = "a" },
  { mac = "02:00:00:00:00:05", port = "e" },
  { mac = "02:00:00:00:00:06", port = "a", vlan = 9 },
  { mac = "02:00:00:00:00:07", vtep = "10.9.0.2", vlan = 9 },
  { mac = "02:00:00:00:00:08", vtep = "10.8.0.2" },
  "02:00:00:00:00:09",
]
"#;
    assert_eq!(
        errors(text),
        [
            r#"18:11: mac = "02:00:00:00:00:01" is already in bridge "b": one entry each"#,
            "note 17:11: first used here",
            "19:3: static entry with neither port nor vtep: give one of them",
            "20:3: static entry with both port and vtep: give one of them",
            r#"21:11: mac = "03:00:00:00:00:04": a group address: the first byte of a station's is even"#,
            r#"22:39: port "e" is not in bridge "b"; did you mean "a"?"#,
            r#"23:39: port "a" is not in bridge "b" with vlan 9"#,
            "24:58: vlan goes with port, not with vtep: leave it out",
            r#"25:39: vtep: "10.8.0.2" is not on the network 10.9.0.0/24 and there is no gateway: give one in [vxlan]"#,
            r#"26:3: "02:00:00:00:00:09" is no entry of `static` of `[[bridge]]`: a table"#,
        ]
    );
}

#[test]
fn a_static_entry_with_several_memberships_to_choose_from() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
[[bridge]]
name = "b"
ports = [{ port = "a", vlan = 1 }, { port = "a", vlan = 2 }]
static = [{ mac = "02:00:00:00:00:01", port = "a" }]
"#;
    assert_eq!(errors(text), [r#"8:47: port "a" is several members of bridge "b": say which by vlan"#,]);
}

#[test]
fn a_static_vtep_in_a_local_bridge() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
[[bridge]]
name = "b"
static = [{ mac = "02:00:00:00:00:01", vtep = "10.9.0.2" }]
"#;
    assert_eq!(errors(text), [r#"10:47: vtep = "10.9.0.2" is for a bridge in the overlay: give it a vni"#,]);
}

#[test]
fn who_may_connect() {
    let text = r#"[control]
socket-mode = "0666"
socket-owner = "4294967295"
socket-group = 7
[[port]]
name = "a"
kind = "memif"
socket = "/m"
socket-mode = "rw-rw----"
socket-owner = "nobody-of-that-name"
socket-group = ""
[[port]]
name = "b"
kind = "memif"
socket = "/n"
socket-mode = "1777"
[[port]]
name = "c"
kind = "vhost-user"
socket = "/v"
socket-group = "root"
[[port]]
name = "d"
kind = "memif"
socket = "@d"
socket-owner = "root"
"#;
    let existing = "an existing name, or a number";
    assert_eq!(
        errors(text),
        [
            "2:15: socket-mode = \"0666\": who may connect to the control socket is as good as root: nothing for others, \
             like \"0660\" with a socket-group"
                .to_owned(),
            format!("3:16: socket-owner = \"4294967295\": this host has no such user: {existing}"),
            "4:16: socket-group = 7 is an integer, not string: a name or a number of this host".into(),
            "9:15: socket-mode = \"rw-rw----\": permission bits are octal digits, like \"0660\"".into(),
            format!("10:16: socket-owner = \"nobody-of-that-name\": this host has no such user: {existing}"),
            format!("11:16: socket-group = \"\": this host has no such group: {existing}"),
            "16:15: socket-mode = \"1777\": permission bits are octal digits, like \"0660\"".into(),
            "21:16: socket-mode, socket-owner and socket-group are for role = \"server\": a client's socket is its peer's"
                .into(),
            "26:16: socket-mode, socket-owner and socket-group are for a path: who is in the network namespace may \
             connect to @name"
                .into(),
        ]
    );
}

#[test]
fn who_may_connect_to_one_socket() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
id = 0
[[port]]
name = "b"
kind = "memif"
socket = "/m"
id = 1
socket-group = "1000"
[[port]]
name = "c"
kind = "memif"
socket = "/m"
id = 2
socket-mode = "0660"
"#;
    assert_eq!(
        errors(text),
        [
            "11:16: socket-mode, socket-owner or socket-group of port \"b\" is not port \"a\"'s: they have one socket",
            "note 4:10: what the other has",
        ]
    );
    let config = parse_for("", &text.replace("1000", "0"), &[]);
    assert!(config.is_err(), "a group is not the same as none");
    let text = text.replace("socket = \"/m\"\n", "socket = \"/m\"\nsocket-group = \"root\"\n");
    let config = parse_for("", &text.replace("socket-group = \"1000\"\n", ""), &[]).unwrap();
    let access = config.ports[1].kind.access().unwrap();
    assert_eq!((access.mode, access.group.as_ref().map(|group| group.id)), (0o660, Some(0)));
}

#[test]
fn a_hidden_secret() {
    let text = "[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"/m\"\nsecret = \"correct horse\"\n";
    let config = parse_for("", text, &[0]).unwrap();
    let hidden = dray_config::render(&config.without_secrets());
    assert!(!hidden.contains("horse"), "{hidden}");
    assert_eq!(
        errors(&hidden),
        [r#"8:10: secret = "***": it was hidden: put the secret itself here, or have the file written with --secrets"#]
    );
}
