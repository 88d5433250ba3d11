//! Several workers share the FDB and the ports.

use crate::harness::*;
use dray_api::{SilentWorker, WorkerInfo};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// `a` and `b` are polled by different workers, each of which sends through the other's port; both send to `c`, whose one ring
/// they share.
#[test]
fn two_workers_switch_between_each_others_ports() {
    let Some(test) = Test::alone() else { return };
    let workers = "[[worker]]\ncpu = 0\nidle-sleep = 50\n[[worker]]\ncpu = 1\nidle-sleep = 50\n";
    let ports = memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "b", "c"]);
    let drayd = Drayd::start(&test, &(workers.to_string() + &ports));
    let mut c = test.memif(2);
    drayd.wait_link("c", "up");
    let exchange = Exchange::start(&test, &drayd);
    exchange.more(20_000);
    let shown: Vec<WorkerInfo> = drayd.json("worker show");
    assert_eq!(shown.len(), 2);
    assert!(shown.iter().all(|w| !w.queues.is_empty() && w.packets > 10_000), "{shown:?}");
    for worker in drayd.json::<Vec<WorkerInfo>>("worker show --total") {
        shows_where_the_time_goes(&worker);
    }
    let recent = || drayd.json::<Vec<WorkerInfo>>("worker show");
    let active = |w: &WorkerInfo| w.ticks_per_packet.is_some() && !w.stages.is_empty();
    let recent = wait_for("figures of a second", || Some(recent()).filter(|workers| workers.iter().all(active)));
    recent.iter().for_each(shows_where_the_time_goes);
    let table = drayd.dray("worker show");
    assert!(table.contains("STAGE") && table.contains("forward"), "{table}");
    // Tables are published while both run.
    let extra = test.path("extra.sock").display().to_string();
    for _ in 0..20 {
        drayd.dray(&format!("port add --name extra --kind memif --socket {extra} --bridge blue"));
        drayd.dray("port del extra");
        exchange.more(100);
    }
    let (arrived, mut a, mut b) = exchange.stop();
    assert!(arrived > 40_000);
    // What is not known is flooded by both workers into the ring that they share.
    receive(&mut c);
    let stranger = mac(0xffff);
    let (from_a, from_b) = (numbered(mac(0xa0), stranger, 1), numbered(mac(0xb0), stranger, 2));
    assert!(a.tx[0].send(&from_a) && b.tx[0].send(&from_b));
    let mut got = Vec::new();
    wait_for("both frames to arrive", || {
        got.extend(receive(&mut c));
        (got.len() >= 2).then_some(())
    });
    got.sort();
    let mut wanted = vec![from_a, from_b];
    wanted.sort();
    assert_eq!(got, wanted);
    drayd.finish();
}

