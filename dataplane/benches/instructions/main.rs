//! How many instructions each stage takes for a frame, counted by valgrind: the same on every machine, however fast it is at the moment.
//! The frames come from real rings, memif's and vhost-user's, and go into such, all in this process.
//!
//!     cargo bench -p dray-dataplane --bench instructions              # fails where it differs from instructions.txt
//!     cargo bench -p dray-dataplane --bench instructions -- --bless   # writes instructions.txt
//!
//! An instruction belongs to the stage in whose source file the outermost function is that it was inlined into, or that called
//! what it is in; debug information and the call graph know that. valgrind shows the program a CPU with AVX2 and without
//! AVX-512, whatever the real one has.

#![allow(missing_docs)]

mod count;
mod rig;

use count::{Counts, columns};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

/// The table to be held to.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

/// What a stage may differ from the table by, as a share of all instructions of its case; and at least so many.
const TOLERANCE: (f64, f64) = (0.02, 1.0);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["--case", name] => {
            rig::run(name);
            Ok(String::new())
        }
        [] if !count::has_valgrind() => Ok("SKIPPED: instructions are not counted, valgrind is not installed".into()),
        [] => measure().and_then(|now| compare(&now)),
        ["--bless"] => measure()
            .and_then(|now| std::fs::write(TABLE, table(&now)).map_err(|why| format!("{TABLE}: {why}")))
            .map(|()| format!("written: {TABLE}")),
        _ => Err(format!("{args:?}: there is nothing but --bless")),
    };
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Instructions a frame, by case and stage.
type Cases = BTreeMap<String, Counts>;

/// Counts all cases, two at a time.
fn measure() -> Result<Cases, String> {
    let names = std::sync::Mutex::new(rig::CASES.iter().map(|case| case.name));
    let next = || names.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let part = || {
        std::iter::from_fn(next)
            .map(|name| Ok((name.to_owned(), count::count(name)?)))
            .collect::<Result<Vec<_>, String>>()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(part);
        let mut all = part()?;
        all.extend(other.join().map_err(|_| "a count panicked")??);
        Ok(all.into_iter().collect())
    })
}

/// What the instructions depend on beside the sources.
fn compiler() -> String {
    let version = std::process::Command::new("rustc").arg("--version").output().map(|output| output.stdout);
    String::from_utf8_lossy(&version.unwrap_or_default()).trim().to_owned()
}

fn table(cases: &Cases) -> String {
    let mut text = format!(
        "# Instructions a frame. Made by `make bless`; `make check` fails when they change.\n# {}\n{:<14}{:>9}",
        compiler(),
        "case",
        "total"
    );
    for column in columns() {
        let _ = write!(text, "{column:>9}");
    }
    for case in rig::CASES {
        let counts = &cases[case.name];
        let _ = write!(text, "\n{:<14}{:>9.1}", case.name, counts.iter().sum::<f64>());
        for count in counts {
            let _ = write!(text, "{count:>9.1}");
        }
    }
    text + "\n"
}

/// Holds `now` to the table.
fn compare(now: &Cases) -> Result<String, String> {
    let text = std::fs::read_to_string(TABLE).map_err(|why| format!("{TABLE}: {why}"))?;
    let shown = table(now);
    if !text.contains(&compiler()) {
        return Ok(format!("SKIPPED: another compiler's instructions ({}) can't be compared\n{shown}", compiler()));
    }
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).map(str::split_whitespace);
    let headings: Vec<&str> = lines.next().into_iter().flatten().skip(1).collect();
    let mut was: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for mut line in lines {
        let case = line.next().unwrap_or_default();
        was.extend(
            headings.iter().zip(line).map(|(column, count)| ((case, *column), count.parse().unwrap_or(f64::NAN))),
        );
    }
    let mut changes = String::new();
    for case in rig::CASES {
        let counts = &now[case.name];
        let total: f64 = counts.iter().sum();
        let tolerance = (total * TOLERANCE.0).max(TOLERANCE.1);
        for (column, count) in [("total", total)].into_iter().chain(columns().zip(counts.iter().copied())) {
            let was = was.get(&(case.name, column)).copied().unwrap_or(f64::NAN);
            let differs = (count - was).abs();
            if differs.is_nan() || differs > tolerance {
                let _ = writeln!(changes, "  {:<14}{column:>8}: {was:.1} -> {count:.1}", case.name);
            }
        }
    }
    if changes.is_empty() {
        return Ok(shown);
    }
    Err(format!(
        "{shown}\nInstructions a frame have changed by more than {} % of their case:\n{changes}\
         If this is meant (say why in the commit): make bless, and commit dataplane/benches/instructions.txt",
        TOLERANCE.0 * 100.0
    ))
}
