//! Each request of the control socket, and its reply.

use crate::edit::{edit, is_done};
use crate::events::tell;
use crate::layers::{FILE, check_name};
use crate::ports::{Guest, Link, connect};
use crate::slowpath::SlowPath;
use crate::switch::Switch;
use crate::systemd;
use crate::warnings;
use dray_api::{
    AnyRequest, BAD_FILE, BridgeInfo, BridgeRequest, BridgeShow, ConfigApply, ConfigChange, ConfigDiff, ConfigFile,
    ConfigReload, ConfigRequest, ConfigSave, ConfigSaved, ConfigSet, ConfigShow, ConfigText, DropInfo, DropRequest,
    DropShow, ErrorCode, Event, FdbDel, FdbEntry, FdbFlush, FdbFlushed, FdbLoad, FdbRequest, FdbShow, LogInfo,
    LogRequest, LogShow, PortBridge, PortClear, PortInfo, PortRequest, PortShow, PortShown, QueueInfo, Request,
    RpcError, SilentWorker, StageInfo, Status, StatusShow, Terms, VERSION, VtepInfo, VtepRequest, VtepShow, WorkerInfo,
    WorkerRequest, WorkerShow,
};
use dray_config::{Action, Mtus, ValidConfig, load, parse, plan, render, save};
use dray_dataplane::{Place, PortCounts, QueueStats, WorkerStats};
use dray_switch::clock::{Stage, StageTime};
use dray_switch::{Count, Drop};
use std::collections::HashMap;
use tracing::{debug, info, warn};
use wildmatch::WildMatch;

/// A reply that is yet to be written as JSON: its size is the connection's business, not the control loop's.
pub type Written = Box<dyn FnOnce() -> serde_json::Result<String> + Send>;

/// A reply, or why there is none.
pub type Reply = Result<Written, RpcError>;

/// Whether it stands for several names: none has these characters.
fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// The reply to an `R`.
fn done<R: Request<Reply: Send + 'static>>(reply: R::Reply) -> Reply {
    Ok(Box::new(move || serde_json::to_string(&reply)))
}

fn refused(code: ErrorCode, why: impl Into<String>) -> RpcError {
    RpcError::refused(code, why)
}

