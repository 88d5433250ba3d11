//! Hostile peers: what they do to others, in time and in shares.
//!
//! Each attack has a daemon of its own, with honest ports that exchange frames at a low rate beside it. What these lose and how long
//! their frames take, how soon the control socket answers, an honest client is connected and a sleeping peer woken, and how long it takes
//! to delete the attacked port and to end the daemon, has limits.

mod closing;
mod connections;
mod fuse;
mod limits;
mod memif;
mod memory;
mod messages;
mod place;
mod probes;
mod tables;
mod victim;
mod vm;
mod worker;

pub use limits::{Figures, Limits};
pub use probes::guest;

use crate::traffic::{seconds, stop_flag};
use clap::Args;
use dray_report::{Column, Document, Table, Tone};
use limits::amount;
use place::{Daemon, Place, Urgency};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use victim::{Mode, Sleeper, Told, Victim};

/// How long an attack may take until it has begun.
const BEGIN: Duration = Duration::from_secs(10);
/// How often an attack is made with `--quick` until it breaks no limit.
const QUICK_TRIES: u32 = 3;
/// What the row without an attack is called.
const BASELINE: &str = "no-attack";

/// How `dray-perf hostile` is told what to do.
#[derive(Args, Clone, Debug)]
pub struct HostileArgs {
    /// The daemon [default: drayd beside this program]
    #[arg(long, value_name = "FILE")]
    drayd: Option<PathBuf>,
    /// The CPU of all that attack and measure
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// The worker's CPU
    #[arg(long, default_value_t = 1)]
    switch_cpu: usize,
    /// Seconds of each attack; half as many more where a share is measured [default: 3, with --quick 0.5]
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Only this attack; may be given several times [default: all]
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// List the attacks
    #[arg(long)]
    list: bool,
    /// Short attacks, made up to three times, and generous limits, for a machine that does other things too
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// An attack.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// What it does, for people.
    what: &'static str,
    /// Its ports and bridges.
    configuration: fn(&Path) -> String,
    /// The port that is deleted at the end: the attacked one, if it can be.
    port: &'static str,
    /// Goes on until the place says so. Fails if it can't be made at all.
    attack: fn(&Place) -> Result<(), String>,
    /// Whether it is about worker time, so that the share of an honest port is measured that sends all it can.
    saturate: bool,
    /// What this machine lacks for it.
    lacks: fn() -> Result<(), String>,
    /// What limits are others than usual.
    adjust: fn(&mut Limits),
}

impl Case {
    /// What cases have in common.
    const NOTHING: Case = Case {
        name: BASELINE,
        what: "nobody attacks: what the limits and shares are measured against",
        configuration: closing::memif_port,
        port: "x",
        attack: |place| {
            place.begin();
            while place.pause(Duration::from_millis(20)) {}
            Ok(())
        },
        saturate: false,
        lacks: || Ok(()),
        adjust: |_| {},
    };
}

/// The row without an attack.
const NO_ATTACK: Case = Case { saturate: true, ..Case::NOTHING };

/// All attacks.
const FAMILIES: [&[Case]; 6] =
    [closing::CASES, connections::CASES, messages::CASES, memory::CASES, worker::CASES, tables::CASES];

/// What became of a case.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
enum Outcome {
    /// It was measured.
    Measured {
        /// What was measured.
        figures: Box<Figures>,
        /// The limits that it broke.
        broken: Vec<String>,
    },
    /// This machine lacks something.
    Skipped {
        /// What.
        why: String,
    },
    /// It could not be measured: the daemon or an honest link ended, or the attack could not be made.
    Failed {
        /// Why.
        why: String,
    },
}

/// A row.
#[derive(Clone, Debug, Serialize)]
struct Row {
    attack: &'static str,
    what: &'static str,
    limits: Limits,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Row {
    fn is_good(&self) -> bool {
        match &self.outcome {
            Outcome::Measured { broken, .. } => broken.is_empty(),
            Outcome::Skipped { .. } => true,
            Outcome::Failed { .. } => false,
        }
    }

    /// In one word.
    fn word(&self) -> &'static str {
        match &self.outcome {
            Outcome::Skipped { .. } => "skipped",
            _ if self.is_good() => "ok",
            Outcome::Measured { .. } => "broken",
            Outcome::Failed { .. } => "failed",
        }
    }

