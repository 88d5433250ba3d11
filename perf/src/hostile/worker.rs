//! Worker time: frames that cost much, rings that are never empty, and a CPU that others use.

use super::Case;
use super::closing::{memif_port, vm_port};
use super::memif::memfd;
use super::place::{HELPER, Place, VM, X, bridge, memif, vhost_user};
use super::vm::{BYTES, DATA, INDIRECT, NEXT, RING, Vm, descriptor};
use dray_testing::Random;
use dray_vhost::memif::{Client, ClientOptions};
use dray_vhost::vhost_user::frontend::feature;
use rustix::fs::{FallocateFlags, fallocate};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Between two turns of an attack: rings hold more than a worker does meanwhile.
const TURN: Duration = Duration::from_micros(100);
/// The region that frames are in.
const REGION: u16 = 1;
/// Descriptors of an attacker's memif ring.
const LONG: u32 = 16384;
/// Bytes of a file of frames that become holes.
const HOLES: u64 = 64 << 20;
/// Pieces of a chain in an indirect table.
const PIECES: u16 = 120;
/// Pieces of a memif chain.
const LINKS: u32 = 32;

const BROADCAST: [u8; 6] = [0xff; 6];
/// The attacker's station, and its helper's.
const MAC_X: [u8; 6] = [2, 0xba, 0, 0, 0, 1];
const MAC_Y: [u8; 6] = [2, 0xba, 0, 0, 0, 2];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "tso-8",
        what: "a virtual machine that broadcasts TSO frames of 64-byte segments to 8 memif receivers",
        configuration: |dir| tso_ports(dir, 8),
        attack: |place| tso(place, 8),
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "tso-16",
        what: "the same to 16 receivers",
        configuration: |dir| tso_ports(dir, 16),
        attack: |place| tso(place, 16),
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "punched-holes",
        what: "memif frames whose pages are taken away before each is read",
        configuration: long_port,
        attack: punched,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "indirect-chains",
        what: "virtio frames of 120 pieces in indirect tables",
        configuration: vm_port,
        attack: indirect,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "memif-chains",
        what: "memif frames of 32 pieces of two bytes",
        configuration: long_port,
        attack: chains,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "many-queues",
        what: "a port that sends on 16 queues: all of them together have one port's share",
        configuration: |dir| {
            memif(dir, "x", X, "queues = 16\nring-size = 4096") + &memif(dir, "y", HELPER, "") + &bridge("\"x\", \"y\"")
        },
        attack: many_queues,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "deaf-receiver",
        what: "frames to a receiver that never takes one",
        configuration: deaf_ports,
        attack: deaf,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "memif-rewrites",
        what: "memif descriptors and indices that are random and change while they are read",
        configuration: deaf_ports,
        attack: rewrites,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "vm-rewrites",
        what: "the same of a virtual machine",
        configuration: vm_port,
        attack: vm_rewrites,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "starved-worker",
        what: "another program with real-time priority on the worker's CPU: frames are lost, the control socket answers",
        configuration: memif_port,
        attack: starve,
        lacks: can_starve,
        adjust: |limits| {
            (limits.lost, limits.flooded) = (1.0, u64::MAX);
            (limits.p99_us, limits.longest_us, limits.wake_ms) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
            limits.control_ms = limits.control_ms.max(400.0);
            (limits.delete_ms, limits.end_ms) = (limits.delete_ms.max(3000.0), limits.end_ms.max(5000.0));
        },
        ..Case::NOTHING
    },
];

fn long_port(dir: &Path) -> String {
    memif(dir, "x", X, &format!("ring-size = {LONG}")) + &bridge("\"x\"")
}

fn deaf_ports(dir: &Path) -> String {
    memif(dir, "x", X, &format!("ring-size = {LONG}")) + &memif(dir, "y", HELPER, "") + &bridge("\"x\", \"y\"")
}

fn tso_ports(dir: &Path, receivers: u32) -> String {
    let mut text = vhost_user(dir, "x", VM);
    let mut members = "\"x\"".to_owned();
    for i in 0..receivers {
        text += &memif(dir, &format!("r{i}"), HELPER + i, "");
        members += &format!(", \"r{i}\"");
    }
    text + &bridge(&members)
}

/// A frame of 60 bytes.
pub(super) fn frame(to: [u8; 6], from: [u8; 6]) -> [u8; 60] {
    let mut bytes = [0; 60];
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    bytes[12..14].copy_from_slice(&[0x88, 0xb6]);
    bytes
}

/// A memif client of the attacker's.
pub(super) fn client(place: &Place, id: u32, options: ClientOptions) -> Result<Client, String> {
    Client::connect(&place.memif_name(), id, &ClientOptions { name: "hostile".into(), ..options })
}

