//! OpenMetrics over HTTP: one thread, one request at a time.

use crate::ports::{METRICS, Sample};
use crate::switch::Switch;
use crossbeam_channel::{Receiver, Sender, bounded};
use dray_dataplane::WorkerStats;
use dray_switch::clock::{Stage, StageTime};
use dray_switch::{Count, Drop};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long a client has for its request, and for taking the answer.
const TIME: Duration = Duration::from_secs(2);
/// Bytes of a request that are read. Its first line is all that matters.
const MAX_REQUEST: usize = 8192;

/// Listens on `address`. The receiver gets a place for the text whenever somebody asks.
///
/// # Errors
/// If the address can't be listened on, or there is no thread.
pub fn serve(address: SocketAddr) -> io::Result<Receiver<Sender<String>>> {
    let listener = TcpListener::bind(address)?;
    let (asks, receiver) = bounded(1);
    thread::Builder::new().name("metrics".into()).spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => drop(answer(stream, &asks)),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    })?;
    Ok(receiver)
}

fn answer(mut stream: TcpStream, asks: &Sender<Sender<String>>) -> io::Result<()> {
    stream.set_write_timeout(Some(TIME))?;
    let deadline = Instant::now() + TIME;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            n => request.extend_from_slice(&chunk[..n]),
        }
    }
    let is_metrics = request.starts_with(b"GET /metrics ") || request.starts_with(b"GET /metrics?");
    let (status, kind, text) = if !is_metrics {
        ("404 Not Found", "text/plain", "GET /metrics\n".into())
    } else {
        let (place, text) = bounded(1);
        let text = asks.send_timeout(place, TIME).ok().and_then(|()| text.recv_timeout(TIME).ok());
        match text {
            Some(text) => ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            None => ("503 Service Unavailable", "text/plain", "drayd is busy\n".into()),
        }
    };
    let length = text.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())
}

