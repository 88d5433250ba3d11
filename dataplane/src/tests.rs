use super::*;
use dray_switch::egress::Egress;
use dray_switch::fdb::key;
use dray_switch::port::Sent;
use dray_switch::{Burst, Rx, Tx};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

impl Dataplane {
    /// Waits until the workers have taken up everything, however little CPU time they get.
    pub(crate) fn settle_all(&mut self) {
        let begin = Instant::now();
        while !self.is_settled() || self.pending.is_some() {
            self.settle();
            assert!(begin.elapsed() < Duration::from_secs(30), "a worker does not answer");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Always has frames, each with a number.
struct Source {
    next: Arc<AtomicU64>,
}

impl Rx for Source {
    fn receive(&mut self, burst: &mut Burst) {
        while burst.room() > 0 {
            let mut frame = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]].concat();
            frame.extend(self.next.fetch_add(1, Relaxed).to_be_bytes());
            frame.resize(60, 0);
            burst.push_owned(frame);
        }
    }

    fn release(&mut self, _: &mut Burst) {}
}

/// Takes everything, and notes the first frame that is not the one after the last.
#[derive(Clone, Default)]
struct Sink {
    got: Arc<Mutex<(u64, Option<String>)>>,
}

impl Tx for Sink {
    fn send(&mut self, burst: &mut Burst, frames: &[u16]) -> Sent {
        let mut got = self.got.lock().unwrap();
        for &i in frames {
            let number = u64::from_be_bytes(burst.frame(i).head()[12..20].try_into().unwrap());
            if number != got.0 {
                let fault = format!("{number} instead of {}", got.0);
                got.1.get_or_insert(fault);
            }
            got.0 = number + 1;
        }
        Sent { packets: frames.len() as u32, bytes: 60 * frames.len() as u64 }
    }
}

fn sinks(sink: &Sink) -> Vec<Box<dyn Tx>> {
    (0..2).map(|_| Box::new(sink.clone()) as _).collect()
}

/// Two workers and two ports in a bridge; `None` on a machine with one CPU.
fn start() -> Option<Dataplane> {
    let Some([a, b]) = dray_config::allowed_cpus().first_chunk().copied() else {
        eprintln!("SKIPPED: needs two CPUs");
        return None;
    };
    let worker = |cpu| format!("[[worker]]\ncpu = {cpu}\n");
    let port = |id| format!("[[port]]\nname = \"p{id}\"\nkind = \"memif\"\nsocket = \"@none\"\nid = {id}\n");
    let bridge = "[[bridge]]\nname = \"b\"\nports = [\"p0\", \"p1\"]\n";
    let text = worker(a) + &worker(b) + &port(0) + &port(1) + bridge;
    let config = dray_config::parse("test", &text).expect("a good configuration");
    let (mut dataplane, _punts) = Dataplane::start(&config).expect("workers");
    change_to(&mut dataplane, &nothing(), &config);
    Some(dataplane)
}

/// Without ports and bridges.
pub(crate) fn nothing() -> ValidConfig {
    dray_config::parse("nothing", "").expect("a good configuration")
}

/// From one configuration, which has no overlay, to another.
pub(crate) fn change_to(dataplane: &mut Dataplane, old: &ValidConfig, new: &ValidConfig) {
    let actions = dray_config::plan(old, new);
    dataplane.apply(new, Change { actions: &actions, ..Change::default() }, None);
}

#[test]
fn a_queue_that_is_moved_again_and_again_keeps_order_and_loses_nothing() {
    let Some(mut dataplane) = start() else { return };
    let (sink, next) = (Sink::default(), Arc::new(AtomicU64::new(0)));
    dataplane.link_up("p1", Vec::new(), sinks(&sink), true);
    dataplane.link_up("p0", vec![Box::new(Source { next: next.clone() })], sinks(&Sink::default()), true);
    let p0 = dataplane.names.ports.get("p0").expect("it is configured");
    let mut last = 0;
    for n in 1..=200 {
        let moved = dataplane.give((p0, 0), n % 2).expect("it is there");
        assert_eq!((moved.port.as_str(), moved.index), ("p0", 0));
        let begin = Instant::now();
        while next.load(Relaxed) == last {
            dataplane.settle();
            assert!(begin.elapsed() < Duration::from_secs(30), "nobody polls the queue after {n} moves");
            thread::yield_now();
        }
        last = next.load(Relaxed);
    }
    let polled = dataplane.worker_stats();
    assert!(polled.iter().all(|w| w.packets > 0), "{polled:?}");
    dataplane.link_down("p0");
    dataplane.settle_all();
    let got = sink.got.lock().unwrap();
    assert_eq!(*got, (next.load(Relaxed), None));
}

/// Keeps its worker for as long as the other end of the channel is there.
struct Stuck {
    until: Receiver<()>,
    _memory: Arc<()>,
}

impl Rx for Stuck {
    fn receive(&mut self, _: &mut Burst) {
        let _ = self.until.recv();
    }

