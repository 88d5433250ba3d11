//! `dray attach`: containers get a device while they run, and leave nothing when they go.

use crate::harness::*;
use dray_api::{Attach, Attached, Detach, PortInfo};
use dray_client::Client;
use dray_tap::Namespace;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const BLUE: &str = "[[bridge]]\nname = \"blue\"\n";
const TWO: &str = "[[bridge]]\nname = \"blue\"\n[[bridge]]\nname = \"red\"\n";

/// A namespace that a container's first process has, and no file.
fn process(test: &Test) -> Process {
    let ready = test.path("ready");
    let _ = std::fs::remove_file(&ready);
    let mut command = Command::new("unshare");
    let script = format!("ip link set lo up && touch {} && exec sleep 1000", ready.display());
    command.args(["-n", "sh", "-c", &script]);
    let process = Process::start(command);
    wait_for("the namespace", || ready.exists().then_some(()));
    process
}

/// What is in a namespace: its interfaces and addresses.
fn addresses(netns: &Netns) -> String {
    netns.run("ip -br addr")
}

/// The owner's layer, if there is one.
fn layer(test: &Test) -> String {
    std::fs::read_to_string(test.path("dray.toml.d/attach.toml")).unwrap_or_default()
}

fn wait_gone(drayd: &Drayd, port: &str) {
    wait_for(&format!("port {port} to go"), || drayd.ports().iter().all(|other| other.name != port).then_some(()));
}

fn of<'a>(ports: &'a [PortInfo], container: &str) -> Vec<&'a PortInfo> {
    let is_of = |port: &&PortInfo| port.detail.tap().is_some_and(|tap| tap.container.as_deref() == Some(container));
    ports.iter().filter(is_of).collect()
}

