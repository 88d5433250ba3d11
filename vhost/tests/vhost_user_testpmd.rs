//! The front end's side of vhost-user against DPDK's back end (`dpdk-testpmd`, `net_vhost`). Skipped, and said so, where that is
//! not installed.

use dray_config::{Role, SocketName};
use dray_vhost::vhost_user::frontend::{Frontend, Meeting, Options, VNET_HEADER, feature};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// One testpmd at a time, also if several programs test: each keeps two CPUs busy. `None`, and a word, without testpmd.
fn turn() -> Option<File> {
    if Command::new("dpdk-testpmd").arg("--version").output().is_err() {
        eprintln!("SKIPPED: dpdk-testpmd is not installed");
        return None;
    }
    let file = File::create(std::env::temp_dir().join("dray-testpmd.lock")).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    Some(file)
}

/// A testpmd process that sends back what comes, killed when dropped.
struct Testpmd {
    prefix: String,
    child: Child,
    _stdin: ChildStdin,
}

impl Testpmd {
    fn start(name: &str, vdev: &str, more: &[&str]) -> Testpmd {
        let prefix = format!("dray-{}-{name}", std::process::id());
        let mut child = Command::new("dpdk-testpmd")
            .args(["--lcores", "0@1,1@0", "--no-huge", "--single-file-segments", "-m", "128", "--no-pci"])
            .args(["--file-prefix", &prefix, "--vdev", vdev])
            .args(["--", "-i", "--total-num-mbufs=8192", "--forward-mode=io"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dpdk-testpmd starts");
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "start").unwrap();
        Testpmd { prefix, child, _stdin: stdin }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // EAL's run-time directory, which it does not remove when killed.
        let _ = std::fs::remove_dir_all(Path::new("/run/dpdk").join(&self.prefix));
    }
}

fn options() -> Options {
    // Starting takes testpmd a while on a busy machine.
    Options { timeout: Duration::from_secs(30), ..Options::default() }
}

/// Waits until frames come back: testpmd has begun to move them.
fn wait_for_echo(front: &mut Frontend) {
    let end = Instant::now() + Duration::from_secs(30);
    let mut frame = [0; 64];
    let mut sent = 0;
    loop {
        assert!(Instant::now() < end, "nothing comes back; {sent} sent");
        for (tx, rx) in front.tx.iter_mut().zip(&mut front.rx) {
            sent += u32::from(tx.send(&[0xee; 60]));
            std::thread::sleep(Duration::from_millis(20));
            if rx.recv(&mut frame).is_some() {
                // What else is under way.
                let quiet = Instant::now() + Duration::from_millis(200);
                while Instant::now() < quiet {
                    rx.recv(&mut frame);
                }
                return;
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

/// Sends `count` frames of which at most 60, that the smallest ring holds, are under way; all come back as they were, in order.
fn circulate(front: &mut Frontend, count: u32, mut send: impl FnMut(&mut Frontend, &[u8], u32) -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    let (mut sent, mut received) = (0, 0);
    let mut bytes = vec![0; 16384];
    while received < count {
        assert!(Instant::now() < end, "{received} of {sent} came back");
        while sent < count && sent - received < 60 && send(front, &frame(sent), sent) {
            sent += 1;
        }
        while let Some((header, len)) = front.rx[0].recv(&mut bytes) {
            assert_eq!(bytes[..len], frame(received), "frame {received}");
            assert_eq!(header[..10], [0; 10]);
            received += 1;
        }
        std::hint::spin_loop();
    }
    assert_eq!((front.tx[0].fault(), front.rx[0].fault(), front.down()), (None, None, None));
}

fn path(dir: &tempfile::TempDir) -> (PathBuf, SocketName) {
    let path = dir.path().join("vhost.sock");
    (path.clone(), SocketName::Path(path))
}

#[test]
fn frames_go_round() {
    let Some(_turn) = turn() else { return };
    for (packed, in_order, mergeable, event_idx) in [
        (false, false, true, false),
        (false, true, false, true),
        (true, false, true, false),
        (true, true, false, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (path, name) = path(&dir);
        let meeting = Meeting::new(&name, Role::Server).unwrap();
        let _pmd = Testpmd::start("e", &format!("net_vhost0,iface={},client=1", path.display()), &[]);
        let options = Options {
            packed,
            in_order,
            mergeable,
            event_idx,
            indirect: true,
            ring_size: 256,
            // With mergeable buffers a frame takes several.
            buffer_size: if mergeable { 512 } else { 2048 },
            ..options()
        };
        let mut front = Frontend::meet(meeting, &options).unwrap();
        let has = |bit| front.features & bit != 0;
        assert_eq!(
            (has(feature::RING_PACKED), has(feature::IN_ORDER), has(feature::NET_MRG_RXBUF), has(feature::EVENT_IDX)),
            (packed, in_order, mergeable, event_idx)
        );
        wait_for_echo(&mut front);
        circulate(&mut front, 5_000, |front, frame, number| {
            let parts = [&[0; VNET_HEADER][..], &frame[..30], &frame[30..]];
            match number % 3 {
                1 if frame.len() < 400 => front.tx[0].send_indirect(&parts),
                2 if frame.len() < 500 => front.tx[0].send_parts(&parts),
                _ => front.tx[0].send(frame),
            }
        });
    }
}

#[test]
fn batches_go_round() {
    let Some(_turn) = turn() else { return };
    for packed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, name) = path(&dir);
        let pmd = Testpmd::start("b", &format!("net_vhost0,iface={},client=0", path.display()), &[]);
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
            frames: Some(std::sync::Arc::new(file.into())),
            ..options()
        };
        let mut front = Frontend::connect(&name, &options).unwrap();
        wait_for_echo(&mut front);
        assert!(front.rx[0].interrupts(Duration::from_secs(5)) > 0);
        let end = Instant::now() + Duration::from_secs(30);
        let (mut sent, mut received, mut looked) = (0, 0, 0);
        while received < 200_000u64 {
            assert!(Instant::now() < end, "{received} of {sent} came back");
            let n = front.tx[0].free().min(64).min(512 - (sent - received) as u16);
            front.tx[0].fill(3, 72, (0..u64::from(n)).map(|i| ((sent + i) % 256 * 128) as u32));
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
        drop(pmd);
        assert!(front.down().unwrap().contains("closed"));
    }
}

#[test]
fn a_back_end_that_comes_again_goes_on() {
    let Some(_turn) = turn() else { return };
    for packed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, name) = path(&dir);
        let meeting = Meeting::new(&name, Role::Server).unwrap();
        let vdev = format!("net_vhost0,iface={},client=1,queues=2", path.display());
        let pmd = Testpmd::start("r", &vdev, &["--rxq=2", "--txq=2"]);
        let options = Options { packed, queues: 2, ring_size: 256, ..options() };
        let mut front = Frontend::meet(meeting, &options).unwrap();
        wait_for_echo(&mut front);
        circulate(&mut front, 1000, |front, frame, _| front.tx[0].send(frame));
        drop(pmd);
        assert!(front.down().is_some());
        let _pmd = Testpmd::start("r2", &vdev, &["--rxq=2", "--txq=2"]);
        front.reconnect().unwrap();
        wait_for_echo(&mut front);
        circulate(&mut front, 1000, |front, frame, _| front.tx[0].send(frame));
        assert_eq!(front.stop().unwrap().len(), 4);
    }
}

#[test]
fn written_pages_are_logged() {
    let Some(_turn) = turn() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (path, name) = path(&dir);
    let meeting = Meeting::new(&name, Role::Server).unwrap();
    let _pmd = Testpmd::start("l", &format!("net_vhost0,iface={},client=1", path.display()), &[]);
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
