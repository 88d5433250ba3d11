//! The generator's traffic through drayd, over memif and vhost-user: what is sent comes out, as it was asked for.

use dray_config::{Role, SocketName};
use dray_perf::frames::Sizes;
use dray_perf::generator::{Direction, Generator, Link, Options, Report, Way};
use dray_perf::memif::{self, Memif};
use dray_perf::peer::TempDir;
use dray_perf::vhost::{self, VhostUser};
use dray_perf::vtep::Tunnel;
use dray_testing::{Process, Turn, drayd_beside, start_drayd};
use rustix::process::Signal;
use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const DRAY_PERF: &str = env!("CARGO_BIN_EXE_dray-perf");
const TUNNEL: Tunnel = Tunnel { vni: 42, local: Ipv4Addr::new(10, 9, 0, 2), switch: Ipv4Addr::new(10, 9, 0, 1) };
/// Frames a second: little enough for a machine that is busy with other tests.
const LOW: u64 = 20_000;

/// drayd, until it is dropped.
struct Drayd {
    process: Process,
    dir: TempDir,
}

impl Drayd {
    /// With ports "a" and "b" of this kind, and `rest` as its bridges.
    fn start(kind: &str, queues: u16, rest: &str) -> Drayd {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| format!("{:?}", dir.path().join(name));
        let cpu = *dray_config::allowed_cpus().last().unwrap();
        let mut config = format!("[control]\nsocket = {}\n[[worker]]\ncpu = {cpu}\n", path("dray.sock"));
        for name in ["a", "b"] {
            config += &format!("[[port]]\nname = \"{name}\"\nkind = \"{kind}\"\nsocket = {}\n", path(name));
            config += if kind == "memif" { "id = 0\n" } else { "role = \"server\"\n" };
            config += &format!("queues = {queues}\n");
        }
        let process = start_drayd(&drayd_beside(DRAY_PERF), dir.path(), &(config + rest), &["a", "b"]);
        Drayd { process, dir }
    }

    fn socket(&self, name: &str) -> SocketName {
        SocketName::Path(self.dir.path().join(name))
    }

    fn memif(&self) -> Options<memif::End> {
        patient(Options::new(memif::End::new(self.socket("a"), 0), memif::End::new(self.socket("b"), 0)))
    }

    fn vhost_user(&self, packed: bool) -> Options<vhost::End> {
        let end = |name| vhost::End { socket: Some(self.socket(name)), role: Role::Client, packed };
        patient(Options::new(end("a"), end("b")))
    }

    /// dray-perf over memif.
    fn perf(&self, args: &[&str]) -> Output {
        let mut command = Command::new(DRAY_PERF);
        command.args(["memif", "--duration", "0.3", "--window", "256"]);
        for name in ["a", "b"] {
            command.arg("--socket").arg(self.dir.path().join(name));
        }
        command.args(args).output().unwrap()
    }
}

impl Drop for Drayd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.printed());
        }
        self.process.signal(Signal::TERM.as_raw());
        self.process.end_within(Duration::from_secs(5));
    }
}

const BRIDGE: &str = "[[bridge]]\nname = \"blue\"\nports = [\"a\", \"b\"]\n";
const TRUNK: &str = "[[bridge]]\nname = \"blue\"\nports = [{ port = \"a\", vlan = 10 }, { port = \"b\", vlan = 10 }]\n";
const VXLAN: &str = "[[bridge]]\nname = \"blue\"\nvni = 42\nports = [\"a\"]\n\
                     [vxlan]\nport = \"b\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";
const VXLAN_TRUNK: &str = "[[bridge]]\nname = \"blue\"\nvni = 42\nports = [{ port = \"a\", vlan = 10 }]\n\
                           [vxlan]\nport = \"b\"\nlocal = \"10.9.0.1/24\"\npeers = [\"10.9.0.2\"]\n";

/// For a machine that is busy with other tests: no more under way than the rings hold, so that nothing is ever lost.
fn patient<E>(mut options: Options<E>) -> Options<E> {
    (options.window, options.timeout, options.sample) = (512, Duration::from_secs(60), 1);
    options
}

fn connect<L: Link>(options: &Options<L::End>) -> Generator<L> {
    let mut generator = Generator::<L>::connect(options).unwrap();
    generator.learn(&AtomicBool::new(false)).unwrap();
    generator
}

fn run<L: Link>(generator: &mut Generator<L>) -> Report {
    generator.run(Duration::from_millis(300), &AtomicBool::new(false), |_| {}).unwrap()
}

/// All came, each once, in order, and nothing else; and the bytes of a frame as it was received.
fn faultless(report: &Report, d: &Direction) -> f64 {
    assert!(d.sent > 0, "{report:?}");
    assert_eq!((d.lost, d.reordered, d.duplicated, d.foreign), (0, 0, 0, 0), "{report:?}");
    assert_eq!((d.received, d.sampled), (d.sent, d.sent), "{report:?}");
    d.gbps * 1e3 / 8.0 / d.mpps
}

