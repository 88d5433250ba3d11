//! What the stages cost by themselves: frames in private memory on one side, a sink on the other, no rings, no other core.
//!
//!     cargo bench -p dray-switch
//!
//! With DRAY_BURSTS=N each case runs N bursts once, for counting instructions under callgrind; with an argument, such as
//! `l2-1`, only that case.

#![allow(missing_docs)]

use dray_switch::PuntReason;
use dray_switch::adjacency::{Adjacencies, Encap};
use dray_switch::burst::{BURST, Burst, HEAD, HEAD_LONG};
use dray_switch::clock::Stage;
use dray_switch::egress::Egress;
use dray_switch::fdb::Fdb;
use dray_switch::offload::Accepts;
use dray_switch::pipeline::{Context, Pipeline};
use dray_switch::port::Output;
use dray_switch::tables::{Group, IntMap, Overlay, Port, PortTable, Tables};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

struct Sink(Vec<u8>);

impl Output for Sink {
    #[inline]
    fn send(&mut self, _: u16, burst: &mut Burst, frames: &[u16]) {
        for &i in frames {
            let frame = burst.frame(i);
            let n = frame.head().len().min(128);
            self.0[..n].copy_from_slice(&frame.head()[..n]);
        }
        black_box(&mut self.0);
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

fn mac(side: u8, n: u32) -> [u8; 6] {
    let n = n.to_be_bytes();
    [2, side, n[0], n[1], n[2], n[3]]
}

fn tables() -> Tables {
    let (local, peer) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
    let (ours, theirs) = (dray_config::Mac([2, 9, 0, 0, 0, 1]), dray_config::Mac([2, 9, 0, 0, 0, 2]));
    let members = [Egress::port(0, 0), Egress::port(1, 0)].into();
    let mut encap = Encap::new(2, ours, local, 4789);
    encap.vnis = vec![0, 42];
    let mut overlay = Overlay::new(ours, local, 4789);
    overlay.vnis = IntMap::new([(42, 1)].into_iter());
    overlay.vteps = IntMap::new([(peer.into(), 0)].into_iter());
    Tables {
        ports: [PortTable::Access(1), PortTable::Access(1), PortTable::Underlay].map(Port::from).into(),
        groups: vec![Group::default(), Group { members }],
        adjacencies: Adjacencies { tunnels: vec![encap.tunnel(0, peer, theirs)], encaps: vec![encap] },
        overlay: Some(overlay),
    }
}

/// Nanoseconds a frame, the best of several runs.
fn run(flows: u32, port: u16, encapsulate: bool) -> f64 {
    let tables = tables();
    let fdb = Fdb::new(2 * flows.max(512) as usize, [0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3211]);
    for n in 0..flows {
        let to = if encapsulate { Egress::tunnel(0) } else { Egress::port(1, 0) };
        for (mac, at) in [(mac(2, n), to), (mac(1, n), Egress::port(0, 0))] {
            let key = dray_switch::fdb::key(1, mac);
            fdb.view().learn(key, fdb.view().home(key), at, 1);
        }
    }
    let frames: Vec<[u8; 64]> = (0..flows.max(BURST as u32))
        .map(|n| {
            let mut f = [0u8; 64];
            f[..6].copy_from_slice(&mac(2, n % flows));
            f[6..12].copy_from_slice(&mac(1, n % flows));
            f[12..26].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
            f[26..38].copy_from_slice(&[10, 0, (n >> 8) as u8, n as u8, 10, 1, (n >> 8) as u8, n as u8, 4, 0, 4, 0]);
            f
        })
        .collect();
    let mut burst = Box::new(Burst::default());
    let mut pipeline = Pipeline::default();
    let mut sink = Sink(vec![0; 256]);
    let bursts = std::env::var("DRAY_BURSTS").ok().and_then(|n| n.parse().ok());
    let mut best = f64::MAX;
    for _ in 0..if bursts.is_some() { 1 } else { 5 } {
        let (mut n, mut at) = (0u64, 0);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            for _ in 0..bursts.unwrap_or(256) {
                pipeline.clock.begin();
                burst.clear();
                burst.set_head_len(if port == 2 { HEAD_LONG } else { HEAD });
                for _ in 0..BURST {
                    // SAFETY: `frames` lives longer than the burst is used.
                    unsafe { burst.push(frames[at].as_ptr(), 60, 0) };
                    at = if at + 1 == frames.len() { 0 } else { at + 1 };
                }
                pipeline.clock.mark(Stage::Receive, burst.len());
                let cx = Context { tables: &tables, fdb: fdb.view(), now: 1, port };
                pipeline.run(&mut burst, cx, &mut sink);
                pipeline.clock.end(|stage, time| {
                    black_box((stage, time));
                });
                assert_eq!(burst.drops.total(), 0);
                n += BURST as u64;
            }
            if bursts.is_some() {
                break;
            }
        }
        best = best.min(start.elapsed().as_nanos() as f64 / n as f64);
    }
    best
}

fn main() {
    let only = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    for (name, port, encapsulate, flows) in
        [("l2", 0, false, &[1, 1_000, 100_000, 1_000_000][..]), ("encap", 0, true, &[1, 1_000])]
    {
        for &flows in flows.iter().filter(|&&flows| only.as_ref().is_none_or(|o| *o == format!("{name}-{flows}"))) {
            println!("{name}, {flows} flows: {:.1} ns a frame", run(flows, port, encapsulate));
        }
    }
}
