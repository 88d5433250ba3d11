//! Tables that all share, the VTEP's slow path, and tags that lead into another bridge.

use super::Case;
use super::place::{HELPER, Place, X, bridge, memif};
use super::worker::{client, drain, frame};
use crate::vtep::Tunnel;
use dray_testing::Random;
use dray_vhost::memif::ClientOptions;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

const TURN: Duration = Duration::from_micros(100);
/// The VTEP's address, and its MAC address.
const VTEP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const VTEP_MAC: [u8; 6] = [2, 0xba, 0, 0, 1, 0];
const VNI: u32 = 42;
/// VTEPs that are to be learned.
const LEARNED: usize = 4096;
/// What a hash that is not seeded multiplies addresses with: 2^32 divided by the golden ratio (Knuth, TAOCP 3, 6.4).
const GOLDEN: u32 = 0x9e37_79b1;
/// How long an answer to ARP may take.
const ARP: Duration = Duration::from_millis(500);
const BROADCAST: [u8; 6] = [0xff; 6];
const MAC: [u8; 6] = [2, 0xba, 0, 0, 0, 1];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "mac-flood",
        what: "one port with a new source address in every frame: no honest station's frames are flooded",
        configuration: |dir| memif(dir, "x", X, "") + &memif(dir, "y", HELPER, "") + &bridge("\"x\", \"y\""),
        attack: mac_flood,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "vtep-collisions",
        what: "4,096 learned VTEPs whose addresses meet in one place of a hash that is not seeded",
        configuration: underlay,
        port: "y",
        attack: vtep_collisions,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "ping-flood",
        what: "pings to the VTEP without end: ARP is answered all the same, within 500 ms",
        configuration: underlay,
        port: "y",
        attack: ping_flood,
        saturate: true,
        ..Case::NOTHING
    },
    Case {
        name: "tags",
        what: "frames with a tag behind a priority tag, from an untagged member, towards a trunk of another bridge",
        configuration: |dir| {
            memif(dir, "x", X, "")
                + &memif(dir, "y", HELPER, "")
                + &bridge("\"x\", \"y\"")
                + "[[bridge]]\nname = \"other\"\nports = [{ port = \"y\", vlan = 10 }]\n"
        },
        attack: tags,
        ..Case::NOTHING
    },
];

fn underlay(dir: &Path) -> String {
    let mac = VTEP_MAC.map(|byte| format!("{byte:02x}")).join(":");
    memif(dir, "x", X, &format!("mac = \"{mac}\"\nring-size = 16384"))
        + &memif(dir, "y", HELPER, "")
        + &format!("[[bridge]]\nname = \"hostile\"\nvni = {VNI}\nports = [\"y\"]\n")
        + &format!("[vxlan]\nport = \"x\"\nlocal = \"{VTEP}/24\"\ngateway = \"10.9.0.254\"\nlearn-vteps = true\n")
}

fn mac_flood(place: &Place) -> Result<(), String> {
    let mut random = Random(0x5eed_0005);
    let mut client = client(place, X, ClientOptions::default())?;
    place.begin();
    while place.pause(TURN) {
        let tx = &mut client.tx[0];
        let (free, next) = (tx.free(), tx.next());
        for i in 0..free {
            let mut mac = random.word().to_le_bytes();
            mac[0] = 2;
            let slot = next.wrapping_add(i);
            tx.write(slot, 0, &frame(MAC, std::array::from_fn(|i| mac[i])));
            tx.set_len(slot, 60, false);
        }
        tx.publish(free);
        place.tried(free.into());
        drain(&mut client);
    }
    Ok(())
}

/// Host addresses that all begin at one place of a table of 2^16 or fewer.
fn colliding() -> impl Iterator<Item = Ipv4Addr> {
    // Newton: each step doubles the bits that are right.
    let mut inverse = GOLDEN;
    for _ in 0..5 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(GOLDEN.wrapping_mul(inverse)));
    }
    (0..1u32 << 16).map(move |low| Ipv4Addr::from((0x5555 << 16 | low).wrapping_mul(inverse))).filter(|address| {
        let first = address.octets()[0];
        (1..224).contains(&first) && first != 127 && first != 10
    })
}