impl Switch {
    /// Does what `request` says, and notes that `by` wants it.
    pub fn handle(&mut self, request: AnyRequest, terms: &Terms, by: &str) -> Reply {
        terms.owner.as_deref().map_or(Ok(()), check_name)?;
        if let Some(wanted) = terms.if_generation.filter(|wanted| *wanted != self.generation) {
            let why = format!("the configuration's generation is {}, not {wanted}: it has changed", self.generation);
            return Err(refused(ErrorCode::Conflict, why).at("generation"));
        }
        debug!(target: "control", "{} (by {by})", request.method());
        if matches!(
            request,
            AnyRequest::Status(_) | AnyRequest::Port(PortRequest::Show(_)) | AnyRequest::Drop(DropRequest::Show(_))
        ) {
            self.count_losses();
        }
        match request {
            AnyRequest::Status(_) => done::<StatusShow>(self.status()),
            AnyRequest::Port(PortRequest::Show(show)) => done::<PortShow>(self.port_show(show)?),
            AnyRequest::Port(PortRequest::Clear(PortClear { name })) => {
                let ports = self.port_pattern(name.as_deref().unwrap_or("*"))?;
                for port in self.config.ports.iter().filter(|port| ports.matches(&port.name)) {
                    self.cleared.insert(port.name.clone(), self.dataplane.port_counts(&port.name).unwrap_or_default());
                }
                done::<PortClear>(ConfigChange::default())
            }
            AnyRequest::Bridge(BridgeRequest::Show(BridgeShow { name })) => {
                done::<BridgeShow>(self.bridge_infos(name.as_deref())?)
            }
            AnyRequest::Fdb(FdbRequest::Show(show)) => self.fdb_show(show),
            AnyRequest::Fdb(FdbRequest::Flush(FdbFlush { bridge, port })) => {
                self.known_bridge(bridge.as_deref())?;
                self.known_port(port.as_deref())?;
                let entries = self.dataplane.fdb_flush(bridge.as_deref(), port.as_deref()) as u64;
                info!(target: "fdb", "{entries} entries flushed (by {by})");
                done::<FdbFlush>(FdbFlushed { entries })
            }
            AnyRequest::Fdb(FdbRequest::Load(FdbLoad { entries, delete })) => {
                done::<FdbLoad>(self.fdb_load(&entries.entries, delete, terms, by)?)
            }
            AnyRequest::Vtep(VtepRequest::Show(_)) => done::<VtepShow>(self.vtep_infos()),
            AnyRequest::Log(LogRequest::Show(_)) => done::<LogShow>(LogInfo { level: self.config.log.level.clone() }),
            AnyRequest::Worker(WorkerRequest::Show(WorkerShow { total })) => {
                done::<WorkerShow>(self.worker_infos(total))
            }
            AnyRequest::Drop(DropRequest::Show(_)) => done::<DropShow>(self.drop_infos()),
            AnyRequest::Config(ConfigRequest::Show(ConfigShow { secrets, owner })) => {
                done::<ConfigShow>(ConfigText { text: self.config_text(secrets, owner.as_deref()) })
            }
            AnyRequest::Config(ConfigRequest::Diff(ConfigDiff { file })) => {
                let new = match file {
                    Some(file) => read(&file)?,
                    None => load(&self.file).map_err(|why| RpcError::new(BAD_FILE, why))?.0,
                };
                let new = self.layers.over(new, &self.config)?;
                done::<ConfigDiff>(change(&plan(&self.config, &new)))
            }
            AnyRequest::Config(ConfigRequest::Apply(ConfigApply { file: Some(file) })) => {
                self.files(terms)?;
                let new = self.layers.over(read(&file)?, &self.config)?;
                let actions = self.apply(new, by).map_err(|why| why.error(why.in_file(&file.name, &file.text)))?;
                done::<ConfigApply>(change(&actions))
            }
            AnyRequest::Config(ConfigRequest::Apply(ConfigApply { file: None }) | ConfigRequest::Reload(_)) => {
                self.files(terms)?;
                let actions = self.reload(by)?;
                done::<ConfigReload>(change(&actions))
            }
            // Where else it may be written is the client's to decide, with the client's rights.
            AnyRequest::Config(ConfigRequest::Save(_)) => {
                let file = self.file.clone();
                save(&file, &render(&self.layers.of_file(&self.config)))
                    .map_err(|why| refused(ErrorCode::Failed, format!("{}: {why}", file.display())))?;
                let text = format!("saved to {}", file.display());
                info!(target: "config", "{text} (by {by})");
                tell(Event { text, by: Some(by.into()), ..Event::default() });
                done::<ConfigSave>(ConfigSaved { file })
            }
            AnyRequest::Port(_)
            | AnyRequest::Bridge(_)
            | AnyRequest::Fdb(_)
            | AnyRequest::Vtep(_)
            | AnyRequest::Log(_)
            | AnyRequest::Config(ConfigRequest::Set(_)) => done::<ConfigSet>(self.edit(&request, terms, by)?),
            // The connection sees to these.
            AnyRequest::Watch(_) | AnyRequest::Attach(_) | AnyRequest::Detach(_) | AnyRequest::Expose(_) => {
                Err(refused(ErrorCode::Failed, "the control loop does not do that"))
            }
        }
    }

