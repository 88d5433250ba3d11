//! The running switch: the configuration in force, and how it becomes another one.

use crate::events::tell;
use crate::layers::Layers;
use crate::log::{self, Limit};
use crate::ports::{Link, Ports, Wanted};
use crate::slowpath::SlowPath;
use crate::warnings::{self, Warnings};
use crossbeam_channel::Receiver;
use dray_api::{ErrorCode, Event, EventKind, RpcError, VtepInfo};
use dray_config::{Action, Mac, Port, Running, ValidConfig, Vxlan, error_at_port, plan};
use dray_dataplane::{Change, Dataplane, Entry, Moved, PortCounts, Punted, Underlay, WorkerStats};
use dray_switch::{Count, Drop};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::{error, info, warn};

/// Between two publishings that neighbours or learned VTEPs cause.
const PUBLISH: Duration = Duration::from_millis(50);
/// How often links of NICs and workers' loads are looked at.
const POLL: Duration = Duration::from_secs(1);
/// What did not happen for so long begins again.
const CALM: Duration = Duration::from_secs(60);
/// Who wants the configuration that drayd starts with.
const START: &str = "start";
/// How often the FDB is searched for learned VTEPs that it still uses, and the kernel's addresses for the VTEP's own.
const AGE_VTEPS: Duration = Duration::from_secs(10);

/// Why a configuration can't be the running one.
#[derive(Debug)]
pub struct Refusal {
    /// The port that it is about, if it is about one.
    port: Option<String>,
    why: String,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Refusal { port: None, why }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            Some(port) => write!(f, "port {port:?} can't be opened: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl Refusal {
    /// For programs, with `message` for people.
    pub fn error(&self, message: String) -> RpcError {
        match &self.port {
            Some(port) => RpcError::refused(ErrorCode::Failed, message).at(format!("port.{port}")),
            None => RpcError::refused(ErrorCode::Conflict, message),
        }
    }

    /// For people, with the place in the file that the configuration is from.
    pub fn in_file(&self, name: &str, text: &str) -> String {
        let place = self.port.as_ref().and_then(|port| error_at_port(name, text, port, &self.to_string()));
        place.map_or_else(|| format!("error: {name}: {self}"), |errors| errors.to_string())
    }
}

/// Which port is the underlay, and with which address: its own default MAC address follows from that.
struct Seat(Option<(String, Ipv4Addr)>);

impl Seat {
    fn of(vxlan: Option<&Vxlan>) -> Seat {
        Seat(vxlan.map(|vxlan| (vxlan.port.clone(), vxlan.local.address)))
    }

    fn default_mac(&self, port: &str) -> Mac {
        Mac::of_name(port, self.0.as_ref().filter(|(underlay, _)| underlay == port).map(|(_, address)| *address))
    }
}

/// The file of the devices that were made, beside the layers.
const DEVICES: &str = "devices";

/// Where what drayd keeps is, beside the configuration file: `FILE.d`.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".d");
    file.with_file_name(name)
}

/// The switch. It belongs to the control loop.
pub struct Switch {
    pub(crate) config: Running,
    /// Whose what is.
    pub(crate) layers: Layers,
    /// Grows with each change; greater than any before, also of drayds that ran before.
    pub(crate) generation: u64,
    pub(crate) file: PathBuf,
    pub(crate) started: Instant,
    pub(crate) dataplane: Dataplane,
    pub(crate) ports: Ports,
    /// If there is an overlay.
    pub(crate) slowpath: Option<SlowPath>,
    /// What each worker did in the last second.
    pub(crate) recent: Vec<WorkerStats>,
    /// What it had done at the end of that.
    stats: Vec<WorkerStats>,
    /// When the loads were last looked at, and what the workers had done by then.
    balanced: (Instant, Vec<WorkerStats>),
    /// By CPU: since when its worker does not run.
    silent: BTreeMap<usize, Instant>,
    published: Instant,
    /// The underlay's MTU that the workers have.
    published_mtu: Option<u16>,
    /// What was said of bridges and the host.
    warnings: Warnings,
    is_stale: bool,
    polled: Instant,
    aged: Instant,
    /// What ports had counted when their counters were last cleared.
    pub(crate) cleared: HashMap<String, PortCounts>,
    /// The port at which it is looked next for what begins there.
    watched: usize,
    /// What was counted of each port that is told when it begins, by the counter's name.
    growing: HashMap<String, BTreeMap<&'static str, Growth>>,
    /// The other VTEPs, as those who watch know them.
    vteps: BTreeMap<Ipv4Addr, VtepInfo>,
    /// Neighbours that change all the time must not fill the log.
    news: Limit,
}

