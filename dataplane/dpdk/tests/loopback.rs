//! Devices that need no interface, EAL's start and end, and what is refused. EAL starts once per process, so this is
//! one test.

mod common;

use common::*;
use dray_dpdk::{EthOptions, EthPort, eal};
use dray_switch::{Burst, Drop, Tx};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The CPUs that this thread may use.
fn affinity() -> Vec<usize> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is as large as said.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) }, 0);
    // SAFETY: within the set.
    (0..1024).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

#[test]
fn devices_without_an_interface() {
    // EAL: once, lazily, and without touching whoever asks for it.
    eal::register_thread();
    assert!(!eal::is_up());
    let before = affinity();
    let started = eal::init().unwrap();
    println!("{started:?}");
    assert!(eal::is_up() && started.version.starts_with("DPDK "));
    assert_eq!(eal::init(), Ok(started));
    assert_eq!(affinity(), before, "the caller's affinity");
    let folder = format!("/var/run/dpdk/dray-{}", std::process::id());
    assert!(!Path::new(&folder).exists(), "{folder}");

    null();
    ring();
    raw();
    shared();
    refused();

    // The end: not while a port is there, and for good.
    let port = EthPort::open("net_null0", &EthOptions::default()).unwrap();
    assert!(eal::cleanup().is_err());
    drop(port);
    eal::cleanup().unwrap();
    assert!(!eal::is_up());
    assert!(refusal("net_null0").contains("once per process"));
    eal::cleanup().unwrap();
}

/// A device that always has frames, and room.
fn null() {
    let options = EthOptions { queues: 2, workers: 2, ..EthOptions::default() };
    let mut port = EthPort::open("net_null0,size=100", &options).unwrap();
    println!("{:?}", port.info());
    assert_eq!((port.info().rx_queues, port.info().tx_queues), (2, 2));
    let mut rx = port.rx_queues();
    let mut tx = port.tx_queues(2);
    assert_eq!((rx.len(), tx.len()), (2, 2));
    for (rx, tx) in rx.iter_mut().zip(&mut tx) {
        for _ in 0..1000 {
            let mut burst = Burst::default();
            rx.receive(&mut burst);
            assert!(!burst.is_empty());
            assert_eq!(burst.frame(0).len(), 100);
            // All of them twice: more than fits a burst of mbufs.
            let mut names: Vec<u16> = (0..burst.len() as u16).collect();
            names.extend_from_within(..);
            let sent = tx.send(&mut burst, &names);
            assert_eq!((sent.packets as usize, burst.tx_drops.total()), (names.len(), 0));
            assert_eq!(sent.bytes as usize, 100 * names.len());
            rx.release(&mut burst);
        }
    }
    drop((rx, tx));
    assert_eq!(port.stats().buffers_used, 0, "every buffer is back");
}

/// A device that receives what it sends.
fn ring() {
    let mut port = EthPort::open("net_ring0", &EthOptions::default()).unwrap();
    assert!(port.link().up);
    let mut rx = port.rx_queues().pop().unwrap();
    let mut tx = port.tx_queues(1).pop().unwrap();
    for len in [60, 61, 128, 1514] {
        send(&mut *tx, &[frame(len, 1)]);
        assert_eq!(receive_one(&mut *rx), frame(len, 1));
    }
    // Until it is full: every frame is sent or counted.
    let frames: Vec<_> = (0..64).map(|i| frame(70, i)).collect();
    let (mut sent, mut full, mut no_buffer) = (0, 0, 0);
    for _ in 0..100 {
        let (some, drops) = send(&mut *tx, &frames);
        sent += some.packets;
        full += drops.get(Drop::TxRingFull);
        no_buffer += drops.get(Drop::TxNoBuffer);
    }
    assert_eq!(sent + full + no_buffer, 6400);
    assert!(full > 0 && sent >= 1000, "{sent} {full}");
    let mut burst = Burst::default();
    let mut received = 0;
    while received < sent {
        receive(&mut *rx, &mut burst);
        assert_eq!(bytes(&burst, burst.frame(0)), frames[received as usize % 64]);
        received += burst.len() as u32;
        rx.release(&mut burst);
    }
    assert_eq!(port.stats().buffers_used, 0, "every buffer is back");

    // An mbuf that somebody took out of its frame is no longer the receiver's to free.
    send(&mut *tx, &frames[..2]);
    receive(&mut *rx, &mut burst);
    assert_eq!(burst.len(), 2);
    let taken = burst.take_mbuf(0);
    assert_ne!(taken, 0);
    rx.release(&mut burst);
    assert_eq!(port.stats().buffers_used, 1);
}

