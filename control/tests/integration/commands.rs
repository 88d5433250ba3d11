//! What there is, is changed by commands.

use crate::harness::*;
use dray_api::{BridgeInfo, FdbEntry, PortInfo, VtepInfo};
use dray_vhost::memif::{Client, ClientOptions};
use std::time::Duration;

fn names(ports: &[PortInfo]) -> Vec<&str> {
    ports.iter().map(|port| port.name.as_str()).collect()
}

#[test]
fn a_port_goes_administratively_down_and_up() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &(memif_ports(&["a", "b"]) + &bridge("blue", &["a", "b"])));
    let (mut a, mut b) = (test.memif(0), test.memif(1));
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    let to_all = |source: u8| {
        let mut frame = vec![0; 60];
        frame[..12].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, source]);
        frame[12..14].copy_from_slice(&EXPERIMENTAL);
        frame
    };
    send(&mut a, &[to_all(1)]);
    expect(&mut b, &[to_all(1)]);

    assert_eq!(drayd.dray("port down a"), "~ port a: admin up -> down\n");
    assert_eq!(drayd.dray("port down a"), "", "it is down already");
    let port = drayd.port("a");
    assert_eq!((port.admin.as_str(), port.link.as_str(), port.rx_packets), ("down", "down", 1));
    assert!(port.reason.unwrap().contains("administratively down"));
    assert!(drayd.dray("port show").contains("a     memif  admin down"), "{}", drayd.dray("port show"));
    // Its peer is told, what was learned there is forgotten, and who comes is not let in.
    wait_for("the peer to be told", || a.down());
    wait_for("it to be forgotten", || drayd.json::<Vec<FdbEntry>>("fdb show").is_empty().then_some(()));
    let socket = dray_config::SocketName::Path(test.path("memif.sock"));
    let options = ClientOptions { timeout: Duration::from_millis(100), ..ClientOptions::default() };
    assert!(Client::connect(&socket, 0, &options).is_err());
    send(&mut b, &[to_all(2)]);
    wait_for("the frame to be counted", || (drayd.port("b").rx_packets == 1).then_some(()));

    // It is part of the configuration.
    drayd.dray(&format!("config save {}", test.path("saved.toml").display()));
    assert!(std::fs::read_to_string(test.path("saved.toml")).unwrap().contains("admin = \"down\""));
    assert_eq!(drayd.dray("port up a"), "~ port a: admin down -> up\n");
    let mut a = test.memif(0);
    drayd.wait_link("a", "up");
    send(&mut b, &[to_all(2)]);
    expect(&mut a, &[to_all(2)]);
    let saved = format!("config apply {}", test.path("saved.toml").display());
    assert_eq!(drayd.dray(&saved), "~ port a: admin up -> down\n");
    drayd.finish();
}

/// A port that can't be opened again stays down, and nothing else changes.
#[test]
fn a_port_whose_socket_is_taken_stays_down() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &memif_ports(&["a"]));
    drayd.dray("port down a");
    assert!(!test.path("memif.sock").exists());
    std::fs::write(test.path("memif.sock"), "not a socket").unwrap();
    assert!(drayd.refused("port up a", 1).contains("can't be opened"));
    assert_eq!(drayd.port("a").admin, "down");
    std::fs::remove_file(test.path("memif.sock")).unwrap();
    drayd.dray("port up a");
    let _a = test.memif(0);
    drayd.wait_link("a", "up");
    drayd.finish();
}