impl Switch {
    /// Starts the workers and opens the ports of `config`, which was read from `file`. The receiver gets what workers
    /// leave to [`Switch::punt`].
    ///
    /// # Errors
    /// What could not be started. Everything that was is stopped again.
    pub fn start(config: ValidConfig, file: &Path) -> Result<(Switch, Receiver<Punted>), Refusal> {
        let (dataplane, punts) = Dataplane::start(&config).map_err(|error| format!("starting the workers: {error}"))?;
        let now = Instant::now();
        let nothing = config.clone().without_objects();
        let mut switch = Switch {
            config: Running::new(nothing),
            layers: Layers::default(),
            generation: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64,
            file: file.to_owned(),
            started: now,
            recent: dataplane.worker_stats(),
            stats: dataplane.worker_stats(),
            balanced: (now, dataplane.worker_stats()),
            dataplane,
            ports: Ports::new(config.workers.iter().map(|worker| worker.cpu).collect(), &beside(file).join(DEVICES))?,
            slowpath: None,
            silent: BTreeMap::new(),
            published: now,
            published_mtu: None,
            warnings: Warnings::default(),
            is_stale: false,
            polled: now,
            aged: now,
            cleared: HashMap::new(),
            watched: 0,
            growing: HashMap::new(),
            vteps: BTreeMap::new(),
            news: Limit::default(),
        };
        let cpus: Vec<String> = config.workers.iter().map(|worker| worker.cpu.to_string()).collect();
        info!(target: "workers", "{} on CPU {}", cpus.len(), cpus.join(", "));
        let mut merged = Running::new(config);
        switch.layers = Layers::read(beside(file), &mut merged);
        switch.ports.remove_left(&merged);
        loop {
            match switch.apply((*merged).clone(), START) {
                Ok(_) => return Ok((switch, punts)),
                Err(why) => match why.port.as_ref().filter(|port| switch.layers.of_port(port).is_some()) {
                    // What programs have left must not keep the file's from running.
                    Some(port) => {
                        warn!(target: "config", "{why}: left out");
                        let steps = merged.remove_port(port);
                        switch.layers.forget(&steps);
                        merged.perform(&steps);
                    }
                    None => {
                        switch.shutdown();
                        return Err(why);
                    }
                },
            }
        }
    }

    /// Makes `new` the running configuration, as `by` wants it. What is the same in both is not touched.
    ///
    /// # Errors
    /// Why it can't be: the old one runs on then. If a port had to be closed to try and can't be opened again, the log
    /// says so.
    pub fn apply(&mut self, new: ValidConfig, by: &str) -> Result<Vec<Action>, Refusal> {
        let actions = plan(&self.config, &new);
        self.exchange_ports(&actions)?;
        self.config.replace(new);
        self.complete(&actions, by);
        Ok(actions)
    }

    /// Does steps that change the running configuration, as `by` wants it.
    ///
    /// # Errors
    /// As [`Switch::apply`].
    pub fn change(&mut self, actions: &[Action], by: &str) -> Result<(), Refusal> {
        self.exchange_ports(actions)?;
        self.config.perform(actions);
        self.complete(actions, by);
        Ok(())
    }

