//! The running configuration is changed under load.

use crate::harness::*;
use dray_api::{ConfigChange, ConfigText, ConnectInfo};
use dray_config::Role;
use std::os::unix::fs::FileTypeExt;

/// The underlay is a memif port: any kind will do.
const UNDERLAY: &str = "[vxlan]\nport = \"under\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";

fn base() -> String {
    memif_ports(&["a", "b", "under"]) + &bridge("blue", &["a", "b"]) + UNDERLAY
}

/// Another configuration for every number, in which `a`, `b` and their bridge are the same: other ports, bridges and VNIs come
/// and go, and strangers join the bridge.
fn variant(number: usize) -> String {
    let mut config = memif_ports(&["a", "b", "under"]);
    let mut joined = vec!["a".to_string(), "b".to_string()];
    for i in 0..number % 7 {
        let id = 10 + (number + i) % 11;
        let name = format!("p{id}");
        config += &format!("[[port]]\nname = {name:?}\nkind = \"memif\"\nsocket = \"DIR/memif.sock\"\nid = {id}\n");
        if i % 2 == 0 {
            joined.push(name);
        } else {
            config += &format!("[[bridge]]\nname = \"b{id}\"\nvni = {}\nports = [{name:?}]\n", 100 + number * 10 + i);
        }
    }
    if number.is_multiple_of(3) {
        config += "[[port]]\nname = \"lonely\"\nkind = \"memif\"\nsocket = \"DIR/lonely.sock\"\nrole = \"client\"\n";
        config += &bridge("local", &["lonely"]);
    }
    let joined: Vec<&str> = joined.iter().map(String::as_str).collect();
    config + &bridge("blue", &joined) + UNDERLAY
}

#[test]
fn two_hundred_applies_lose_nothing() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &base());
    let under = test.memif(2);
    let exchange = Exchange::start(&test, &drayd);
    for number in 1..=200 {
        drayd.apply(&test, &variant(number));
        exchange.more(100);
        if number == 101 {
            assert_eq!(drayd.ports().len(), 3 + number % 7);
        }
    }
    assert!(drayd.apply(&test, &base()).lines().count() > 0);
    let again: ConfigChange = drayd.json(&format!("config apply {}", test.path("apply.toml").display()));
    assert_eq!(again.changes, [""; 0], "nothing differs");
    exchange.more(1000);
    let (arrived, _a, _b) = exchange.stop();
    println!("{arrived} frames, none lost");
    let ports = drayd.ports();
    assert_eq!(ports.len(), 3, "{ports:?}");
    for port in &ports[..2] {
        assert!(port.drops.is_empty(), "{port:?}");
        assert_eq!(port.link, "up");
    }
    drop(under);
    drayd.finish();
}

/// A change that fails half-way, because a socket is in use, is taken back.
#[test]
fn a_refused_configuration_leaves_the_old_one_running() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &base());
    let exchange = Exchange::start(&test, &drayd);
    let before: ConfigText = drayd.json("config show");
    let taken = std::os::unix::net::UnixListener::bind(test.path("taken.sock")).unwrap();
    let bad = "[[port]]\nname = \"new\"\nkind = \"memif\"\nsocket = \"DIR/taken.sock\"\n";
    for number in 1..=20 {
        let file = test.file("bad.toml", &format!("{}{bad}[control]\nsocket = \"DIR/dray.sock\"\n", variant(number)));
        let reason = drayd.refused(&format!("config apply {}", file.display()), 1);
        assert!(reason.contains("taken.sock"), "{reason}");
        let after: ConfigText = drayd.json("config show");
        assert_eq!(after.text, before.text);
    }
    assert_eq!(drayd.ports().len(), 3);
    drop(taken);
    // What stood in the way is gone.
    std::fs::remove_file(test.path("taken.sock")).unwrap();
    drayd.dray(&format!("config apply {}", test.path("bad.toml").display()));
    assert!(drayd.ports().iter().any(|port| port.name == "new"));
    exchange.more(1000);
    exchange.stop();
    drayd.finish();
}

