//! The generator against testpmd, which moves frames between two links: needs root and dpdk-testpmd.

use dray_config::Role;
use dray_perf::generator::{Generator, Link, Options, Way};
use dray_perf::memif::{self, Memif};
use dray_perf::peer::{Kind, Memory, Peer, Setup, Switch, Testpmd};
use dray_perf::vhost::{self, VhostUser};
use dray_testing::{Turn, has_testpmd, is_root};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The machine, as each test keeps two CPUs busy. `None` if there is no testpmd to be started, which it says.
fn turn() -> Option<Turn> {
    (is_root() && has_testpmd()).then(Turn::alone)
}

fn testpmd(kind: Kind) -> Switch {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let memory = Memory::Ordinary;
    let setup = Setup { cpu: cpus - 1, other_cpu: 0, kind, overlay: None, ring_size: 1024, macs: 0, memory };
    Testpmd::default().start(&setup).unwrap()
}

/// Its memif interfaces.
fn memif(switch: &Switch) -> [memif::End; 2] {
    let [a, b] = switch.sockets();
    [memif::End::new(a, 0), memif::End::new(b, 1)]
}

/// Its vhost-user ports.
fn vhost(switch: &Switch, packed: bool) -> [vhost::End; 2] {
    switch.sockets().map(|socket| vhost::End { socket: Some(socket), role: Role::Client, packed })
}

/// Options for a machine that is busy with other tests: no more under way than testpmd's rings hold, so that it never drops.
fn options<E>([a, b]: [E; 2]) -> Options<E> {
    let mut options = Options::new(a, b);
    options.window = 512;
    options.timeout = Duration::from_secs(60);
    options
}

fn a_million_frames<L: Link>(mut switch: Switch, ends: [L::End; 2]) {
    let mut options = options(ends).size(64);
    options.flows = 1500;
    options.sample = 1;
    options.way = Way::Both;
    let mut generator = Generator::<L>::connect(&options).unwrap();
    switch.start().unwrap();
    let stop = AtomicBool::new(false);
    generator.learn(&stop).unwrap();
    let mut sent = 0;
    for _ in 0..120 {
        let report = generator.run(Duration::from_millis(500), &stop, |_| {}).unwrap();
        for d in report.directions() {
            assert_eq!((d.lost, d.reordered, d.duplicated, d.foreign), (0, 0, 0, 0), "{report:?}");
            assert_eq!((d.received, d.sampled), (d.sent, d.sent), "{report:?}");
            let bytes = d.gbps * report.seconds * 1e9 / 8.0;
            assert!((bytes / (d.mpps * report.seconds * 1e6) - 64.0).abs() < 1e-6, "{report:?}");
        }
        sent += report.directions().map(|d| d.sent).sum::<u64>();
        if sent >= 1_000_000 {
            return;
        }
    }
    panic!("only {sent} frames in a minute");
}

#[test]
fn a_million_frames_and_none_lost() {
    let Some(_turn) = turn() else { return };
    let switch = testpmd(Kind::Memif);
    let ends = memif(&switch);
    a_million_frames::<Memif>(switch, ends);
}

#[test]
fn a_million_frames_over_vhost_user_and_none_lost() {
    let Some(_turn) = turn() else { return };
    for packed in [false, true] {
        let switch = testpmd(Kind::VhostUser);
        let ends = vhost(&switch, packed);
        a_million_frames::<VhostUser>(switch, ends);
    }
}

#[test]
fn a_rate_is_kept() {
    let Some(_turn) = turn() else { return };
    let mut switch = testpmd(Kind::Memif);
    let mut options = options(memif(&switch)).size(1514);
    options.vlan = Some(100);
    options.rate = 20_000;
    let mut generator = Generator::<Memif>::connect(&options).unwrap();
    switch.start().unwrap();
    let stop = AtomicBool::new(false);
    generator.learn(&stop).unwrap();
    let report = generator.run(Duration::from_secs(1), &stop, |_| {}).unwrap();
    let d = report.a_to_b.unwrap();
    assert_eq!((d.lost, d.reordered, d.duplicated, d.foreign), (0, 0, 0, 0), "{report:?}");
    // Never more; less only if this thread did not get to run for longer than the bucket (a ring) lasts, 50 ms.
    assert!(d.sent <= 20_100 && d.sent > 5_000, "{report:?}");
    assert!(report.b_to_a.is_none());
}

#[test]
fn it_says_which_way_is_closed() {
    let Some(_turn) = turn() else { return };
    // Not started: the links are there, nothing gets through.
    let switch = testpmd(Kind::Memif);
    let mut options = options(memif(&switch));
    options.timeout = Duration::from_secs(8);
    let mut generator = Generator::<Memif>::connect(&options).unwrap();
    let error = generator.learn(&AtomicBool::new(false)).unwrap_err();
    assert!(error.contains("in either direction"), "{error}");
}
