//! Replies as text for people.

use crate::table::{Table, duration, thousands};
use dray_api::{
    AnyRequest, AttachRequest, Attached, BridgeInfo, BridgeRequest, ConfigRequest, ConfigSaved, ConnectInfo, DropInfo,
    DropRequest, ExposeRequest, FdbEntry, FdbRequest, LogRequest, PortBridge, PortInfo, PortRequest, RingInfo, Status,
    StatusRequest, VtepInfo, VtepRequest, WorkerInfo, WorkerRequest,
};
use dray_client::{Answer, Error};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The answer for people.
pub fn people(request: &AnyRequest, answer: &Answer) -> Result<String, Error> {
    Ok(match request {
        AnyRequest::Status(StatusRequest::Show(show)) => status(&answer.of(show)?),
        AnyRequest::Port(PortRequest::Show(show)) => match (answer.of(show)?, &show.name) {
            (shown, _) if show.connect => connects(&shown.connects()),
            (shown, Some(name)) if !name.contains(['*', '?']) => shown.ports().iter().map(port).collect(),
            (shown, _) => ports(&shown.ports()),
        },
        AnyRequest::Attach(AttachRequest::Attach(attach)) => attached(&answer.of(attach)?, &attach.container),
        AnyRequest::Expose(ExposeRequest::Expose(expose)) => attached(&answer.of(expose)?, "this host"),
        AnyRequest::Bridge(BridgeRequest::Show(show)) => bridges(&answer.of(show)?),
        AnyRequest::Fdb(FdbRequest::Show(show)) => fdb(&answer.of(show)?),
        AnyRequest::Fdb(FdbRequest::Flush(flush)) => {
            format!("{} entries forgotten\n", thousands(answer.of(flush)?.entries))
        }
        AnyRequest::Log(LogRequest::Show(show)) => answer.of(show)?.level + "\n",
        AnyRequest::Vtep(VtepRequest::Show(show)) => vteps(&answer.of(show)?),
        AnyRequest::Worker(WorkerRequest::Show(show)) => workers(&answer.of(show)?),
        AnyRequest::Drop(DropRequest::Show(show)) => drops(&answer.of(show)?),
        AnyRequest::Config(ConfigRequest::Show(show)) => answer.of(show)?.text,
        AnyRequest::Config(ConfigRequest::Save(save)) => saved_text(&answer.of(save)?),
        _ => anything(&answer.value()?),
    })
}

/// What there is now, and where.
fn attached(attached: &Attached, place: &str) -> String {
    match attached {
        Attached { waits: Some(why), port, .. } => format!("port {port}: {why}\n"),
        // It was taken away.
        Attached { port, changes, .. } if port.is_empty() => {
            changes.iter().map(|change| format!("{change}\n")).collect()
        }
        Attached { port, ifname, .. } => format!("{ifname} in {place}: port {port}\n"),
    }
}

/// Any reply: what was changed, line by line; a list of objects as a table; an object as pairs.
fn anything(reply: &Value) -> String {
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), thousands),
        other => other.to_string(),
    };
    if let Some(changes) = reply.get("changes").and_then(Value::as_array) {
        return changes.iter().map(|change| cell(change) + "\n").collect();
    }
    match reply {
        Value::Object(fields) => {
            let lines: Vec<(&str, String)> = fields.iter().map(|(key, value)| (key.as_str(), cell(value))).collect();
            pairs(&lines)
        }
        Value::Array(rows) => {
            let keys: BTreeSet<&str> =
                rows.iter().filter_map(Value::as_object).flatten().map(|(key, _)| key.as_str()).collect();
            let headings: Vec<String> = keys.iter().map(|key| key.to_uppercase().replace('_', " ")).collect();
            let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
            rows.iter().for_each(|row| table.row(keys.iter().map(|key| cell(&row[*key]))));
            table.render()
        }
        other => cell(other) + "\n",
    }
}

/// Where the configuration went.
pub fn saved_text(saved: &ConfigSaved) -> String {
    format!("saved to {}\n", saved.file.display())
}