    /// Opens and closes ports: the part of the steps that may fail, and then is undone.
    fn exchange_ports(&mut self, actions: &[Action]) -> Result<(), Refusal> {
        let restarts = actions.iter().filter(|action| matches!(action, Action::Restart { .. }));
        let restarts: Vec<String> = restarts.map(|action| action.to_string().trim_start_matches("! ").into()).collect();
        if !restarts.is_empty() {
            return Err(restarts.join("\n").into());
        }
        self.dataplane.has_room(actions)?;
        let removed: Vec<(Port, bool)> = actions
            .iter()
            .filter_map(|action| match action {
                Action::RemovePort { name } => Some((self.config.port(name)?.clone(), false)),
                Action::UpdatePort { old, new } if old.admin_up != new.admin_up => Some((old.clone(), true)),
                _ => None,
            })
            .collect();
        let added = actions.iter().filter_map(|action| match action {
            Action::AddPort(port) => Some(port),
            Action::UpdatePort { old, new } if old.admin_up != new.admin_up => Some(new),
            _ => None,
        });
        // What needs something that a port to be removed holds has to wait until that is closed.
        let removed: Vec<Wanted<'_>> = removed.iter().map(|(port, stays)| Wanted::by(port).staying(*stays)).collect();
        let (waits, free): (Vec<Wanted<'_>>, Vec<Wanted<'_>>) =
            added.map(Wanted::by).partition(|new| removed.iter().any(|old| new.excludes(old)));
        let (first, last): (Vec<&Wanted<'_>>, Vec<&Wanted<'_>>) =
            removed.iter().partition(|old| waits.iter().any(|new| new.excludes(old)));

        let new = actions.iter().find_map(|action| match action {
            Action::SetVxlan { new, .. } => Some(new.as_ref()),
            _ => None,
        });
        let underlay = Seat::of(new.unwrap_or(self.config.vxlan.as_ref()));
        let mut opened: Vec<&Port> = Vec::new();
        let mut closed: Vec<&Port> = Vec::new();
        let result = self.exchange(&underlay, &free, &first, &waits, &mut opened, &mut closed);
        if let Err(why) = result {
            self.roll_back(&opened, &closed);
            return Err(why);
        }
        for old in last {
            self.ports.close(&old.port.name, old.stays, &mut self.dataplane);
        }
        Ok(())
    }

    /// Does the rest of the steps, which are in the running configuration.
    fn complete(&mut self, actions: &[Action], by: &str) {
        self.publish_change(actions);
        self.generation += u64::from(!actions.is_empty());
        for action in actions {
            match action {
                Action::UpdatePort { new, .. } => self.ports.update(new),
                Action::RemovePort { name } if self.config.port(name).is_none() => {
                    self.cleared.remove(name);
                    self.growing.remove(name);
                }
                Action::SetKeys { table: "log", .. } => log::set_level(&self.config.log.level),
                _ => {}
            }
            if by == START {
                info!(target: "config", "{action}");
            } else {
                info!(target: "config", "{action} (by {by})");
                tell(change(action, by));
            }
        }
        if !actions.is_empty() {
            self.warnings.look_again(self.config.bridges.len());
        }
        if by == START {
            self.warnings.of_bridges(&self.config, &self.ports, Duration::MAX);
            self.warnings.of_host(&self.config, &self.ports);
        }
        self.tick_overlay(Instant::now());
    }