#[test]
fn a_container_is_attached_while_it_runs() {
    let Some(test) = Test::begin() else { return };
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let (a_name, b_path) = (a.path().file_name().unwrap().to_str().unwrap().to_owned(), b.path().display().to_string());
    a.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    let drayd = Drayd::start(&test, TWO);
    // By name, with several addresses; by path; and by process.
    let ips = "--ip 10.32.0.1/24 --ip 10.33.0.1/24 --ip fd00::1/64";
    let said = drayd.dray(&format!("attach {a_name} --bridge blue {ips} --gateway 10.32.0.254 --mtu 1400"));
    assert_eq!(said, format!("eth0 in {a_name}: port {a_name}.eth0\n"));
    drayd.dray(&format!("attach {b_path} --bridge blue --ip 10.32.0.2/24 --name net0 --mac 02:00:00:00:00:b0"));
    // The device is there as soon as it is said.
    a.ping("10.32.0.2", 3, 56);
    let there = addresses(&a);
    assert!(["10.32.0.1/24", "10.33.0.1/24", "fd00::1/64"].iter().all(|ip| there.contains(ip)), "{there}");
    assert!(a.run("ip route").contains("default via 10.32.0.254 dev eth0"));
    assert!(a.run("ip -o link show eth0").contains("mtu 1400"));
    assert!(b.run("ip -o link show net0").contains("02:00:00:00:00:b0"));
    let container = process(&test);
    let pid = container.id();
    drayd.dray(&format!("attach {pid} --bridge blue --ip 10.32.0.3/24"));
    a.ping("10.32.0.3", 3, 56);
    // Another network: the next free name.
    let attached: Attached = drayd.json(&format!("attach {a_name} --bridge red --ip 10.40.0.1/24"));
    assert_eq!((attached.ifname.as_str(), attached.port), ("eth1", format!("{a_name}.eth1")));
    // Once more is no change, if that is said; else it is another device.
    let again: Attached = drayd.json(&format!("attach {a_name} --bridge red --ip 10.40.0.1/24 --ensure"));
    assert_eq!((again.ifname.as_str(), again.changes.len()), ("eth1", 0));

    let ports = drayd.ports();
    assert_eq!((of(&ports, &a_name).len(), of(&ports, &b_path).len(), of(&ports, &pid.to_string()).len()), (2, 1, 1));
    assert!(ports.iter().all(|port| port.owner.as_deref() == Some("attach") && port.link == "up"), "{ports:?}");
    let table = drayd.dray("port show");
    assert!(table.contains("CONTAINER") && table.contains(&b_path), "{table}");
    // It is no part of the file's.
    assert_eq!(drayd.dray("config diff"), "");

    // What can't be is said, and leaves nothing.
    let none = drayd.refused("attach dray-none --bridge blue", 1);
    assert!(none.contains("/run/netns: no such file; Docker: ") && none.contains("; containerd: "), "{none}");
    assert!(drayd.refused(&format!("attach {a_name} --bridge none"), 1).contains("there is no bridge \"none\""));
    assert!(drayd.refused(&format!("attach {a_name} --bridge blue --ip 10.0.0.1"), 1).contains("prefix length"));
    let taken = drayd.refused(&format!("attach {a_name} --bridge blue --name eth1"), 1);
    assert!(taken.contains("\"eth1\" is already a port's"), "{taken}");
    let foreign = drayd.refused(&format!("attach {a_name} --bridge blue --name lo"), 1);
    assert!(foreign.contains("interface \"lo\""), "{foreign}");
    assert!(drayd.refused(&format!("attach {pid} --bridge blue --keep"), 1).contains("does not start again"));
    assert_eq!(drayd.ports().len(), 4);
    assert_eq!(layer(&test).matches("[[port]]").count(), 4);

    // Detached, it is gone at once.
    assert!(drayd.refused(&format!("detach {a_name} --name eth7"), 1).contains("it has eth0, eth1"));
    drayd.dray(&format!("detach {a_name} --name eth1"));
    assert!(!addresses(&a).contains("eth1"));
    drayd.dray(&format!("attach {a_name} --bridge red"));
    assert!(addresses(&a).contains("eth1"));
    drayd.dray(&format!("detach {a_name}"));
    assert!(!addresses(&a).contains("eth"));
    assert!(drayd.refused(&format!("detach {a_name}"), 1).contains("is not attached"));
    drayd.dray(&format!("detach {a_name} --ensure"));

    // A process that ends takes its port along.
    drop(container);
    wait_gone(&drayd, &format!("{pid}.eth0"));
    drop(b);
    wait_for("all ports to go", || drayd.ports().is_empty().then_some(()));
    wait_for("the layer to go", || layer(&test).is_empty().then_some(()));
    drayd.finish();
}

/// What is kept of attachments outlives drayd, and never leads to another namespace.
#[test]
fn attachments_outlive_drayd_and_not_their_namespace() {
    let Some(test) = Test::begin() else { return };
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let names = [&a, &b, &c].map(|ns| ns.path().file_name().unwrap().to_str().unwrap().to_owned());
    let drayd = Drayd::start(&test, BLUE);
    let container = process(&test);
    let pid = container.id();
    for (host, name) in names.iter().map(String::as_str).chain([pid.to_string().as_str()]).enumerate() {
        drayd.dray(&format!("attach {name} --bridge blue --ip 10.32.0.{}/24", host + 1));
    }
    // Whoever is root there gives the device another name: it is found again.
    a.run("ip link set eth0 down");
    a.run("ip link set eth0 name renamed");
    a.run("ip link set renamed up");
    let index = a.run("cat /sys/class/net/renamed/ifindex");
    drayd.kill();
    // The process ends, one namespace goes, and the place of another one is taken by a new one.
    drop(container);
    let path = c.path();
    drop(b);
    run(&format!("ip netns del {}", names[2]));
    run(&format!("ip netns add {}", names[2]));
    let drayd = Drayd::start(&test, BLUE);
    let port = format!("{}.eth0", names[0]);
    drayd.wait_link(&port, "up");
    wait_for("the others to go", || (drayd.ports().len() == 1).then_some(()));
    assert!(path.exists());
    assert!(!addresses(&c).contains("eth"), "the new namespace is another one's");
    assert_eq!(a.run("cat /sys/class/net/renamed/ifindex"), index);
    assert!(!addresses(&a).contains("eth0") && addresses(&a).contains("10.32.0.1/24"), "{}", addresses(&a));
    assert_eq!(drayd.port(&port).detail.tap().unwrap().ifname, "renamed");
    wait_for("the layer", || (layer(&test).matches("[[port]]").count() == 1).then_some(()));
    drayd.finish();
}