/// A worker that switches between ports passes these stages, and (if that was in the sample) learns and floods now and then.
fn shows_where_the_time_goes(worker: &WorkerInfo) {
    let stages = worker.stages.iter().filter(|s| !["learn", "flood"].contains(&s.stage.as_str()));
    let names: Vec<&str> = stages.map(|s| s.stage.as_str()).collect();
    assert_eq!(names, ["receive", "parse", "forward", "send", "release"], "{worker:?}");
    let (ticks, ns) = (worker.ticks_per_packet.unwrap(), worker.ns_per_packet.unwrap());
    assert!(
        ticks > 1.0 && ns > 1.0 && worker.busy > 0.0 && (worker.busy + worker.idle - 1.0).abs() < 1e-9,
        "{worker:?}"
    );
    for s in &worker.stages {
        assert!(s.ticks_per_packet > 0.0 && s.sampled > 0 && (1.0..=64.0).contains(&s.packets_per_burst), "{worker:?}");
        // One clock for all.
        assert!((s.ns_per_packet / s.ticks_per_packet / (ns / ticks) - 1.0).abs() < 1e-6, "{worker:?}");
    }
    assert!((worker.stages.iter().map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-6, "{worker:?}");
}

/// Frames that circulate through two wires, which are memif ports of this drayd at both ends, keep one worker busy all the
/// time, while the other one has next to nothing to do. What is sent from `a` to `b` goes through the one wire, what is sent
/// back through the other: the queue of one of them is moved, and not one frame is lost or overtaken.
#[test]
fn queues_move_to_a_worker_with_less_to_do() {
    let Some(test) = Test::alone() else { return };
    let workers =
        "[balance]\ninterval = 1\n[[worker]]\ncpu = 0\nidle-sleep = 50\n[[worker]]\ncpu = 1\nidle-sleep = 50\n";
    let ports = memif_ports(&["a", "b", "x1", "x2", "d1", "d2", "d3", "d4"]);
    let circulating = mac(0xc0);
    let at = |mac, port| format!("{{ mac = \"{}\", port = \"{port}\" }}", dray_config::Mac(mac));
    let statics = |entries: [String; 3]| format!("static = [{}]\n", entries.join(", "));
    let near = statics([at(mac(0xa), "a"), at(mac(0xb), "x1"), at(circulating, "x1")]);
    let far = statics([at(mac(0xb), "b"), at(mac(0xa), "x2"), at(circulating, "x2")]);
    let bridges = bridge("near", &["a", "x1"]) + &near + &bridge("far", &["b", "x2", "d2"]) + &far;
    let drayd = Drayd::start(&test, &(workers.to_owned() + &ports + &bridges));

    // A queue goes to the worker with the fewest, to the first if both have as many. With one more on the second worker, both ends
    // of a wire come to the first one.
    let up = |id: u32, name: &str| {
        let client = test.memif(id);
        drayd.wait_link(name, "up");
        client
    };
    let down = |client, name| {
        drop(client);
        drayd.wait_link(name, "down");
    };
    // A socket has one role, so the other ends know it by another name.
    std::os::unix::fs::symlink(test.path("memif.sock"), test.path("alias.sock")).unwrap();
    let wire = |name, id, bridge| {
        let socket = test.path("alias.sock").display().to_string();
        drayd.dray(&format!(
            "port add --name {name} --kind memif --socket {socket} --id {id} --role client --bridge {bridge}"
        ));
        drayd.wait_link(name, "up");
    };
    let (d1, mut d2) = (up(4, "d1"), up(5, "d2"));
    down(d1, "d1");
    wire("y1", 2, "far");
    let (_d1, d3, _d4) = (up(4, "d1"), up(6, "d3"), up(7, "d4"));
    down(d3, "d3");
    wire("y2", 3, "near");
    let polled_by = |port: &str| {
        let workers: Vec<WorkerInfo> = drayd.json("worker show");
        let of = |w: &WorkerInfo| w.loads.iter().any(|queue| queue.port == port && queue.queue == 0);
        workers.iter().position(of).unwrap_or_else(|| panic!("{port}: {workers:?}"))
    };
    assert_eq!(["x1", "x2", "y1", "y2", "d2"].map(polled_by), [0, 0, 0, 0, 1]);

    let exchange = Exchange::start(&test, &drayd);
    assert_eq!(["y1", "y2"].map(polled_by), [0, 0], "nobody was busy so far");
    let frames: Vec<_> = (0..300).map(|n| numbered(mac(0xd2), circulating, n)).collect();
    send(&mut d2, &frames);
    wait_for("a queue to move", || (polled_by("y1") != polled_by("y2")).then_some(()));
    exchange.more(5_000);
    let moves = |log: &str| log.matches(" goes from CPU 0 to CPU 1").count();
    assert!((1..=2).contains(&moves(&drayd.log())), "{}", drayd.log());
    let busy = |w: &WorkerInfo| w.loads.iter().any(|queue| queue.share > 0.01 && queue.port.starts_with('y'));
    wait_for("both workers to have a share", || {
        drayd.json::<Vec<WorkerInfo>>("worker show").iter().all(busy).then_some(())
    });

    exchange.stop();
    // Nothing circulates any more.
    drayd.dray("port del y1");
    drayd.dray("port del y2");
    drayd.finish();
}

/// A thread that gets no CPU time, until this is dropped. By the same thread, for it is that one's tracer.
struct Stopped(i32);

impl Stopped {
    /// Stops the thread of this name of process `pid`.
    fn begin(pid: u32, name: &str) -> Stopped {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let thread = threads
            .map(|entry| entry.unwrap().path())
            .find(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name));
        let thread: i32 = thread.expect("it is there").file_name().unwrap().to_str().unwrap().parse().unwrap();
        // SAFETY: neither request has data, and the thread is one of a child of ours. `waitpid` writes nothing where it is given null.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0), 0, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0), 0, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL), thread);
        }
        Stopped(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            // A thread that was killed meanwhile is buried by its tracer.
            if libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) != 0 {
                libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL);
            }
        }
    }
}

