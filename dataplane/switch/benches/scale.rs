//! What the stages cost as bridges, VNIs, tunnels, MACs and receivers grow: frames in private memory on one side, a sink on the
//! other, no rings, no other core. What a larger size costs more is what its cache misses cost.
//!
//!     cargo bench -p dray-switch --bench scale
//!
//! All sizes run in turn; a ratio is the median of the rounds' ratios to the first size. With an argument, such as `vnis`, only
//! that is run; with two, such as `vnis 4094`, only that size, for a profiler.

#![allow(missing_docs)]

use dray_config::Mac;
use dray_switch::PuntReason;
use dray_switch::adjacency::{Adjacencies, Encap};
use dray_switch::burst::{BURST, Burst, HEAD, HEAD_LONG};
use dray_switch::egress::Egress;
use dray_switch::fdb::{Fdb, key};
use dray_switch::offload::Accepts;
use dray_switch::pipeline::{Context, Pipeline};
use dray_switch::port::Output;
use dray_switch::tables::{Group, IntMap, Overlay, Port, PortTable, Tables};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const FLOWS: u32 = 4096;
const ROUNDS: usize = 21;
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OURS: [u8; 6] = [2, 9, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 9, 0, 0, 0, 254];

struct Sink {
    head: [u8; 192],
    frames: u64,
}

impl Output for Sink {
    #[inline]
    fn send(&mut self, _: u16, burst: &mut Burst, frames: &[u16]) {
        for &i in frames {
            let head = burst.frame(i).head();
            self.head[..head.len()].copy_from_slice(head);
        }
        self.frames += frames.len() as u64;
        black_box(&mut self.head);
    }

    fn accepts(&self, _: u16) -> Option<Accepts> {
        None
    }

    fn segmented(&mut self, _: u16, _: u32) {}

    fn dropped(&mut self, _: u16, _: &mut Burst) {}

    fn punt(&mut self, _: PuntReason, _: u16, _: u16, _: impl FnOnce() -> Vec<u8>) -> bool {
        false
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Axis {
    Bridges,
    Vnis,
    Tunnels,
    Decap,
    Macs,
    Flood,
}

/// A size, ready to run.
struct Subject {
    n: u32,
    tables: Tables,
    fdb: Fdb,
    frames: Vec<[u8; 128]>,
    len: usize,
    port: u16,
    at: usize,
    pipeline: Pipeline,
}

/// A MAC of station `i`. Those that count up share cache lines in one bridge, and are read one line after the other, and in many they
/// aren't: but where MACs themselves grow in number they are in no order.
fn mac(axis: Axis, side: u8, i: u32) -> [u8; 6] {
    let n = if axis == Axis::Macs { i } else { i.wrapping_mul(0x9e37_79b1) }.to_be_bytes();
    [2, side, n[0], n[1], n[2], n[3]]
}

fn vtep(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 1, 0)) + n)
}

