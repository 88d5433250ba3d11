//! The front end's side of vhost-user against back ends that send back what comes: our own port, and DPDK's (`dpdk-testpmd`,
//! `net_vhost`), which is skipped, and said so, where that is not installed.

use dray_config::{Access, Role, SocketName, VhostUser};
use dray_switch::Burst;
use dray_testing::{Testpmd, Turn, has_testpmd};
use dray_vhost::vhost_user::frontend::{Frontend, Meeting, Options, VNET_HEADER, feature};
use dray_vhost::vhost_user::{Port, PortSpec};
use dray_vhost::{Event, Link};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dray,
    Testpmd,
}

/// All that are there. The file is to be kept: testpmd keeps two CPUs busy.
fn kinds() -> (&'static [Kind], Option<Turn>) {
    if has_testpmd() { (&[Kind::Dray, Kind::Testpmd], Some(Turn::alone())) } else { (&[Kind::Dray], None) }
}

/// A back end that sends back what comes, until it is dropped.
#[allow(dead_code, reason = "held to be dropped")]
enum BackEnd {
    Dray(Echo),
    Testpmd(Testpmd),
}

impl BackEnd {
    fn start(kind: Kind, socket: &Path, role: Role, queues: u16) -> BackEnd {
        match kind {
            Kind::Dray => BackEnd::Dray(Echo::start(socket, role, queues)),
            Kind::Testpmd => BackEnd::Testpmd(testpmd(socket, role, queues)),
        }
    }
}

/// A port of ours, and the thread that polls it.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(socket: &Path, role: Role, queues: u16) -> Echo {
        let (tx, events) = channel();
        let vhost_user = VhostUser { socket: SocketName::Path(socket.into()), access: Access::default(), role, queues };
        let spec = PortSpec { name: "vm".into(), vhost_user, max_frame: 9216 };
        let port = Port::open(spec, move |event| drop(tx.send(event))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::spawn(move || {
            let _port = port;
            let (mut rx, mut tx) = (Vec::new(), Vec::new());
            let mut burst = Burst::default();
            while !ended.load(Ordering::Relaxed) {
                match events.try_recv() {
                    Ok(Event::Up { link: Link { rx: r, tx: t, .. }, .. }) => (rx, tx) = (r, t.handles(1)),
                    Ok(Event::Down { .. }) => (rx, tx) = (Vec::new(), Vec::new()),
                    Ok(Event::Refused(_)) | Err(_) => {}
                }
                let mut moved = false;
                for rx in &mut rx {
                    burst.clear();
                    rx.receive(&mut burst);
                    if !burst.is_empty() {
                        let all: Vec<u16> = (0..burst.len() as u16).collect();
                        tx[0].send(&mut burst, &all);
                        rx.release(&mut burst);
                        moved = true;
                    }
                }
                if !moved {
                    std::thread::yield_now();
                }
            }
        });
        Echo { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || result.is_ok());
    }
}

/// One that sends back what comes.
fn testpmd(socket: &Path, role: Role, queues: u16) -> Testpmd {
    let client = u8::from(role == Role::Client);
    let vdev = format!("net_vhost0,iface={},client={client},queues={queues}", socket.display());
    let options = format!("--total-num-mbufs=8192 --forward-mode=io --rxq={queues} --txq={queues}");
    let mut testpmd = Testpmd::spawn("", &[vdev], &options);
    testpmd.say("start");
    testpmd
}

fn options() -> Options {
    // Starting takes testpmd a while on a busy machine.
    Options { timeout: Duration::from_secs(30), ..Options::default() }
}

/// Waits until frames come back from each queue: the back end has begun to move them.
fn wait_for_echo(front: &mut Frontend) {
    let end = Instant::now() + Duration::from_secs(30);
    let mut frame = [0; 64];
    for queue in 0..front.tx.len() {
        let mut came = false;
        while !came {
            assert!(Instant::now() < end, "nothing comes back from queue {queue}");
            front.tx[queue].send(&[0xee; 60]);
            std::thread::sleep(Duration::from_millis(20));
            // Whatever is under way.
            let quiet = Instant::now() + Duration::from_millis(100);
            while Instant::now() < quiet {
                came |= front.rx.iter_mut().filter_map(|rx| rx.recv(&mut frame)).count() != 0;
            }
        }
    }
}

