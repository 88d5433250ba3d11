//! What receiving and sending costs, without a pipeline between. Not a test of correctness: run it on an idle machine with
//! `cargo test --release -p dray-vhost --test speed -- --ignored --nocapture`.

use dray_config::{Access, Memif, Role, SocketName};
use dray_switch::Burst;
use dray_vhost::Event;
use dray_vhost::memif::{Client, ClientOptions, PortSpec, Supervisor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

fn pin(cpu: usize) {
    assert!(core_affinity::set_for_current(core_affinity::CoreId { id: cpu }), "CPUs 0 and 1 are needed");
}

/// Nanoseconds a frame takes in the median full burst, and millions of frames a second; `alone`: the generator runs in turn on the
/// same CPU, else on another.
fn measure(len: usize, alone: bool) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let socket = SocketName::Path(dir.path().join("s"));
    let (tx, events) = channel();
    let s = Supervisor::start(move |e| drop(tx.send(e))).unwrap();
    let mut links = Vec::new();
    let mut clients = Vec::new();
    for id in 0..2 {
        let (role, socket) = (Role::Server, socket.clone());
        let memif = Memif {
            socket: socket.clone(),
            access: Access::default(),
            id,
            role,
            secret: None,
            ring_size: 1024,
            buffer_size: 2048,
            queues: 1,
        };
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
        // Asking without a pause keeps the indices' cache lines from the one who has to write them.
        (0..100).for_each(|_| std::hint::spin_loop());
    };
    let mut burst = Burst::default();
    let mut forward = move || {
        burst.clear();
        rx.receive(&mut burst);
        let n = burst.len() as u16;
        if n == 0 {
            return 0;
        }
        let all: [u16; 64] = std::array::from_fn(|i| i as u16);
        let sent = out[0].send(&mut burst, &all[..n as usize]);
        rx.release(&mut burst);
        sent.packets as u64
    };
    let (mut full, mut n) = (Vec::new(), 0);
    let mut bursts = |count| {
        for _ in 0..count {
            let start = Instant::now();
            let frames = forward();
            if frames == 64 {
                full.push(start.elapsed().as_nanos() as u32);
            }
            n += frames;
        }
    };
    let time = Duration::from_millis(400);
    let start = Instant::now();
    if alone {
        while start.elapsed() < time {
            generate();
            bursts(16);
        }
    } else {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pin(0);
                while !stop.load(Ordering::Relaxed) {
                    generate();
                }
            });
            pin(1);
            while start.elapsed() < time {
                bursts(100);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    let mpps = n as f64 / start.elapsed().as_micros() as f64;
    full.sort_unstable();
    (full.get(full.len() / 2).map_or(0.0, |&ns| f64::from(ns) / 64.0), mpps)
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    for len in [60, 512, 1514] {
        for alone in [true, false] {
            let mut runs: Vec<_> = (0..3).map(|_| measure(len, alone)).collect();
            runs.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (ns, mpps) = runs[1];
            let what = if alone { "one thread" } else { "two threads" };
            println!(
                "{len:5} bytes, {what}: {ns:.1} ns a frame of a full burst ({:.1} to {:.1}), {mpps:.1} Mpps",
                runs[0].0, runs[2].0
            );
        }
    }
}
