//! Several workers share the FDB and the ports.

use crate::harness::*;
use dray_config::rpc::WorkerInfo;

/// `a` and `b` are polled by different workers, each of which sends through the other's port; both send to `c`, whose one ring
/// they share.
#[test]
fn two_workers_switch_between_each_others_ports() {
    let Some(test) = Test::begin() else { return };
    let workers = "[[worker]]\ncpu = 0\nidle-sleep = 50\n[[worker]]\ncpu = 1\nidle-sleep = 50\n";
    let ports = memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "b", "c"]);
    let drayd = Drayd::start(&test, &(workers.to_string() + &ports));
    let mut c = test.memif(2);
    drayd.wait_link("c", "up");
    let exchange = Exchange::start(&test, &drayd);
    exchange.more(20_000);
    let shown: Vec<WorkerInfo> = drayd.json("worker show");
    assert_eq!(shown.len(), 2);
    assert!(shown.iter().all(|w| !w.queues.is_empty() && w.packets > 10_000), "{shown:?}");
    for worker in drayd.json::<Vec<WorkerInfo>>("worker show --total") {
        shows_where_the_time_goes(&worker);
    }
    let recent = || drayd.json::<Vec<WorkerInfo>>("worker show");
    let active = |w: &WorkerInfo| w.ticks_per_packet.is_some() && !w.stages.is_empty();
    let recent = wait_for("figures of a second", || Some(recent()).filter(|workers| workers.iter().all(active)));
    recent.iter().for_each(shows_where_the_time_goes);
    let table = drayd.dray("worker show");
    assert!(table.contains("STAGE") && table.contains("forward"), "{table}");
    // Tables are published while both run.
    let extra = test.path("extra.sock").display().to_string();
    for _ in 0..20 {
        drayd.dray(&format!("port add --name extra --kind memif --socket {extra} --bridge blue"));
        drayd.dray("port del extra");
        exchange.more(100);
    }
    let (arrived, mut a, mut b) = exchange.stop();
    assert!(arrived > 40_000);
    // What is not known is flooded by both workers into the ring that they share.
    receive(&mut c);
    let stranger = mac(0xffff);
    let (from_a, from_b) = (numbered(mac(0xa0), stranger, 1), numbered(mac(0xb0), stranger, 2));
    assert!(a.tx[0].send(&from_a) && b.tx[0].send(&from_b));
    let mut got = Vec::new();
    wait_for("both frames to arrive", || {
        got.extend(receive(&mut c));
        (got.len() >= 2).then_some(())
    });
    got.sort();
    let mut wanted = vec![from_a, from_b];
    wanted.sort();
    assert_eq!(got, wanted);
    drayd.finish();
}

/// A worker that switches between ports passes these stages, and (if that was in the sample) floods now and then.
fn shows_where_the_time_goes(worker: &WorkerInfo) {
    let stages = worker.stages.iter().filter(|s| s.stage != "flood");
    let names: Vec<&str> = stages.map(|s| s.stage.as_str()).collect();
    assert_eq!(names, ["receive", "parse", "learn", "forward", "send", "release"], "{worker:?}");
    let (ticks, ns) = (worker.ticks_per_packet.unwrap(), worker.ns_per_packet.unwrap());
    assert!(
        ticks > 1.0 && ns > 1.0 && worker.busy > 0.0 && (worker.busy + worker.idle - 1.0).abs() < 1e-9,
        "{worker:?}"
    );
    for s in &worker.stages {
        assert!(s.ticks_per_packet > 0.0 && s.sampled > 0 && (1.0..=64.0).contains(&s.packets_per_burst), "{worker:?}");
        // One clock for all.
        assert!((s.ns_per_packet / s.ticks_per_packet / (ns / ticks) - 1.0).abs() < 1e-6, "{worker:?}");
    }
    assert!((worker.stages.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-6, "{worker:?}");
}