/// A frame that says which it is, of a length of its own.
fn frame(number: u32) -> Vec<u8> {
    let len = 60 + (number as usize * 37) % 1455;
    let mut frame: Vec<u8> = (0..len).map(|i| (i as u32).wrapping_add(number) as u8).collect();
    frame[..4].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Sends `count` frames of which at most 60, that the smallest ring holds, are under way; all come back as they were. Those that were
/// sent on one ring (number modulo their number) and come from one are in order.
fn circulate(front: &mut Frontend, count: u32, mut send: impl FnMut(&mut Frontend, &[u8], u32) -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    let (mut sent, mut received) = (0, 0);
    let mut bytes = vec![0; 16384];
    let rings = front.tx.len();
    let mut next = vec![vec![0; rings]; rings];
    while received < count {
        assert!(Instant::now() < end, "{received} of {sent} came back");
        while sent < count && sent - received < 60 && send(front, &frame(sent), sent) {
            sent += 1;
        }
        for (rx, next) in front.rx.iter_mut().zip(&mut next) {
            while let Some((header, len)) = rx.recv(&mut bytes) {
                let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
                let next = &mut next[number as usize % rings];
                assert!((*next..sent).contains(&number), "frame {number} where {next} is next");
                assert_eq!(bytes[..len], frame(number), "frame {number}");
                assert_eq!(header[..10], [0; 10]);
                *next = number + 1;
                received += 1;
            }
        }
        std::hint::spin_loop();
    }
    for (tx, rx) in front.tx.iter().zip(&front.rx) {
        assert_eq!((tx.fault(), rx.fault()), (None, None));
    }
    assert_eq!(front.down(), None);
}

#[test]
fn frames_go_round() {
    let (kinds, _turn) = kinds();
    let cases = [
        (false, false, true, false, 1),
        (false, true, false, true, 4),
        (true, false, true, false, 1),
        (true, true, false, true, 4),
    ];
    for (&kind, (packed, in_order, mergeable, event_idx, rx_parts)) in kinds.iter().flat_map(|k| cases.map(|c| (k, c)))
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vhost.sock");
        let meeting = Meeting::new(&SocketName::Path(path.clone()), Role::Server).unwrap();
        let _back = BackEnd::start(kind, &path, Role::Client, 1);
        let options = Options {
            packed,
            in_order,
            mergeable,
            event_idx,
            // DPDK 22.11 takes each descriptor of a packed ring's chain for a buffer if four frames fit four descriptors.
            rx_parts: if kind == Kind::Testpmd && packed { 1 } else { rx_parts },
            indirect: true,
            ring_size: 256,
            // With mergeable buffers a frame takes several.
            buffer_size: if mergeable { 512 } else { 2048 },
            ..options()
        };
        let mut front = Frontend::meet(meeting, &options).unwrap();
        let has = |bit| front.features & bit != 0;
        let negotiated =
            (has(feature::RING_PACKED), has(feature::IN_ORDER), has(feature::NET_MRG_RXBUF), has(feature::EVENT_IDX));
        assert_eq!(negotiated, (packed, in_order, mergeable, event_idx), "{kind:?}");
        wait_for_echo(&mut front);
        let mut indirect = 0;
        circulate(&mut front, 5_000, |front, frame, number| {
            let parts = [&[0; VNET_HEADER][..], &frame[..30], &frame[30..]];
            match number % 3 {
                1 if frame.len() < 400 => {
                    indirect += 1;
                    front.tx[0].send_indirect(&parts)
                }
                2 if frame.len() < 500 => front.tx[0].send_parts(&parts),
                _ => front.tx[0].send(frame),
            }
        });
        assert!(indirect > 100);
    }
}