#[test]
fn members_peers_and_keys_change_and_what_is_shown_is_chosen() {
    let Some(test) = Test::begin() else { return };
    let overlay = "[vxlan]\nport = \"under\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";
    let config = memif_ports(&["web1", "web2", "db", "under"]) + &bridge("blue", &["web1"]) + &bridge("red", &[]);
    let drayd = Drayd::start(&test, &(config + overlay));
    assert_eq!(drayd.dray("bridge join blue web2 db:7"), "~ bridge blue: +web2, +db:7\n");
    assert_eq!(drayd.dray("bridge set blue vni 42"), "~ bridge blue: vni none -> 42\n");
    assert_eq!(drayd.dray("bridge leave blue db"), "~ bridge blue: -db:7\n");
    drayd.dray("bridge join red db");
    drayd.dray("bridge set blue description the shop");
    drayd.dray("vtep add 10.9.0.3 10.9.0.4");
    drayd.dray("vtep del 10.9.0.2");
    let vteps: Vec<VtepInfo> = drayd.json("vtep show");
    assert_eq!(vteps.iter().map(|vtep| vtep.address.octets()[3]).collect::<Vec<_>>(), [3, 4]);
    let bridges: Vec<BridgeInfo> = drayd.json("bridge show b*");
    assert_eq!((bridges.len(), bridges[0].description.as_deref(), bridges[0].vni), (1, Some("the shop"), Some(42)));
    assert!(drayd.dray("bridge show").contains("the shop"));
    assert_eq!(drayd.dray("port set web1 mtu 1400"), "~ port web1: mtu 9198 -> 1400\n");
    assert_eq!(drayd.dray("port set web1 mtu"), "~ port web1: mtu 1400 -> 9198\n");
    drayd.dray("port set web1 description Ann's machine");
    assert_eq!(drayd.port("web1").description.as_deref(), Some("Ann's machine"));
    assert!(drayd.dray("port show").contains("Ann's machine"));
    assert!(drayd.refused("port set web1 mtu 1", 1).contains("68 to 9198"));
    assert_eq!(drayd.dray("config set fdb ageing 60"), "~ fdb: ageing 300 -> 60\n");
    assert!(drayd.refused("config set fdb size 4096", 1).contains("needs a restart"));

    // A name may begin with a dash.
    drayd.dray("port add --kind memif --socket @dash --role client --bridge blue -- -dash");
    assert_eq!(drayd.dray("port set -- -dash mtu 1400"), "~ port -dash: mtu 9198 -> 1400\n");
    assert_eq!(names(&drayd.json::<Vec<PortInfo>>("port show -- -dash")), ["-dash"]);
    drayd.dray("bridge leave -- blue -dash");
    drayd.dray("port del -- -dash");

    let _web = test.memif(0);
    drayd.wait_link("web1", "up");
    let shown = |args: &str| -> Vec<PortInfo> { drayd.json(&format!("port show {args}")) };
    assert_eq!(names(&shown("web*")), ["web1", "web2"]);
    assert_eq!(names(&shown("we?1")), ["web1"]);
    assert_eq!(names(&shown("--bridge red")), ["db"]);
    assert_eq!(names(&shown("--down")), ["web2", "db", "under"]);
    assert_eq!(names(&shown("--up --bridge b*")), ["web1"]);
    assert_eq!(names(&shown("nothing*")), [""; 0]);
    assert!(drayd.refused("port show nothing", 1).contains("there is no port"));
    assert!(drayd.refused("port show --bridge nothing", 1).contains("there is no bridge"));

    drayd.dray("fdb add blue 02:00:00:00:00:01 --port web1");
    drayd.dray("fdb add blue 02:00:00:00:01:02 --port web2");
    drayd.dray("fdb add red 02:00:00:00:00:01 --port db");
    drayd.dray("fdb add blue 02:00:00:00:00:03 --vtep 10.9.0.3");
    let shown = |args: &str| drayd.json::<Vec<FdbEntry>>(&format!("fdb show {args}")).len();
    let all = ["", "--bridge blue", "--bridge *", "--port web?", "--mac 02:00:00:00:00:*", "--mac 02:00:00:00:00:0A"];
    assert_eq!(all.map(shown), [4, 3, 4, 2, 3, 0]);
    assert_eq!(["--vtep 10.9.0.3", "--bridge red --port db", "--bridge red --port web1"].map(shown), [1, 1, 0]);
    drayd.finish();
}

#[test]
fn counters_are_cleared_and_the_switch_goes_on_counting() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &(memif_ports(&["a", "b"]) + &bridge("blue", &["a", "b"])));
    let (mut a, mut b) = (test.memif(0), test.memif(1));
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    let frame =
        |last: u8| [[255; 6], [2, 0, 0, 0, 0, last]].concat().into_iter().chain([0x88; 48]).collect::<Vec<u8>>();
    send(&mut a, &[frame(1), frame(2)]);
    expect(&mut b, &[frame(1), frame(2)]);
    let counts = |name: &str| {
        let port = drayd.port(name);
        (port.rx_packets, port.tx_packets)
    };
    wait_for("both to be counted", || (counts("a").0 == 2 && counts("b").1 == 2).then_some(()));
    drayd.dray("port clear a");
    assert_eq!([counts("a"), counts("b")], [(0, 0), (0, 2)]);
    assert!(drayd.refused("port clear c", 1).contains("there is no port"));
    send(&mut a, &[frame(3)]);
    expect(&mut b, &[frame(3)]);
    wait_for("it to be counted", || (counts("a").0 == 1 && counts("b").1 == 3).then_some(()));
    drayd.dray("port clear");
    assert_eq!([counts("a"), counts("b")], [(0, 0), (0, 0)]);
    assert_eq!(drayd.status().received, 3);
    drayd.finish();
}
