//! Running a case under valgrind, and finding out whose the instructions are.

use crate::rig;
use dray_switch::clock::Stage;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// One for each stage, and one for what is none of them: the pipeline itself.
const COLUMNS: usize = Stage::COUNT + 1;

/// Instructions a frame, by column.
pub type Counts = [f64; COLUMNS];

/// The columns' names.
pub fn columns() -> impl Iterator<Item = &'static str> {
    Stage::ALL.iter().map(|stage| stage.name()).chain(["other"])
}

/// The index of `other`.
const OTHER: usize = COLUMNS - 1;

/// Whether anything can be counted.
pub fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok()
}

/// Counts the case `name`.
pub fn count(name: &str) -> Result<Counts, String> {
    let program = std::env::current_exe().map_err(|why| why.to_string())?;
    let dir = tempfile::tempdir().map_err(|why| why.to_string())?;
    // The program makes processes of its own, which write what they did when they end: each has its file.
    let file = dir.path().join("callgrind.%p");
    let child = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured*", "--demangle=no"])
        .args(["--dump-instr=yes", "--dump-line=no", "--compress-pos=no", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(&program)
        .args(["--case", name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|why| format!("valgrind: {why} (apt install valgrind)"))?;
    let file = dir.path().join(format!("callgrind.{}", child.id()));
    let output = child.wait_with_output().map_err(|why| format!("valgrind: {why}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let profile = Profile::read(&std::fs::read_to_string(&file).map_err(|why| why.to_string())?);
    let columns = owners(&program, profile.addresses())?;
    let counts = profile.attribute(&columns)?;
    Ok(counts.map(|count| count as f64 / rig::MEASURED_FRAMES as f64))
}

/// What callgrind wrote: instructions by address, and calls, of each function.
#[derive(Default)]
struct Profile {
    functions: HashMap<String, Function>,
}

#[derive(Default)]
struct Function {
    /// Its own: address and count.
    own: Vec<(u64, u64)>,
    /// Its calls: address, function, and count of everything done there.
    calls: Vec<(u64, String, u64)>,
}

impl Profile {
    /// Reads callgrind's format (valgrind's manual, "Callgrind Format Specification") as far as it was asked for.
    fn read(text: &str) -> Profile {
        let mut profile = Profile::default();
        let (mut function, mut called, mut is_call) = (String::new(), String::new(), false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = name.to_owned();
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = name.to_owned();
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if let Some((address, count)) = line.strip_prefix("0x").and_then(|line| line.split_once(' ')) {
                let (Ok(address), Ok(count)) = (u64::from_str_radix(address, 16), count.parse()) else { continue };
                let function = profile.functions.entry(function.clone()).or_default();
                if std::mem::take(&mut is_call) {
                    function.calls.push((address, called.clone(), count));
                } else {
                    function.own.push((address, count));
                }
            }
        }
        profile
    }

    /// All addresses.
    fn addresses(&self) -> BTreeSet<u64> {
        let of =
            |f: &Function| f.own.iter().map(|own| own.0).chain(f.calls.iter().map(|call| call.0)).collect::<Vec<_>>();
        self.functions.values().flat_map(of).collect()
    }

    /// Instructions by column, of everything that [`rig::turn`] does.
    fn attribute(&self, columns: &HashMap<u64, usize>) -> Result<[u64; COLUMNS], String> {
        let is_turn = |name: &&String| name.contains("rig") && name.contains("turn");
        let root = self.functions.keys().find(is_turn).ok_or("the program has no function `turn` of its own")?;
        let mut counts = [0; COLUMNS];
        let (mut open, mut seen) = (vec![root], HashSet::from([root]));
        while let Some(name) = open.pop() {
            let Some(function) = self.functions.get(name) else { continue };
            for (address, count) in &function.own {
                counts[columns.get(address).copied().unwrap_or(OTHER)] += count;
            }
            for (address, called, count) in &function.calls {
                // A queue is called through its table of functions.
                let queue =
                    || ["receive", "release"].iter().find(|stage| called.contains(*stage)).and_then(|s| index(s));
                match columns.get(address).copied().or_else(queue) {
                    Some(column) => counts[column] += count,
                    None if seen.insert(called) => open.push(called),
                    None => {}
                }
            }
        }
        Ok(counts)
    }
}

/// The column of each address of `program`.
fn owners(program: &Path, addresses: BTreeSet<u64>) -> Result<HashMap<u64, usize>, String> {
    let mut child = Command::new("addr2line")
        .args(["-a", "-i", "-e"])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|why| format!("addr2line: {why} (apt install binutils)"))?;
    let mut stdin = child.stdin.take().ok_or("addr2line takes no input")?;
    let questions: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let asking = std::thread::spawn(move || stdin.write_all(questions.as_bytes()));
    let output = child.wait_with_output().map_err(|why| format!("addr2line: {why}"))?;
    asking.join().map_err(|_| "asking panicked")?.map_err(|why| format!("addr2line: {why}"))?;

    let text = String::from_utf8_lossy(&output.stdout);
    let mut columns = HashMap::new();
    let mut address = 0;
    for line in text.lines() {
        if let Some(number) = line.strip_prefix("0x") {
            address = u64::from_str_radix(number, 16).map_err(|_| format!("addr2line: {line:?}"))?;
        } else if let Some(column) = column(line) {
            // From the innermost function to the outermost: the last one that says something counts.
            columns.insert(address, column);
        }
    }
    Ok(columns)
}

/// The column that a place in a stage's file stands for.
fn column(place: &str) -> Option<usize> {
    let (_, file) = place.split_once("/switch/src/stages/")?;
    index(file.split_once(".rs:")?.0)
}

fn index(stage: &str) -> Option<usize> {
    columns().position(|column| column == stage)
}