fn status(s: &Status) -> String {
    let stranger = s.stranger.as_ref().map_or_else(String::new, |why| format!(", last on {why}"));
    let lines = [
        ("drayd", format!("{}, process {}, up {}", s.version, s.pid, duration(s.uptime_seconds))),
        ("generation", s.generation.to_string()),
        ("workers", workers_line(s)),
        ("ports", format!("{}, {} up", s.ports, s.ports_up)),
        ("bridges", s.bridges.to_string()),
        ("strangers", format!("{} refused{stranger}", thousands(s.strangers))),
        ("vteps", s.vteps.to_string()),
        ("fdb", format!("{} of {} MACs", thousands(s.fdb_used), thousands(s.fdb_size))),
        ("received", thousands(s.received)),
        ("sent", thousands(s.sent)),
        ("dropped", thousands(s.dropped)),
        ("flood copies", thousands(s.flood_copies)),
        ("segments", thousands(s.segments)),
        ("originated", thousands(s.originated)),
        ("consumed", thousands(s.consumed)),
    ];
    pairs(&lines)
}

fn workers_line(s: &Status) -> String {
    let silent = s.silent_workers.iter().map(|w| format!("\n{}", silence(w.cpu, w.seconds, w.waiting)));
    format!("{}{}", s.workers, silent.collect::<String>())
}

/// That a worker does not run.
fn silence(cpu: usize, seconds: f64, waiting: usize) -> String {
    let changes = match waiting {
        0 => String::new(),
        1 => "; a change waits for it".into(),
        n => format!("; {n} changes wait for it"),
    };
    format!("the one on CPU {cpu} has not run for {seconds:.0} s: another process has its CPU{changes}")
}

fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    lines.iter().map(|(key, value)| format!("{key:<width$}  {}\n", value.replace('\n', &indent))).collect()
}

/// Names with commas between them, on lines of 80 characters or so.
fn wrapped(names: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (i, name) in names.iter().map(AsRef::as_ref).enumerate() {
        let separator = match column + name.len() {
            _ if i == 0 => "",
            0..80 => ", ",
            _ => ",\n",
        };
        column = if separator == ",\n" { 0 } else { column + separator.len() } + name.len();
        text += separator;
        text += name;
    }
    if text.is_empty() { "none".into() } else { text }
}

fn ports(ports: &[PortInfo]) -> String {
    let columns =
        ["NAME", "KIND", "LINK", "BRIDGES", "RX PACKETS", "RX BYTES", "TX PACKETS", "TX BYTES", "DROPS", "MACS"];
    let container = |p: &PortInfo| p.detail.tap().and_then(|tap| tap.container.clone());
    let has_containers = ports.iter().any(|p| container(p).is_some());
    let has_descriptions = ports.iter().any(|p| p.description.is_some());
    let more = [("CONTAINER", has_containers), ("DESCRIPTION", has_descriptions)];
    let columns = columns.into_iter().chain(more.into_iter().filter(|(_, has)| *has).map(|(column, _)| column));
    let mut table = Table::new(&columns.collect::<Vec<_>>());
    for p in ports {
        let counts =
            [p.rx_packets, p.rx_bytes, p.tx_packets, p.tx_bytes, p.drops.values().sum(), p.macs].map(thousands);
        let link = if p.admin == "down" { "admin down" } else { &p.link }.to_owned();
        let container = has_containers.then(|| container(p).unwrap_or_default());
        let description = has_descriptions.then(|| p.description.clone().unwrap_or_default());
        let row = [p.name.clone(), p.kind.clone(), link, memberships(p)].into_iter().chain(counts);
        table.row(row.chain(container).chain(description));
    }
    table.render()
}

/// `blue, red:10`, or that it is the underlay.
fn memberships(port: &PortInfo) -> String {
    if port.underlay {
        return "(underlay)".into();
    }
    let text = |b: &PortBridge| match b.vlan {
        Some(vlan) => format!("{}:{vlan}", b.bridge),
        None => b.bridge.clone(),
    };
    match port.bridges.len() {
        0..=3 => port.bridges.iter().map(text).collect::<Vec<_>>().join(", "),
        n => format!("{} and {} more", text(&port.bridges[0]), n - 1),
    }
}

