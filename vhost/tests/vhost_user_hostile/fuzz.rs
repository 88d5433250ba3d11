//! Random messages and random rings.

use super::*;
use dray_vhost::vhost_user::frontend::message::{NEED_REPLY, VERSION, request};
use std::os::fd::BorrowedFd;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

/// A message: request, flags, length as it is said, body, and what descriptors come with it.
#[derive(Clone)]
struct Message {
    request: u32,
    flags: u32,
    len: Option<u32>,
    body: Vec<u8>,
    fds: u8,
}

/// The messages that start a device, and a few more.
fn good() -> Vec<Message> {
    let message = |request, body, fds| Message { request, flags: VERSION, len: None, body, fds };
    let region = longs(&[GPA, BYTES, UVA, 0]);
    let mut all = vec![
        message(request::GET_FEATURES, vec![], 0),
        message(request::SET_PROTOCOL_FEATURES, longs(&[PROTOCOL]), 0),
        message(request::SET_FEATURES, longs(&[feature::VERSION_1 | feature::PROTOCOL_FEATURES]), 0),
        message(request::SET_MEM_TABLE, [words(&[1, 0]), region.clone()].concat(), 1),
        message(request::SET_LOG_BASE, longs(&[BYTES, 0]), 1),
    ];
    for ring in 0..2u32 {
        let at = addresses(ring, false);
        let at = [words(&[ring, 0]), longs(&[at.desc, at.used, at.avail, at.log])].concat();
        all.extend([
            message(request::SET_VRING_NUM, words(&[ring, SIZE.into()]), 0),
            message(request::SET_VRING_BASE, words(&[ring, 0]), 0),
            message(request::SET_VRING_ADDR, at, 0),
            message(request::SET_VRING_CALL, longs(&[ring.into()]), 2),
            message(request::SET_VRING_ENABLE, words(&[ring, 1]), 0),
            message(request::SET_VRING_KICK, longs(&[ring.into()]), 2),
        ]);
    }
    all.extend([
        message(request::SET_STATUS, longs(&[15]), 0),
        message(request::ADD_MEM_REG, [vec![0; 8], longs(&[1 << 40, 4096, 1 << 40, 0])].concat(), 1),
        message(request::REM_MEM_REG, [vec![0; 8], region].concat(), 0),
        message(request::GET_VRING_BASE, words(&[1, 0]), 0),
    ]);
    all
}

fn mutate(messages: &mut Vec<Message>, random: &mut Random) {
    let i = random.below(messages.len() as u64) as usize;
    let m = &mut messages[i];
    match random.below(12) {
        0 => drop(messages.remove(i)),
        1 => {
            let copy = m.clone();
            let at = random.below(messages.len() as u64) as usize;
            messages.insert(at, copy);
        }
        2 => m.fds = random.below(5) as u8,
        3 => m.body.truncate(random.below(m.body.len() as u64 + 1) as usize),
        4 => m.body.resize(random.below(300) as usize, random.word() as u8),
        5 => m.request = random.below(50) as u32,
        6 => m.flags ^= NEED_REPLY,
        7 => m.flags = random.word() as u32,
        8 => m.len = Some(random.word() as u32 >> random.below(32)),
        _ => {
            // A value at a border, or any.
            let at = random.below(6) as usize * 8;
            let values = [0, 1, u64::MAX, 1 << 63, BYTES, GPA, UVA, UVA + BYTES, 0xffff, random.word()];
            let value = values[random.below(10) as usize];
            if let Some(bytes) = m.body.get_mut(at..at + 8) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        }
    }
}

/// A hundred thousand messages, in conversations of which one to three are changed, left out or said twice.
#[test]
fn mutated_messages() {
    let mut test = Test::new();
    let memory = memfd(BYTES);
    let mut random = Random(0x5eed_0011);
    let (mut sent, mut talks) = (0, 0);
    let mut answered = 0;
    while sent < 100_000 {
        let mut messages = good();
        for _ in 0..1 + random.below(3) {
            mutate(&mut messages, &mut random);
        }
        // Some are never answered: a message that is said to be longer than it is.
        let short = Duration::from_millis(20);
        let meeting = Meeting::new(&test.victim(talks).socket, Role::Client).unwrap();
        let connection = meeting.connection(short).unwrap();
        let event = event_fd();
        for m in &messages {
            let fds: Vec<BorrowedFd<'_>> = match m.fds {
                0 => vec![],
                1 => vec![memory.as_fd()],
                2 => vec![event.as_fd()],
                3 => vec![memory.as_fd(), event.as_fd()],
                _ => vec![event.as_fd(); 40],
            };
            sent += 1;
            let len = m.len.unwrap_or(m.body.len() as u32);
            if connection.send_raw(&[words(&[m.request, m.flags, len]), m.body.clone()].concat(), &fds).is_err() {
                break;
            }
        }
        answered += u64::from(connection.recv().is_ok());
        talks += 1;
        if talks == 4 * PORTS as u64 {
            drop((connection, event));
            test.begin();
        }
    }
    let faults = test.new_faults();
    assert!(answered > talks / 2, "{answered} of {talks}");
    assert!(
        ["bad_message", "bad_memory"].iter().all(|name| faults.get(name).is_some_and(|n| *n > 20)),
        "{faults:?} of {talks}"
    );
    test.finish_clean();
}

