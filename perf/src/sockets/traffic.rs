//! iperf3 and ping, and what they say.

use super::Measure;
use super::hosts::Pair;
use crate::cpu;
use crate::peer::run;
use crate::stats::median;
use serde_json::Value;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Payload of a datagram, bytes: with its headers it is the shortest Ethernet frame.
const DATAGRAM: &str = "18";
/// Pings of a measurement.
const PINGS: &str = "500";

/// What a measurement gave.
pub(super) struct Run {
    /// In the measure's unit.
    pub(super) figure: f64,
    /// How much of the switch's CPU softirqs had, percent.
    pub(super) softirq: f64,
}

/// iperf3's server. It ends with the first client, or when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the server in the second namespace.
fn serve(pair: &Pair) -> Result<Server, String> {
    let mut command = pair.second.command("iperf3");
    command.args(["--server", "--one-off"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Server(command.spawn().map_err(|e| format!("start iperf3: {e}"))?);
    let end = Instant::now() + Duration::from_secs(10);
    while run(pair.second.command("ss").args(["-Hltn", "sport = :5201"])).is_ok_and(|text| text.is_empty()) {
        if let Ok(Some(status)) = server.0.try_wait() {
            return Err(format!("iperf3's server has ended: {status}"));
        }
        if Instant::now() > end {
            return Err("iperf3's server does not listen".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// Measures.
pub(super) fn measure(pair: &Pair, measure: &Measure, duration: u16, cpu: usize) -> Result<Run, String> {
    let mut times = None;
    let mut timed = |command: &mut Command| -> Result<String, String> {
        let before = softirq(cpu);
        let text = run(command)?;
        times = Some((before, softirq(cpu)));
        Ok(text)
    };
    let figure = match measure {
        Measure::Ping => {
            let text = timed(pair.first.command("ping").args(["-c", PINGS, "-i", "0.002", pair.address]))?;
            let times: Vec<f64> = text.lines().filter_map(round_trip).collect();
            if times.is_empty() {
                return Err("no ping was answered".into());
            }
            median(&times) * 1e3
        }
        _ => {
            let _server = serve(pair)?;
            let mut command = pair.first.command("iperf3");
            command.args([
                "--json",
                "--connect-timeout",
                "5000",
                "--client",
                pair.address,
                "--time",
                &duration.to_string(),
            ]);
            match measure {
                Measure::Tcp(congestion) => command.args(["--congestion", congestion]),
                Measure::TcpBack(congestion) => command.args(["--reverse", "--congestion", congestion]),
                _ => command.args(["--udp", "--bitrate", "0", "--length", DATAGRAM]),
            };
            let text = timed(&mut command)?;
            let json: Value = serde_json::from_str(&text).map_err(|e| format!("iperf3: {e}"))?;
            received(&json, *measure == Measure::Udp)?
        }
    };
    let softirq = times.map_or(0.0, |(before, after): ([u64; 2], [u64; 2])| {
        let [softirq, all] = [0, 1].map(|i| after[i].saturating_sub(before[i]) as f64);
        100.0 * softirq / all.max(1.0)
    });
    Ok(Run { figure, softirq })
}

/// What arrived, by iperf3's report: Gbit/s, of datagrams million a second.
fn received(json: &Value, datagrams: bool) -> Result<f64, String> {
    let number = |path: &str| json.pointer(path).and_then(Value::as_f64);
    let figure = if datagrams {
        let sum = ["packets", "lost_packets", "seconds"].map(|what| number(&format!("/end/sum/{what}")));
        if let [Some(packets), Some(lost), Some(seconds)] = sum { Some((packets - lost) / seconds / 1e6) } else { None }
    } else {
        number("/end/sum_received/bits_per_second").map(|bits| bits / 1e9)
    };
    figure.filter(|figure| *figure > 0.0).ok_or_else(|| format!("iperf3 has no figure: {}", json["error"]))
}

/// Milliseconds, from a line of ping.
fn round_trip(line: &str) -> Option<f64> {
    line.split_once("time=")?.1.split_whitespace().next()?.parse().ok()
}

/// Ticks that `cpu` was in softirqs, and all of its ticks.
fn softirq(cpu: usize) -> [u64; 2] {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{cpu} ");
    let ticks: Vec<u64> = text
        .lines()
        .find_map(|line| line.strip_prefix(&name))
        .map(|line| line.split_whitespace().filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in these already.
    [ticks.get(6).copied().unwrap_or(0), ticks.iter().take(8).sum()]
}

/// This host's congestion control.
pub(super) fn congestion() -> Result<String, String> {
    let file = "/proc/sys/net/ipv4/tcp_congestion_control";
    fs::read_to_string(file).map(|text| text.trim().into()).map_err(|e| format!("{file}: {e}"))
}

/// The CPU's name and how many this process may use, and the kernel's release.
pub(super) fn machine() -> (String, String) {
    let cpu = format!("{}, {} CPUs", cpu::model(), dray_config::allowed_cpus().len());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    (cpu, kernel.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_are_read() {
        let tcp = json!({"end": {"sum_received": {"bits_per_second": 8.5e9}}});
        assert_eq!(received(&tcp, false), Ok(8.5));
        let udp = json!({"end": {"sum": {"packets": 3_000_000, "lost_packets": 1_000_000, "seconds": 2.0}}});
        assert_eq!(received(&udp, true), Ok(1.0));
        let failed = json!({"end": {}, "error": "unable to connect"});
        assert!(received(&failed, false).unwrap_err().contains("unable to connect"));
        assert_eq!(round_trip("64 bytes from 10.32.0.2: icmp_seq=1 ttl=64 time=0.024 ms"), Some(0.024));
        assert_eq!(round_trip("PING 10.32.0.2"), None);
    }
}