    fn port_show(&self, show: PortShow) -> Result<PortShown, RpcError> {
        let PortShow { name, bridge, up, down, connect: is_connect, secrets } = show;
        if is_connect {
            let name = name.ok_or_else(|| refused(ErrorCode::Invalid, "connect needs the name of a port"))?;
            let port = self.config.port(&name).ok_or_else(|| self.no_port(&name))?;
            let port = if secrets { port.clone() } else { port.clone().without_secret() };
            let is_underlay = self.config.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == name);
            let mtu = self.mtus().guest(&port);
            let guest = Guest { port: &port, is_underlay, workers: self.dataplane.workers(), mtu };
            return Ok(PortShown::Connects(connect(&guest)));
        }
        let mut infos = self.port_infos(name.as_deref())?;
        if let Some(bridge) = bridge {
            let bridge = self.bridge_pattern(&bridge)?;
            infos.retain(|port| port.bridges.iter().any(|of| bridge.matches(&of.bridge)));
        }
        infos.retain(|port| !(up && port.link != "up" || down && port.link == "up"));
        Ok(PortShown::Ports(infos))
    }

    fn fdb_show(&self, show: FdbShow) -> Reply {
        let FdbShow { bridge, port, mac, vtep } = show;
        let only = bridge.clone().filter(|bridge| !is_pattern(bridge));
        let bridge = bridge.map(|bridge| self.bridge_pattern(&bridge)).transpose()?;
        let port = port.map(|port| self.port_pattern(&port)).transpose()?;
        let mac = mac.map(|mac| WildMatch::new(&mac.to_ascii_lowercase()));
        Ok(self.fdb_entries(only.as_deref(), move |entry| {
            bridge.as_ref().is_none_or(|bridge| bridge.matches(&entry.bridge))
                && port.as_ref().is_none_or(|port| entry.port.as_ref().is_some_and(|at| port.matches(at)))
                && mac.as_ref().is_none_or(|mac| mac.matches(&entry.mac.to_string()))
                && vtep.is_none_or(|vtep| entry.vtep == Some(vtep))
        }))
    }

    /// Applies the file that drayd was started with, and logs what became of it.
    ///
    /// # Errors
    /// [`BAD_FILE`] or [`REFUSED`](dray_api::REFUSED), and why; the old configuration runs on.
    pub fn reload(&mut self, by: &str) -> Result<Vec<Action>, RpcError> {
        systemd::reloading();
        let file = self.file.clone();
        let name = file.display().to_string();
        let result = load(&file)
            .map_err(|why| RpcError::new(BAD_FILE, why))
            .and_then(|(config, text)| Ok((self.layers.over(config, &self.config)?, text)))
            .and_then(|(config, text)| self.apply(config, by).map_err(|why| why.error(why.in_file(&name, &text))));
        match &result {
            Ok(actions) => info!(target: "config", "{name} read again, {} changes", actions.len()),
            Err(error) => warn!(target: "config", "{name} not applied:\n{error}"),
        }
        systemd::ready(&self.summary());
        result
    }

    /// Requests that change the running configuration.
    fn edit(&mut self, request: &AnyRequest, terms: &Terms, by: &str) -> Result<ConfigChange, RpcError> {
        if terms.ensure && is_done(&self.config, request) {
            self.layers.is_whose(request, terms.owner.as_deref())?;
            return Ok(ConfigChange::default());
        }
        let Some(actions) = edit(&mut self.config, request)? else {
            // The one request that may change nothing: an entry that was learned, not configured.
            if let AnyRequest::Fdb(FdbRequest::Del(FdbDel { bridge, mac })) = request
                && !self.dataplane.fdb_remove(bridge, *mac)
                && !terms.ensure
            {
                let why = format!("bridge {bridge:?} has no entry {mac}");
                return Err(refused(ErrorCode::NotFound, why).at(format!("bridge.{bridge}.{mac}")));
            }
            return Ok(ConfigChange::default());
        };
        let owner = terms.owner.as_deref();
        let belongings = self.layers.admit(owner, &actions, &self.config)?;
        self.change(&actions, by).map_err(|why| why.error(why.to_string()))?;
        let mut others = self.layers.note(belongings);
        others.extend(owner.filter(|_| !actions.is_empty()).map(str::to_owned));
        others.iter().try_for_each(|owner| self.layers.write(owner, &self.config))?;
        Ok(change(&actions))
    }

    /// Whether what is asked for, which is about the file, is on the file's terms.
    fn files(&self, terms: &Terms) -> Result<(), RpcError> {
        let is_files = terms.owner.is_none() && !terms.ensure;
        is_files.then_some(()).ok_or_else(|| refused(ErrorCode::Invalid, "a file has no owner, and nothing to ensure"))
    }

    fn no_port(&self, name: &str) -> RpcError {
        refused(ErrorCode::NotFound, format!("there is no port {name:?}")).at(format!("port.{name}"))
    }

    fn known_port(&self, name: Option<&str>) -> Result<(), RpcError> {
        match name.filter(|name| self.config.port(name).is_none()) {
            Some(name) => Err(self.no_port(name)),
            None => Ok(()),
        }
    }

    fn known_bridge(&self, name: Option<&str>) -> Result<(), RpcError> {
        match name.filter(|name| self.config.bridge(name).is_none()) {
            Some(name) => {
                let why = format!("there is no bridge {name:?}");
                Err(refused(ErrorCode::NotFound, why).at(format!("bridge.{name}")))
            }
            None => Ok(()),
        }
    }

    /// The ports that are meant: one that there is, or those that match.
    fn port_pattern(&self, pattern: &str) -> Result<WildMatch, RpcError> {
        self.known_port(Some(pattern).filter(|pattern| !is_pattern(pattern)))?;
        Ok(WildMatch::new(pattern))
    }

    fn bridge_pattern(&self, pattern: &str) -> Result<WildMatch, RpcError> {
        self.known_bridge(Some(pattern).filter(|pattern| !is_pattern(pattern)))?;
        Ok(WildMatch::new(pattern))
    }

    /// What a port has counted since its counters were cleared.
    fn counts(&self, port: &str) -> PortCounts {
        let counts = self.dataplane.port_counts(port).unwrap_or_default();
        self.cleared.get(port).map_or_else(|| counts.clone(), |before| counts.since(before))
    }

    /// The MTUs of the running configuration.
    fn mtus(&self) -> Mtus<'_> {
        self.config.mtus(|port| self.ports.mtu(port))
    }

    /// What there is of the switch, in a line.
    pub fn summary(&self) -> String {
        let Status { ports, ports_up, bridges, .. } = self.status();
        format!("{ports} ports, {ports_up} up, {bridges} bridges")
    }

    /// Reply to `status`.
    pub fn status(&self) -> Status {
        let total = self.dataplane.total();
        let (fdb_used, fdb_size) = self.dataplane.fdb_usage();
        let up = |port: &&dray_config::Port| self.ports.link(&port.name).is_some_and(Link::is_up);
        let strangers = self.ports.strangers();
        Status {
            strangers: strangers.values().map(|refused| refused.count).sum(),
            stranger: strangers
                .iter()
                .max_by_key(|(_, refused)| refused.last)
                .map(|(socket, refused)| format!("{socket}: {}", refused.reason)),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: VERSION,
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.generation,
            workers: self.dataplane.workers(),
            silent_workers: self.silent_workers(),
            ports: self.config.ports.len(),
            ports_up: self.config.ports.iter().filter(up).count(),
            bridges: self.config.bridges.len(),
            vteps: self.slowpath.as_ref().map_or(0, |slowpath| slowpath.vteps().len()),
            fdb_used: fdb_used as u64,
            fdb_size: fdb_size as u64,
            received: total.rx_packets,
            sent: total.tx_packets,
            dropped: total.drops.iter().sum(),
            flood_copies: total.copies,
            segments: total.segments,
            originated: total.injected,
            consumed: total.punted,
        }
    }

    fn silent_workers(&self) -> Vec<SilentWorker> {
        let silent = |worker: WorkerStats| {
            let seconds = worker.silence?.as_secs_f64();
            Some(SilentWorker { cpu: worker.cpu, seconds, waiting: worker.unanswered })
        };
        self.dataplane.worker_stats().into_iter().filter_map(silent).collect()
    }

    /// Reply to `port.show`.
    pub fn port_infos(&self, name: Option<&str>) -> Result<Vec<PortInfo>, RpcError> {
        let pattern = name.map(|name| self.port_pattern(name)).transpose()?;
        let mut bridges: HashMap<&str, Vec<PortBridge>> = HashMap::new();
        for bridge in &self.config.bridges {
            for member in &bridge.ports {
                let entry = PortBridge { bridge: bridge.name.clone(), vlan: member.vlan };
                bridges.entry(&member.port).or_default().push(entry);
            }
        }
        let mtus = self.mtus();
        let ports = self.config.ports.iter().filter(|port| pattern.as_ref().is_none_or(|of| of.matches(&port.name)));
        let info = |port: &dray_config::Port| {
            self.port_info(port, bridges.remove(port.name.as_str()).unwrap_or_default(), &mtus)
        };
        Ok(ports.map(info).collect())
    }

    fn port_info(&self, port: &dray_config::Port, bridges: Vec<PortBridge>, mtus: &Mtus<'_>) -> PortInfo {
        let counts = self.counts(&port.name);
        let link = self.ports.link(&port.name);
        let refused = self.ports.refused(&port.name);
        let mut info = PortInfo {
            name: port.name.clone(),
            kind: port.kind.name().into(),
            description: port.description.clone(),
            owner: self.layers.of_port(&port.name),
            admin: port.admin().into(),
            link: if link.is_some_and(Link::is_up) { "up" } else { "down" }.into(),
            reason: match link {
                Some(Link::Up(_)) => None,
                Some(Link::Down(reason)) => Some(reason.clone()),
                None => Some("it could not be opened again".into()),
            },
            refused: refused.map_or(0, |refused| refused.count),
            wrong_secrets: refused.map_or(0, |refused| refused.secrets),
            refusal: refused.map(|refused| refused.reason.clone()),
            rx_packets: counts.rx_packets,
            rx_bytes: counts.rx_bytes,
            tx_packets: counts.tx_packets,
            tx_bytes: counts.tx_bytes,
            drops: drops(&counts).map(|(drop, n)| (drop.name().to_owned(), n)).collect(),
            flood_copies: counts.copies,
            segments: counts.segments,
            switched: counts.switched,
            consumed: counts.punted,
            originated: counts.injected,
            not_learned: counts.count(Count::NotLearned),
            over_max_macs: counts.count(Count::OverMaxMacs),
            counters: Count::ALL
                .iter()
                // These are older than the map and have fields.
                .filter(|count| ![Count::NotLearned, Count::OverMaxMacs].contains(count))
                .map(|&count| (count.name().to_owned(), counts.count(count)))
                .collect(),
            macs: self.dataplane.fdb_learned(&port.name) as u64,
            max_macs: port.max_macs.into(),
            mac: port.mac,
            allowed_addresses: self.config.allowed(port).iter().map(ToString::to_string).collect(),
            mtu: port.mtu,
            bridges,
            underlay: self.config.is_underlay(&port.name),
            warnings: warnings::of_port(port, mtus, &self.config, &self.ports),
            ..PortInfo::default()
        };
        self.ports.describe(port, &mut info);
        info
    }

    fn bridge_infos(&self, name: Option<&str>) -> Result<Vec<BridgeInfo>, RpcError> {
        let pattern = name.map(|name| self.bridge_pattern(name)).transpose()?;
        let (macs, mtus) = (self.dataplane.fdb_macs(), self.mtus());
        let bridges =
            self.config.bridges.iter().filter(|bridge| pattern.as_ref().is_none_or(|of| of.matches(&bridge.name)));
        let info = |bridge: &dray_config::Bridge| {
            let all = self.config.vxlan.as_ref().map(|vxlan| &vxlan.peers);
            let peers = bridge.vni.and(bridge.peers.as_ref().or(all)).cloned().unwrap_or_default();
            BridgeInfo {
                name: bridge.name.clone(),
                description: bridge.description.clone(),
                owner: self.layers.of_bridge(&bridge.name),
                vni: bridge.vni,
                mtu: mtus.bridge(&bridge.name),
                members: bridge.ports.clone(),
                macs: macs.get(&bridge.name).copied().unwrap_or(0) as u64,
                flood_targets: bridge.ports.len() + peers.len(),
                peers,
            }
        };
        Ok(bridges.map(info).collect())
    }

    /// Reply to `vtep.show`.
    fn vtep_infos(&self) -> Vec<VtepInfo> {
        let mut owners = self.layers.vteps(&self.config);
        let mut vteps = self.slowpath.as_ref().map(SlowPath::vteps).unwrap_or_default();
        for vtep in &mut vteps {
            vtep.owners = owners.remove(&vtep.address).unwrap_or_default().into_iter().collect();
        }
        vteps
    }

    /// The running configuration, or what an owner has of it.
    fn config_text(&self, secrets: bool, owner: Option<&str>) -> String {
        let without = |config: ValidConfig| if secrets { config } else { config.without_secrets() };
        match owner {
            None => render(&without((*self.config).clone())),
            Some(FILE) => render(&without(self.layers.of_file(&self.config))),
            Some(owner) => self.layers.shown(owner, secrets, &self.config),
        }
    }

    /// Reply to `fdb.show`. `bridge`: the only one that is wanted.
    fn fdb_entries(&self, bridge: Option<&str>, is_wanted: impl Fn(&FdbEntry) -> bool + Send + 'static) -> Written {
        let (entries, owners) = (self.dataplane.fdb_entries(bridge), self.layers.statics());
        // A million of them take a while: that is the connection's time.
        Box::new(move || {
            let entry = |entry: dray_dataplane::FdbEntry| {
                let owner = owners.get(&entry.bridge).filter(|_| entry.is_static).and_then(|of| of.get(&entry.mac));
                let (port, vlan, vtep) = match entry.place {
                    Place::Port { port, vlan } => (Some(port), vlan, None),
                    Place::Vtep(vtep) => (None, None, Some(vtep)),
                };
                FdbEntry {
                    owner: owner.cloned(),
                    bridge: entry.bridge,
                    mac: entry.mac,
                    port,
                    vtep,
                    vlan,
                    age_seconds: if entry.is_static { 0 } else { entry.age.into() },
                    is_static: entry.is_static,
                }
            };
            let reply: <FdbShow as Request>::Reply = entries.into_iter().map(entry).filter(is_wanted).collect();
            serde_json::to_string(&reply)
        })
    }

    /// Reply to `worker.show`.
    fn worker_infos(&self, total: bool) -> Vec<WorkerInfo> {
        let ticks_per_ns = self.dataplane.ticks_per_ns();
        let info = |(worker, recent): (WorkerStats, &WorkerStats)| {
            let period = if total { &worker } else { recent };
            let ticks = (period.packets != 0).then(|| period.busy_ticks as f64 / period.packets as f64);
            WorkerInfo {
                cpu: worker.cpu,
                queues: by_port(&worker.queues),
                loads: loads(&worker.queues, period),
                polls: worker.loops,
                busy: period.busy(),
                idle: 1.0 - period.busy(),
                packets: worker.packets,
                burst: worker.packets as f64 / worker.bursts.max(1) as f64,
                ticks_per_packet: ticks,
                ns_per_packet: ticks.map(|ticks| ticks / ticks_per_ns),
                stages: stage_infos(period, ticks_per_ns),
                silent_seconds: worker.silence.map(|time| time.as_secs_f64()),
                waiting: worker.unanswered,
            }
        };
        self.dataplane.worker_stats().into_iter().zip(&self.recent).map(info).collect()
    }

    fn drop_infos(&self) -> Vec<DropInfo> {
        let mut infos = Vec::new();
        for port in &self.config.ports {
            let counts = self.counts(&port.name);
            infos.extend(drops(&counts).map(|(drop, count)| DropInfo {
                name: drop.name().into(),
                description: drop.description().into(),
                cause: drop.cause().into(),
                remedy: drop.remedy().into(),
                port: port.name.clone(),
                count,
            }));
        }
        infos
    }
}