    fn release(&mut self, _: &mut Burst) {}
}

/// What changes while a worker gets no CPU time is taken up when it does, and only then is memory freed, are numbers given to
/// others, and is the FDB rid of what may not be there any more.
#[test]
fn a_worker_that_does_not_answer_keeps_nobody_waiting() {
    let Some(mut dataplane) = start() else { return };
    let config = |ports: &[&str]| {
        let port = |(id, name)| format!("[[port]]\nname = {name:?}\nkind = \"memif\"\nsocket = \"@none\"\nid = {id}\n");
        let ports_text: String = ports.iter().enumerate().map(port).collect();
        let text = format!("{ports_text}[[bridge]]\nname = \"b\"\nports = {ports:?}\n");
        dray_config::parse("test", &text).expect("a good configuration")
    };
    dataplane.settle_all();
    let (go, until) = bounded(0);
    let memory = Arc::new(());
    dataplane.link_up("p0", vec![Box::new(Stuck { until, _memory: memory.clone() })], sinks(&Sink::default()), true);
    let learned = [2, 0, 0, 0, 0, 9];
    let entries = |dataplane: &Dataplane| dataplane.fdb.entries(1).iter().filter(|e| e.mac == learned).count();
    let (p1, b) = (dataplane.names.ports.get("p1").unwrap(), dataplane.names.bridges.get("b").unwrap());

    let begin = Instant::now();
    change_to(&mut dataplane, &config(&["p0", "p1"]), &config(&["p0", "p2"]));
    let first = begin.elapsed();
    change_to(&mut dataplane, &config(&["p0", "p2"]), &config(&["p2", "p3"]));
    for _ in 0..1000 {
        dataplane.link_up("p2", Vec::new(), sinks(&Sink::default()), true);
        dataplane.link_down("p2");
        dataplane.tick();
    }
    assert!(begin.elapsed() - first < Duration::from_secs(10), "it was waited for again");
    let stats = dataplane.worker_stats();
    assert!(stats.iter().any(|w| (1..10).contains(&w.unanswered)), "{stats:?}");
    assert_eq!(dataplane.names.ports.iter().count(), 4, "p0 and p1 keep their numbers");
    // As the worker may, by what it was told last.
    let at = key(b, learned);
    dataplane.fdb.view().learn(at, dataplane.fdb.view().home(at), Egress::port(p1, 0), 1);
    assert_eq!((entries(&dataplane), Arc::strong_count(&memory)), (1, 2));
    let begin = Instant::now();
    while dataplane.worker_stats().iter().all(|w| w.silence.is_none()) {
        assert!(begin.elapsed() < Duration::from_secs(30), "nobody says that the worker is silent");
        thread::sleep(Duration::from_millis(10));
    }

    drop(go);
    dataplane.settle_all();
    assert!(dataplane.is_forgetting());
    while dataplane.is_forgetting() {
        dataplane.forget_some();
    }
    assert_eq!((entries(&dataplane), Arc::strong_count(&memory)), (0, 1));
    let names: HashSet<&String> = dataplane.names.ports.iter().map(|(name, _)| name).collect();
    assert_eq!(names, HashSet::from([&"p2".to_owned(), &"p3".to_owned()]));
    let begin = Instant::now();
    while dataplane.worker_stats().iter().any(|w| w.silence.is_some() || w.unanswered != 0) {
        assert!(begin.elapsed() < Duration::from_secs(30), "it runs again");
        dataplane.tick();
    }
}

/// A worker that never comes back is left behind.
#[test]
fn the_end_does_not_wait_for_a_worker_for_ever() {
    let Some(mut dataplane) = start() else { return };
    dataplane.settle_all();
    let (go, until) = bounded(0);
    let stuck = Stuck { until, _memory: Arc::default() };
    dataplane.link_up("p0", vec![Box::new(stuck)], sinks(&Sink::default()), true);
    dataplane.link_down("p0");
    assert_eq!(dataplane.stop().len(), 1);
    drop(go);
}

#[test]
fn queues_stay_where_their_frames_could_overtake_each_other() {
    let Some(mut dataplane) = start() else { return };
    let idle = || -> Vec<Box<dyn Rx>> {
        struct Idle;
        impl Rx for Idle {
            fn receive(&mut self, _: &mut Burst) {}
            fn release(&mut self, _: &mut Burst) {}
        }
        (0..3).map(|_| Box::new(Idle) as _).collect()
    };
    // Two of the queues are the first worker's, and take half of its time each.
    let balance = |dataplane: &mut Dataplane| {
        let mut period = dataplane.worker_stats();
        assert_eq!([period[0].queues.len(), period[1].queues.len()], [2, 1]);
        (period[0].busy_ticks, period[1].busy_ticks) = (period[0].total_ticks, 0);
        let half = period[0].total_ticks / 2;
        period[0].queues.iter_mut().for_each(|queue| queue.ticks = half);
        dataplane.balance(&period)
    };
    let sink = Sink::default();
    dataplane.link_up("p0", idle(), sinks(&sink), true);
    dataplane.link_up("p1", Vec::new(), sinks(&sink), false);
    assert_eq!(balance(&mut dataplane), None, "p1 has rings of its own for each worker");
    dataplane.link_up("p1", Vec::new(), sinks(&sink), true);
    let moved = balance(&mut dataplane).expect("nothing is in the way");
    assert_eq!([dataplane.worker_stats()[0].queues.len(), dataplane.worker_stats()[1].queues.len()], [1, 2]);
    assert_eq!(moved.port, "p0");
}

/// What the control thread sends is counted, wherever it enters and whatever becomes of it.
#[test]
fn what_is_injected_is_accounted_for() {
    let Some(mut dataplane) = start() else { return };
    let frame = [[0xff; 6], [2, 0, 0, 0, 0, 1]].concat();
    let send = |dataplane: &Dataplane, entry: Entry| dataplane.inject(&entry, [&frame[..], &[0; 48]].concat());
    let begin = Instant::now();
    let wait = |dataplane: &Dataplane, injected: u64| loop {
        if dataplane.total().injected == injected {
            let total = dataplane.total();
            let went = total.tx_packets + total.drops.iter().sum::<u64>();
            assert_eq!(total.copies + total.injected, went, "{total:?}");
            return total;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", dataplane.total());
        thread::sleep(Duration::from_millis(1));
    };
    dataplane.link_up("p1", Vec::new(), sinks(&Sink::default()), true);
    dataplane.settle_all();
    // To all members, of which one is down.
    send(&dataplane, Entry::Bridge("b".into()));
    let total = wait(&dataplane, 1);
    assert_eq!((total.copies, total.tx_packets, total.tx_drops()), (1, 1, 1));
    // Through a port, up or down, with a tag or without.
    let tagged = Entry::Adjacency(Place::Port { port: "p1".into(), vlan: Some(7) }, None);
    for (entry, injected) in [(Entry::port("p1"), 2), (Entry::port("p0"), 3), (tagged, 4)] {
        send(&dataplane, entry);
        wait(&dataplane, injected);
    }
    let counts = |port| dataplane.port_counts(port).expect("it is there");
    assert_eq!((counts("p1").injected, counts("p1").tx_packets, counts("p1").tx_bytes), (2, 3, 60 * 3));
    assert_eq!((counts("p0").injected, counts("p0").tx_drops()), (1, 2));
    // Nothing has these names.
    let vtep = Entry::Adjacency(Place::Vtep([10, 9, 0, 2].into()), Some("b".into()));
    for entry in [Entry::Bridge("c".into()), Entry::port("p2"), vtep] {
        send(&dataplane, entry);
    }
    send(&dataplane, Entry::port("p1"));
    assert_eq!(wait(&dataplane, 5).tx_packets, 4);
}

/// Has these frames, the last one first.
struct Frames(Vec<Vec<u8>>);

impl Rx for Frames {
    fn receive(&mut self, burst: &mut Burst) {
        while burst.room() > 0
            && let Some(frame) = self.0.pop()
        {
            burst.push_owned(frame);
        }
    }

    fn release(&mut self, _: &mut Burst) {}
}

/// While the control thread does nothing: each of a port's frames that is for it finds a place, or is dropped by name, and pings take no
/// place that ARP has.
#[test]
fn a_flood_of_pings_leaves_arp_its_places() {
    const PINGS: usize = 1000;
    const ARPS: usize = 100;
    let text = "[[port]]\nname = \"p0\"\nkind = \"memif\"\nsocket = \"@none\"\nmac = \"02:00:00:00:00:07\"\n\
                [vxlan]\nport = \"p0\"\nlocal = \"10.9.0.1/24\"\n";
    let config = dray_config::parse("test", text).unwrap_or_else(|errors| panic!("{errors}"));
    let (mut dataplane, punts) = Dataplane::start(&config).expect("a worker");
    let actions = dray_config::plan(&nothing(), &config);
    let change = Change { actions: &actions, ..Change::default() };
    dataplane.apply(&config, change, Some(&Underlay::default()));
    dataplane.settle_all();
    let frame = |what: &[u8]| [&[2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 9], what, &[0; 60]].concat()[..60].to_vec();
    let ping = [8, 0, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 1, 0x66, 0xba, 10, 9, 0, 2, 10, 9, 0, 1];
    let frames = (0..PINGS + ARPS).map(|n| frame(if n < ARPS { &[8, 6] } else { &ping })).collect();
    dataplane.link_up(
        "p0",
        vec![Box::new(Frames(frames))],
        (0..dataplane.workers()).map(|_| Box::new(Sink::default()) as _).collect(),
        true,
    );
    let begin = Instant::now();
    let counts = loop {
        let counts = dataplane.port_counts("p0").expect("it is there");
        if counts.rx_packets == (PINGS + ARPS) as u64 && counts.is_conserved() {
            break counts;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{counts:?}");
        thread::sleep(Duration::from_millis(1));
    };
    let waiting: Vec<Punted> = punts.try_iter().collect();
    let of = |reason| waiting.iter().filter(|punt| punt.reason == reason).count();
    let pings = of(PuntReason::Icmp);
    assert!(pings < PINGS && of(PuntReason::Arp) == ARPS, "{pings} pings, {} ARPs", of(PuntReason::Arp));
    assert!(waiting.iter().all(|punt| Some("p0") == dataplane.port_name(punt.port) && punt.bridge == 0));
    assert_eq!(counts.punted, (pings + ARPS) as u64);
    assert_eq!(counts.drops[dray_switch::Drop::UnderlayPuntFull.index()], (PINGS - pings) as u64);
}
