//! The generator on NICs: drayd's eth ports on the other ends of two veth pairs. Needs root.

use dray_testing::{Turn, drayd_beside, is_root};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const PERF: &str = env!("CARGO_BIN_EXE_dray-perf");

/// Runs in namespaces of its own, so that all it makes and starts goes with it: two veth pairs, drayd between them, and
/// dray-perf with each of these arguments at their other ends. The lines that it prints, as JSON.
fn dray_perf(dir: &Path, runs: &[String]) -> Vec<Value> {
    let drayd = drayd_beside(PERF);
    let port = |name, n| {
        format!("[[port]]\nname = \"{name}\"\nkind = \"eth\"\ndevice = \"net_af_packet{n},iface=switch{n}\"\n")
    };
    let socket = dir.join("dray.sock");
    let config = format!(
        "[control]\nsocket = {socket:?}\n{}{}[[bridge]]\nname = \"lan\"\nports = [\"a\", \"b\"]\n",
        port("a", 0),
        port("b", 1)
    );
    std::fs::write(dir.join("dray.toml"), config).unwrap();
    let runs: Vec<String> = runs.iter().map(|args| format!("nsenter --net -t $peer {PERF:?} {args}")).collect();
    let runs = runs.join(" && ");
    let script = format!(
        "set -e
        # Nothing but our frames.
        echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
        # A host for each: the driver groups its sockets by process id and interface, which may be alike.
        unshare --net sleep 60 &
        while [ \"$(readlink /proc/$!/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.01; done
        peer=$!
        for i in 0 1; do
            ip link add switch$i type veth peer name perf$i netns $peer
            ip link set switch$i up
            nsenter --net -t $peer ip link set perf$i up
        done
        {drayd:?} --config {dir:?}/dray.toml > {dir:?}/log 2>&1 &
        for i in $(seq 100); do [ -S {socket:?} ] && break; sleep 0.1; done
        {runs} || {{ status=$?; cat {dir:?}/log >&2; exit $status; }}"
    );
    let unshare = ["--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", &script];
    let output = Command::new("unshare").args(unshare).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[test]
fn between_two_nics() {
    if !is_root() {
        return;
    }
    let _turn = Turn::alone();
    let dir = tempfile::tempdir().unwrap();
    let devices = "--device net_af_packet0,iface=perf0 --device net_af_packet1,iface=perf1";
    let traffic = "--size 300 --flows 50 --direction both --rate 5000 --duration 0.5 --window 256 --sample 1 --json";
    let judged = "--window 256 --rate 5k --duration 300ms --interval 100ms --json";
    let runs = [format!("eth {devices} {traffic}"), format!("soak --link eth {devices} {judged}")];
    let [report, verdict] = &dray_perf(dir.path(), &runs)[..] else { panic!("not two reports") };
    assert_eq!((&report["link"], &report["size"]), (&"eth".into(), &300.into()), "{report}");
    for direction in ["a_to_b", "b_to_a"] {
        let count = |what: &str| report[direction][what].as_u64().unwrap();
        let sent = count("sent");
        assert!(sent > 500 && sent <= 2600, "{report}");
        assert_eq!((count("received"), count("sampled") - count("foreign")), (sent, sent), "{report}");
        assert_eq!((count("lost"), count("reordered"), count("duplicated")), (0, 0, 0), "{report}");
        let bytes =
            report[direction]["gbps"].as_f64().unwrap() / report[direction]["mpps"].as_f64().unwrap() * 1000.0 / 8.0;
        assert!((bytes - 300.0).abs() < 1e-6, "{report}");
    }
    assert_eq!((&verdict["passed"], &verdict["lost"]), (&true.into(), &0.into()), "{verdict}");
    assert!(verdict["sent"].as_u64().unwrap() > 300, "{verdict}");
}
