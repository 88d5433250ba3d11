//! Messages that can't be.

use super::*;
use dray_vhost::vhost_user::frontend::message::{NEED_REPLY, REPLY, VERSION, request};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

fn region(gpa: u64, size: u64, uva: u64, offset: u64) -> RegionMessage {
    RegionMessage { gpa, size, uva, offset }
}

/// Region `n` of many, of a page.
fn page(n: u64) -> RegionMessage {
    region(n << 12, 4096, UVA + (n << 12), 0)
}

/// Sends a request, without caring for the answer.
fn send(c: &Connection, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
    let _ = c.send(request, VERSION, payload, fds);
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

/// CVE-2018-1059: a region whose end wraps around, in each of the three ways it is addressed; or that its file doesn't have.
#[test]
fn cve_2018_1059_region_beyond_its_end() {
    let mut test = Test::new();
    test.refused(|victim, i| {
        let c = victim.negotiated(0, PROTOCOL & !protocol::REPLY_ACK);
        let memory = memfd(BYTES);
        let bad = [
            region(u64::MAX - 4095, BYTES, UVA, 0),
            region(0u64.wrapping_sub(BYTES) + 1, BYTES, UVA, 0),
            region(GPA, BYTES, u64::MAX - 4095, 0),
            region(GPA, BYTES, UVA, u64::MAX - 4095),
            region(GPA, BYTES, UVA, 1),
            region(GPA, BYTES + 1, UVA, 0),
            region(GPA, 1 << 62, UVA, 0),
            region(GPA, BYTES, UVA, BYTES),
        ][i as usize % 8];
        if i / 8 % 2 == 0 {
            c.set_mem_table(&[(page(0), memory.as_fd()), (bad, memory.as_fd())]).unwrap();
        } else {
            c.add_mem_reg(&bad, memory.as_fd()).unwrap();
        }
        c
    });
    // Of some the message is malformed already.
    test.finish_either("bad_memory", "bad_message");
}

/// Memory tables with overlapping regions, with none, with more than there may be; regions beyond the 64th.
#[test]
fn memory_tables_that_cannot_be() {
    let mut test = Test::new();
    test.refused(|victim, i| {
        let c = victim.negotiated(0, PROTOCOL & !protocol::REPLY_ACK);
        let memory = memfd(4096);
        let fd = memory.as_fd();
        match i % 5 {
            0 => c.set_mem_table(&[(page(0), fd), (region(0xfff, 1, UVA + (1 << 20), 0), fd)]).unwrap(),
            1 => c.set_mem_table(&[]).unwrap(),
            // 32 are the most that can come with one message.
            2 => c.set_mem_table(&vec![(page(0), fd); 33]).unwrap(),
            3 => (0..65).for_each(|n| drop(c.add_mem_reg(&page(n), fd))),
            // One that isn't there is no fault: QEMU takes some away twice.
            _ => {
                (0..100).for_each(|n| c.rem_mem_reg(&page(n)).unwrap());
                send(&c, request::SET_MEM_TABLE, &[words(&[2, 0]), longs(&[1; 8])].concat(), &[fd]);
            }
        }
        c
    });
    // Overlapping is memory's, the others messages' fault.
    test.finish(&[("bad_memory", REPEATS / 5), ("bad_message", REPEATS / 5 * 4)]);
}

/// Regions of what is no memory: a file on disk (and so on FUSE), a pipe, a socket, a device; and of a file of no bytes. All of these
/// could hang or kill who touches them.
#[test]
fn regions_of_what_is_no_memory() {
    let disk = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    disk.set_len(BYTES).unwrap();
    let (pipe, _write) = rustix::pipe::pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
    let (event, empty, own) = (event_fd(), memfd(0), File::open("/proc/self/mem").unwrap());
    Test::new().message("bad_memory", |c, i| {
        let fds = [disk.as_fd(), pipe.as_fd(), socket.as_fd(), zero.as_fd(), event.as_fd(), empty.as_fd(), own.as_fd()];
        let fd = fds[i as usize / 2 % 7];
        if i % 3 == 0 {
            let _ = c.set_mem_table(&[(region(GPA, BYTES, UVA, 0), fd)]);
        } else {
            let _ = c.add_mem_reg(&region(GPA, BYTES, UVA, 0), fd);
        }
    });
}

/// CVE-2019-14818: SET_VRING_NUM again and again, each of which leaked what the one before had allocated; and descriptors with
/// messages that have none, which nobody closed.
#[test]
fn cve_2019_14818_repeated_set_vring_num_and_surplus_descriptors() {
    Test::new().message("bad_message", |c, i| {
        let event = event_fd();
        for n in 0..20 {
            // More at once than the socket takes would have to wait for room.
            let _ = c.set_vring_num(n % 4, 1 << (i % 16));
            let _ = c.set_vring_call(n % 4, Some(event.as_fd()));
            let _ = c.set_vring_err(n % 4, Some(event.as_fd()));
        }
        let number = [
            request::SET_VRING_NUM,
            request::SET_FEATURES,
            request::SET_VRING_BASE,
            request::GET_FEATURES,
            request::SET_OWNER,
        ][i as usize % 5];
        let payload: &[u8] =
            if number == request::GET_FEATURES || number == request::SET_OWNER { &[] } else { &[0; 8] };
        send(c, number, payload, &[event.as_fd(); 8]);
    });
}

/// CVE-2020-10722: the log's size and offset overflow when they are added, so that less is mapped than is written; and logs larger
/// than their file.
#[test]
fn cve_2020_10722_log_base_overflows() {
    let mut test = Test::new();
    test.refused(|victim, i| {
        let c = victim.negotiated(0, PROTOCOL);
        let log = memfd(BYTES);
        let (size, offset) = [
            (u64::MAX - 4095, 8192),
            (8192, u64::MAX - 4095),
            (u64::MAX, u64::MAX),
            (BYTES + 1, 0),
            (BYTES, 1),
            (1 << 63, 1 << 63),
            (0, 0),
            (1 << 40, 0),
        ][i as usize % 8];
        send(&c, request::SET_LOG_BASE, &longs(&[size, offset]), &[log.as_fd()]);
        c
    });
    test.finish_either("bad_memory", "bad_message");
}

/// CVE-2020-10723: the index of a ring that isn't, in every message that has one; in some it is but the lowest byte of a number.
#[test]
fn cve_2020_10723_vring_index_out_of_range() {
    Test::new().message("bad_message", |c, i| {
        let ring = [4, 5, 127, 128, 255, 256, 65535, 0x8000_0000, u32::MAX][i as usize % 9];
        let event = event_fd();
        let number = [
            request::SET_VRING_NUM,
            request::SET_VRING_BASE,
            request::GET_VRING_BASE,
            request::SET_VRING_ENABLE,
            request::SET_VRING_ADDR,
            request::SET_VRING_KICK,
            request::SET_VRING_CALL,
            request::SET_VRING_ERR,
        ][i as usize / 2 % 8];
        match number {
            request::SET_VRING_ADDR => send(c, number, &[words(&[ring, 0]), longs(&[0; 4])].concat(), &[]),
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
                // Bit 8 says that there is no descriptor; this one has.
                send(c, number, &longs(&[u64::from(ring) | 4]), &[event.as_fd()]);
            }
            _ => send(c, number, &words(&[ring, 1]), &[]),
        }
    });
}

