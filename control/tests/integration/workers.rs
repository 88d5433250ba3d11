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