/// Writes a random descriptor: of the table of ring `ring` at `at` that has `size`.
fn random_desc(h: &Hostile, random: &mut Random, ring: u32, at: u64, size: u64) {
    let i = random.below(size) as u16;
    let right = if ring == 0 { WRITE } else { 0 };
    // Mostly what is right, so that much is gone through before something is found wrong.
    let wild = |random: &mut Random| random.below(40) == 0;
    let addr = match random.below(6) {
        _ if wild(random) => random.word(),
        0 => GPA + random.below(BYTES),
        1 => GPA + TABLE + desc_at(ring) + 16 * random.below(8),
        _ => Hostile::buffer(ring, random.below(SIZE.into()) as u16),
    };
    let len = match random.below(4) {
        _ if wild(random) => random.word() as u32 >> random.below(32),
        0 => 16 * (1 + random.below(8) as u32),
        1 => 1 + random.below(100) as u32,
        _ => 72 + random.below(1900) as u32,
    };
    let flags = match random.below(4) {
        _ if wild(random) => random.word() as u16,
        0 => right | NEXT,
        1 => INDIRECT,
        _ => right,
    };
    let next = if wild(random) { random.word() } else { random.below(size) } as u16;
    // Of a packed ring, of either lap.
    let lap = if h.packed && random.below(2) == 0 { LAP } else { 0 };
    h.desc(at, i, addr, len, flags ^ lap, next);
}

/// Random descriptors, tables and indices, headers included, which another thread goes on changing while they are read.
#[test]
fn random_rings() {
    let mut test = Test::new();
    let mut random = Random(0x5eed_0012);
    let features = feature::INDIRECT_DESC | feature::NET_MRG_RXBUF | feature::EVENT_IDX | feature::NET_CSUM;
    let mut more = |h: &Hostile| {
        for ring in 0..2 {
            random_desc(h, &mut random, ring, desc_at(ring), SIZE.into());
            random_desc(h, &mut random, ring, TABLE + desc_at(ring), 8);
            let avail = desc_at(ring) + AVAIL;
            if !h.packed {
                let beyond = u64::from(random.below(100) == 0);
                let entry = random.below(u64::from(SIZE) + beyond) as u16;
                h.write(avail + 4 + 2 * random.below(SIZE.into()), &entry.to_le_bytes());
                let ahead = random.below(u64::from(SIZE) + 1) as u16;
                let jump = if random.below(100) == 0 { random.word() as u16 } else { 0 };
                let index = h.read_word(desc_at(ring) + USED + 2).wrapping_add(ahead).wrapping_add(jump);
                h.write(avail + 2, &index.to_le_bytes());
            }
            let buffer = Hostile::buffer(ring, random.below(SIZE.into()) as u16) - GPA;
            let header = if random.below(2) == 0 { [0; 8] } else { random.word().to_le_bytes() };
            h.write(buffer, &header);
        }
    };
    for round in 0..=REPEATS / PORTS as u64 {
        let ups = test.shared.ups.load(Ordering::Relaxed);
        let mut hostile = Vec::new();
        for (i, victim) in test.victims.iter().enumerate() {
            let h = Hostile::new(victim, i % 2 == 1, features);
            (0..2).for_each(|ring| h.all_good(ring));
            h.start();
            hostile.push(h);
        }
        until("links come up", || test.shared.ups.load(Ordering::Relaxed) >= ups + PORTS as u64);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(100) {
            hostile.iter().for_each(&mut more);
        }
        hostile.iter().for_each(|h| drop(h.connection.send_raw(&[0xff; 12], &[])));
        hostile.iter().for_each(|h| closed(&h.connection));
        drop(hostile);
        if round == 0 {
            test.begin();
        }
    }
    let faults = test.new_faults();
    assert_eq!(faults.values().sum::<u64>(), REPEATS, "{faults:?}");
    for name in ["bad_descriptor", "bad_chain", "bad_index"] {
        // How many of each is the threads' luck.
        assert!(faults.contains_key(name), "{faults:?}");
    }
    test.finish_clean();
}