/// CVE-2020-10726 and CVE-2021-3839: floods of GET_INFLIGHT_FD and SET_INFLIGHT_FD with numbers of queues that aren't; each leaked
/// memory and descriptors, or went beyond an array. They are not offered, and refused.
#[test]
fn cve_2020_10726_and_2021_3839_inflight_floods() {
    const GET_INFLIGHT_FD: u32 = 31;
    const SET_INFLIGHT_FD: u32 = 32;
    let mut test = Test::new();
    test.refused(|victim, i| {
        let c = victim.negotiated(0, PROTOCOL);
        let memory = memfd(BYTES);
        // Size and offset of the buffer, number and size of queues.
        let queues = [0, 1, 0xffff_ffff, 0x8000_8000][i as usize % 4];
        let body = [longs(&[if i % 3 == 0 { u64::MAX } else { BYTES }, 0]), words(&[queues, 0])].concat();
        for n in 0..50 {
            let get = n % 2 == 0;
            let number = if get { GET_INFLIGHT_FD } else { SET_INFLIGHT_FD };
            let fds = [memory.as_fd()];
            c.send(number, VERSION | NEED_REPLY, &body, if get { &[] } else { &fds }).unwrap();
            // One that asks is told no.
            let reply = c.recv().unwrap();
            assert_eq!((reply.request, &reply.payload[..]), (number, &1u64.to_ne_bytes()[..]));
        }
        send(&c, SET_INFLIGHT_FD, &body, &[memory.as_fd(); 8]);
        c
    });
    test.finish(&[("bad_message", REPEATS)]);
}