/// One whose ring is long, and whose every slot has this frame.
fn sender(place: &Place, frame: &[u8]) -> Result<Client, String> {
    let mut client = client(place, X, ClientOptions { ring_size: LONG, ..ClientOptions::default() })?;
    for slot in 0..client.tx[0].size() {
        client.tx[0].write(slot, 0, frame);
        client.tx[0].set_len(slot, frame.len() as u32, false);
    }
    Ok(client)
}

/// Takes all that has come.
pub(super) fn drain(client: &mut Client) {
    for rx in &mut client.rx {
        rx.take(u16::MAX, 1, u64::MAX / 2, |_, _| {});
    }
}

/// Sends to a peer that hangs who wakes it, which `open` makes, as often as it is there.
pub(super) fn blocking(place: &Place, open: fn(&Place) -> Result<Box<dyn Any>, String>) -> Result<(), String> {
    let mut helper = client(place, HELPER, ClientOptions::default())?;
    let first = open(place)?;
    place.begin();
    let mut peer = Some(first);
    while place.goes_on() {
        for _ in 0..200 {
            helper.tx[0].send(&frame(BROADCAST, MAC_Y));
            place.tried(1);
            place.pause(Duration::from_millis(1));
        }
        drop(peer.take());
        peer = open(place).ok();
    }
    Ok(())
}

/// A frame for TSO with its virtio header (virtio 1.2, section 5.1.6): 64 KiB of TCP over IPv4 in segments of 64 bytes.
fn tso_frame() -> Vec<u8> {
    const LENGTH: usize = 65_000;
    let mut bytes = vec![0; 12 + LENGTH];
    // A checksum to be made, TCP over IPv4, headers of 54 bytes, segments of 64; the checksum begins at 34 and lies 16 behind.
    bytes[..2].copy_from_slice(&[1, 1]);
    for (at, value) in [(2, 54u16), (4, 64), (6, 34), (8, 16)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    let frame = &mut bytes[12..];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&MAC_X);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&((LENGTH - 14) as u16).to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = crate::frames::checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..38].copy_from_slice(&[0x30, 0x39, 0, 80]);
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    bytes
}

fn tso(place: &Place, receivers: u32) -> Result<(), String> {
    let mut receivers =
        (0..receivers).map(|i| client(place, HELPER + i, ClientOptions::default())).collect::<Result<Vec<_>, _>>()?;
    let vm = Vm::new(&place.vm(), feature::NET_CSUM | feature::NET_HOST_TSO4, BYTES, false)?;
    let frame = tso_frame();
    vm.write(DATA, &frame)?;
    for slot in 0..RING {
        vm.describe_sent(slot, vm.gpa(DATA), frame.len() as u32, 0, 0)?;
    }
    vm.offer(1, RING)?;
    vm.start()?;
    place.begin();
    let mut before = 0;
    while place.pause(TURN) {
        receivers.iter_mut().for_each(drain);
        let used = vm.offer_again(1, RING)?;
        place.tried(u64::from(used.wrapping_sub(before)));
        before = used;
    }
    Ok(())
}

fn punched(place: &Place) -> Result<(), String> {
    let file = memfd(HOLES)?;
    let frames = OwnedFd::from(file.try_clone().map_err(|e| e.to_string())?);
    let options = ClientOptions { ring_size: LONG, frames: Some(Arc::new(frames)), ..ClientOptions::default() };
    let mut client = client(place, X, options)?;
    place.begin();
    while place.pause(TURN) {
        let free = client.tx[0].free();
        let next = client.tx[0].next();
        let page = |i: u16| u32::from(next.wrapping_add(i)) % (HOLES / 4096) as u32;
        let _ = fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, HOLES);
        client.tx[0].fill(REGION, (0..free).map(|i| (page(i) * 4096, 1514)));
        place.tried(free.into());
        drain(&mut client);
    }
    Ok(())
}

fn indirect(place: &Place) -> Result<(), String> {
    let vm = Vm::new(&place.vm(), feature::INDIRECT_DESC, BYTES, false)?;
    // Header and frame are one after the other in memory, a piece behind the other.
    let bytes = [&[0; 12][..], &frame(BROADCAST, MAC_X)[..], &[0; 4096]].concat();
    vm.write(DATA, &bytes)?;
    let table = DATA + 8192;
    let mut at = DATA;
    let entries: Vec<u8> = (0..PIECES)
        .flat_map(|piece| {
            let length = if piece == 0 { 12 } else { 4 };
            let last = piece + 1 == PIECES;
            let entry = descriptor(vm.gpa(at), length, if last { 0 } else { NEXT }, if last { 0 } else { piece + 1 });
            at += u64::from(length);
            entry
        })
        .collect();
    vm.write(table, &entries)?;
    for slot in 0..RING {
        vm.describe_sent(slot, vm.gpa(table), entries.len() as u32, INDIRECT, 0)?;
    }
    vm.offer(1, RING)?;
    vm.start()?;
    place.begin();
    let mut before = 0;
    while place.pause(TURN) {
        let used = vm.offer_again(1, RING)?;
        place.tried(u64::from(used.wrapping_sub(before)));
        before = used;
    }
    Ok(())
}

