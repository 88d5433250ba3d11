//! drayd: its command line and its control loop.

use crate::descriptors;
use crate::log::{self, ITSELF};
use crate::metrics;
use crate::server::{Call, Socket};
use crate::switch::Switch;
use crate::systemd::{self, Watchdog};
use clap::{CommandFactory, Parser};
use crossbeam_channel::{Receiver, Sender, after, at, never, select, tick, unbounded};
use dray_config::{ValidConfig, load};
use dray_dataplane::{Dataplane, Punted};
use dray_vhost::mem::guard;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Frames that workers left to the control thread, and that are looked at before others get their turn.
const PUNTS: usize = 256;
/// While the FDB is searched for what is to be forgotten: between two parts of it.
const FORGET: Duration = Duration::from_millis(1);

/// The switch: moves packets between NICs and the interfaces of containers.
#[derive(Parser)]
#[command(
    name = "drayd",
    version,
    after_help = "Exit status: 0 ended or checked, 1 it can't start, 2 wrong use or bad file."
)]
struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/dray/dray.toml")]
    config: PathBuf,
    /// Check the configuration file and exit: 0 if it is right, with or without warnings, 2 otherwise
    #[arg(long)]
    check: bool,
}

/// The command line of drayd.
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs drayd. The status is 0 after a clean end, 1 if the switch can't start, 2 for wrong use or a wrong file.
pub fn run() -> ExitCode {
    let args = Args::parse();
    descriptors::raise();
    let (config, text) = match load(&args.config) {
        Ok(read) => read,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    if args.check {
        let mtus = config.mtu_warnings(|port| port.mtu);
        for warning in mtus.into_iter().chain(descriptors::warning(&config)) {
            eprintln!("warning: {}: {warning}", args.config.display());
        }
        println!("{}: ok: {}", args.config.display(), summary(&config));
        return ExitCode::SUCCESS;
    }
    match serve(config, &args.config, &text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn summary(config: &ValidConfig) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (workers, ports) = (count(config.workers.len(), "worker"), count(config.ports.len(), "port"));
    let overlay = if config.vxlan.is_some() { ", VXLAN" } else { "" };
    format!("{workers}, {ports}, {}{overlay}", count(config.bridges.len(), "bridge"))
}

/// Keeps this thread, and so all that are started from it, off the CPUs of the workers, which pin themselves. Where there are no
/// others they share them.
fn leave_to_workers(config: &ValidConfig) -> io::Result<()> {
    let mut cpus = sched_getaffinity(None)?;
    let workers = config.workers.iter().map(|worker| worker.cpu);
    workers.filter(|&cpu| cpu < CpuSet::MAX_CPU).for_each(|cpu| cpus.unset(cpu));
    match cpus.count() {
        0 => Ok(()),
        _ => Ok(sched_setaffinity(None, &cpus)?),
    }
}

/// From start to end.
fn serve(config: ValidConfig, file: &Path, text: &str) -> Result<(), String> {
    log::start(&config.log.level);
    // Before there is any other thread or process. `read` has asked which CPUs there are.
    leave_to_workers(&config).map_err(|error| format!("error: the CPUs of this process: {error}"))?;
    // First of all, while there is little to make a copy of and one thread.
    dray_vhost::quarantine::start().map_err(|why| format!("error: {why}"))?;
    let signals = signals().map_err(|error| format!("error: signals: {error}"))?;
    // Before all else: if another drayd is there, nothing of it must be touched.
    let socket = Socket::bind(&config.control.socket, &config.control.access).map_err(|why| format!("error: {why}"))?;
    let asks = match config.control.metrics {
        Some(address) => metrics::serve(address).map_err(|error| format!("error: metrics on {address}: {error}"))?,
        None => never(),
    };
    let version = env!("CARGO_PKG_VERSION");
    info!(target: ITSELF, "drayd {version} starts: {}: {}", file.display(), summary(&config));
    if !guard::sees_holes() {
        warn!(
            target: "memory",
            "userfaultfd is not allowed: holes in peers' memory are filled on drayd's account, without a limit",
        );
    }
    // `config save` writes there, whatever the working directory is then.
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let (mut switch, punts) =
        Switch::start(config, &absolute).map_err(|why| why.in_file(&file.display().to_string(), text))?;
    let calls = socket.serve().map_err(|error| format!("error: control socket: {error}"))?;
    info!(target: ITSELF, "ready: control socket {}", switch.config.control.socket.display());
    systemd::ready(&switch.summary());
    let signal = control_loop(&mut switch, &calls, &punts, &asks, &signals);

    systemd::stopping();
    info!(target: ITSELF, "{signal}: shutting down");
    let start = Instant::now();
    switch.shutdown();
    // Last: until then another drayd is refused.
    drop(socket);
    info!(target: ITSELF, "ended after {} ms", start.elapsed().as_millis());
    Ok(())
}

/// Everything that happens, one thing after the other, until a signal ends it.
fn control_loop(
    switch: &mut Switch,
    calls: &Receiver<Call>,
    punts: &Receiver<Punted>,
    asks: &Receiver<Sender<String>>,
    signals: &Receiver<i32>,
) -> &'static str {
    let bell = switch.ports.bell();
    let ticks = tick(Dataplane::TICK);
    let nothing = never();
    let mut rest = Rest::default();
    let mut watchdog = Watchdog::from_environment();
    loop {
        let publish = switch.next_publish().map_or_else(never, at);
        let forget = if switch.dataplane.is_forgetting() { after(FORGET) } else { never() };
        let (punts, rested) = match rest.until(Instant::now()) {
            Some(then) => (&nothing, at(then)),
            None => (punts, never()),
        };
        select! {
            recv(rested) -> _ => {}
            recv(publish) -> now => switch.publish_if_due(now.unwrap_or_else(|_| Instant::now())),
            recv(calls) -> call => {
                if let Ok(Call { request, terms, by, waiter, reply }) = call {
                    let answer = switch.handle(request, &terms, &by);
                    if let (Ok(_), Some((port, waiter))) = (&answer, waiter) {
                        switch.ports.tell_link(&port, waiter);
                    }
                    // Nobody is there any more if it took too long.
                    let _ = reply.send(answer);
                }
            }
            recv(bell) -> _ => switch.take_news(),
            recv(punts) -> first => {
                let begin = Instant::now();
                first.iter().for_each(|punt| switch.punt(punt));
                punts.try_iter().take(PUNTS).for_each(|punt| switch.punt(&punt));
                rest.after(begin, Instant::now());
            }
            recv(asks) -> place => {
                if let Ok(place) = place {
                    switch.count_losses();
                    let _ = place.send(metrics::render(switch));
                }
            }
            recv(signals) -> signal => match signal {
                Ok(SIGHUP) => drop(switch.reload("SIGHUP")),
                Ok(SIGINT) => return "SIGINT",
                _ => return "SIGTERM",
            },
            recv(forget) -> _ => switch.dataplane.forget_some(),
            recv(ticks) -> _ => {
                switch.tick();
                if let Some(watchdog) = &mut watchdog {
                    watchdog.tick(switch, Instant::now());
                }
            }
        }
    }
}

/// What workers leave has half of the control thread's time at most: whatever a round of it took, as much belongs to all others.
#[derive(Default)]
struct Rest(Option<Instant>);

impl Rest {
    /// A round from `begin` to `end` is done.
    fn after(&mut self, begin: Instant, end: Instant) {
        self.0 = Some(end + (end - begin));
    }

    /// Until when there is no other one, if that is not now.
    fn until(&self, now: Instant) -> Option<Instant> {
        self.0.filter(|until| *until > now)
    }
}

fn signals() -> std::io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = unbounded();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let _ = sender.send(signal);
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punts_have_half_of_the_time() {
        let (mut rest, start) = (Rest::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(rest.until(at(0)), None);
        rest.after(at(10), at(14));
        assert_eq!([14, 17, 18].map(|ms| rest.until(at(ms))), [Some(at(18)), Some(at(18)), None]);
    }

    #[test]
    fn clap_is_sound() {
        Args::command().debug_assert();
    }
}