/// As many descriptors as the kernel passes with one message, and more than the protocol has; with every kind of message.
#[test]
fn descriptors_253_in_a_message() {
    Test::new().message("bad_message", |c, i| {
        let event = event_fd();
        let n = [253, 33, 252][i as usize / 2 % 3];
        send(c, 1 + (i % 45) as u32, &[0; 40], &vec![event.as_fd(); n]);
    });
}

/// Requests that nobody knows, and ones that were not offered.
#[test]
fn requests_that_nobody_knows() {
    Test::new().message("bad_message", |c, i| {
        let number = [0, 4, 19, 21, 24, 25, 28, 29, 34, 35, 41, 42, 43, 44, 45, 1000, 0x8000_0000, u32::MAX];
        send(c, number[i as usize % number.len()], &vec![0xff; i as usize % 200 * 8], &[]);
        // One of these is a number that is refused only if it is complete.
        send(c, u32::MAX, &[], &[]);
    });
}

/// Headers with other versions, flags and sizes than there are.
#[test]
fn headers_that_cannot_be() {
    Test::new().message("bad_message", |c, i| {
        let good = request::GET_FEATURES;
        let header = [
            [good, 0, 0],
            [good, 2, 0],
            [good, 3, 0],
            [good, VERSION | REPLY, 0],
            [good, VERSION | 0x10, 0],
            [good, u32::MAX, 0],
            [good, VERSION, u32::MAX],
            [good, VERSION, 0x8000_0000],
            [good, VERSION, 4097],
            [request::SET_MEM_TABLE, VERSION, u32::MAX],
            [u32::MAX, u32::MAX, u32::MAX],
        ][i as usize % 11];
        let _ = c.send_raw(&[words(&header), vec![0; i as usize % 64]].concat(), &[]);
    });
}

/// Bodies of another length than their message has.
#[test]
fn bodies_of_a_wrong_length() {
    Test::new().message("bad_message", |c, i| {
        let known = [2, 5, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 37, 38, 39];
        send(c, known[i as usize % known.len()], &vec![0; [0, 1, 7, 9, 16, 33, 47, 300][i as usize / 2 % 8]], &[]);
        send(c, u32::MAX, &[], &[]);
    });
}