/// Queues for who makes and looks at frames itself.
fn raw() {
    let mut port = EthPort::open("net_ring0", &EthOptions::default()).unwrap();
    let (mut rx, mut tx) = port.raw_queues();
    let (mut rx, mut tx) = (rx.pop().unwrap(), tx.pop().unwrap());
    assert!(port.rx_queues().is_empty() && port.tx_queues(1).is_empty(), "handed out once");
    let frames: Vec<_> = (0..100).map(|i| frame(60 + 14 * i, i as u8)).collect();
    // Until the ring is full: what it has no room for is kept, and nothing else is taken meanwhile.
    let mut sent = 0;
    while tx.free() != 0 {
        let room = tx.free() as usize;
        sent += tx.send((0..room).map(|i| &frames[(sent + i) % 100][..]));
        assert!(sent < 5000, "it is never full");
    }
    assert!(sent >= 1000 && !tx.flush(), "{sent}");
    let mut seen = 0;
    loop {
        let all = tx.flush();
        let n = rx.receive(37, |bytes, len| {
            assert_eq!((bytes, len as usize), (&frames[seen % 100][..], bytes.len()));
            seen += 1;
        });
        assert!(n <= 37);
        if n == 0 && all {
            break;
        }
    }
    assert_eq!(seen, sent);
    // A frame that is too long is left out.
    assert_eq!(tx.free(), 128);
    assert_eq!(tx.send([&frame(1519, 0)[..], &frames[7][..]]), 1);
    assert_eq!(rx.receive(2, |bytes, _| assert_eq!(bytes, frames[7])), 1);
    drop((rx, tx));
    assert_eq!(port.stats().buffers_used, 0, "every buffer is back");
}

/// More workers than transmit queues.
fn shared() {
    let mut port = EthPort::open("net_ring0", &EthOptions::default()).unwrap();
    let mut rx = port.rx_queues().pop().unwrap();
    let sent = AtomicU32::new(0);
    let work = |mut tx: Box<dyn Tx>| {
        for i in 0..200 {
            let (some, _) = send(&mut *tx, &[frame(60, i), frame(60, i)]);
            sent.fetch_add(some.packets, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for tx in port.tx_queues(3) {
            scope.spawn(move || work(tx));
        }
    });
    let mut burst = Burst::default();
    let mut received = 0;
    while received < sent.load(Ordering::Relaxed) {
        receive(&mut *rx, &mut burst);
        received += burst.len() as u32;
        rx.release(&mut burst);
    }
    assert!(received > 0);
}

/// Devices that can't be had: the error names them and what would be right.
fn refused() {
    for (device, words) in [
        ("eth1", &["eth1", "PCI address", "net_af_packet0,iface=eth1"][..]),
        ("", &["PCI address"]),
        ("net_af_packet0,iface=nosuch", &["net_af_packet0", "no interface \"nosuch\""]),
        ("net_af_packet0", &["iface=eth1"]),
        ("net_af_packet0,iface=lo,qpairs=4", &["qpairs", "queues"]),
        ("net_bogus0", &["no driver net_bogus", "apt install librte-meta-net"]),
        ("net_bonding0,mode=1,slave=net_null0", &["net_bonding0", "no port has", "iface=bond0"]),
        // Drivers whose library has another name.
        ("net_virtio_user0,path=/nonexistent.sock", &["net_virtio_user0", "DPDK can't have it"]),
        ("0000:ff:1f.7", &["0000:ff:1f.7", "no such PCI device"]),
        ("ff:1f.7", &["no such PCI device"]),
        ("net_pcap0,rx_pcap=/nonexistent.pcap", &["net_pcap0", "/nonexistent.pcap"]),
        ("net_null0,\0", &["NUL"]),
    ] {
        let error = refusal(device);
        println!("{error}");
        for word in words {
            assert!(error.contains(word), "{error}: {word}");
        }
    }
    // A NIC that the kernel's driver has, if there is one.
    let bound = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten().find(|device| {
        std::fs::read_link(device.path().join("driver")).is_ok_and(|driver| driver.ends_with("virtio-pci"))
    });
    if let Some(device) = bound {
        let error = refusal(device.file_name().to_str().unwrap());
        println!("{error}");
        // To which driver is the machine's to say: it takes an IOMMU for vfio-pci.
        assert!(error.contains("dpdk-devbind.py -b "), "{error}");
    }
}