/// All metrics of `switch` (OpenMetrics 1.0).
pub fn render(switch: &Switch) -> String {
    let mut text = String::new();
    let names: Vec<&str> = switch.config.ports.iter().map(|port| port.name.as_str()).collect();
    let counts: Vec<_> = names.iter().map(|name| switch.dataplane.port_counts(name).unwrap_or_default()).collect();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {help}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        }
    };
    let port = |name: &str| format!("{{port=\"{name}\"}}");

    type Value = fn(&dray_dataplane::PortCounts) -> u64;
    let families: [(&str, &str, Value); 9] = [
        ("dray_port_received_packets", "Frames received.", |c| c.rx_packets),
        ("dray_port_received_bytes", "Bytes received, without FCS.", |c| c.rx_bytes),
        ("dray_port_sent_packets", "Frames sent.", |c| c.tx_packets),
        ("dray_port_sent_bytes", "Bytes sent, without FCS.", |c| c.tx_bytes),
        ("dray_port_flood_copies", "Frames that flooding added to those received here.", |c| c.copies),
        ("dray_port_segments", "Frames that segmentation added to those that were to be sent.", |c| c.segments),
        ("dray_port_switched_packets", "Frames received here, copies included, handed to other ports.", |c| c.switched),
        ("dray_port_punted_packets", "Frames received here that were for the switch itself.", |c| c.punted),
        ("dray_port_originated_packets", "Frames that the switch itself sent.", |c| c.injected),
    ];
    for (name, help, count) in families {
        let samples: Vec<_> = names.iter().zip(&counts).map(|(name, c)| (port(name), count(c) as f64)).collect();
        family(name, "counter", help, &samples);
    }
    for &of in Count::ALL {
        let samples: Vec<_> = names.iter().zip(&counts).map(|(name, c)| (port(name), c.count(of) as f64)).collect();
        family(&format!("dray_port_{}_packets", of.name()), "counter", of.description(), &samples);
    }
    let mut dropped = Vec::new();
    for (name, counts) in names.iter().zip(&counts) {
        for &reason in Drop::ALL {
            let n = counts.drops[reason.index()];
            if n != 0 {
                dropped.push((format!("{{port=\"{name}\",reason=\"{}\"}}", reason.name()), n as f64));
            }
        }
    }
    family("dray_port_dropped_packets", "counter", "Frames dropped, by reason.", &dropped);
    let mut own: HashMap<&str, Vec<(String, f64)>> = HashMap::new();
    for name in &names {
        for Sample { metric, label: (label, of), value } in switch.ports.metrics(name) {
            let labels = format!("{{port=\"{name}\",{label}=\"{of}\"}}");
            own.entry(metric.name).or_default().push((labels, value as f64));
        }
    }
    for metric in METRICS {
        family(metric.name, "counter", metric.help, &own.remove(metric.name).unwrap_or_default());
    }
    let samples: Vec<_> = names
        .iter()
        .filter_map(|name| Some((port(name), switch.ports.refused(name)?.count as f64)))
        .chain(switch.ports.strangers().iter().map(|(socket, refused)| {
            let socket = socket.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            (format!("{{socket=\"{socket}\"}}"), refused.count as f64)
        }))
        .collect();
    let help = "Peers refused, by port, or by socket where it is not known which port they wanted.";
    family("dray_refused_peers", "counter", help, &samples);
    let samples: Vec<_> =
        names.iter().filter_map(|name| Some((port(name), switch.ports.refused(name)?.secrets as f64))).collect();
    family("dray_wrong_secrets", "counter", "Peers refused for a wrong secret, by port.", &samples);
    let up = |name: &&str| switch.ports.link(name).is_some_and(|link| link.is_up());
    let links: Vec<_> = names.iter().map(|name| (port(name), f64::from(u8::from(up(name))))).collect();
    family("dray_port_up", "gauge", "Whether the link is up.", &links);
    let admin = |name: &&str| switch.config.port(name).is_some_and(|port| port.admin_up);
    let states: Vec<_> = names.iter().map(|name| (port(name), f64::from(u8::from(admin(name))))).collect();
    family("dray_port_admin_up", "gauge", "Whether the port is administratively up.", &states);
    let gauge = |count: &dyn Fn(&&str) -> f64| names.iter().map(|name| (port(name), count(name))).collect::<Vec<_>>();
    let learned = gauge(&|name| switch.dataplane.fdb_learned(name) as f64);
    family(
        "dray_port_macs",
        "gauge",
        "MAC addresses learned behind the port; behind all VTEPs for the underlay.",
        &learned,
    );
    let limits = gauge(&|name| switch.config.port(name).map_or(0.0, |port| f64::from(port.max_macs)));
    family("dray_port_max_macs", "gauge", "How many may be learned there (max-macs).", &limits);
    let (used, size) = switch.dataplane.fdb_usage();
    family("dray_fdb_entries", "gauge", "MAC addresses in the FDB.", &[(String::new(), used as f64)]);
    family("dray_fdb_size", "gauge", "MAC addresses that the FDB can hold.", &[(String::new(), size as f64)]);
    let busy: Vec<_> = switch.recent.iter().map(|w| (format!("{{cpu=\"{}\"}}", w.cpu), w.busy())).collect();
    family("dray_worker_busy_ratio", "gauge", "Share of the last second spent on packets.", &busy);
    let workers = switch.dataplane.worker_stats();
    let ticks_per_second = switch.dataplane.ticks_per_ns() * 1e9;
    type Figure = fn(&WorkerStats, f64) -> f64;
    let families: [(&str, &str, Figure); 3] = [
        ("dray_worker_busy_seconds", "Time spent on packets.", |w, ticks_per_second| {
            w.busy_ticks as f64 / ticks_per_second
        }),
        ("dray_worker_bursts", "Bursts received.", |w, _| w.bursts as f64),
        ("dray_worker_packets", "Frames received.", |w, _| w.packets as f64),
    ];
    for (name, help, figure) in families {
        let sample = |w: &WorkerStats| (format!("{{cpu=\"{}\"}}", w.cpu), figure(w, ticks_per_second));
        family(name, "counter", help, &workers.iter().map(sample).collect::<Vec<_>>());
    }
    let silence =
        |w: &WorkerStats| (format!("{{cpu=\"{}\"}}", w.cpu), w.silence.map_or(0.0, |time| time.as_secs_f64()));
    let help = "Seconds for which a worker has not run, as another process has its CPU; 0 if it runs.";
    family("dray_worker_silent_seconds", "gauge", help, &workers.iter().map(silence).collect::<Vec<_>>());
    let waiting = |w: &WorkerStats| (format!("{{cpu=\"{}\"}}", w.cpu), w.unanswered as f64);
    let help = "Changes that a worker has yet to take up.";
    family("dray_worker_waiting_changes", "gauge", help, &workers.iter().map(waiting).collect::<Vec<_>>());
    type StageFigure = fn(&StageTime, f64) -> f64;
    let families: [(&str, &str, StageFigure); 3] = [
        ("dray_worker_stage_seconds", "Time spent in a stage, in the sampled bursts.", |time, ticks_per_second| {
            time.ticks as f64 / ticks_per_second
        }),
        ("dray_worker_stage_packets", "Frames that a stage had, in the sampled bursts.", |time, _| time.frames as f64),
        ("dray_worker_stage_bursts", "Sampled bursts in which a stage had frames.", |time, _| time.bursts as f64),
    ];
    for (name, help, figure) in families {
        let mut samples = Vec::new();
        for worker in &workers {
            for (stage, time) in Stage::ALL.iter().zip(&worker.stages) {
                let labels = format!("{{cpu=\"{}\",stage=\"{}\"}}", worker.cpu, stage.name());
                samples.push((labels, figure(time, ticks_per_second)));
            }
        }
        family(name, "counter", help, &samples);
    }
    let uptime = switch.started.elapsed().as_secs() as f64;
    family("dray_uptime_seconds", "gauge", "Seconds since drayd started.", &[(String::new(), uptime)]);
    text.push_str("# EOF\n");
    text
}
