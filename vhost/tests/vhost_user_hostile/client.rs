//! The same where Dray is the client, and its peer the server.

use super::*;

/// A client's pauses between attempts grow to a second, hence the few repeats.
#[test]
fn a_hostile_server() {
    let mut test = Test::new();
    meet(&test);
    test.begin();
    meet(&test);
    test.finish(&[]);
}

/// A port that meets a hostile server four times, with messages and with rings, and then an honest one.
fn meet(test: &Test) {
    let dir = test.dir.path().join("client");
    let number = 2 + PORTS;
    let socket = SocketName::Path(dir.join(number.to_string()));
    let meeting = Meeting::new(&socket, Role::Server).unwrap();
    let (port, _) = open(&dir, number, Role::Client, &test.events);
    for i in 0..4 {
        let connection = meeting.connection(SOON).unwrap();
        match i {
            0 => {
                let _ = connection.send_raw(&[0xff; 12], &[]);
                closed_for(&connection, i);
            }
            1 => {
                let connection = negotiate(connection, 0, PROTOCOL);
                assert!(connection.set_vring_num(4, 256).is_err());
                closed_for(&connection, i);
            }
            n => {
                let hostile = Hostile::on(connection, n == 2, 0);
                hostile.ring_desc(1, 0, GPA + BYTES - 1, 72, 0, 0);
                hostile.offer(1, 1);
                hostile.start();
                closed_for(&hostile.connection, i);
            }
        }
    }
    let faults: Vec<_> = port.status().faults.into_iter().collect();
    assert_eq!(faults, [("bad_descriptor", 2), ("bad_message", 2)]);
    // An honest one finds the port as good as ever.
    let ups = test.shared.ups.load(Ordering::Relaxed);
    let mut frontend = Frontend::meet(meeting, &Options { timeout: SOON, ..Options::default() }).unwrap();
    until("the link comes up", || test.shared.ups.load(Ordering::Relaxed) > ups);
    let mark = [0xee; 60];
    assert!(frontend.tx[0].send(&mark));
    let mut to = [0; 2048];
    // Its own frame comes back, among those of the honest pair.
    let mut back =
        || std::iter::from_fn(|| Some(frontend.rx[0].recv(&mut to)?.1 == 60 && to[..60] == mark)).any(|same| same);
    until("its frame comes back", &mut back);
    // A port that is closed tells nothing more.
    drop(port);
    let reason = "closed".into();
    test.events.send((number, Event::Down { port: String::new(), reason })).unwrap();
}