fn port(p: &PortInfo) -> String {
    let link = p.reason.as_ref().map_or(p.link.clone(), |reason| format!("{}: {reason}", p.link));
    let refusal = p.refusal.as_ref().map_or_else(String::new, |reason| format!(", last: {reason}"));
    let secrets = match p.wrong_secrets {
        0 => String::new(),
        n => format!(", {} for a wrong secret", thousands(n)),
    };
    let bridges = memberships(p);
    let mut lines = vec![
        ("port", p.name.clone()),
        ("kind", p.kind.clone()),
        ("admin", p.admin.clone()),
        ("link", link),
        ("refused", format!("{} peers{secrets}{refusal}", thousands(p.refused))),
        ("bridges", if bridges.is_empty() { "none".into() } else { bridges }),
        ("mac", p.mac.to_string()),
        ("mtu", p.mtu.to_string()),
        ("queues", p.queues.to_string()),
        ("received", format!("{} packets, {} bytes", thousands(p.rx_packets), thousands(p.rx_bytes))),
        ("sent", format!("{} packets, {} bytes", thousands(p.tx_packets), thousands(p.tx_bytes))),
        ("flood copies", thousands(p.flood_copies)),
        ("segments", thousands(p.segments)),
        ("switched", thousands(p.switched)),
        ("consumed", thousands(p.consumed)),
        ("originated", thousands(p.originated)),
        ("macs", format!("{} of {}", thousands(p.macs), thousands(p.max_macs))),
        ("not learned", thousands(p.not_learned)),
        ("over max-macs", thousands(p.over_max_macs)),
    ];
    if !p.allowed_addresses.is_empty() {
        lines.insert(7, ("allowed addresses", wrapped(&p.allowed_addresses)));
    }
    if let Some(owner) = &p.owner {
        lines.insert(1, ("owner", owner.clone()));
    }
    if let Some(description) = &p.description {
        lines.insert(1, ("description", description.clone()));
    }
    // Counts by name and by reason.
    let mut counted: Vec<(String, String)> =
        p.counters.iter().map(|(name, n)| (name.replace('_', " "), thousands(*n))).collect();
    // Whatever a kind has is shown by its name.
    let detail = serde_json::to_value(&p.detail).unwrap_or_default();
    for (key, value) in detail.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), thousands),
            Value::Null => "unknown".into(),
            // They have a table of their own.
            Value::Array(_) if key == "rings" => continue,
            Value::Array(names) => wrapped(&names.iter().filter_map(Value::as_str).collect::<Vec<_>>()),
            Value::Object(faults) => {
                let count = |n: &Value| n.as_u64().map_or_else(|| n.to_string(), thousands);
                counted.extend(faults.iter().map(|(reason, n)| (format!("reset {reason}"), count(n))));
                continue;
            }
            Value::Bool(is) => is.to_string(),
        };
        lines.push((key, text));
    }
    counted.extend(p.drops.iter().map(|(reason, n)| (format!("drop {reason}"), thousands(*n))));
    counted.extend(p.warnings.iter().map(|warning| ("warning".into(), warning.clone())));
    lines.extend(counted.iter().map(|(key, n)| (key.as_str(), n.clone())));
    let rings = p.detail.vhost_user().map_or(&[][..], |detail| &detail.rings);
    let rings = if rings.is_empty() { String::new() } else { format!("\n{}", rings_table(rings)) };
    pairs(&lines) + &rings + "\n"
}

/// The rings of a vhost-user port.
fn rings_table(rings: &[RingInfo]) -> String {
    let mut table = Table::new(&["RING", "DIRECTION", "LAYOUT", "SIZE", "STATE", "KICKS", "INTERRUPTS"]);
    for ring in rings {
        let state = match (ring.started, ring.enabled) {
            (true, true) => "enabled",
            (true, false) => "disabled",
            (false, _) => "stopped",
        };
        table.row([
            ring.index.to_string(),
            if ring.index.is_multiple_of(2) { "to VM" } else { "from VM" }.into(),
            if ring.packed { "packed" } else { "split" }.into(),
            thousands(ring.size.into()),
            state.into(),
            thousands(ring.kicks),
            thousands(ring.interrupts),
        ]);
    }
    table.render()
}

fn connects(infos: &[ConnectInfo]) -> String {
    let heading = |info: &ConnectInfo| match &info.note {
        Some(note) => format!("# {} ({note})", info.program),
        None => format!("# {}", info.program),
    };
    infos.iter().map(|info| format!("{}\n{}\n\n", heading(info), info.text)).collect()
}

fn bridges(bridges: &[BridgeInfo]) -> String {
    let columns = ["NAME", "VNI", "MTU", "MACS", "FLOODS TO", "MEMBERS", "DESCRIPTION"];
    let has_descriptions = bridges.iter().any(|b| b.description.is_some());
    let mut table = Table::new(&columns[..columns.len() - usize::from(!has_descriptions)]);
    for b in bridges {
        let members: Vec<String> = b.members.iter().map(|member| member.to_string()).collect();
        let vni = b.vni.map(|vni| vni.to_string()).unwrap_or_default();
        let mtu = b.mtu.map(|mtu| mtu.to_string()).unwrap_or_default();
        let description = has_descriptions.then(|| b.description.clone().unwrap_or_default());
        let row = [b.name.clone(), vni, mtu, thousands(b.macs), b.flood_targets.to_string(), members.join(", ")];
        table.row(row.into_iter().chain(description));
    }
    table.render()
}