/// The ports that queues are of, and how many each has.
fn by_port(queues: &[QueueStats]) -> Vec<String> {
    let ports = queues.chunk_by(|a, b| a.port == b.port);
    ports.map(|of| if of.len() == 1 { of[0].port.clone() } else { format!("{} x{}", of[0].port, of.len()) }).collect()
}

fn loads(queues: &[QueueStats], period: &WorkerStats) -> Vec<QueueInfo> {
    let ticks = |queue: &QueueStats| period.queue(&queue.port, queue.index).map_or(0, |recent| recent.ticks);
    let info = |queue: &QueueStats| QueueInfo {
        port: queue.port.clone(),
        queue: queue.index,
        packets: queue.packets,
        share: (ticks(queue) as f64 / period.total_ticks.max(1) as f64).min(1.0),
        ticks: queue.ticks,
    };
    queues.iter().map(info).collect()
}

/// The stages that had any packets.
fn stage_infos(period: &WorkerStats, ticks_per_ns: f64) -> Vec<StageInfo> {
    let all: u64 = period.stages.iter().map(|time| time.ticks).sum();
    let active = Stage::ALL.iter().zip(&period.stages).filter(|(_, time)| time.frames != 0 && time.bursts != 0);
    let info = |(stage, time): (&Stage, &StageTime)| {
        let ticks_per_packet = time.ticks as f64 / time.frames as f64;
        StageInfo {
            stage: stage.name().into(),
            ticks_per_packet,
            ns_per_packet: ticks_per_packet / ticks_per_ns,
            packets_per_burst: time.frames as f64 / time.bursts as f64,
            share: time.ticks as f64 / all.max(1) as f64,
            sampled: time.frames,
        }
    };
    active.map(info).collect()
}

/// The drop counters that are not zero.
fn drops(counts: &PortCounts) -> impl Iterator<Item = (Drop, u64)> {
    Drop::ALL.iter().map(|&drop| (drop, counts.drops[drop.index()])).filter(|(_, n)| *n != 0)
}

fn read(file: &ConfigFile) -> Result<ValidConfig, RpcError> {
    parse(&file.name, &file.text).map_err(|errors| {
        let place = errors.errors.first().map(|e| format!("{}:{}:{}", e.file, e.place.line, e.place.column));
        RpcError::new(BAD_FILE, errors.to_string()).at(place.unwrap_or_else(|| file.name.clone()))
    })
}

fn change(actions: &[Action]) -> ConfigChange {
    ConfigChange { changes: actions.iter().map(Action::to_string).collect() }
}