#[test]
fn batches_go_round() {
    let (kinds, _turn) = kinds();
    for (&kind, packed) in kinds.iter().flat_map(|k| [false, true].map(|p| (k, p))) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vhost.sock");
        let back = BackEnd::start(kind, &path, Role::Server, 1);
        // Prepared frames, one in 128 bytes.
        let frames = rustix::fs::memfd_create("frames", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(frames);
        for i in 0..256u32 {
            let mut bytes = [0; 128];
            bytes[VNET_HEADER..][..4].copy_from_slice(&i.to_be_bytes());
            file.write_all(&bytes).unwrap();
        }
        let options = Options {
            role: Role::Client,
            packed,
            in_order: true,
            regions: 3,
            interrupts: true,
            frames: Some(Arc::new(file.into())),
            ..options()
        };
        let mut front = Frontend::connect(&SocketName::Path(path), &options).unwrap();
        wait_for_echo(&mut front);
        assert!(front.rx[0].interrupts(Duration::from_secs(5)) > 0);
        let end = Instant::now() + Duration::from_secs(30);
        let (mut sent, mut received, mut looked) = (0, 0, 0);
        while received < 200_000u64 {
            assert!(
                Instant::now() < end,
                "{kind:?}, packed {packed}: {received} of {sent} came back, faults {:?} {:?}, down {:?}",
                front.tx[0].fault(),
                front.rx[0].fault(),
                front.down()
            );
            let n = front.tx[0].free().min(64).min(512 - (sent - received) as u16);
            front.tx[0].fill(3, (0..u64::from(n)).map(|i| (((sent + i) % 256 * 128) as u32, 72)));
            sent += u64::from(n);
            let (n, bytes) = front.rx[0].take(64, received, 10, |number, peek| {
                let mut bytes = [0; 4];
                assert_eq!((peek.len(), peek.read(VNET_HEADER, &mut bytes)), (72, 4));
                assert_eq!(u64::from(u32::from_be_bytes(bytes)), number % 256);
                looked += 1;
            });
            assert_eq!(bytes, u64::from(n) * 72);
            received += u64::from(n);
        }
        assert_eq!(looked, received.div_ceil(10));
        assert!(front.down().is_none());
        drop(back);
        assert!(front.down().unwrap().contains("closed"));
    }
}

#[test]
fn a_back_end_that_comes_again_goes_on() {
    let (kinds, _turn) = kinds();
    for (&kind, packed) in kinds.iter().flat_map(|k| [false, true].map(|p| (k, p))) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vhost.sock");
        let meeting = Meeting::new(&SocketName::Path(path.clone()), Role::Server).unwrap();
        let back = BackEnd::start(kind, &path, Role::Client, 2);
        let options = Options { packed, queues: 2, ring_size: 256, ..options() };
        let mut front = Frontend::meet(meeting, &options).unwrap();
        wait_for_echo(&mut front);
        let send = |front: &mut Frontend, frame: &[u8], number: u32| front.tx[number as usize % 2].send(frame);
        circulate(&mut front, 1000, send);
        drop(back);
        assert!(front.down().is_some());
        let _back = BackEnd::start(kind, &path, Role::Client, 2);
        front.reconnect().unwrap();
        wait_for_echo(&mut front);
        circulate(&mut front, 1000, send);
        assert_eq!(front.stop().unwrap().len(), 4);
    }
}

#[test]
fn written_pages_are_logged() {
    let (kinds, _turn) = kinds();
    for &kind in kinds {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vhost.sock");
        let meeting = Meeting::new(&SocketName::Path(path.clone()), Role::Server).unwrap();
        let _back = BackEnd::start(kind, &path, Role::Client, 1);
        let mut front = Frontend::meet(meeting, &Options { ring_size: 256, ..options() }).unwrap();
        wait_for_echo(&mut front);
        let log = front.log().unwrap();
        let buffers: Vec<u64> = (0..256).map(|slot| front.rx[0].address(slot)).collect();
        let dirty = || buffers.iter().filter(|&&gpa| log.is_dirty(gpa).unwrap()).count();
        assert_eq!(dirty(), 0);
        circulate(&mut front, 10, |front, frame, _| front.tx[0].send(frame));
        let some = dirty();
        assert!((5..100).contains(&some), "{some}");
        circulate(&mut front, 256, |front, frame, _| front.tx[0].send(frame));
        assert_eq!(dirty(), 256);
    }
}