/// A device whose port is taken away while nobody is there to remove it goes when drayd starts.
#[test]
fn a_device_that_nobody_wants_goes_when_drayd_starts() {
    let Some(test) = Test::begin() else { return };
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let port = |name: &str, ns: &Netns| {
        let netns = ns.path();
        format!("[[port]]\nname = {name:?}\nkind = \"tap\"\nnetns = {netns:?}\naddresses = [\"10.32.0.7/24\"]\n")
    };
    let drayd = Drayd::start(&test, &(port("a", &a) + &port("b", &b)));
    ["a", "b"].iter().for_each(|name| drayd.wait_link(name, "up"));
    a.run("ip link set eth0 down");
    a.run("ip link set eth0 name renamed");
    // What somebody else has made is theirs.
    a.run("ip link add eth0 type veth peer name eth1");
    drayd.kill();
    let drayd = Drayd::start(&test, &port("b", &b));
    drayd.wait_link("b", "up");
    wait_for("the device to go", || (!addresses(&a).contains("renamed")).then_some(()));
    assert!(addresses(&a).contains("eth0") && addresses(&b).contains("10.32.0.7/24"));
    drayd.finish();
}

#[test]
fn a_namespace_that_is_kept_is_attached_whenever_it_is_there() {
    let Some(test) = Test::begin() else { return };
    let a = Netns::new("a");
    let name = a.path().file_name().unwrap().to_str().unwrap().to_owned();
    let drayd = Drayd::start(&test, BLUE);
    drayd.dray(&format!("attach {name} --bridge blue --ip 10.32.0.1/24 --keep"));
    drop(a);
    drayd.wait_link(&format!("{name}.eth0"), "down");
    run(&format!("ip netns add {name}"));
    drayd.wait_link(&format!("{name}.eth0"), "up");
    assert!(run(&format!("ip netns exec {name} ip -br addr")).contains("10.32.0.1/24"));
    drayd.dray(&format!("detach {name}"));
    assert_eq!((drayd.ports().len(), layer(&test).as_str()), (0, ""));
    run(&format!("ip netns del {name}"));
    drayd.finish();
}

#[test]
fn the_host_is_exposed_and_hidden() {
    let Some(test) = Test::begin() else { return };
    let (a, host) = (Netns::new("a"), Netns::new("host"));
    let name = a.path().file_name().unwrap().to_str().unwrap().to_owned();
    let drayd = Drayd::start_in(&test, &host, TWO);
    let said = drayd.dray("expose --bridge blue --ip 10.32.0.254/24");
    assert_eq!(said, "dray0 in this host: port host.dray0\n");
    drayd.dray(&format!("attach {name} --bridge blue --ip 10.32.0.1/24"));
    host.ping("10.32.0.1", 3, 56);
    drayd.dray("expose --bridge red");
    assert!(addresses(&host).contains("dray1"));
    drayd.dray("expose --bridge blue --ip 10.32.0.254/24 --ensure");
    drayd.dray("expose --bridge blue --remove");
    let left = addresses(&host);
    assert!(!left.contains("dray0") && left.contains("dray1"), "{left}");
    assert!(drayd.refused("expose --bridge blue --remove", 1).contains("this host has no device in bridge \"blue\""));
    drayd.finish();
}