/// Both directions, whose frames have these lengths when they come.
fn both_ways<L: Link>(mut options: Options<L::End>, lengths: [f64; 2]) {
    options.flows = 50;
    options.way = Way::Both;
    let mut generator = connect::<L>(&options);
    // Again and again, each time from zero.
    for _ in 0..2 {
        let report = run(&mut generator);
        let directions = [report.a_to_b.unwrap(), report.b_to_a.unwrap()];
        for (d, length) in directions.iter().zip(lengths) {
            let got = faultless(&report, d);
            // A mix may not be whole.
            assert!((got / length - 1.0).abs() < 0.02, "{got} bytes, not {length}: {report:?}");
            assert!(d.latency.is_none());
        }
    }
}

#[test]
fn mixes() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, BRIDGE);
    let imix = "imix".parse::<Sizes>().unwrap();
    let mean = 4294.0 / 12.0;
    both_ways::<Memif>(drayd.memif().size(imix.clone()), [mean, mean]);
    drop(drayd);
    for packed in [false, true] {
        let drayd = Drayd::start("vhost-user", 1, BRIDGE);
        both_ways::<VhostUser>(drayd.vhost_user(packed).size(imix.clone()), [mean, mean]);
    }
}

#[test]
fn a_mix_in_a_trunk_on_several_queues() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 2, TRUNK);
    let mut options = drayd.memif().size("60,512,1514".parse::<Sizes>().unwrap());
    (options.queues, options.vlan) = (2, Some(10));
    both_ways::<Memif>(options, [2086.0 / 3.0; 2]);
}

#[test]
fn vxlan_both_ways() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, VXLAN);
    let mut options = drayd.memif();
    options.tunnel = Some(TUNNEL);
    both_ways::<Memif>(options.clone(), [110.0, 60.0]);
    let imix = "imix".parse::<Sizes>().unwrap();
    // Encapsulated, the largest would be too long for the underlay's MTU.
    assert!(imix.max() + 50 > 1514);
    both_ways::<Memif>(options.size("60,590,1464".parse::<Sizes>().unwrap()), [2264.0 / 3.0, 2114.0 / 3.0]);
    drop(drayd);
    let drayd = Drayd::start("vhost-user", 2, VXLAN);
    let mut options = drayd.vhost_user(false);
    (options.tunnel, options.queues) = (Some(TUNNEL), 2);
    both_ways::<VhostUser>(options, [110.0, 60.0]);
}

#[test]
fn vxlan_from_a_trunk() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, VXLAN_TRUNK);
    let mut options = drayd.memif();
    (options.tunnel, options.vlan) = (Some(TUNNEL), Some(10));
    // The tag is not in the tunnel.
    both_ways::<Memif>(options, [106.0, 60.0]);
}

#[test]
fn one_way_only() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, BRIDGE);
    let mut options = drayd.memif();
    (options.way, options.rate, options.latency) = (Way::BToA, LOW, true);
    let mut generator = connect::<Memif>(&options);
    let mut progress = Vec::new();
    let report = generator.run(Duration::from_millis(1300), &AtomicBool::new(false), |p| progress.push(p)).unwrap();
    assert!(report.a_to_b.is_none());
    let d = report.b_to_a.unwrap();
    faultless(&report, &d);
    let p = progress.first().unwrap();
    assert!(p.seconds >= 1.0 && p.sent > 0 && p.sent < d.sent && p.received <= p.sent, "{p:?}");
    assert!((p.gbps * 1e3 / 8.0 / p.mpps - 60.0).abs() < 1e-6, "{p:?}");
    let l = p.latency.unwrap();
    assert!(l.count <= p.received && l.p50 > 0.0 && l.p50 <= l.p99, "{p:?}");
}

/// Sends at a rate, then at another, and as fast as possible, and looks at the times.
fn times<L: Link>(mut options: Options<L::End>, rates: [u64; 3]) {
    options.way = Way::Both;
    (options.rate, options.latency, options.flows) = (rates[0], true, 10);
    let mut generator = connect::<L>(&options);
    for rate in rates {
        generator.set_rate(rate);
        let report = run(&mut generator);
        assert_eq!(report.rate, rate);
        for d in report.directions() {
            faultless_but_samples(&report, d);
            if rate != 0 {
                // Never more; less only if this thread did not get to run for longer than the bucket lasts.
                assert!(d.sent <= rate * 32 / 100 + 100 && d.sent > rate / 20, "{report:?}");
            }
            let l = d.latency.unwrap();
            // One in eight is sampled at the least, of which one in 65 is looked at.
            assert!(l.count <= d.received && l.count >= d.received / 2000, "{report:?}");
            if rate != 0 {
                assert_eq!(l.count, d.received, "each has a time: {report:?}");
            }
            let order = [0.0, l.min, l.p50, l.p90, l.p99, l.p99_9, l.p99_99, l.max];
            assert!(l.min > 0.0 && order.is_sorted() && l.min <= l.mean && l.mean <= l.max, "{report:?}");
            // A crossing of two rings takes some hundred nanoseconds; a second would be an old time.
            assert!(l.p50 > 100.0 && l.max < 1e9, "{report:?}");
        }
    }
}