    /// In one line.
    fn verdict(&self) -> String {
        match &self.outcome {
            Outcome::Measured { broken, .. } if broken.is_empty() => "ok".into(),
            Outcome::Measured { broken, .. } => broken.join("; "),
            Outcome::Skipped { why } => format!("skipped: {why}"),
            Outcome::Failed { why } => format!("failed: {}", why.lines().collect::<Vec<_>>().join(" | ")),
        }
    }
}

/// Makes an attack, and measures.
fn measure(drayd: &Path, args: &HostileArgs, case: &Case) -> Result<Figures, String> {
    let mut daemon = Daemon::start(drayd, args.switch_cpu, case.configuration)?;
    let place = Place::new(&daemon, args.cpu, args.switch_cpu);
    let victim = Victim::connect(&place)?;
    let sleeper = Sleeper::connect(&place)?;
    let socket = daemon.control();
    let (memory, files) = probes::usage(place.pid);
    let duration = Duration::from_secs_f64(args.seconds.unwrap_or(if args.quick { 0.5 } else { 3.0 }));
    let (told, slowest, end) = (Told::default(), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let place = &place;
        // Whatever happens here, the others end.
        struct Stop<'a>(&'a Place, &'a Told, &'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.1.set(Mode::End);
                self.2.store(true, Ordering::Relaxed);
                self.0.stop();
            }
        }
        let stop = Stop(place, &told, &end);
        let victim = scope.spawn(|| victim.run(place, &told));
        scope.spawn(|| sleeper.run(place, &slowest));
        let control = scope.spawn(|| probes::control(place, &socket, &end));
        let guest = scope.spawn(|| probes::run_guest(place, &end));
        // Of the same daemon: this machine may be slower in another minute.
        let look = || probes::time_of(&socket, "a");
        let alone = case.saturate.then(|| told.saturate(duration / 2, look).0);
        let attack = scope.spawn(|| {
            place.take_place(Urgency::Attack);
            (case.attack)(place)
        });
        let patience = Instant::now() + BEGIN;
        while !place.has_begun() {
            if attack.is_finished() || Instant::now() > patience {
                drop(stop);
                let why = if attack.is_finished() { attack.join().ok().and_then(Result::err) } else { None };
                daemon.alive()?;
                return Err(format!("the attack can't be made: {}", why.unwrap_or("it does not begin".into())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let (begin, tries, interrupts) = (Instant::now(), place.tries(), probes::interrupts(args.switch_cpu));
        std::thread::sleep(duration);
        let seconds = begin.elapsed().as_secs_f64();
        let tries = place.tries() - tries;
        let interrupts = probes::interrupts(args.switch_cpu).saturating_sub(interrupts) as f64 / seconds;
        let saturated = case.saturate.then(|| told.saturate(duration / 2, look));
        daemon.alive()?;
        let deleted = daemon.delete(case.port);
        std::thread::sleep(Duration::from_millis(100));
        told.set(Mode::End);
        end.store(true, Ordering::Relaxed);
        // The links are kept: that they go is not what is measured.
        let (seen, _links) = victim.join().map_err(|_| "the victim's thread ends")??;
        let (connect, refused) = guest.join().map_err(|_| "the guest's thread ends")??;
        let control = control.join().map_err(|_| "the control socket's thread ends")?;
        daemon.alive()?;
        let ended = daemon.end();
        drop(stop);
        let attacked = attack.join().map_err(|_| "the attacker's thread ends")?;
        let deleted = deleted?;
        let (ended, forced) = ended;
        // One that goes wrong when its port is deleted was made all the same.
        if place.tries() == 0 && case.name != BASELINE {
            return Err(format!("the attack was not made once: {}", attacked.err().unwrap_or_default()));
        }
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Ok(Figures {
            offered: seen.offered,
            lost: seen.lost,
            again: seen.again,
            flooded: seen.flooded,
            p99_us: seen.p99_us,
            longest_us: seen.longest_us,
            unmeasured: seen.unmeasured,
            mpps: saturated.as_ref().map(|(mpps, _)| *mpps),
            alone_mpps: alone,
            share: saturated.map(|(_, looks)| probes::share(looks)).transpose()?,
            control_ms: ms(control.slowest),
            connect_ms: ms(connect),
            refused,
            wake_ms: slowest.load(Ordering::Relaxed) as f64 / 1e6,
            delete_ms: ms(deleted),
            end_ms: ms(ended),
            memory_mib: control.memory.saturating_sub(memory) as f64 / f64::from(1 << 20),
            files: control.files.saturating_sub(files),
            interrupts,
            tries,
            tries_per_second: tries as f64 / seconds,
            won: place.prize().or(forced.map(str::to_owned)),
        })
    })
}

/// Makes an attack, and judges.
fn judge(drayd: &Path, args: &HostileArgs, case: &Case) -> Row {
    let mut limits = if args.quick { Limits::QUICK } else { Limits::FULL };
    (case.adjust)(&mut limits);
    let outcome = match (case.lacks)().map_err(|why| Outcome::Skipped { why }) {
        Err(skipped) => skipped,
        Ok(()) => match measure(drayd, args, case) {
            Ok(figures) => Outcome::Measured { broken: limits.broken(&figures), figures: Box::new(figures) },
            Err(why) => Outcome::Failed { why },
        },
    };
    Row { attack: case.name, what: case.what, limits, outcome }
}

/// The table.
fn document(rows: &[Row]) -> Document {
    let mut document = Document::new("Dray: hostile peers");
    document.fact("Dray", env!("CARGO_PKG_VERSION"));
    let section = document.section("What attacks do to others");
    section.paragraph(
        "Frames lost of the honest ports, and milliseconds: of 99 % of their frames, of the control socket's slowest answer, an honest \
         client's slowest connection, a sleeping peer's slowest waking, of deleting the attacked port and of ending the daemon. The \
         share is that of the worker's time, in percent, which an honest port gets that sends all it can; frames are what comes of that, in \
         percent of what came just before the attack: their caches are the attack's, too.",
    );
    let names = ["attack", "lost", "p99", "share", "frames", "control", "connect", "wake", "delete", "end", "verdict"];
    let columns =
        names.map(|name| if matches!(name, "attack" | "verdict") { Column::left(name) } else { Column::right(name) });
    let mut table = Table::new("Attacks", columns);
    for row in rows {
        let mut cells = vec![row.attack.to_owned()];
        if let Outcome::Measured { figures: f, .. } = &row.outcome {
            cells.extend([f.lost.to_string(), amount(f.p99_us / 1e3)]);
            let percent = |share: Option<f64>| share.map_or("".into(), |share| format!("{:.1}", 100.0 * share));
            cells.extend([percent(f.share), percent(f.mpps.zip(f.alone_mpps).map(|(now, alone)| now / alone))]);
            cells.extend([f.control_ms, f.connect_ms, f.wake_ms, f.delete_ms, f.end_ms].map(amount));
        }
        cells.resize(names.len() - 1, String::new());
        cells.push(row.word().into());
        let tone = match &row.outcome {
            Outcome::Skipped { .. } => Tone::Plain,
            _ if row.is_good() => Tone::Good,
            _ => Tone::Bad,
        };
        table.verdict(tone, cells);
    }
    section.add(table);
    let mut table =
        Table::new("Limits that are broken, and attacks that were not made", ["attack", "what"].map(Column::left));
    for row in rows.iter().filter(|row| row.word() != "ok") {
        match &row.outcome {
            Outcome::Measured { broken, .. } => broken.iter().for_each(|what| table.row([row.attack, what])),
            Outcome::Skipped { why } | Outcome::Failed { why } => table.row([row.attack, &why.replace('\n', " | ")]),
        }
    }
    if !table.rows.is_empty() {
        section.add(table);
    }
    document
}

/// The cases that are asked for.
fn chosen(names: &[String]) -> Result<Vec<Case>, String> {
    let all = || FAMILIES.iter().flat_map(|family| family.iter());
    if let Some(unknown) = names.iter().find(|name| **name != BASELINE && !all().any(|case| case.name == name.as_str()))
    {
        let known: Vec<&str> = all().map(|case| case.name).collect();
        return Err(format!("--case {unknown}: there is no such attack; there are {}", known.join(", ")));
    }
    let is_wanted = |case: &&Case| names.is_empty() || names.iter().any(|name| name == case.name);
    Ok(all().filter(is_wanted).copied().collect())
}

/// Runs `dray-perf hostile`.
///
/// # Errors
/// If a limit is broken, or the run is worth nothing.
pub fn run(args: &HostileArgs) -> Result<(), String> {
    let cases = chosen(&args.cases)?;
    if args.list {
        cases.iter().for_each(|case| println!("{:24}{}", case.name, case.what));
        return Ok(());
    }
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let drayd = args.drayd.clone().unwrap_or_else(|| own.with_file_name("drayd"));
    if !drayd.exists() {
        return Err(format!("{} is not there: build it, or say where it is (--drayd)", drayd.display()));
    }
    if args.cpu == args.switch_cpu {
        return Err("the worker and all others need a CPU each (--cpu, --switch-cpu)".into());
    }
    // What the attackers hold must not be what stops them.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    // Other programs of the machine come after the daemon, and this.
    let _ = setpriority_process(None, Urgency::Daemon as i32);
    let stop = stop_flag()?;
    let begin = Instant::now();
    let say = |line: &str| eprintln!("[{:6.1} s] {line}", begin.elapsed().as_secs_f64());
    let mut rows = Vec::new();
    for case in std::iter::once(&NO_ATTACK).chain(&cases) {
        if stop.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        let mut row = judge(&drayd, args, case);
        // What other programs of the machine do to one try they don't do to three.
        for _ in 1..if args.quick { QUICK_TRIES } else { 1 } {
            if row.is_good() {
                break;
            }
            say(&format!("{}: {}; once more", row.attack, row.verdict()));
            row = judge(&drayd, args, case);
        }
        say(&format!("{}: {}", row.attack, row.verdict()));
        if case.name == BASELINE && !row.is_good() {
            return Err(format!("without any attack: {}; the machine is too busy for this", row.verdict()));
        }
        rows.push(row);
    }
    let document = document(&rows);
    if args.json {
        #[derive(Serialize)]
        struct Results<'a> {
            dray: &'static str,
            attacks: &'a [Row],
            report: Document,
        }
        let all = Results { dray: env!("CARGO_PKG_VERSION"), attacks: &rows, report: document };
        println!("{}", serde_json::to_string_pretty(&all).map_err(|e| e.to_string())?);
    } else {
        print!("{}", document.text()?);
    }
    let bad: Vec<&str> = rows.iter().filter(|row| !row.is_good()).map(|row| row.attack).collect();
    if bad.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {} attacks break limits: {}", bad.len(), rows.len() - 1, bad.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_have_every_attack() {
        let page = include_str!("../../../docs/hostile.md");
        for case in chosen(&[]).unwrap() {
            let line = format!("| `{}` | {} |\n", case.name, case.what);
            assert!(page.contains(&line), "docs/hostile.md lacks: {line}");
        }
    }

    #[test]
    fn attacks_are_told_apart() {
        let all = chosen(&[]).unwrap();
        let mut names: Vec<&str> = all.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert!(!names.contains(&BASELINE));
        let two = chosen(&["tso-8".into(), "mac-flood".into()]).unwrap();
        assert_eq!(two.iter().map(|case| case.name).collect::<Vec<_>>(), ["tso-8", "mac-flood"]);
        assert!(chosen(&["tso".into()]).err().unwrap().contains("tso-16"));
    }
}