fn fdb(entries: &[FdbEntry]) -> String {
    let columns = ["BRIDGE", "MAC", "PORT", "VLAN", "VTEP", "AGE", "OWNER"];
    let has_owners = entries.iter().any(|e| e.owner.is_some());
    let mut table = Table::new(&columns[..columns.len() - usize::from(!has_owners)]);
    for e in entries {
        let row = [
            e.bridge.clone(),
            e.mac.to_string(),
            e.port.clone().unwrap_or_default(),
            e.vlan.map(|vlan| vlan.to_string()).unwrap_or_default(),
            e.vtep.map(|vtep| vtep.to_string()).unwrap_or_default(),
            if e.is_static { "static".into() } else { duration(e.age_seconds) },
        ];
        table.row(row.into_iter().chain(has_owners.then(|| e.owner.clone().unwrap_or_default())));
    }
    table.render()
}

fn vteps(vteps: &[VtepInfo]) -> String {
    let columns = ["VTEP", "NEXT HOP", "MAC", "STATE", "ORIGIN", "OWNERS"];
    let has_owners = vteps.iter().any(|v| !v.owners.is_empty());
    let mut table = Table::new(&columns[..columns.len() - usize::from(!has_owners)]);
    for v in vteps {
        let row = [
            v.address.to_string(),
            v.next_hop.map(|hop| hop.to_string()).unwrap_or_default(),
            v.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            v.state.clone(),
            if v.learned { "learned" } else { "configured" }.into(),
        ];
        table.row(row.into_iter().chain(has_owners.then(|| v.owners.join(", "))));
    }
    table.render()
}

fn workers(workers: &[WorkerInfo]) -> String {
    let decimal = |value: f64| format!("{value:.1}");
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let columns = ["CPU", "BUSY", "IDLE", "PACKETS", "BURST", "POLLS", "TICKS/PACKET", "NS/PACKET", "QUEUES"];
    let mut table = Table::new(&columns);
    let mut queues = Table::new(&["CPU", "PORT", "QUEUE", "PACKETS", "SHARE OF CPU"]);
    let mut stages = Table::new(&["CPU", "STAGE", "TICKS/PACKET", "NS/PACKET", "PACKETS/BURST", "SHARE"]);
    for w in workers {
        table.row([
            w.cpu.to_string(),
            percent(w.busy),
            percent(w.idle),
            thousands(w.packets),
            decimal(w.burst),
            thousands(w.polls),
            w.ticks_per_packet.map(decimal).unwrap_or_default(),
            w.ns_per_packet.map(decimal).unwrap_or_default(),
            w.queues.join(", "),
        ]);
        for q in &w.loads {
            let (cpu, queue) = (w.cpu.to_string(), q.queue.to_string());
            queues.row([cpu, q.port.clone(), queue, thousands(q.packets), percent(q.share)]);
        }
        for s in &w.stages {
            stages.row([
                w.cpu.to_string(),
                s.stage.clone(),
                decimal(s.ticks_per_packet),
                decimal(s.ns_per_packet),
                decimal(s.packets_per_burst),
                percent(s.share),
            ]);
        }
    }
    let mut text = table.render();
    for w in workers {
        if let Some(seconds) = w.silent_seconds {
            text = format!("{text}\nworkers: {}\n", silence(w.cpu, seconds, w.waiting));
        }
    }
    for (table, is_empty) in
        [(queues, workers.iter().all(|w| w.loads.is_empty())), (stages, workers.iter().all(|w| w.stages.is_empty()))]
    {
        if !is_empty {
            text = text + "\n" + &table.render();
        }
    }
    text
}