fn faultless_but_samples(report: &Report, d: &Direction) {
    assert!(d.sent > 0, "{report:?}");
    assert_eq!((d.lost, d.reordered, d.duplicated, d.foreign), (0, 0, 0, 0), "{report:?}");
}

#[test]
fn latency_at_rates() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, BRIDGE);
    times::<Memif>(drayd.memif(), [LOW, 2 * LOW, LOW]);
    drop(drayd);
    let drayd = Drayd::start("memif", 1, VXLAN);
    let mut options = drayd.memif();
    options.tunnel = Some(TUNNEL);
    times::<Memif>(options, [LOW, 2 * LOW, LOW]);
    drop(drayd);
    let drayd = Drayd::start("vhost-user", 1, BRIDGE);
    times::<VhostUser>(drayd.vhost_user(false), [LOW, 2 * LOW, LOW]);
}

#[test]
fn latency_at_full_load() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, BRIDGE);
    let mut options = drayd.memif();
    options.sample = 64;
    times::<Memif>(options, [0; 3]);
}

#[test]
fn the_command_reports() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, VXLAN);
    let vxlan = ["--vxlan", "42", "--vtep", "10.9.0.2", "--switch-vtep", "10.9.0.1"];
    let args = [&vxlan[..], &["--size", "60,590", "--rate", "10Mbit", "--direction", "both", "--json"]].concat();
    let output = drayd.perf(&args);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // 325 bytes on average, 50 of the tunnel and 24 of Ethernet.
    assert_eq!((&report["rate"], &report["vni"], &report["mix"]), (&3133.into(), &42.into(), &[60, 590].into()));
    for way in ["a_to_b", "b_to_a"] {
        assert_eq!((&report[way]["lost"], &report[way]["foreign"]), (&0.into(), &0.into()), "{report}");
        assert!(report[way]["latency"]["p99_9"].as_f64().unwrap() > 0.0, "{report}");
    }
    let output = drayd.perf(&[&vxlan[..], &["--latency"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("lost 0 (0.0000 %)"), "{text}");
    assert!(text.contains("VNI 42") && text.contains("A to B: latency in us: min "), "{text}");
    assert!(!text.contains("B to A"), "{text}");
    for (args, says) in [
        (&["--vxlan", "42"][..], "--vtep"),
        (&["--vxlan", "42", "--vtep", "10.9.0.1", "--switch-vtep", "10.9.0.1"], "another than --switch-vtep"),
        (&["--rate", "10GB"], "\"10GB\" is not a rate"),
        (&["--size", "60,12"], "\"12\": a frame has 60 to 9216 bytes"),
        (&["--size", "512", "--stride", "256"], "do not fit 256 bytes apart"),
    ] {
        let output = drayd.perf(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(says), "{error}");
    }
}

#[test]
fn the_command_tells_where_the_time_goes() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, BRIDGE);
    let socket = drayd.dir.path().join("dray.sock").display().to_string();
    for flags in [&["--flows", "100", "--control", &socket, "--json"][..], &["--control", &socket]] {
        let output = drayd.perf(flags);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        if !flags.contains(&"--json") {
            let mut lines = text.lines().skip_while(|line| !line.starts_with("worker on CPU "));
            assert!(lines.next().is_some_and(|line| line.contains("ticks,")), "{text}");
            assert!(lines.any(|line| line.trim_start().starts_with("forward ")), "{text}");
            continue;
        }
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let [worker] = &report["workers"].as_array().unwrap()[..] else { panic!("{report}") };
        let figure = |name: &str| worker[name].as_f64().unwrap();
        assert!((0.0..1.0).contains(&figure("idle")) && figure("ns_per_packet") > 0.0, "{report}");
        // It is asked when not quite all has been sent.
        let sent = report["a_to_b"]["sent"].as_f64().unwrap();
        assert!(figure("packets") > 0.0 && figure("packets") <= sent, "{report}");
        let stages = worker["stages"].as_array().unwrap();
        let names: Vec<&str> = stages.iter().map(|s| s["stage"].as_str().unwrap()).collect();
        assert!(names.starts_with(&["receive", "parse"]) && names.ends_with(&["send", "release"]), "{report}");
    }
    let nowhere = drayd.dir.path().join("nowhere.sock").display().to_string();
    let output = drayd.perf(&["--control", &nowhere]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(error.contains(&format!("--control: no switch at {nowhere}: No such file")), "{error}");
}

#[test]
fn a_switch_without_that_address_is_named() {
    let _turn = Turn::alone();
    let drayd = Drayd::start("memif", 1, VXLAN);
    let mut options = drayd.memif();
    options.tunnel = Some(Tunnel { switch: Ipv4Addr::new(10, 9, 0, 77), ..TUNNEL });
    options.timeout = Duration::from_secs(1);
    let mut generator = Generator::<Memif>::connect(&options).unwrap();
    let error = generator.learn(&AtomicBool::new(false)).unwrap_err();
    assert_eq!(error, "the switch's VTEP 10.9.0.77 does not answer ARP on link B");
}
