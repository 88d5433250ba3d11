//! The daemon itself: start, stop, and who talks to it.

use crate::harness::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

fn config() -> String {
    memif_ports(&["a", "b"]) + &bridge("blue", &["a", "b"])
}

/// What drayd says when it can't start.
fn fails_to_start(test: &Test, config: &str) -> String {
    let mut drayd = Drayd::spawn(test, config, None);
    let status = drayd.process().wait();
    assert_eq!(status.code(), Some(1), "{}", drayd.log());
    sleep_ms(50);
    drayd.log()
}

#[test]
fn a_second_daemon_on_the_same_sockets_refuses() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &config());
    let exchange = Exchange::start(&test, &drayd);
    let log = fails_to_start(&test, &config());
    assert!(log.contains("dray.sock"), "{log}");
    // A control socket of its own, but the other's memif socket.
    let log = fails_to_start(&test, &(config() + "[control]\nsocket = \"DIR/second.sock\"\n"));
    assert!(log.contains("memif.sock"), "{log}");
    assert!(!test.path("second.sock").exists());
    exchange.more(1000);
    exchange.stop();
    drayd.finish();
}

#[test]
fn sigterm_tells_the_peers_and_removes_the_sockets() {
    let Some(test) = Test::begin() else { return };
    let mut drayd = Drayd::start(&test, &config());
    let a = test.memif(0);
    drayd.wait_link("a", "up");
    assert!(test.path("memif.sock").exists());
    drayd.conserved();
    drayd.stop();
    let reason = wait_for("the farewell", || a.down());
    assert!(!reason.contains("closed the connection"), "a reason, not a hang-up: {reason}");
    assert!(!test.path("memif.sock").exists());
}

#[test]
fn sockets_of_a_killed_daemon_are_replaced() {
    let Some(test) = Test::begin() else { return };
    let mut first = Drayd::start(&test, &config());
    first.process().signal(libc::SIGKILL);
    first.process().wait();
    assert!(test.path("memif.sock").exists() && test.path("dray.sock").exists());
    let drayd = Drayd::start(&test, &config());
    let exchange = Exchange::start(&test, &drayd);
    exchange.more(1000);
    exchange.stop();
    drayd.finish();
    drop(first);

    // Only a socket is stale: a file is not touched.
    std::fs::write(test.path("memif.sock"), "precious").unwrap();
    let log = fails_to_start(&test, &config());
    assert!(log.contains("memif.sock"), "{log}");
    assert_eq!(std::fs::read(test.path("memif.sock")).unwrap(), b"precious");
    std::fs::remove_file(test.path("memif.sock")).unwrap();
    let live = UnixListener::bind(test.path("dray.sock")).unwrap();
    let log = fails_to_start(&test, &config());
    assert!(log.contains("dray.sock"), "{log}");
    drop(live);
}

/// Slow, silent, endless and nonsensical clients of the control socket keep nobody waiting.
#[test]
fn hostile_control_clients_keep_nobody_waiting() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &config());
    let exchange = Exchange::start(&test, &drayd);
    let connect = || UnixStream::connect(test.path("dray.sock")).unwrap();

    // Nonsense gets an error, and the connection goes on or ends; nothing else happens.
    for line in
        ["{", "[]", "null", "\u{1b}[31m", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"no.such\"}", &"[".repeat(50_000)]
    {
        let mut client = connect();
        client.write_all(format!("{line}\n").as_bytes()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        BufReader::new(client).read_line(&mut answer).unwrap();
        assert!(answer.contains("\"error\""), "{line:.100}: {answer}");
    }
    let mut binary = connect();
    let _ = binary.write_all(&[0xff, 0x00, 0xfe, b'\n']);

    // Those who never finish, never read, and those who send for ever.
    let mut slow: Vec<_> = (0..20).map(|_| connect()).collect();
    for client in &mut slow {
        client.write_all(b"{\"jsonrpc\":").unwrap();
    }
    let mut deaf = connect();
    deaf.set_write_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut ask = || deaf.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"port.show\"}\n").is_ok();
    for _ in 0..20_000 {
        if !ask() {
            break;
        }
    }
    let mut endless = connect();
    endless.set_write_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let piece = vec![b'x'; 1 << 16];
    let written = (0..512).take_while(|_| endless.write_all(&piece).is_ok()).count();
    assert!(written < 512, "32 MiB without an end are not read");
    let mut rest = Vec::new();
    let _ = endless.set_read_timeout(Some(std::time::Duration::from_secs(5)));
    let _ = endless.read_to_end(&mut rest);

    assert_eq!(drayd.status().ports, 2);
    exchange.more(1000);
    exchange.stop();
    drop((slow, binary));
    drayd.finish();
}

#[test]
fn how_to_attach_is_ready_to_paste() {
    let Some(test) = Test::begin() else { return };
    let drayd = Drayd::start(&test, &config());
    let text = drayd.dray("port show b --connect");
    let device = format!("role=client,id=1,socket={}", test.path("memif.sock").display());
    for what in ["dpdk-testpmd", "socket-abstract=no", &device, "create interface memif"] {
        assert!(text.contains(what), "{what:?} in:\n{text}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = drayd.command(&["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("dray"), "{shell}: {script}");
    }
    drayd.finish();
}

/// A worker has its CPU for itself, as far as that is up to drayd: whatever else it does, DPDK's threads included, happens elsewhere.
#[test]
fn only_the_worker_runs_on_its_cpu() {
    let Some(test) = Test::alone() else { return };
    let [.., _, cpu] = dray_config::allowed_cpus()[..] else {
        eprintln!("SKIPPED: needs two CPUs");
        return;
    };
    let ns = Netns::new("cpus");
    ns.run_all("ip link add nic type veth peer name peer\nip link set nic up\nip link set peer up");
    let ports = "[[port]]\nname = \"vm\"\nkind = \"vhost-user\"\nsocket = \"DIR/vm.sock\"\n";
    let workers = format!("[[worker]]\ncpu = {cpu}\nidle-sleep = 50\n");
    let mut drayd = Drayd::start_in(&test, &ns, &(workers + &config() + ports + crate::overlay::UPLINK));
    drayd.dray("status");
    let pid = drayd.process().id();
    // `ip netns exec` has become drayd.
    let mut names = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let Ok(status) = std::fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let (name, cpus) = (field("Name:"), field("Cpus_allowed_list:"));
        let allowed = cpus.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&cpu)
        });
        let is_worker = name.starts_with("dray-worker");
        assert_eq!(allowed, is_worker, "{name} may run on {cpus}");
        assert!(!is_worker || cpus == cpu.to_string(), "{name} may run on {cpus}");
        names.push(name);
    }
    for name in ["drayd", "dray-worker0", "eal", "signals"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    assert!(names.len() > 6, "{names:?}");
    // The worker's CPU is still one that a configuration may name.
    drayd.apply(&test, &(format!("[[worker]]\ncpu = {cpu}\nidle-sleep = 50\n") + &config()));
    drayd.finish();
}