fn drops(drops: &[DropInfo]) -> String {
    let mut table = Table::new(&["PORT", "DROP", "COUNT", "WHAT HAPPENED"]);
    for d in drops {
        table.row([d.port.clone(), d.name.clone(), thousands(d.count), d.description.clone()]);
    }
    let mut text = table.render();
    let reasons: BTreeMap<_, _> = drops.iter().map(|d| (&d.name, d)).collect();
    for (name, d) in reasons {
        text += &format!("\n{name}\n  usual cause: {}\n  what to do:  {}\n", d.cause, d.remedy);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Line, Task, parse};

    fn request(words: &str) -> AnyRequest {
        match parse(words.split(' ')) {
            Ok(Line { task: Task::Request(request), .. }) => request,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn answers_become_text() {
        let text = |line: &str, answer: &str| match people(
            &request(line),
            &Answer::from(format!("{{\"result\":{answer}}}").into_bytes()),
        ) {
            Ok(text) => text,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(
            text(
                "dray port show",
                r#"[{"name":"web","kind":"memif","link":"up","rx_packets":1234,"drops":{"a":1,"b":2},"macs":7}]"#
            ),
            "NAME  KIND   LINK  BRIDGES  RX PACKETS  RX BYTES  TX PACKETS  TX BYTES  DROPS  MACS\n\
             web   memif  up          -       1,234         0           0         0      3     7\n"
        );
        assert_eq!(text("dray fdb flush", r#"{"entries":1000}"#), "1,000 entries forgotten\n");
        let vm = r#"[{"name":"vm","kind":"vhost-user","link":"up","queues":1,"drops":{"tx.full":7},"detail":{
            "socket":"/vm.sock","role":"client","connected":true,"device_status":15,"guest_mtu":null,"regions":1,
            "bytes":4096,"sealed":true,"logging":false,"faults":{"bad_descriptor":1},"protocol_features":[],
            "layout":"packed","ring_size":1024,
            "features":["VIRTIO_F_VERSION_1","VIRTIO_NET_F_MRG_RXBUF","VIRTIO_NET_F_CSUM","VIRTIO_NET_F_MQ","VIRTIO_F_IN_ORDER"],
            "rings":[
                {"index":0,"size":256,"packed":true,"started":true,"enabled":true,"kicks":0,"interrupts":1234},
                {"index":1,"size":1024,"packed":true,"started":true,"enabled":false,"kicks":5,"interrupts":0}]}}]"#;
        let shown = text("dray port show vm", vm);
        let (_, detail) = shown.split_once("over max-macs         0\n").unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(
            detail,
            "bytes                 4,096\n\
             connected             true\n\
             device_status         15\n\
             features              VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_MQ,\n\
             \x20                     VIRTIO_F_IN_ORDER\n\
             guest_mtu             unknown\n\
             layout                packed\n\
             logging               false\n\
             protocol_features     none\n\
             regions               1\n\
             ring_size             1,024\n\
             role                  client\n\
             sealed                true\n\
             socket                /vm.sock\n\
             reset bad_descriptor  1\n\
             drop tx.full          7\n\
             \n\
             RING  DIRECTION  LAYOUT   SIZE  STATE     KICKS  INTERRUPTS\n   \
             0  to VM      packed    256  enabled       0       1,234\n   \
             1  from VM    packed  1,024  disabled      5           0\n\n"
        );
        // Of a kind that a newer drayd has.
        let tap = r#"[{"name":"t","kind":"new","link":"up","detail":{"device":"tap0","netns":"web"}}]"#;
        let shown = text("dray port show t", tap);
        assert!(shown.contains("\ndevice         tap0\nnetns          web\n"), "{shown}");
        assert_eq!(text("dray bridge del b", r#"{"changes":["- bridge b"]}"#), "- bridge b\n");
        assert_eq!(text("dray config show", r#"{"text":"a = 1\n"}"#), "a = 1\n");
        let entry = r#"[{"bridge":"b","mac":"02:00:00:00:00:01","vtep":"10.9.0.2","age_seconds":0,"static":true}]"#;
        assert_eq!(
            text("dray fdb show", entry),
            "BRIDGE  MAC                PORT  VLAN  VTEP      AGE\n\
             b       02:00:00:00:00:01     -     -  10.9.0.2  static\n"
        );
    }

    #[test]
    fn any_reply_becomes_text() {
        let text = |reply: &str| anything(&serde_json::from_str(reply).unwrap());
        assert_eq!(text(r#"{"changes":["- bridge b","+ port a"]}"#), "- bridge b\n+ port a\n");
        assert_eq!(text(r#"{"level":"info","lines_dropped":1234}"#), "level          info\nlines_dropped  1,234\n");
        assert_eq!(text(r#"[{"name":"a"},{"name":"b","rx":7}]"#), "NAME  RX\na      -\nb      7\n");
    }
}
