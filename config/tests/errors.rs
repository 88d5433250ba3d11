//! Every error that a configuration can have: what is written about the files in `errors/` is in the texts beside them.
//!
//!     BLESS=1 cargo test -p dray-config --test errors    # writes the texts anew

use dray_config::parse_for;
use std::fs;
use std::path::Path;

/// What a user is shown about a file, who has four CPUs.
fn shown(name: &str, text: &str) -> String {
    parse_for(name, text, &[0, 1, 2, 3]).expect_err(name).to_string() + "\n"
}

/// The first line of it.
fn first(text: &str) -> String {
    shown("dray.toml", text).lines().next().unwrap().into()
}

#[test]
fn every_file_is_refused_with_the_text_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let is_blessed = std::env::var_os("BLESS").is_some();
    let (mut files, mut wrong) = (0, String::new());
    for entry in fs::read_dir(&folder).unwrap() {
        let input = entry.unwrap().path();
        let expected = input.with_extension("txt");
        if input == expected {
            assert!(input.with_extension("toml").exists(), "{} has no file that it is about", input.display());
            continue;
        }
        files += 1;
        let name = input.file_name().unwrap().to_str().unwrap();
        let shown = shown(name, &fs::read_to_string(&input).unwrap());
        if is_blessed {
            fs::write(&expected, &shown).unwrap();
        }
        let right = fs::read_to_string(&expected).unwrap_or_default();
        if shown != right {
            wrong += &format!("--- {} has\n{right}--- and it is\n{shown}", expected.display());
        }
    }
    assert!(files > 60, "{files} files");
    assert!(wrong.is_empty(), "{wrong}If this is meant: BLESS=1 cargo test -p dray-config --test errors");
}

#[test]
fn too_many_of_everything() {
    let port = |i: usize| format!("[[port]]\nname = \"p{i}\"\nkind = \"memif\"\nsocket = \"/m\"\nid = {i}\n");
    let ports = |n: usize| (0..n).map(port).collect::<String>();
    assert_eq!(parse_for("", &ports(4096), &[]).unwrap().ports.len(), 4096);
    assert_eq!(first(&ports(4097)), "error: dray.toml:20481:1: 4097 [[port]]: at most 4096");

    let bridges = |n: usize| (0..n).map(|i| format!("[[bridge]]\nname = \"b{i}\"\n")).collect::<String>();
    assert_eq!(parse_for("", &bridges(4096), &[]).unwrap().bridges.len(), 4096);
    assert_eq!(first(&bridges(4097)), "error: dray.toml:8193:1: 4097 [[bridge]]: at most 4096");

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
    assert_eq!(first(&peers(4097)), "error: dray.toml:4105:1: 4097 peers: at most 4096");

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
    assert_eq!(first(&vteps(5, 2)), format!("error: dray.toml:16418:1: {wrong}"));
}

#[test]
fn a_neighbour_on_the_link() {
    let text = r#"[[port]]
name = "e"
kind = "eth"
device = "net_tap0"
[vxlan]
port = "e"
local = "10.9.0.1/24"
neighbours = [{ address = "10.9.0.2", mac = "02:00:00:00:00:01" }]
"#;
    let good = parse_for("", text, &[]).unwrap().vxlan.unwrap();
    assert_eq!((good.neighbours.len(), good.neighbours[0].address.octets()), (1, [10, 9, 0, 2]));
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
fn who_may_connect_to_one_socket() {
    let text = r#"[[port]]
name = "a"
kind = "memif"
socket = "/m"
socket-group = "root"
id = 0
[[port]]
name = "b"
kind = "memif"
socket = "/m"
socket-group = "root"
id = 1
[[port]]
name = "c"
kind = "memif"
socket = "/m"
socket-group = "root"
id = 2
socket-mode = "0660"
"#;
    let config = parse_for("", text, &[]).unwrap();
    let access = config.ports[1].kind.access().unwrap();
    assert_eq!((access.mode, access.group.as_ref().map(|group| group.id)), (0o660, Some(0)));
}

#[test]
fn a_hidden_secret() {
    let text = "[[port]]\nname = \"a\"\nkind = \"memif\"\nsocket = \"/m\"\nsecret = \"correct horse\"\n";
    let config = parse_for("", text, &[0]).unwrap();
    let hidden = dray_config::render(&config.without_secrets());
    assert!(!hidden.contains("horse"), "{hidden}");
    // As errors/a-hidden-secret.toml has it.
    assert!(hidden.contains("secret = \"***\"\n"), "{hidden}");
}
