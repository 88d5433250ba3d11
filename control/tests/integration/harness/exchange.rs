//! Frames that say which they are, and clients that send them to each other.

use super::{Drayd, Test};
use dray_testing::*;
use dray_vhost::memif::Client;
use std::fmt::Debug;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// A frame of our own kind, number `number` of the flow from `source` to `destination`: its length and every byte follow from that.
pub fn numbered(source: [u8; 6], destination: [u8; 6], number: u64) -> Vec<u8> {
    const LENGTHS: [usize; 12] = [60, 61, 64, 96, 127, 128, 191, 192, 193, 256, 700, 1514];
    let mut frame = vec![0; LENGTHS[(number % LENGTHS.len() as u64) as usize]];
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&EXPERIMENTAL);
    frame[14..22].copy_from_slice(&number.to_be_bytes());
    for (at, byte) in frame.iter_mut().enumerate().skip(22) {
        *byte = (at as u64).wrapping_mul(7).wrapping_add(number) as u8;
    }
    frame
}

/// IEEE 802's EtherType for local experiments.
pub const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

/// A locally administered address with this number.
pub fn mac(number: u32) -> [u8; 6] {
    let n = number.to_be_bytes();
    [0x02, 0xd0, n[0], n[1], n[2], n[3]]
}

/// Two memif clients that send each other numbered frames as fast as they arrive, in a thread of its own. Each frame must arrive
/// once, whole and in order: as no more are on their way than the rings hold, one that is missing was lost by the switch.
pub struct Exchange {
    thread: Option<thread::JoinHandle<(Client, Client)>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: std::sync::atomic::AtomicBool,
    arrived: [std::sync::atomic::AtomicU64; 2],
    fault: Mutex<Option<String>>,
}

/// Frames on their way in one direction, at most.
const WINDOW: u64 = 256;

impl Exchange {
    /// Begins, between port `a` with the id 0 and port `b` with the id 1; returns when both directions flow.
    pub fn start(test: &Test, drayd: &Drayd) -> Exchange {
        let (a, b) = (test.memif(0), test.memif(1));
        drayd.wait_link("a", "up");
        drayd.wait_link("b", "up");
        let shared = Arc::new(Shared::default());
        let to = shared.clone();
        let thread = thread::Builder::new().name("exchange".into()).spawn(move || exchange(a, b, &to)).unwrap();
        let exchange = Exchange { thread: Some(thread), shared };
        exchange.more(1000);
        exchange
    }

    /// Frames that have arrived so far, in the direction in which there are fewer.
    pub fn arrived(&self) -> u64 {
        if let Some(fault) = &*self.shared.fault.lock().unwrap() {
            panic!("{fault}");
        }
        self.shared.arrived.iter().map(|n| n.load(Relaxed)).min().unwrap()
    }

    /// Waits until `n` more frames have arrived in both directions.
    pub fn more(&self, n: u64) {
        let goal = self.arrived() + n;
        wait_for("frames to arrive", || (self.arrived() >= goal).then_some(()));
    }

    /// Ends it. What is on its way must still arrive. Returns how many frames arrived in all, and the clients.
    pub fn stop(mut self) -> (u64, Client, Client) {
        self.shared.stop.store(true, Relaxed);
        let (a, b) = self.thread.take().unwrap().join().expect("the exchange's thread ends");
        self.arrived();
        let arrived = self.shared.arrived.iter().map(|n| n.load(Relaxed)).sum();
        (arrived, a, b)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn exchange(mut a: Client, mut b: Client, shared: &Shared) -> (Client, Client) {
    let macs = [mac(0xa), mac(0xb)];
    // By direction: 0 from a to b, 1 from b to a.
    let (mut sent, mut arrived) = ([0u64; 2], [0u64; 2]);
    let mut progress = [Instant::now(); 2];
    let mut buffer = vec![0; 16384];
    let fault = loop {
        let stop = shared.stop.load(Relaxed);
        if stop && sent == arrived {
            break None;
        }
        let before = arrived;
        for way in 0..2 {
            let (from, to) = if way == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            // The first frame each way is alone, so that the others find its source in the FDB and need no flooding.
            let window = if arrived[way] == 0 { 1 } else { WINDOW };
            while !stop && sent[way] - arrived[way] < window {
                if !from.tx[0].send(&numbered(macs[way], macs[1 - way], sent[way])) {
                    break;
                }
                sent[way] += 1;
            }
            while let Some(len) = to.rx[0].recv(&mut buffer) {
                let frame = &buffer[..len];
                if frame.len() < 14 || frame[6..12] != macs[way] || frame[12..14] != EXPERIMENTAL {
                    continue; // flooded by somebody else
                }
                let expected = numbered(macs[way], macs[1 - way], arrived[way]);
                if frame != expected {
                    let number = frame.get(14..22).map(|n| u64::from_be_bytes(n.try_into().unwrap()));
                    *shared.fault.lock().unwrap() = Some(format!(
                        "lost, repeated, out of order or damaged: frame {number:?} of {len} bytes instead of {} of {} \
                         bytes (way {way})",
                        arrived[way],
                        expected.len()
                    ));
                    return (a, b);
                }
                arrived[way] += 1;
                shared.arrived[way].store(arrived[way], Relaxed);
            }
        }
        for way in 0..2 {
            if arrived[way] != before[way] {
                progress[way] = Instant::now();
            }
        }
        if progress.iter().any(|since| since.elapsed() > PATIENCE / 2) {
            let down = (a.down(), b.down());
            break Some(format!("lost: {sent:?} frames were sent, {arrived:?} arrived; links {down:?}"));
        }
        if arrived == before {
            thread::yield_now();
        }
    };
    *shared.fault.lock().unwrap() = fault;
    (a, b)
}

/// All frames of ours that have arrived at `client`.
pub fn receive(client: &mut Client) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 16384];
    let mut frames = Vec::new();
    while let Some(len) = client.rx[0].recv(&mut buffer) {
        frames.push(buffer[..len].to_vec());
    }
    frames
}

/// Waits until exactly these frames have arrived at `client`, and a moment more for those that should not.
#[track_caller]
pub fn expect(client: &mut Client, wanted: &[Vec<u8>]) {
    let begin = Instant::now();
    let mut got = Vec::new();
    while got.len() < wanted.len() && begin.elapsed() < PATIENCE {
        got.extend(receive(client));
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(30));
    got.extend(receive(client));
    assert_eq!(got, wanted);
}

/// Sends frames, waiting for room in the ring.
pub fn send<T: AsRef<[u8]> + Debug>(client: &mut Client, frames: &[T]) {
    for frame in frames {
        wait_for("room in the ring", || client.tx[0].send(frame.as_ref()).then_some(()));
    }
}

/// Sleeps.
pub fn sleep_ms(ms: u64) {
    sleep(Duration::from_millis(ms));
}