    /// Opens and closes ports in the order in which that is possible, noting what was done.
    fn exchange<'a>(
        &mut self,
        underlay: &Seat,
        free: &[Wanted<'a>],
        first: &[&Wanted<'a>],
        waits: &[Wanted<'a>],
        opened: &mut Vec<&'a Port>,
        closed: &mut Vec<&'a Port>,
    ) -> Result<(), Refusal> {
        for port in free.iter().map(|wanted| wanted.port) {
            self.open(underlay, port)?;
            opened.push(port);
        }
        for Wanted { port, stays, .. } in first {
            self.ports.close(&port.name, *stays, &mut self.dataplane);
            closed.push(port);
        }
        for port in waits.iter().map(|wanted| wanted.port) {
            self.open(underlay, port)?;
            opened.push(port);
        }
        Ok(())
    }

    /// Back to what the running configuration says.
    fn roll_back(&mut self, opened: &[&Port], closed: &[&Port]) {
        for port in opened {
            self.ports.close(&port.name, false, &mut self.dataplane);
        }
        let underlay = Seat::of(self.config.vxlan.as_ref());
        for port in closed {
            if let Err(why) = self.open(&underlay, port) {
                error!(target: "config", "rolling back: {why}");
            }
        }
    }

    fn open(&mut self, underlay: &Seat, port: &Port) -> Result<(), Refusal> {
        // A NIC without an address in the file keeps its own.
        let own_mac = port.mac == underlay.default_mac(&port.name);
        self.ports.open(port, own_mac).map_err(|why| Refusal { port: Some(port.name.clone()), why })
    }

    /// The overlay follows the running configuration and the underlay's device.
    fn set_overlay(&mut self) {
        let Some(vxlan) = &self.config.vxlan else {
            self.slowpath = None;
            return;
        };
        let device = self.ports.device(&vxlan.port).map(|device| device.mac);
        let configured = self.config.port(&vxlan.port).map(|port| port.mac).unwrap_or_default();
        let mac = device.unwrap_or(configured);
        let vteps = self.config.vteps().collect();
        match &mut self.slowpath {
            Some(slowpath) => slowpath.configure(vxlan, mac, vteps),
            None => self.slowpath = Some(SlowPath::new(vxlan, mac, vteps)),
        }
    }

    /// What the underlay carries: the device may carry less than it was asked for.
    fn underlay_mtu(&self) -> Option<u16> {
        let vxlan = self.config.vxlan.as_ref()?;
        Some(self.ports.device(&vxlan.port).map_or(vxlan.mtu, |device| vxlan.mtu.min(device.mtu)))
    }

    /// Has the counts say what devices have lost: to be called before they are read.
    pub(crate) fn count_losses(&mut self) {
        self.ports.count_losses(&mut self.dataplane);
    }

    /// Gives the workers what is new of the underlay.
    fn publish(&mut self) {
        self.publish_change(&[]);
    }

    /// Gives the workers what `actions`, which are in the running configuration, and other VTEPs that it has come to name have changed.
    pub(crate) fn publish_change(&mut self, actions: &[Action]) {
        let (come, gone) = self.config.take_vteps();
        let is_overlay = |action: &Action| matches!(action, Action::SetVxlan { .. });
        if actions.iter().any(is_overlay) || !come.is_empty() || !gone.is_empty() {
            self.set_overlay();
        }
        let mtu = self.underlay_mtu();
        let is_news = match &mut self.slowpath {
            Some(slowpath) => slowpath.take_change() || self.is_stale,
            None => self.published_mtu.is_some(),
        };
        let underlay = (is_news || mtu != self.published_mtu).then(|| {
            let known = self.slowpath.as_ref().map_or_else(Underlay::default, SlowPath::underlay);
            Underlay { mtu, ..known }
        });
        self.dataplane.apply(&self.config, Change { actions, come: &come, gone: &gone }, underlay.as_ref());
        self.published_mtu = mtu;
        (self.published, self.is_stale) = (Instant::now(), false);
        if underlay.is_some() {
            self.watch_vteps();
        }
    }

    /// Deletes the ports that have nothing left to do, as what they were for is gone.
    fn delete_over(&mut self) {
        for port in self.ports.take_over() {
            if self.config.port(&port).is_none() || self.is_underlay(&port) {
                continue;
            }
            let steps = self.config.remove_port(&port);
            let owners = self.layers.forget(&steps);
            if let Err(why) = self.change(&steps, "the end of its network namespace") {
                error!(target: "config", "{why}");
            }
            for owner in owners {
                if let Err(why) = self.layers.write(&owner, &self.config) {
                    warn!(target: "config", "{why}");
                }
            }
        }
    }

    /// Takes up what happened to a port, if something did.
    pub fn take_news(&mut self) {
        for news in self.ports.news() {
            if let Some(name) = self.ports.event(news, &mut self.dataplane) {
                self.came_up(&name);
            }
        }
        self.delete_over();
    }

    fn is_underlay(&self, port: &str) -> bool {
        self.config.vxlan.as_ref().is_some_and(|vxlan| vxlan.port == port)
    }

    /// A port's link has come up, or it has new queues.
    fn came_up(&mut self, port: &str) {
        if !self.is_underlay(port) {
            return;
        }
        if self.ports.device(port).is_some() {
            // Its address and MTU may be known only now.
            self.set_overlay();
            self.publish();
            self.warnings.look_again(self.config.bridges.len());
        }
        if let Some(slowpath) = &mut self.slowpath {
            slowpath.link_up();
            self.tick_overlay(Instant::now());
        }
    }

    /// Takes what a worker left to us.
    pub fn punt(&mut self, punt: &Punted) {
        let now = Instant::now();
        let (Some(slowpath), Some(vxlan)) = (&mut self.slowpath, &self.config.vxlan) else { return };
        // It may be older than the configuration.
        if self.dataplane.port_name(punt.port) != Some(&vxlan.port) {
            return;
        }
        for frame in slowpath.take(punt, now) {
            self.dataplane.inject(&Entry::port(&vxlan.port), frame);
        }
        self.is_stale |= slowpath.take_change();
        self.publish_if_due(now);
    }

    /// When the workers' tables are due to be replaced, if they are behind what is known: then [`Switch::publish_if_due`]
    /// is to be called.
    pub fn next_publish(&self) -> Option<Instant> {
        self.is_stale.then(|| self.published + PUBLISH)
    }

    /// Gives the workers new tables if theirs are behind and not too young.
    pub fn publish_if_due(&mut self, now: Instant) {
        if self.next_publish().is_some_and(|at| now >= at) {
            self.publish();
        }
    }

    /// Housekeeping, about ten times a second.
    pub fn tick(&mut self) {
        let now = Instant::now();
        self.dataplane.tick();
        self.watch_workers(now);
        let is_due = now.duration_since(self.polled) >= POLL;
        let is_up = |port: &str| self.ports.link(port).is_some_and(Link::is_up);
        let underlay = self.config.vxlan.as_ref().is_none_or(|vxlan| is_up(&vxlan.port));
        self.ports.follow(underlay);
        if is_due {
            self.ports.begin_round();
        }
        for port in self.ports.poll(&mut self.dataplane) {
            self.came_up(&port);
        }
        self.delete_over();
        if self.underlay_mtu() != self.published_mtu {
            self.publish();
            self.warnings.look_again(self.config.bridges.len());
        }
        self.warnings.of_bridges(&self.config, &self.ports, warnings::LOOK);
        if is_due {
            self.polled = now;
            self.sample();
            self.balance(now);
        }
        self.watch_counts(now);
        if now.duration_since(self.aged) >= AGE_VTEPS {
            self.aged = now;
            self.warnings.look_again(self.config.bridges.len());
            self.warnings.of_host(&self.config, &self.ports);
            if let Some(slowpath) = self.slowpath.as_mut().filter(|slowpath| slowpath.has_learned()) {
                let ageing = Duration::from_secs(self.config.fdb.ageing.into());
                slowpath.age(&self.dataplane.fdb_vteps(), ageing, now);
            }
        }
        self.tick_overlay(now);
    }

    /// Says once that a worker does not run, and once that it does again.
    fn watch_workers(&mut self, now: Instant) {
        for (cpu, silence) in self.dataplane.silence() {
            match (silence, self.silent.get(&cpu)) {
                (Some(time), None) => {
                    self.silent.insert(cpu, now.checked_sub(time).unwrap_or(now));
                    let text = format!(
                        "the one on CPU {cpu} has not run for {:.1} s: another process has its CPU, and its ports' \
                         packets wait",
                        time.as_secs_f64()
                    );
                    warn!(target: "workers", "{text}");
                    tell(Event { kind: EventKind::Worker, text, state: Some("silent".into()), ..Event::default() });
                }
                (None, Some(&since)) => {
                    self.silent.remove(&cpu);
                    let seconds = now.duration_since(since).as_secs_f64();
                    let text = format!("the one on CPU {cpu} runs again, after {seconds:.1} s");
                    info!(target: "workers", "{text}");
                    tell(Event { kind: EventKind::Worker, text, state: Some("running".into()), ..Event::default() });
                }
                _ => {}
            }
        }
    }

    fn tick_overlay(&mut self, now: Instant) {
        let (Some(slowpath), Some(vxlan)) = (&mut self.slowpath, &self.config.vxlan) else { return };
        if self.ports.link(&vxlan.port).is_some_and(Link::is_up) {
            for frame in slowpath.tick(now) {
                self.dataplane.inject(&Entry::port(&vxlan.port), frame);
            }
        }
        for line in slowpath.take_notices() {
            if self.news.admits(now) {
                info!(target: "vxlan", "{line}");
            }
        }
        if let Some(more) = self.news.flush(now) {
            info!(target: "vxlan", "{more}");
        }
        self.is_stale |= slowpath.take_change();
        self.publish_if_due(now);
    }

    /// Tells what begins at ports: MACs beyond max-macs, MACs that move there, packets that are dropped for a reason. Looks at so many ports
    /// that all get their turn once in [`POLL`].
    fn watch_counts(&mut self, now: Instant) {
        let Switch { config, dataplane, growing, watched, .. } = self;
        let ticks = (POLL.as_millis() / Dataplane::TICK.as_millis()) as usize;
        let part = config.ports.len().div_ceil(ticks);
        let rest = config.ports[..].get(*watched..).unwrap_or_default();
        *watched = if rest.len() <= part { 0 } else { *watched + part };
        for port in rest.iter().take(part) {
            let name = &port.name;
            let counts = dataplane.port_counts(name).unwrap_or_default();
            let mut begins = |what: &'static str, count: u64| -> Option<u64> {
                if count == 0 {
                    return None;
                }
                growing.entry(name.clone()).or_default().entry(what).or_default().begins(count, now)
            };
            let tell = |kind: EventKind, drop: Option<Drop>, more: u64, text: String| {
                let drop = drop.map(|reason| reason.name().to_owned());
                let text = format!("port {name}: {text}");
                tell(Event { kind, text, port: Some(name.clone()), drop, count: Some(more), ..Event::default() });
            };
            if let Some(more) = begins(Count::OverMaxMacs.name(), counts.count(Count::OverMaxMacs)) {
                let text =
                    format!("more MACs than its max-macs of {} are there: the others are not learned", port.max_macs);
                warn!(target: "port", port = %name, "{text}");
                tell(EventKind::Fdb, None, more, text);
            }
            if let Some(more) = begins(Count::MacMoves.name(), counts.count(Count::MacMoves)) {
                tell(EventKind::Fdb, None, more, format!("{more} MACs have moved here from other ports"));
            }
            for &reason in Drop::ALL {
                if let Some(more) = begins(reason.name(), counts.drops[reason.index()]) {
                    let text = format!("{}: {more} packets: {}", reason.name(), reason.description());
                    tell(EventKind::Drop, Some(reason), more, text);
                }
            }
        }
    }

    /// Tells of VTEPs that have come, gone or changed.
    fn watch_vteps(&mut self) {
        let new = self.slowpath.as_ref().map(SlowPath::vteps).unwrap_or_default();
        let new: BTreeMap<Ipv4Addr, VtepInfo> = new.into_iter().map(|vtep| (vtep.address, vtep)).collect();
        let event = |address: Ipv4Addr, state: &str, more: String| Event {
            kind: EventKind::Vtep,
            text: format!("vtep {address}: {state}{more}"),
            vtep: Some(address),
            state: Some(state.into()),
            ..Event::default()
        };
        for (&address, vtep) in &new {
            if self.vteps.get(&address) != Some(vtep) {
                let hop = vtep.next_hop.filter(|hop| *hop != address).map(|hop| format!(", next hop {hop}"));
                let mac = vtep.mac.map(|mac| format!(", mac {mac}"));
                let origin = if vtep.learned { ", learned" } else { "" };
                let more = format!("{}{}{origin}", hop.unwrap_or_default(), mac.unwrap_or_default());
                tell(event(address, &vtep.state, more));
            }
        }
        for &address in self.vteps.keys().filter(|address| !new.contains_key(*address)) {
            tell(event(address, "gone", String::new()));
        }
        self.vteps = new;
    }

    fn sample(&mut self) {
        let stats = self.dataplane.worker_stats();
        self.recent = stats.iter().zip(&self.stats).map(|(new, old)| new.since(old)).collect();
        self.stats = stats;
    }

    /// Spreads the receive queues over the workers, one at a time.
    fn balance(&mut self, now: Instant) {
        let interval = Duration::from_secs(self.config.balance.interval.into());
        if interval.is_zero() || now.duration_since(self.balanced.0) < interval {
            return;
        }
        let stats = self.dataplane.worker_stats();
        let period: Vec<WorkerStats> = stats.iter().zip(&self.balanced.1).map(|(new, old)| new.since(old)).collect();
        if let Some(Moved { port, index, from, to }) = self.dataplane.balance(&period) {
            let busy: Vec<String> = period.iter().map(|w| format!("CPU {} {:.0} %", w.cpu, w.busy() * 100.0)).collect();
            info!(
                target: "workers",
                "busy were {}: queue {index} of port {port} goes from CPU {from} to CPU {to}",
                busy.join(", ")
            );
        }
        self.balanced = (now, self.dataplane.worker_stats());
    }

    /// Stops everything: peers are told, sockets removed, devices closed, memory freed.
    pub fn shutdown(self) {
        let Switch { mut dataplane, ports, .. } = self;
        for cpu in dataplane.stop() {
            warn!(target: "workers", "the one on CPU {cpu} does not run, and is not waited for");
        }
        ports.shutdown();
    }
}

/// A counter, as it was when it was last looked at.
#[derive(Default)]
struct Growth {
    count: u64,
    /// When it had last become more.
    last: Option<Instant>,
}

impl Growth {
    /// By how much it has become more, if it had not for [`CALM`].
    fn begins(&mut self, count: u64, now: Instant) -> Option<u64> {
        // One that is less is another port's, of the same name.
        let more = count.checked_sub(self.count).unwrap_or(count);
        self.count = count;
        if more == 0 {
            return None;
        }
        let last = self.last.replace(now);
        last.is_none_or(|last| now.duration_since(last) >= CALM).then_some(more)
    }
}

/// That the configuration has changed.
fn change(action: &Action, by: &str) -> Event {
    let (kind, port, bridge) = match action {
        Action::AddPort(port) | Action::UpdatePort { new: port, .. } => (EventKind::Port, Some(&port.name), None),
        Action::RemovePort { name } => (EventKind::Port, Some(name), None),
        Action::AddBridge(bridge) => (EventKind::Bridge, None, Some(&bridge.name)),
        Action::ChangeBridge(change) => (EventKind::Bridge, None, Some(&change.bridge.name)),
        Action::RemoveBridge { name } => (EventKind::Bridge, None, Some(name)),
        Action::Restart { .. } | Action::SetVxlan { .. } | Action::SetKeys { .. } => (EventKind::Config, None, None),
    };
    let (port, bridge, by) = (port.cloned(), bridge.cloned(), Some(by.into()));
    Event { kind, text: action.to_string(), by, port, bridge, ..Event::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_told_when_that_begins() {
        let (mut counter, start) = (Growth::default(), Instant::now());
        let mut at = |seconds, count| counter.begins(count, start + Duration::from_secs(seconds));
        assert_eq!([at(0, 0), at(1, 5), at(2, 7), at(50, 8)], [None, Some(5), None, None]);
        // It was calm for long enough, or not.
        let calm = CALM.as_secs();
        assert_eq!([at(50 + calm, 9), at(49 + 2 * calm, 9), at(49 + 2 * calm, 10)], [Some(1), None, None]);
        // Another port of the same name.
        assert_eq!([at(49 + 3 * calm, 3), at(49 + 4 * calm, 3)], [Some(3), None]);
    }

    /// What happens to a port while others are closed and opened is not forgotten, and not believed of a new port of
    /// that name.
    #[test]
    fn events_outlive_an_apply() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("m.sock");
        let config = |ids: &[(&str, u32)]| {
            let shown = socket.display();
            let port = |(name, id): &(&str, u32)| {
                format!("[[port]]\nname='{name}'\nkind='memif'\nsocket='{shown}'\nid={id}\n")
            };
            let text: String = "[fdb]\nsize = 4096\n".to_owned() + &ids.iter().map(port).collect::<String>();
            dray_config::parse("test", &text).unwrap_or_else(|errors| panic!("{errors}"))
        };
        let connect = |id| {
            let name = dray_config::SocketName::Path(socket.clone());
            dray_vhost::memif::Client::connect(&name, id, &Default::default()).unwrap()
        };
        let (mut switch, _punts) = Switch::start(config(&[("a", 0), ("b", 1)]), Path::new("/none")).unwrap();
        let (_a, _b) = (connect(0), connect(1));
        // Both have connected, nobody has taken notice, and now `b` becomes another one.
        switch.apply(config(&[("a", 0), ("b", 2)]), "test").unwrap();
        // One port's at a time.
        (0..2).for_each(|_| switch.take_news());
        assert!(switch.ports.link("a").unwrap().is_up());
        assert!(!switch.ports.link("b").unwrap().is_up());
        let stats = switch.dataplane.worker_stats();
        assert_eq!(stats[0].queues.iter().map(|q| (q.port.as_str(), q.index)).collect::<Vec<_>>(), [("a", 0)]);
        switch.shutdown();
        assert!(!socket.exists());
    }

    /// What a vhost-user port told before it was closed is not believed of the next one of that name.
    #[test]
    fn news_of_a_vhost_user_port_end_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("v.sock");
        let config = |queues: u16| {
            let keys = format!("kind='vhost-user'\nrole='server'\nsocket='{}'\nqueues={queues}", socket.display());
            let text = format!("[fdb]\nsize = 4096\n[[port]]\nname='v'\n{keys}\n");
            dray_config::parse("test", &text).unwrap_or_else(|errors| panic!("{errors}"))
        };
        let (mut switch, _punts) = Switch::start(config(1), Path::new("/none")).unwrap();
        let connected = |switch: &Switch, is: bool| {
            let begin = Instant::now();
            while switch.port_infos(Some("v")).unwrap()[0].detail.vhost_user().unwrap().connected != is {
                assert!(begin.elapsed() < Duration::from_secs(30), "connected is not {is}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let front_end = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        connected(&switch, true);
        drop(front_end);
        connected(&switch, false);
        // It has come and gone, nobody has taken notice, and now the port becomes another one.
        switch.apply(config(2), "test").unwrap();
        switch.take_news();
        assert_eq!(switch.ports.link("v"), Some(&Link::Down("no front end has connected".into())));
        switch.shutdown();
        assert!(!socket.exists());
    }
}