/// How often containers come and go: for a long run, ATTACH_ROUNDS=1000.
fn rounds() -> usize {
    std::env::var("ATTACH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

/// What a drayd has of the system.
#[derive(Debug, PartialEq, Eq)]
struct Has {
    descriptors: usize,
    threads: usize,
    devices: usize,
    layer: String,
    journal: String,
}

impl Has {
    fn of(drayd: &Drayd, test: &Test) -> Has {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", drayd.pid())).unwrap().count();
        let journal = std::fs::read_to_string(test.path("dray.toml.d/devices")).unwrap_or_default();
        let devices = run("ip -o link").lines().count();
        Has { descriptors: count("fd"), threads: count("task"), devices, layer: layer(test), journal }
    }
}

/// Resident memory of a process, KiB.
fn memory(drayd: &Drayd) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", drayd.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn containers_that_come_and_go_leave_nothing() {
    let Some(test) = Test::begin() else { return };
    let other = Netns::new("other");
    let drayd = Drayd::start(&test, BLUE);
    let mut client = Client::connect(&test.path("dray.sock")).unwrap();
    let mut attach = |netns: PathBuf, ip: &str| {
        let netns = Some(netns.display().to_string());
        let (container, bridge, ips) = ("c".into(), "blue".into(), vec![ip.into()]);
        let begin = Instant::now();
        client.call(&Attach { container, bridge, ips, netns, ..Attach::default() }).unwrap();
        begin.elapsed()
    };
    attach(other.path(), "10.32.0.1/16");
    let mut times: Vec<Duration> = Vec::new();
    let mut before = None;
    let rounds = rounds();
    for round in 0..rounds {
        let ns = Netns::new("round");
        times.push(attach(ns.path(), "10.32.1.1/16"));
        ns.ping("10.32.0.1", 1, 56);
        drop(ns);
        wait_for("the port to go", || (drayd.status().ports == 1).then_some(()));
        if round == rounds / 10 {
            before = Some((wait_calm(&drayd, &test), memory(&drayd)));
        }
    }
    let (has, kib) = before.unwrap();
    // The devices of the last ones are on their way out.
    wait_for("nothing to be left", || (Has::of(&drayd, &test) == has).then_some(()));
    let grown = memory(&drayd).saturating_sub(kib);
    assert!(grown < 2048, "{grown} KiB more than after {} rounds", rounds / 10);
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{rounds} times: attached in {median:?} (median), {longest:?} (longest) at the socket; {grown} KiB more");
    let detached = client.call(&Detach { container: "c".into(), name: None }).unwrap();
    assert_eq!(detached.changes.len(), 2);
    drayd.finish();
}

/// What it has when nothing is on its way any more.
fn wait_calm(drayd: &Drayd, test: &Test) -> Has {
    wait_for("calm", || {
        let has = Has::of(drayd, test);
        std::thread::sleep(Duration::from_millis(100));
        (has == Has::of(drayd, test)).then_some(has)
    })
}

/// Podman, as a user has it, with a place of its own for images and containers.
struct Podman {
    conf: [(&'static str, PathBuf); 2],
}

impl Podman {
    /// With an image `box` of busybox.
    fn new(test: &Test) -> Podman {
        let dir = test.path("").display().to_string();
        let storage = format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{dir}/images\"\nrunroot = \"{dir}/run\"\n");
        // Limits and control groups are those of the machine that the tests run on: it may be a container itself.
        let engine = format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\ntmp_dir = \"{dir}/tmp\"\n\
             [containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"
        );
        let storage = test.file("storage.conf", &storage);
        let podman = Podman {
            conf: [("CONTAINERS_STORAGE_CONF", storage), ("CONTAINERS_CONF", test.file("containers.conf", &engine))],
        };
        let bin = test.path("box/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        run(&format!("tar -C {} -cf {dir}/box.tar .", test.path("box").display()));
        podman.run(&format!("import {dir}/box.tar box"));
        podman
    }

    /// Has a command use this one.
    fn with<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.conf.iter().map(|(name, path)| (name, path)))
    }

    fn run(&self, words: &str) -> String {
        let mut command = Command::new("podman");
        let output = self.with(command.args(words.split(' '))).output().unwrap();
        let (out, err) = texts(&output);
        assert!(output.status.success(), "podman {words}: {out}{err}");
        out
    }

    /// The namespace of a container that runs.
    fn netns(&self, name: &str) -> Namespace {
        let pid = self.run(&format!("container inspect --format {{{{.State.Pid}}}} {name}"));
        Namespace::open(Path::new(&format!("/proc/{}/ns/net", pid.trim()))).unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.with(Command::new("podman").args(["rm", "-f", "-a", "-t", "0"])).output();
    }
}