/// Features and protocol features that were not offered, sizes and values that can't be.
#[test]
fn values_that_cannot_be() {
    Test::new().message("bad_message", |c, i| match i % 10 {
        0 => send(c, request::SET_FEATURES, &longs(&[u64::MAX]), &[]),
        1 => send(c, request::SET_FEATURES, &longs(&[1 << 63]), &[]),
        2 => send(c, request::SET_PROTOCOL_FEATURES, &longs(&[u64::MAX]), &[]),
        3 => send(c, request::SET_PROTOCOL_FEATURES, &longs(&[1 << 12]), &[]),
        4 => send(c, request::SET_VRING_NUM, &words(&[0, 0]), &[]),
        5 => send(c, request::SET_VRING_NUM, &words(&[0, 32769]), &[]),
        6 => send(c, request::SET_VRING_ENABLE, &words(&[0, 2]), &[]),
        7 => send(c, request::SET_STATUS, &longs(&[256]), &[]),
        8 => send(c, request::NET_SET_MTU, &longs(&[0]), &[]),
        _ => send(c, request::NET_SET_MTU, &longs(&[1 << 32]), &[]),
    });
}

/// Eventfds that are none: a write to a pipe or a socket could hang, and not every such write can be interrupted.
#[test]
fn eventfds_that_are_none() {
    let (_read, pipe) = rustix::pipe::pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let memory = memfd(4096);
    Test::new().message("bad_message", |c, i| {
        let fd = [pipe.as_fd(), socket.as_fd(), memory.as_fd()][i as usize / 2 % 3];
        let number = [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR][i as usize / 6 % 3];
        send(c, number, &longs(&[i % 4]), &[fd]);
    });
}

/// Rings that are misaligned, of a size that is no power of two, or cross the end of their region.
#[test]
fn rings_in_places_that_cannot_be() {
    let mut test = Test::new();
    test.refused(|victim, i| {
        let packed = i / 2 % 2 == 1;
        let hostile = Hostile::new(victim, packed, 0);
        let (c, mut at) = (&hostile.connection, addresses(0, false));
        let last = UVA + BYTES;
        match i / 4 % 6 {
            0 => at.desc += 8,
            1 => at.avail += 1,
            2 => at.used += 2,
            3 => at.desc = last - 16 * u64::from(SIZE) + 16,
            4 => at.avail = last - 2,
            _ => at.used = last - 2,
        }
        let _ = c.set_vring_addr(0, &at);
        hostile.start();
        if !packed && i % 2 == 0 {
            let _ = c.set_vring_num(1, 15);
        }
        hostile.connection
    });
    test.finish(&[("bad_message", REPEATS)]);
}

/// Rings outside all memory never start, which is no fault: memory may come. Nor is asking where a ring is that never
/// started, describing one anew, or resetting what has nothing to reset.
#[test]
fn what_leads_to_nothing() {
    let mut test = Test::new();
    test.refused(|victim, i| {
        let hostile = Hostile::new(victim, i % 2 == 1, 0);
        let c = &hostile.connection;
        let far = [0, !15, UVA - 16, UVA + BYTES + 16][i as usize / 2 % 4];
        for ring in 0..4 {
            let _ =
                c.set_vring_addr(ring, &RingAddresses { desc: far, avail: far, used: far, ..addresses(ring, true) });
            // The kick may be none.
            let _ = c.set_vring_kick(ring, None);
            send(c, request::GET_VRING_BASE, &words(&[ring, 0]), &[]);
            send(c, request::SET_STATUS, &longs(&[0]), &[]);
            assert!(c.recv().is_ok());
        }
        assert!(victim.port.status().rings.iter().all(|ring| !ring.started));
        send(c, u32::MAX, &[], &[]);
        hostile.connection
    });
    test.finish(&[("bad_message", REPEATS)]);
}

