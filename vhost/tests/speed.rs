//! What receiving and sending costs, without a pipeline between. Not a test of correctness: run it on an idle machine with
//! `cargo test --release -p dray-vhost --test speed -- --ignored --nocapture`.

use dray_config::{Memif, Role, SocketName};
use dray_switch::{Burst, Drops};
use dray_vhost::memif::{Client, ClientOptions, Event, PortSpec, Supervisor};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Nanoseconds a frame of one thread that does everything (`alone`) or of the middle one of two threads.
fn measure(len: usize, alone: bool) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let socket = SocketName::Path(dir.path().join("s"));
    let (tx, events) = channel();
    let s = Supervisor::start(move |e| drop(tx.send(e))).unwrap();
    let mut links = Vec::new();
    let mut clients = Vec::new();
    for id in 0..2 {
        let (role, socket) = (Role::Server, socket.clone());
        let memif =
            Memif { socket: socket.clone(), id, role, secret: None, ring_size: 1024, buffer_size: 2048, queues: 1 };
        s.add(PortSpec { name: format!("p{id}"), memif, max_frame: 9216 }).unwrap();
        clients.push(Client::connect(&socket, id, &ClientOptions::default()).unwrap());
        let Event::Up { link, .. } = events.recv().unwrap() else { panic!() };
        links.push(link);
    }
    let mut out = links.pop().unwrap().tx.handles(1);
    let mut rx = links.pop().unwrap().rx.pop().unwrap();
    let mut sink = std::mem::take(&mut clients[1].rx);
    let mut source = std::mem::take(&mut clients[0].tx);
    for slot in 0..source[0].size() {
        source[0].write(slot, 0, &vec![slot as u8; len]);
        source[0].set_len(slot, len as u32, false);
    }
    let mut generate = move || {
        let n = source[0].free();
        source[0].publish(n);
        let n = sink[0].available();
        sink[0].give_back(n);
    };
    let mut burst = Burst::default();
    let mut drops = Drops::default();
    let mut forward = move || {
        burst.clear();
        rx.receive(&mut burst);
        let n = burst.len() as u16;
        if n == 0 {
            return 0;
        }
        let all: [u16; 64] = std::array::from_fn(|i| i as u16);
        let sent = out[0].send(&mut burst, &all[..n as usize], &mut drops);
        rx.release(&mut burst);
        sent.packets as u64
    };
    let time = Duration::from_millis(700);
    if alone {
        let (mut frames, mut spent) = (0, Duration::ZERO);
        while spent < time {
            generate();
            let start = Instant::now();
            for _ in 0..16 {
                frames += forward();
            }
            spent += start.elapsed();
        }
        return spent.as_nanos() as f64 / frames as f64;
    }
    let stop = AtomicBool::new(false);
    let frames = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                generate();
            }
        });
        let start = Instant::now();
        let mut n = 0;
        while start.elapsed() < time {
            for _ in 0..100 {
                n += forward();
            }
        }
        frames.store(n, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
    });
    time.as_nanos() as f64 / frames.load(Ordering::Relaxed) as f64
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    for len in [60, 512, 1514] {
        for alone in [true, false] {
            let mut ns: Vec<f64> = (0..5).map(|_| measure(len, alone)).collect();
            ns.sort_by(f64::total_cmp);
            let what = if alone { "one thread" } else { "two threads" };
            println!(
                "{len:5} bytes, {what}: {:.1} ns a frame ({:.1} to {:.1}), {:.1} Mpps",
                ns[2],
                ns[0],
                ns[4],
                1e3 / ns[2]
            );
        }
    }
}