/// The commands that change one thing do what the file does, and can be saved.
#[test]
fn commands_change_what_a_file_changes() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &base());
    let exchange = Exchange::start(&test, &drayd);
    let socket = test.path("memif.sock");
    drayd.dray(&format!("port add --name c --kind memif --socket {} --id 5 --bridge blue", socket.display()));
    drayd.dray("bridge add red --vni 77 --port c:10");
    let mut c = test.memif(5);
    drayd.wait_link("c", "up");
    send(&mut c, &[numbered(mac(0xc), [0xff; 6], 1)]);
    wait_for("its MAC", || drayd.dray("fdb show --bridge blue").contains("02:d0:00:00:00:0c").then_some(()));
    let saved = test.path("saved.toml");
    drayd.dray(&format!("config save {}", saved.display()));
    let same: ConfigChange = drayd.json(&format!("config diff {}", saved.display()));
    assert_eq!(same.changes, [""; 0]);
    drayd.dray("bridge del red");
    drayd.dray("port del c");
    let diff = drayd.dray(&format!("config diff {}", saved.display()));
    assert!(diff.contains("red") && diff.contains('c'), "{diff}");
    wait_for("c to be told", || c.down());
    let reason = drayd.refused("port del c", 1);
    assert!(reason.contains('c'), "{reason}");
    drayd.dray(&format!("config apply {}", saved.display()));
    assert_eq!(drayd.ports().len(), 4);
    exchange.more(1000);
    exchange.stop();
    drayd.finish();
}

/// vhost-user ports come, change and go while nobody is connected to them, and the others don't notice.
#[test]
fn vhost_user_ports_come_and_go() {
    let Some(test) = Test::begin() else { return };
    let vm = |keys: &str| {
        format!("{}[[port]]\nname = \"vm\"\nkind = \"vhost-user\"\nsocket = \"DIR/vm.sock\"\n{keys}", base())
    };
    let socket = test.path("vm.sock");
    let is_socket = || std::fs::metadata(&socket).is_ok_and(|meta| meta.file_type().is_socket());
    // A file that a drayd left behind when it was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let drayd = Drayd::start(&test, &base());
    let exchange = Exchange::start(&test, &drayd);

    drayd.dray(&format!(
        "port add --name vm --kind vhost-user --role server --queues 4 --bridge blue --socket {}",
        socket.display()
    ));
    let port = drayd.port("vm");
    assert_eq!((port.kind.as_str(), port.link.as_str(), port.queues, port.mtu), ("vhost-user", "down", 4, 9198));
    assert_eq!(port.reason.as_deref(), Some("no front end has connected"));
    let detail = port.detail.vhost_user().unwrap();
    assert_eq!((Some(detail.socket.as_str()), detail.role), (socket.to_str(), Role::Server));
    assert!(!detail.connected && detail.features.is_empty() && detail.rings.is_empty() && detail.faults.is_empty());
    assert_eq!((detail.regions, detail.guest_mtu), (0, None));
    assert!(is_socket());
    let shown = drayd.dray("port show vm");
    assert!(
        shown.contains("no front end has connected") && shown.contains("features") && !shown.contains("RING  "),
        "{shown}"
    );
    let programs: Vec<ConnectInfo> = drayd.json("port show vm --connect");
    let qemu = programs.iter().find(|info| info.program == "QEMU").unwrap();
    assert!(qemu.text.contains(&format!("path={},reconnect=1 ", socket.display())), "{}", qemu.text);
    assert!(drayd.dray("config show").contains("queues = 4"));

    // A client of a socket that is not there goes on trying; the server's file is gone.
    assert_eq!(
        drayd.apply(&test, &vm("")),
        "- port vm\n+ port vm: vhost-user client DIR/vm.sock\n~ bridge blue: -vm\n"
            .replace("DIR", test.path("").to_str().unwrap().trim_end_matches('/'))
    );
    assert!(!socket.exists());
    wait_for("why it is down", || drayd.port("vm").reason.filter(|reason| reason.contains("vm.sock")));
    let changed = drayd.apply(&test, &vm("mtu = 1500\n"));
    assert!(changed.starts_with("~ port vm: ") && changed.contains("mtu 9198 -> 1500"), "{changed}");
    assert_eq!(drayd.port("vm").mtu, 1500);
    // Its name and its socket become another kind's, and back.
    drayd.apply(&test, &vm("").replace("vhost-user", "memif"));
    assert!(is_socket());
    drayd.apply(&test, &vm(""));
    assert!(!socket.exists());
    for role in ["server", "client"].repeat(10) {
        drayd.apply(&test, &vm(&format!("role = {role:?}\n")));
        exchange.more(100);
        assert_eq!(is_socket(), role == "server");
        assert_eq!(drayd.port("vm").link, "down");
    }
    drayd.dray("port del vm");
    assert_eq!(drayd.ports().len(), 3);
    exchange.more(1000);
    exchange.stop();
    assert!(drayd.ports().iter().all(|port| port.drops.is_empty()));
    drayd.finish();
}