/// What `ip -br addr` says in a namespace.
fn addresses_in(namespace: &Namespace) -> String {
    namespace.inside(|| Ok(run("ip -br addr"))).unwrap()
}

#[test]
fn containers_of_podman_are_attached_and_kept() {
    let Some(test) = Test::begin() else { return };
    let podman = Podman::new(&test);
    let other = Netns::new("other");
    let other_name = other.path().file_name().unwrap().to_str().unwrap().to_owned();
    let mut drayd = Command::new(env!("CARGO_BIN_EXE_drayd"));
    podman.with(&mut drayd);
    let drayd = Drayd::start_by(&test, BLUE, drayd);
    let dray = |words: &str| {
        let mut command = drayd.command(&words.split(' ').collect::<Vec<_>>());
        let (out, err) = texts(&podman.with(&mut command).output().unwrap());
        assert_eq!(err, "", "dray {words}");
        out
    };
    dray(&format!("attach {other_name} --bridge blue --ip 10.32.0.9/24"));
    for name in ["web", "db"] {
        podman.run(&format!("run -d --name {name} --network none box /bin/busybox sleep 1000"));
    }
    let id = podman.run("container inspect --format {{.Id}} db");
    // One by its name, for as long as it runs; one by its id, for good.
    assert_eq!(dray("attach web --bridge blue --ip 10.32.0.1/24"), "eth0 in podman:web: port web.eth0\n");
    dray(&format!("attach {} --bridge blue --ip 10.32.0.2/24 --keep", &id[..12]));
    ["10.32.0.1", "10.32.0.2"].iter().for_each(|ip| other.ping(ip, 3, 56));
    assert!(dray("port show").contains("podman:web"));
    assert!(addresses_in(&podman.netns("db")).contains("10.32.0.2/24"));

    podman.run("kill web db");
    wait_gone(&drayd, "web.eth0");
    drayd.wait_link("db.eth0", "down");
    podman.run("start web db");
    let begin = Instant::now();
    drayd.wait_link("db.eth0", "up");
    println!("the container that is kept had its device {:?} after it was started", begin.elapsed());
    other.ping("10.32.0.2", 3, 56);
    assert!(!addresses_in(&podman.netns("web")).contains("eth0"));
    // It is made anew in the place of one that was deleted: the name is what counts.
    podman.run("rm -f -t 0 db");
    drayd.wait_link("db.eth0", "down");
    wait_for("why", || drayd.port("db.eth0").reason.filter(|why| why.contains("Podman has no container \"db\"")));
    podman.run("run -d --name db --network none box /bin/busybox sleep 1000");
    drayd.wait_link("db.eth0", "up");
    dray("detach db");
    assert!(!addresses_in(&podman.netns("db")).contains("eth0"));
    // One that does not run is attached when it does.
    podman.run("create --name late --network none box /bin/busybox sleep 1000");
    let why = drayd.refused_by(podman.with(&mut drayd.command(&["attach", "late", "--bridge", "blue"])));
    assert!(why.contains("podman:late does not run"), "{why}");
    assert!(dray("attach late --bridge blue --name net0 --ip 10.32.0.3/24 --keep").contains("attached when it starts"));
    podman.run("start late");
    drayd.wait_link("late.net0", "up");
    other.ping("10.32.0.3", 3, 56);
    drop(podman);
    drayd.finish();
}