/// A whole conversation byte by byte, to all ports at once; and an end that is wrong.
#[test]
fn messages_byte_by_byte() {
    let mut test = Test::new();
    for round in 0..=REPEATS / PORTS as u64 {
        let connections: Vec<Connection> = test.victims.iter().map(Victim::connection).collect();
        let message =
            |request: u32, payload: &[u8]| [words(&[request, VERSION, payload.len() as u32]), payload.to_vec()];
        let all: Vec<Vec<u8>> = [
            message(request::SET_OWNER, &[]),
            message(request::GET_FEATURES, &[]),
            message(request::SET_FEATURES, &longs(&[feature::VERSION_1 | feature::PROTOCOL_FEATURES])),
            message(request::SET_VRING_NUM, &words(&[0, 256])),
            message(request::GET_VRING_BASE, &words(&[0, 0])),
        ]
        .concat();
        for byte in all.concat() {
            connections.iter().for_each(|c| c.send_raw(&[byte], &[]).unwrap());
        }
        for c in &connections {
            assert_eq!(c.recv().unwrap().request, request::GET_FEATURES);
            assert_eq!(c.recv().unwrap().request, request::GET_VRING_BASE);
            let _ = c.send_raw(&[0xff; 12], &[]);
        }
        connections.iter().for_each(closed);
        drop(connections);
        if round == 0 {
            test.begin();
        }
    }
    test.finish(&[("bad_message", REPEATS)]);
}

/// Half a message, and answers that nobody reads: both are given up after five seconds, so each is done once at each of half the
/// ports.
#[test]
fn peers_that_stop_in_the_middle() {
    let mut test = Test::new();
    closed(&{
        let c = test.victims[0].connection();
        send(&c, u32::MAX, &[], &[]);
        c
    });
    test.begin();
    let short = Duration::from_millis(20);
    let connection = |victim: &Victim| Meeting::new(&victim.socket, Role::Client).unwrap().connection(short).unwrap();
    let connections: Vec<Connection> = test.victims.iter().map(connection).collect();
    for (i, c) in connections.iter().enumerate() {
        if i % 2 == 0 {
            c.send_raw(&words(&[request::SET_MEM_TABLE, VERSION, 40]), &[event_fd().as_fd(); 2]).unwrap();
            c.send_raw(&[1; 10], &[event_fd().as_fd(); 3]).unwrap();
        } else {
            while c.send(request::GET_FEATURES, VERSION, &[], &[]).is_ok() {}
        }
    }
    until("all are given up", || test.all_faults().get("bad_message").is_some_and(|n| *n == PORTS as u64 + 1));
    drop(connections);
    test.finish(&[("bad_message", PORTS as u64)]);
}

/// Interrupts that hang whoever sends them: a blocking eventfd that is full, as call and as error descriptor. Only the port's own
/// thread does, and not for long; it can be closed meanwhile.
#[test]
fn eventfds_that_block() {
    let mut test = Test::new();
    let full = || {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        fd
    };
    // Once without, for what is allocated only once.
    drop(test.start_all(0, |hostile, _| (0..2).for_each(|ring| hostile.all_good(ring))));
    test.begin();
    let hostile = test.start_all(0, |hostile, i| {
        (0..2).for_each(|ring| hostile.all_good(ring));
        let (c, full) = (&hostile.connection, full());
        if i % 2 == 0 {
            c.set_vring_call(0, Some(full.as_fd())).unwrap();
        } else {
            // All are told of a fault; once this hung nobody is.
            (0..4).for_each(|ring| c.set_vring_err(ring, Some(full.as_fd())).unwrap());
            hostile.ring_desc(1, 0, 0, 60, 0, 0);
        }
    });
    hostile.iter().for_each(|h| closed(&h.connection));
    drop(hostile);
    let half = PORTS as u64 / 2;
    assert_eq!(test.new_faults().into_iter().collect::<Vec<_>>(), [("bad_descriptor", half), ("bad_message", half)]);
    // And ports end while they hang, soon.
    let ups = test.shared.ups.load(Ordering::Relaxed);
    let hostile = test.start_all(0, |hostile, _| {
        (0..2).for_each(|ring| hostile.all_good(ring));
        hostile.connection.set_vring_call(0, Some(full().as_fd())).unwrap();
    });
    until("links come up", || test.shared.ups.load(Ordering::Relaxed) == ups + PORTS as u64);
    let begin = Instant::now();
    let dir = test.dir.path().to_owned();
    for (number, victim) in (2..).zip(&mut test.victims) {
        // In another place, as the old one is still there.
        let (port, socket) = open(&dir.join("new"), number, Role::Server, &test.events);
        *victim = Victim { port, socket };
        // A port that is closed tells nothing more.
        test.events.send((number, Event::Down { port: String::new(), reason: "closed".into() })).unwrap();
    }
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    hostile.iter().for_each(|h| closed(&h.connection));
    drop(hostile);
    // The new ones were never wronged.
    test.faults.clear();
    test.finish(&[]);
}