fn chains(place: &Place) -> Result<(), String> {
    let mut client = sender(place, &frame(BROADCAST, MAC_X))?;
    for slot in 0..client.tx[0].size() {
        let more = (u32::from(slot) + 1) % LINKS != 0;
        client.tx[0].write(slot, 0, &[2, 2]);
        client.tx[0].set_len(slot, 2, more);
    }
    place.begin();
    while place.pause(TURN) {
        // Whole chains only.
        let free = u32::from(client.tx[0].free()) / LINKS * LINKS;
        client.tx[0].publish(free as u16);
        place.tried((free / LINKS).into());
        drain(&mut client);
    }
    Ok(())
}

fn many_queues(place: &Place) -> Result<(), String> {
    let mut sink = client(place, HELPER, ClientOptions::default())?;
    sink.tx[0].send(&frame(BROADCAST, MAC_Y));
    let options = ClientOptions { queues: 16, ring_size: 4096, ..ClientOptions::default() };
    let mut client = client(place, X, options)?;
    for tx in &mut client.tx {
        for slot in 0..tx.size() {
            tx.write(slot, 0, &frame(MAC_Y, MAC_X));
            tx.set_len(slot, 60, false);
        }
    }
    place.begin();
    while place.pause(TURN) {
        for tx in &mut client.tx {
            let free = tx.free();
            tx.publish(free);
            place.tried(free.into());
        }
        drain(&mut sink);
        drain(&mut client);
    }
    Ok(())
}

fn deaf(place: &Place) -> Result<(), String> {
    let mut helper = client(place, HELPER, ClientOptions::default())?;
    helper.tx[0].send(&frame(BROADCAST, MAC_Y));
    let mut client = sender(place, &frame(MAC_Y, MAC_X))?;
    place.begin();
    while place.pause(TURN) {
        let free = client.tx[0].free();
        client.tx[0].publish(free);
        place.tried(free.into());
    }
    Ok(())
}

fn rewrites(place: &Place) -> Result<(), String> {
    let mut random = Random(0x5eed_0003);
    place.begin();
    while place.goes_on() {
        let Ok(mut client) = sender(place, &frame(MAC_Y, MAC_X)) else { continue };
        let size = u64::from(client.tx[0].size());
        for turn in 0..1000 {
            let free = client.tx[0].free();
            client.tx[0].publish(free);
            for _ in 0..256 {
                // Mostly a length that can be: one that can't ends the link.
                let length = if random.below(100_000) == 0 { random.word() } else { random.below(2049) };
                client.tx[0].set_raw(random.below(size) as u16, [length << 32, random.below(1 << 16)]);
            }
            place.tried(256);
            if turn % 16 == 0 && (client.down().is_some() || !place.pause(TURN)) {
                break;
            }
        }
        client.tx[0].set_head(random.word() as u16);
        place.pause(Duration::from_millis(1));
    }
    Ok(())
}

fn vm_rewrites(place: &Place) -> Result<(), String> {
    let mut random = Random(0x5eed_0004);
    place.begin();
    while place.goes_on() {
        let Ok(vm) = Vm::new(&place.vm(), feature::INDIRECT_DESC, BYTES, false) else { continue };
        for slot in 0..RING {
            vm.describe_sent(slot, vm.gpa(DATA), 72, 0, 0)?;
        }
        let _ = vm.start();
        for _ in 0..1000 {
            vm.offer_again(1, RING)?;
            for _ in 0..16 {
                let wild = random.below(2000) == 0;
                let length = if wild { random.word() as u32 } else { 72 + random.below(1024) as u32 };
                let flags = if wild { random.below(8) as u16 } else { 0 };
                vm.describe_sent(random.below(RING.into()) as u16, vm.gpa(DATA), length, flags, 0)?;
            }
            place.tried(16);
            if vm.connection.down().is_some() || !place.pause(TURN) {
                break;
            }
        }
        let _ = vm.offer(1, random.word() as u16);
        place.pause(Duration::from_millis(1));
    }
    Ok(())
}

fn can_starve() -> Result<(), String> {
    let tried = Command::new("chrt").args(["-f", "1", "true"]).stderr(Stdio::null()).status();
    match tried {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("this process may not use real-time priorities".into()),
        Err(e) => Err(format!("chrt: {e}")),
    }
}

fn starve(place: &Place) -> Result<(), String> {
    let peer = client(place, X, ClientOptions::default())?;
    let cpu = place.switch_cpu.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "taskset", "-c", &cpu, "chrt", "-f", "10", "sh", "-c"]);
    let mut child = command.arg("while :; do :; done").spawn().map_err(|e| format!("setpriv: {e}"))?;
    place.begin();
    while place.pause(Duration::from_millis(10)) {
        place.tried(1);
    }
    let _ = child.kill();
    let _ = child.wait();
    drop(peer);
    Ok(())
}
