//! A port over the kernel's af_packet, with a raw socket at the other end of a veth pair. EAL starts once per process,
//! so this is one test.

mod common;

use common::*;
use dray_dpdk::{EthOptions, EthPort};
use dray_switch::{Burst, Drop};
use std::thread;
use std::time::Duration;

#[test]
fn af_packet_carries_frames_both_ways() {
    if !dray_testing::is_root() {
        return;
    }
    new_namespace();
    veth("dray0", "peer0");
    let peer = Raw::new("peer0");
    let device = "net_af_packet0,iface=dray0";

    let mut port = EthPort::open(device, &EthOptions::default()).unwrap();
    println!("{:?}", port.info());
    assert_eq!(port.info().driver, "net_af_packet");
    assert_eq!((port.info().mtu, port.max_frame()), (1500, 1518));
    assert_eq!(port.info().notes, [""; 0]);
    assert!(port.link().up);
    let mut rx = port.rx_queues().pop().unwrap();
    let mut tx = port.tx_queues(1).pop().unwrap();
    assert!(port.rx_queues().is_empty() && port.tx_queues(1).is_empty(), "handed out once");

    // In: shorter than a head, exactly one, and with a body.
    for len in [60, 64, 65, 1514] {
        peer.send(&frame(len, 1));
        assert_eq!(receive_one(&mut *rx), frame(len, 1));
    }
    // A tag stays in the frame, and does not count against the MTU.
    let mut tagged = frame(1514, 2);
    tagged.splice(12..12, [0x81, 0x00, 0x20, 0x2a]);
    peer.send(&tagged);
    assert_eq!(receive_one(&mut *rx), tagged);
    // Another tag, which the driver would make this one of, is cut: what is left is too short for a tagged frame.
    let mut other = tagged[..1000].to_vec();
    other[12..14].copy_from_slice(&[0x88, 0xa8]);
    peer.send(&other);
    assert_eq!(receive_one(&mut *rx), tagged[..16]);
    // Two tags: the outer one counts.
    other.splice(16..16, [0x81, 0x00, 0x00, 0x0a]);
    peer.send(&other);
    assert_eq!(receive_one(&mut *rx), tagged[..16]);

    // Out: padded to 60 bytes, and as long as the MTU allows.
    let (sent, drops) = send(&mut *tx, &[frame(42, 3), frame(60, 4), frame(1514, 5), frame(1515, 6)]);
    assert_eq!((sent.packets, sent.bytes), (3, 42 + 60 + 1514));
    assert_eq!((drops.get(Drop::TxTooBig), drops.total()), (1, 1));
    let mut padded = frame(42, 3);
    padded.resize(60, 0);
    assert_eq!(peer.receive(), padded);
    assert_eq!(peer.receive(), frame(60, 4));
    assert_eq!(peer.receive(), frame(1514, 5));
    // The kernel takes the tag out again, for whom reads it there.
    send(&mut *tx, std::slice::from_ref(&tagged));
    assert_eq!(peer.receive(), frame(1514, 2));

    // The interface takes less than it did, and then what it did again.
    ip("link set dray0 mtu 1000");
    port.watch();
    assert_eq!(port.info().mtu, 1000);
    let mut longer = tagged.clone();
    longer.truncate(1018);
    let (sent, drops) = send(&mut *tx, &[frame(1014, 5), frame(1015, 5), longer, tagged.clone()]);
    assert_eq!((sent.packets, drops.get(Drop::TxTooBig)), (2, 2));
    assert_eq!((peer.receive(), peer.receive().len()), (frame(1014, 5), 1014));
    ip("link set dray0 mtu 1500");
    port.watch();
    send(&mut *tx, &[frame(1514, 5)]);
    assert_eq!(peer.receive(), frame(1514, 5));

    // From mbuf to mbuf: what was received goes out, whole bursts of it.
    let frames: Vec<_> = (0..40).map(|i| frame(60 + 30 * i, i as u8)).collect();
    for frame in &frames {
        peer.send(frame);
    }
    let mut forwarded = 0;
    while forwarded < frames.len() {
        let mut burst = Burst::default();
        receive(&mut *rx, &mut burst);
        let names: Vec<u16> = (0..burst.len() as u16).collect();
        forwarded += tx.send(&mut burst, &names).packets as usize;
        assert_eq!(burst.tx_drops.total(), 0);
        rx.release(&mut burst);
    }
    for frame in &frames {
        assert_eq!(peer.receive(), *frame);
    }

    // Longer than the port's MTU allows, and cut to the slot by the kernel: dropped, not believed.
    ip("link set peer0 mtu 9000");
    ip("link set dray0 mtu 9000");
    peer.send(&frame(4000, 7));
    let mut burst = Burst::default();
    receive(&mut *rx, &mut burst);
    assert_eq!((burst.len(), burst.drops.get(Drop::RxTooBig)), (0, 1));
    rx.release(&mut burst);
    assert_eq!(port.stats().buffers_used, 0, "every buffer is back");

    // The link follows the interface, as soon as the kernel says so.
    ip("link set peer0 down");
    wait_for(|| !port.watch().up);
    let (sent, drops) = send(&mut *tx, &[frame(60, 19)]);
    assert_eq!((sent.packets, drops.get(Drop::TxLinkDown)), (0, 1));
    ip("link set peer0 up");
    wait_for(|| port.watch().up);
    let peer = Raw::new("peer0");
    // The port's own interface may go down and up as well. What is sent meanwhile is lost or refused, nothing worse.
    ip("link set dray0 down");
    wait_for(|| !port.link().up);
    for _ in 0..50 {
        send(&mut *tx, &vec![frame(60, 20); 64]);
    }
    ip("link set dray0 up");
    wait_for(|| port.link().up);
    peer.send(&frame(60, 21));
    assert_eq!(receive_one(&mut *rx), frame(60, 21));
    // The kernel may take a second until it sends on an interface that has come up.
    let mut tries = (0..100).map(|_| {
        send(&mut *tx, &[frame(60, 22)]);
        thread::sleep(Duration::from_millis(50));
        peer.received()
    });
    assert!(tries.any(|frames| frames.contains(&frame(60, 22))));

    // The queues keep the device: only with the last of them it is free again.
    drop(port);
    drop(rx);
    assert!(refusal(device).contains("in use"), "{}", refusal(device));
    drop(tx);

    peer.received();
    // Jumbo frames: the interface's MTU is raised, and its slots are as large.
    ip("link set dray0 mtu 1500");
    let jumbo = EthOptions { mtu: 9000, mac: Some([0x02, 0x99, 0, 0, 0, 1]), ..EthOptions::default() };
    let mut port = EthPort::open(device, &jumbo).unwrap();
    assert_eq!((port.info().mtu, port.info().mac), (9000, [0x02, 0x99, 0, 0, 0, 1]), "{:?}", port.info().notes);
    let mut rx = port.rx_queues().pop().unwrap();
    let mut tx = port.tx_queues(1).pop().unwrap();
    for len in [60, 1514, 9014] {
        peer.send(&frame(len, 8));
        assert_eq!(receive_one(&mut *rx), frame(len, 8));
        assert_eq!(send(&mut *tx, &[frame(len, 9)]).0.bytes, len as u64);
        assert_eq!(peer.receive(), frame(len, 9));
    }
    drop((port, rx, tx));

    // Two queue pairs, two workers: every frame arrives on one of them.
    let two = EthOptions { queues: 2, workers: 2, ..EthOptions::default() };
    let mut port = EthPort::open(device, &two).unwrap();
    assert_eq!((port.info().rx_queues, port.info().tx_queues), (2, 2));
    let mut rx = port.rx_queues();
    let mut tx = port.tx_queues(2);
    for (i, tx) in tx.iter_mut().enumerate() {
        assert_eq!(send(&mut **tx, &[frame(60, i as u8)]).0.packets, 1);
        assert_eq!(peer.receive(), frame(60, i as u8));
    }
    for i in 0..20 {
        peer.send(&frame(100, i));
    }
    let mut received = 0;
    let mut burst = Burst::default();
    for _ in 0..1_000_000 {
        for rx in &mut rx {
            burst.clear();
            rx.receive(&mut burst);
            received += burst.len();
            rx.release(&mut burst);
        }
        if received == 20 {
            break;
        }
    }
    assert_eq!(received, 20);
    drop((port, rx, tx));

    // Opened and closed many times: nothing is left each time.
    let mut before = None;
    for round in 0..22 {
        let mut port = EthPort::open(device, &EthOptions::default()).unwrap();
        let mut rx = port.rx_queues().pop().unwrap();
        let mut tx = port.tx_queues(1).pop().unwrap();
        peer.send(&frame(100, round));
        assert_eq!(receive_one(&mut *rx), frame(100, round));
        send(&mut *tx, &[frame(100, round)]);
        assert_eq!(peer.receive(), frame(100, round));
        drop((port, rx, tx));
        // EAL's thread closes it before it looks at anything else.
        refusal("net_bogus0");
        if round == 1 {
            before = Some(resources());
        }
    }
    let (before, after) = (before.unwrap(), resources());
    println!("files, mappings, KiB: {before:?}, then {after:?}");
    assert_eq!(before.0, after.0, "files");
    assert!(after.1 <= before.1 + 4, "mappings: {before:?} {after:?}");
    assert!(after.2 <= before.2 + 4096, "memory: {before:?} {after:?}");

    // Another driver, through the same interface.
    ip("link set dray0 mtu 1500");
    ip("link set peer0 mtu 1500");
    let mut port = EthPort::open("net_af_xdp0,iface=dray0", &EthOptions::default()).unwrap();
    println!("{:?}", port.info());
    let mut rx = port.rx_queues().pop().unwrap();
    let mut tx = port.tx_queues(1).pop().unwrap();
    for len in [60, 1514] {
        peer.send(&frame(len, 10));
        assert_eq!(receive_one(&mut *rx), frame(len, 10));
        send(&mut *tx, &[frame(len, 11)]);
        assert_eq!(peer.receive(), frame(len, 11));
    }

    // The interface goes away under the port: nothing arrives, and the port can be closed.
    drop((port, rx, tx));
    let mut port = EthPort::open(device, &EthOptions::default()).unwrap();
    let mut rx = port.rx_queues().pop().unwrap();
    let mut tx = port.tx_queues(1).pop().unwrap();
    ip("link del dray0");
    assert!(!port.link().up);
    for _ in 0..50 {
        send(&mut *tx, &vec![frame(60, 12); 64]);
        burst.clear();
        rx.receive(&mut burst);
        assert!(burst.is_empty());
        rx.release(&mut burst);
    }
    drop((port, rx, tx));
    assert!(refusal(device).contains("no interface \"dray0\""), "{}", refusal(device));
}