impl Subject {
    /// Ports 0 and 1, the latter being the underlay where there is one. Bridge and VLAN number 1 + s, VNI 1001 + s, tunnel s.
    fn new(axis: Axis, n: u32) -> Subject {
        let flows = match axis {
            Axis::Macs => n / 2,
            Axis::Flood => 64,
            _ => FLOWS,
        };
        let tagged = matches!(axis, Axis::Bridges | Axis::Vnis | Axis::Decap);
        let has_overlay = matches!(axis, Axis::Vnis | Axis::Tunnels | Axis::Decap);
        // Neighbours use different ones, in no order that a prefetcher would know.
        let share = |i: u32| (i.wrapping_mul(0x9e37_79b1) % flows.next_power_of_two()) % n;
        let bridge = |i: u32| if tagged { 1 + share(i) as u16 } else { 1 };
        let tunnel = |i: u32| if axis == Axis::Vnis { 0 } else { share(i) as u16 };
        let vlan = |i: u32| if tagged { bridge(i) } else { 0 };

        let mut trunk = Box::new([0; 4096]);
        let bridges = if tagged { n as u16 } else { 1 };
        let receivers = if axis == Axis::Flood { n as u16 } else { 1 };
        let mut groups = vec![Group::default()];
        for b in 1..=bridges {
            trunk[b as usize] = b;
            let members = (0..=receivers).map(|port| Egress::port(port, if tagged { b } else { 0 })).collect();
            groups.push(Group { members });
        }
        let access = if tagged { PortTable::Trunk(trunk.into()) } else { PortTable::Access(1) };
        let mut ports = vec![Port::from(access); usize::from(receivers) + 1];
        if has_overlay {
            ports[1] = PortTable::Underlay.into();
        }
        let tunnels = if matches!(axis, Axis::Tunnels | Axis::Decap) { n } else { 1 };
        let mut adjacencies = Adjacencies::default();
        let overlay = has_overlay.then(|| {
            let mut encap = Encap::new(1, Mac(OURS), LOCAL, 4789);
            encap.vnis = (0..=bridges).map(|b| 1000 + u32::from(b)).collect();
            adjacencies.tunnels = (0..tunnels).map(|t| encap.tunnel(0, vtep(t), Mac(THEIRS))).collect();
            adjacencies.encaps = vec![encap];
            let mut overlay = Overlay::new(Mac(OURS), LOCAL, 4789);
            overlay.vnis = IntMap::new((1..=bridges).map(|b| (1000 + u32::from(b), b)).collect::<Vec<_>>().into_iter());
            overlay.vteps =
                IntMap::new((0..tunnels).map(|t| (vtep(t).into(), t as u16)).collect::<Vec<_>>().into_iter());
            overlay
        });

        let fdb = Fdb::new((2 * flows as usize).max(1 << 14), [0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3211]);
        let mut frames = Vec::new();
        let mut len = 0;
        for i in 0..flows {
            let here = Egress::port(0, vlan(i));
            let there = if has_overlay { Egress::tunnel(tunnel(i)) } else { Egress::port(1, vlan(i)) };
            let (from, to) = if axis == Axis::Decap { (there, here) } else { (here, there) };
            for (side, place) in [(0xa0, from), (0xb0, to)] {
                let key = key(bridge(i), mac(axis, side, i));
                fdb.view().learn(key, fdb.view().home(key), place, 1);
            }
            let to = if axis == Axis::Flood { [0xff; 6] } else { mac(axis, 0xb0, i) };
            let mut bytes = Vec::new();
            if axis == Axis::Decap {
                bytes.extend([OURS, THEIRS].concat());
                bytes.extend([8, 0, 0x45, 0, 0, 96, 0, 0, 0x40, 0, 64, 17, 0, 0]);
                bytes.extend(vtep(tunnel(i).into()).octets());
                bytes.extend(LOCAL.octets());
                let sum: u32 = bytes[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
                bytes.extend([0xc0, i as u8, 0x12, 0xb5, 0, 76, 0, 0, 8, 0, 0, 0]);
                bytes.extend(((1000 + u32::from(bridge(i))) << 8).to_be_bytes());
            }
            bytes.extend([to, mac(axis, 0xa0, i)].concat());
            if tagged && axis != Axis::Decap {
                bytes.extend([0x81, 0]);
                bytes.extend(vlan(i).to_be_bytes());
            }
            bytes.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
            bytes.extend([10, 0, (i >> 8) as u8, i as u8, 10, 1, (i >> 8) as u8, i as u8, 4, 0, 4, 0]);
            len = if axis == Axis::Decap { 110 } else { 64 };
            bytes.resize(128, 0);
            frames.push(bytes.try_into().unwrap());
        }
        let port = u16::from(axis == Axis::Decap);
        let tables = Tables { ports, groups, adjacencies, overlay };
        Subject { n, tables, fdb, frames, len, port, at: 0, pipeline: Pipeline::default() }
    }

    /// Nanoseconds for each frame that came out.
    fn run(&mut self, duration: Duration) -> f64 {
        let mut burst = Box::new(Burst::default());
        let mut sink = Sink { head: [0; 192], frames: 0 };
        let start = Instant::now();
        while start.elapsed() < duration {
            for _ in 0..64 {
                burst.clear();
                burst.set_head_len(if self.port == 1 { HEAD_LONG } else { HEAD });
                for _ in 0..BURST {
                    // SAFETY: `frames` is not touched as long as the burst is used, and each has more bytes than this.
                    unsafe { burst.push(self.frames[self.at].as_ptr(), self.len as u32, 0) };
                    self.at = if self.at + 1 == self.frames.len() { 0 } else { self.at + 1 };
                }
                let cx = Context { tables: &self.tables, fdb: self.fdb.view(), now: 1, port: self.port };
                self.pipeline.run(&mut burst, cx, &mut sink);
                assert_eq!(burst.drops.total(), 0);
            }
        }
        start.elapsed().as_nanos() as f64 / sink.frames as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let axes: [(&str, Axis, &[u32]); 6] = [
        ("bridges", Axis::Bridges, &[1, 64, 1024, 4094]),
        ("vnis", Axis::Vnis, &[1, 64, 1024, 4094]),
        ("tunnels", Axis::Tunnels, &[1, 64, 1024, 4096]),
        ("decap", Axis::Decap, &[1, 64, 1024, 4094]),
        ("macs", Axis::Macs, &[1_000, 10_000, 100_000, 1_000_000]),
        ("flood", Axis::Flood, &[1, 8, 64]),
    ];
    for (name, axis, sizes) in axes.iter().filter(|(name, ..)| args.first().is_none_or(|only| only == name)) {
        let sizes = sizes.iter().filter(|n| args.get(1).is_none_or(|only| *only == n.to_string()));
        let mut subjects: Vec<Subject> = sizes.map(|&n| Subject::new(*axis, n)).collect();
        let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
        for round in 0..ROUNDS {
            for at in 0..subjects.len() {
                let at = if round % 2 == 0 { at } else { subjects.len() - 1 - at };
                let subject = &mut subjects[at];
                subject.run(Duration::from_millis(3));
                rounds[at].push(subject.run(Duration::from_millis(15)));
            }
        }
        for (subject, ns) in subjects.iter().zip(&rounds) {
            let ratio = median(ns.iter().zip(&rounds[0]).map(|(a, b)| a / b).collect());
            println!("{name} {}: {:.1} ns, {ratio:.3}", subject.n, median(ns.clone()));
        }
    }
}