/// Whatever has a ring changed interrupts the workers' CPUs: what changes nothing doesn't, and the rest has a rate.
#[test]
fn messages_do_not_disturb_workers_without_end() {
    let mut test = Test::new();
    test.begin();
    let hostile = Hostile::new(&test.victims[0], false, 0);
    let c = &hostile.connection;
    (0..2).for_each(|ring| hostile.all_good(ring));
    hostile.start();
    // The used ring lies now here, now there.
    let at = addresses(1, false);
    let moved = |n: u64| RingAddresses { used: at.used + n % 2 * 0x100, ..at };
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < Duration::from_secs(3) && c.set_vring_addr(1, &moved(sent)).is_ok() {
        sent += 1;
    }
    c.vring_base(1).unwrap();
    // Each takes a ring away and starts one. Some thousands are for front ends that start many.
    let seconds = begin.elapsed().as_secs() + 1;
    assert!(2 * sent < 4096 + 1000 * seconds + 256, "{sent} in {seconds} seconds");
    drop(hostile);
    // Another connection does not begin anew, but those of other ports do; and what changes nothing is as quick as any message.
    let hostile = Hostile::new(&test.victims[1], false, 0);
    let c = &hostile.connection;
    (0..2).for_each(|ring| hostile.all_good(ring));
    hostile.start();
    let begin = Instant::now();
    for _ in 0..20_000 {
        c.set_vring_addr(1, &addresses(1, false)).unwrap();
        c.set_vring_enable(1, true).unwrap();
    }
    c.vring_base(1).unwrap();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    drop(hostile);
    test.finish(&[]);
}

/// Sockets whose close waits for their other end, with any message: nobody waits for them, neither who asks for the port's state, nor the
/// next peer, nor who closes the port.
#[test]
fn descriptors_that_do_not_close() {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let lingering = || {
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_socket_linger(&ours, Some(Duration::from_secs(3600))).unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 1 << 16]).is_ok() {}
        (OwnedFd::from(ours), theirs)
    };
    let mut test = Test::new();
    let mut others = Vec::new();
    let requests = [
        (request::SET_MEM_TABLE, "bad_memory"),
        (request::SET_LOG_BASE, "bad_memory"),
        (request::SET_VRING_CALL, "bad_message"),
        (request::SET_VRING_ENABLE, "bad_message"),
        (request::SET_FEATURES, "bad_message"),
        (99, "bad_message"),
    ];
    for (victim, (request, fault)) in test.victims.drain(..requests.len()).zip(requests) {
        let begin = Instant::now();
        let c = victim.negotiated(0, PROTOCOL & !protocol::REPLY_ACK);
        // The port's alarm ends such a close after a second.
        let number = if others.is_empty() { 16 } else { 1 };
        let fds: Vec<OwnedFd> = (0..number)
            .map(|_| {
                let (fd, other) = lingering();
                others.push(other);
                fd
            })
            .collect();
        let passed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        c.send_raw(&words(&[request, VERSION, 8]), &passed).unwrap();
        // The last copies are the message's, which is not taken before it is complete.
        drop(fds);
        c.send_raw(&longs(&[0]), &[]).unwrap();
        closed(&c);
        assert_eq!(victim.port.status().faults, BTreeMap::from([(fault, 1)]), "{request}");
        drop(victim.negotiated(0, PROTOCOL));
        drop(victim);
        assert!(begin.elapsed() < SOON, "{request}: {:?}", begin.elapsed());
    }
    drop(others);
}