fn vtep_collisions(place: &Place) -> Result<(), String> {
    let mut sink = client(place, HELPER, ClientOptions::default())?;
    let mut client = client(place, X, ClientOptions { ring_size: 16384, ..ClientOptions::default() })?;
    let addresses: Vec<Ipv4Addr> = colliding().take(LEARNED).collect();
    let tx = &mut client.tx[0];
    // Every slot has its frame for good: a ring has all of them four times.
    for slot in 0..tx.size() {
        let local = addresses[slot as usize % addresses.len()];
        let [_, _, _, _, high, low] = MAC;
        let inner = frame(BROADCAST, [2, 0xbb, (slot >> 8) as u8 & 15, slot as u8, high, low]);
        let mut outer = Tunnel { vni: VNI, local, switch: VTEP }.outer(inner.len(), 0);
        outer[..6].copy_from_slice(&VTEP_MAC);
        let bytes = [&outer[..], &inner].concat();
        tx.write(slot, 0, &bytes);
        tx.set_len(slot, bytes.len() as u32, false);
    }
    // Slowly at first: what comes from an unknown VTEP goes to the control thread.
    for turn in 0..400 {
        let free = client.tx[0].free().min(64);
        client.tx[0].publish(free);
        drain(&mut sink);
        if !place.pause(Duration::from_millis(2)) || turn == 399 {
            break;
        }
    }
    place.begin();
    while place.pause(TURN) {
        let free = client.tx[0].free();
        client.tx[0].publish(free);
        place.tried(free.into());
        drain(&mut sink);
        drain(&mut client);
    }
    Ok(())
}

/// An ICMP echo request to the VTEP (RFC 792).
fn ping() -> [u8; 60] {
    let mut bytes = frame(VTEP_MAC, MAC);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&46u16.to_be_bytes());
    bytes[22..24].copy_from_slice(&[64, 1]);
    bytes[26..30].copy_from_slice(&[10, 9, 0, 2]);
    bytes[30..34].copy_from_slice(&VTEP.octets());
    let sum = crate::frames::checksum(&[&bytes[14..34]]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes[34] = 8;
    let sum = crate::frames::checksum(&[&bytes[34..60]]);
    bytes[36..38].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn ping_flood(place: &Place) -> Result<(), String> {
    let mut client = client(place, X, ClientOptions { ring_size: 16384, ..ClientOptions::default() })?;
    let asks = Tunnel { vni: VNI, local: Ipv4Addr::new(10, 9, 0, 2), switch: VTEP };
    let (ping, request) = (ping(), asks.request());
    for slot in 0..client.tx[0].size() {
        client.tx[0].write(slot, 0, &ping);
        client.tx[0].set_len(slot, 60, false);
    }
    place.begin();
    let (mut asked, mut slowest): (Option<(Instant, u16)>, Duration) = (None, Duration::ZERO);
    let mut bytes = [0; 2048];
    while place.pause(TURN) {
        let (free, next) = (client.tx[0].free(), client.tx[0].next());
        if asked.is_none() && free > 0 {
            client.tx[0].write(next, 0, &request);
            asked = Some((Instant::now(), next));
        }
        client.tx[0].publish(free);
        place.tried(free.into());
        while let Some(length) = client.rx[0].recv(&mut bytes) {
            // An answer to somebody else, or a question of the switch's own, is no answer.
            if asks.read(&bytes[..length.min(60)]).is_some_and(|heard| heard.switch.is_some() && heard.reply.is_none())
                && let Some((since, slot)) = asked.take()
            {
                slowest = slowest.max(since.elapsed());
                client.tx[0].write(slot, 0, &ping);
            }
        }
        // One that was lost is asked again, as any host does; it is not answered, all the same.
        if let Some((since, slot)) = asked.filter(|(since, _)| since.elapsed() > ARP) {
            slowest = slowest.max(since.elapsed());
            client.tx[0].write(slot, 0, &ping);
            asked = None;
        }
    }
    if slowest > ARP {
        place.won(format!("ARP was not answered within {} ms", ARP.as_millis()));
    }
    Ok(())
}

fn tags(place: &Place) -> Result<(), String> {
    let mut trunk = client(place, HELPER, ClientOptions::default())?;
    let mut client = client(place, X, ClientOptions::default())?;
    let mut bytes = frame(BROADCAST, MAC);
    let mut came = [0; 2048];
    place.begin();
    // Behind a priority tag, behind another tag, and behind a service tag (IEEE 802.1Q, 9.3).
    let tags: [[u8; 10]; 3] = [
        [0x81, 0, 0, 0, 0x81, 0, 0, 10, 0x88, 0xb6],
        [0x81, 0, 0x20, 0, 0x81, 0, 0, 10, 0x88, 0xb6],
        [0x88, 0xa8, 0, 0, 0x81, 0, 0, 10, 0x88, 0xb6],
    ];
    while place.pause(Duration::from_millis(1)) {
        bytes[12..22].copy_from_slice(&tags[place.tries() as usize % tags.len()]);
        client.tx[0].send(&bytes);
        place.tried(1);
        while let Some(length) = trunk.rx[0].recv(&mut came) {
            if length > 16 && came[12..14] == [0x81, 0] && came[14] & 15 == 0 && came[15] == 10 {
                place.won("a frame came out as VLAN 10 of another bridge".into());
            }
        }
        drain(&mut client);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_meet_in_one_place() {
        let all: Vec<u32> = colliding().take(LEARNED).map(u32::from).collect();
        assert_eq!(all.len(), LEARNED);
        assert!(all.iter().all(|address| address.wrapping_mul(GOLDEN) >> 16 == 0x5555));
    }
}