/// What `dray ARGS` prints. It must succeed, in a time in which nobody who waits for a worker would have an answer.
fn soon(drayd: &Drayd, args: &str) -> String {
    let words: Vec<&str> = args.split_whitespace().collect();
    let mut child = drayd.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("dray {args}: no answer");
        }
        sleep_ms(1);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "dray {args}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const ONE_WORKER: &str = "[[worker]]\ncpu = 0\nidle-sleep = 50\n";

/// While a worker gets no CPU time, everything is answered, what is asked for is done when it runs again, and it is said who doesn't.
#[test]
fn nobody_waits_for_a_worker_without_cpu_time() {
    let Some(test) = Test::alone() else { return };
    let before = ONE_WORKER.to_owned() + &memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "b"]);
    let mut drayd = Drayd::start(&test, &before);
    let mut a = test.memif(0);
    let b = test.memif(1);
    drayd.wait_link("a", "up");
    drayd.wait_link("b", "up");
    assert_eq!(drayd.status().silent_workers, []);

    let stopped = Stopped::begin(drayd.process().id(), "dray-worker0");
    let after = ONE_WORKER.to_owned() + &memif_ports(&["a", "b", "c"]) + &bridge("blue", &["a", "c"]);
    let file = test.file("after.toml", &format!("{after}[control]\nsocket = \"DIR/dray.sock\"\n"));
    soon(&drayd, &format!("config apply {}", file.display()));
    drop(b);
    let mut c = test.memif(2);
    let silent: SilentWorker = wait_for("the worker to be named", || {
        let status: dray_api::Status = serde_json::from_str(&soon(&drayd, "--json status")).unwrap();
        status.silent_workers.into_iter().next()
    });
    assert!(silent.cpu == 0 && silent.seconds >= 1.0 && silent.waiting > 0, "{silent:?}");
    for command in ["status", "worker show"] {
        let text = soon(&drayd, command);
        assert!(text.contains("the one on CPU 0 has not run for"), "{text}");
    }
    let shown: Vec<WorkerInfo> = serde_json::from_str(&soon(&drayd, "--json worker show")).unwrap();
    assert!(shown[0].silent_seconds.is_some_and(|seconds| seconds >= 1.0) && shown[0].waiting > 0, "{shown:?}");
    for port in ["b", "c"] {
        soon(&drayd, &format!("port show {port}"));
    }
    soon(&drayd, "fdb add blue 02:00:00:00:00:77 --port c");
    wait_for("a line in the log", || drayd.log().contains("the one on CPU 0 has not run").then_some(()));

    drop(stopped);
    wait_for("the worker to have taken up everything", || {
        let shown: Vec<WorkerInfo> = drayd.json("worker show");
        (shown[0].silent_seconds.is_none() && shown[0].waiting == 0).then_some(())
    });
    wait_for("a line in the log", || drayd.log().contains("the one on CPU 0 runs again").then_some(()));
    assert_eq!(drayd.log().matches("has not run").count(), 1, "{}", drayd.log());
    drayd.wait_link("b", "down");
    drayd.wait_link("c", "up");
    let frames: Vec<_> = (0..100).map(|n| numbered(mac(0xa), [2, 0, 0, 0, 0, 0x77], n)).collect();
    send(&mut a, &frames);
    expect(&mut c, &frames);
    drayd.finish();
}

#[test]
fn the_end_does_not_wait_for_a_worker_without_cpu_time() {
    let Some(test) = Test::alone() else { return };
    let mut drayd =
        Drayd::start(&test, &(ONE_WORKER.to_owned() + &memif_ports(&["a", "b"]) + &bridge("blue", &["a", "b"])));
    let _a = test.memif(0);
    drayd.wait_link("a", "up");
    let stopped = Stopped::begin(drayd.process().id(), "dray-worker0");
    drayd.process().signal(libc::SIGTERM);
    wait_for("the end", || drayd.log().contains("ended after").then_some(()));
    assert!(drayd.log().contains("the one on CPU 0 does not run, and is not waited for"), "{}", drayd.log());
    drop(stopped);
    drayd.stop();
}
