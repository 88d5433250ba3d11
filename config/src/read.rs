//! TOML text to values in range, with their places. What must fit together is checked in [`crate::validate`].

use crate::error::{Errors, Report, quote, suggest};
use crate::schema::{self, Keys, Section};
use crate::validate::{Places, Tables, validate};
use crate::{Balance, Bridge, Control, Fdb, Log, Port, ValidConfig, Vxlan, Worker, allowed_cpus};
use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

type Span = Range<usize>;

/// Reads and validates a configuration file for this process: [`parse_for`] with the CPUs it may use.
///
/// # Errors
/// All that is wrong with the text, as far as it can be found at once. While it is not TOML, only that is reported.
pub fn parse(file_name: &str, text: &str) -> Result<ValidConfig, Errors> {
    parse_for(file_name, text, &allowed_cpus())
}

/// Reads and validates a configuration file for a process that may use `cpus`. Without `[[worker]]` the last of them
/// is used; if none is given, any CPU is right.
///
/// # Errors
/// As [`parse`].
pub fn parse_for(file_name: &str, text: &str, cpus: &[usize]) -> Result<ValidConfig, Errors> {
    let mut report = Report::default();
    let (root, syntax) = DeTable::parse_recoverable(text);
    let mut lines = HashSet::new();
    for error in syntax {
        // What follows an error on its own line is mostly its echo.
        let span = error.span().unwrap_or(text.len()..text.len());
        let line_start = text.as_bytes()[..span.start.min(text.len())].iter().rposition(|b| *b == b'\n');
        if lines.insert(line_start) {
            report.add(&span, || {
                // The only message that does not say what it is about.
                let key = text.get(span.clone()).filter(|_| error.message() == "duplicate key");
                format!("not TOML: {}{}", error.message(), key.map_or(String::new(), |key| format!(" {key}")))
            });
        }
    }
    report.finish(file_name, text)?;
    let mut report = Report::default();
    let config = file(root.get_ref(), cpus, &mut report);
    report.finish(file_name, text)?;
    Ok(config)
}

/// Reads and validates the configuration file `file` for this process. With its text.
///
/// # Errors
/// The system's reason, or all that is wrong with it: for people.
pub fn load(file: &Path) -> Result<(ValidConfig, String), String> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| format!("error: {name}: {error}"))?;
    let config = parse(&name, &text).map_err(|errors| errors.to_string())?;
    Ok((config, text))
}

/// Reads an object that is in no file, from lines of keys and their values.
///
/// # Errors
/// What would be said of it in a file, a line each.
pub(crate) fn object<T: Keys>(section: &'static Section, lines: &str) -> Result<T, String> {
    let mut report = Report::default();
    let mut keys = T::initial();
    let (root, syntax) = DeTable::parse_recoverable(lines);
    for error in syntax {
        report.add(&error.span().unwrap_or(0..0), || format!("not TOML: {}", error.message()));
    }
    read(&mut keys, &mut Table::new(section, root.get_ref(), 0..0), &mut report);
    report.messages()?;
    Ok(keys)
}

/// A table being read.
pub(crate) struct Table<'a> {
    pub section: &'static Section,
    pub entries: &'a DeTable<'a>,
    pub span: Span,
    /// Which port kind it is, if that matters and is known.
    pub kind: Option<&'static str>,
    /// How messages name it: `[[port]] "web"`.
    pub label: String,
    /// Keys whose value is wrong, or is missing though it must be given.
    pub wrong: Vec<&'static str>,
    /// Of the keys that are lists, where the items are that are right.
    items: Vec<(&'static str, Vec<Item<'a>>)>,
}

/// Where an item of a list is.
pub(crate) struct Item<'a> {
    pub span: Span,
    /// Its keys, if it is an inline table.
    entries: Option<&'a DeTable<'a>>,
}

impl<'a> Table<'a> {
    fn new(section: &'static Section, entries: &'a DeTable<'a>, span: Span) -> Self {
        let label = section.header.into();
        Table { section, entries, span, kind: None, label, wrong: vec![], items: vec![] }
    }

    /// Whether the file has the key, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }
}

impl Places for Table<'_> {
    fn at(&self, key: &str) -> Option<Span> {
        self.entries.get(key).filter(|_| !self.is_wrong(key)).map(Spanned::span)
    }

    fn is_wrong(&self, key: &str) -> bool {
        self.wrong.contains(&key)
    }

    fn whole(&self) -> Span {
        self.span.clone()
    }

    fn item(&self, list: &str, n: usize, key: &str) -> Span {
        let items = self.items.iter().find(|(name, _)| *name == list);
        items.and_then(|(_, items)| items.get(n)).map_or_else(|| self.span.clone(), |item| item.at(key))
    }
}

impl<'a> Item<'a> {
    /// An item without keys.
    pub fn of(item: &Spanned<DeValue<'_>>) -> Self {
        Item { span: item.span(), entries: None }
    }

    /// Whether it has the key.
    pub fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// Where the key's value is, or else the item.
    pub fn at(&self, key: &str) -> Span {
        self.entries.and_then(|entries| entries.get(key)).map_or_else(|| self.span.clone(), Spanned::span)
    }
}

fn file<'a>(root: &'a DeTable<'a>, cpus: &[usize], report: &mut Report) -> ValidConfig {
    const NAMES: [&str; 8] = ["control", "worker", "balance", "fdb", "log", "port", "bridge", "vxlan"];
    for (key, _) in root.iter() {
        let name: &str = key.get_ref();
        if !NAMES.contains(&name) {
            report.add(&key.span(), || {
                let known = NAMES.iter().copied();
                let otherwise =
                    ": there are [control], [[worker]], [balance], [fdb], [log], [[port]], [[bridge]] and [vxlan]";
                format!("unknown table {}{}", quote(name), suggest(name, known, otherwise))
            });
        }
    }

    let control = one::<Control>(root, "control", &schema::CONTROL, report);
    let (mut workers, worker_tables) = several::<Worker>(root, "worker", &schema::WORKER, schema::MAX_WORKERS, report);
    if workers.is_empty() {
        workers.push(Worker { cpu: cpus.last().copied().unwrap_or(0), ..Worker::initial() });
    }
    let balance = one::<Balance>(root, "balance", &schema::BALANCE, report);
    let fdb = one::<Fdb>(root, "fdb", &schema::FDB, report);
    let log = one::<Log>(root, "log", &schema::LOG, report);
    let (ports, port_tables) = several::<Port>(root, "port", &schema::PORT, schema::MAX_PORTS, report);
    let (bridges, bridge_tables) = several::<Bridge>(root, "bridge", &schema::BRIDGE, schema::MAX_BRIDGES, report);
    let vxlan = one::<Vxlan>(root, "vxlan", &schema::VXLAN, report);

    let has_vxlan = root.contains_key("vxlan");
    let mut config = ValidConfig {
        control: control.0,
        workers,
        balance: balance.0,
        log: log.0,
        ports: ports.into(),
        bridges: bridges.into(),
        vxlan: vxlan.1.is_some().then_some(vxlan.0),
        fdb: fdb.0,
    };
    config.compute();
    let tables = Tables {
        control: control.1,
        workers: worker_tables,
        ports: port_tables,
        bridges: bridge_tables,
        has_vxlan,
        vxlan: vxlan.1,
    };
    validate(&mut config, &tables, cpus, report);
    config
}

/// The table `name` of the file: what it says, and where it is if it is there.
fn one<'a, T: Keys>(
    root: &'a DeTable<'a>,
    name: &str,
    section: &'static Section,
    report: &mut Report,
) -> (T, Option<Table<'a>>) {
    let mut keys = T::initial();
    let Some(value) = root.get(name) else { return (keys, None) };
    let DeValue::Table(entries) = value.get_ref() else {
        report.add(&value.span(), || format!("{name} is written as a table: {}", section.header));
        return (keys, None);
    };
    let mut t = Table::new(section, entries, value.span());
    read(&mut keys, &mut t, report);
    (keys, Some(t))
}

/// The tables `[[name]]` of the file, each with its place.
pub(crate) fn several<'a, T: Keys>(
    root: &'a DeTable<'a>,
    name: &str,
    section: &'static Section,
    max: usize,
    report: &mut Report,
) -> (Vec<T>, Vec<Table<'a>>) {
    let Some(value) = root.get(name) else { return Default::default() };
    let wrong = || format!("{name} may be given several times: write {} with two brackets", section.header);
    let DeValue::Array(array) = value.get_ref() else {
        report.add(&value.span(), wrong);
        return Default::default();
    };
    if array.len() > max {
        report.add(&array[max].span(), || format!("{} {}: at most {max}", array.len(), section.header));
    }
    let (mut all, mut tables) = (Vec::new(), Vec::new());
    for item in array.iter().take(max) {
        let DeValue::Table(entries) = item.get_ref() else {
            report.add(&item.span(), wrong);
            continue;
        };
        let mut keys = T::initial();
        let mut t = Table::new(section, entries, item.span());
        read(&mut keys, &mut t, report);
        all.push(keys);
        tables.push(t);
    }
    (all, tables)
}

/// Reads the items of a list, of which there are at most `max`.
pub(crate) fn items<'a, T>(
    key: &'static str,
    list: &'a [Spanned<DeValue<'a>>],
    t: &mut Table<'a>,
    report: &mut Report,
    max: usize,
    mut read: impl FnMut(&'a Spanned<DeValue<'a>>, &Table<'a>, &mut Report) -> Option<(T, Item<'a>)>,
) -> Vec<T> {
    let (values, places) = list.iter().filter_map(|item| read(item, t, report)).unzip();
    if let Some(item) = list.get(max) {
        report.add(&item.span(), || format!("{} {key}: at most {max}", list.len()));
    }
    t.items.push((key, places));
    values
}

/// An inline table of `parent` in which nothing is wrong.
pub(crate) fn inline<'a, T: Keys>(
    item: &'a Spanned<DeValue<'a>>,
    section: &'static Section,
    parent: &Table<'a>,
    report: &mut Report,
) -> Option<(T, Item<'a>)> {
    let (keys, at, is_right) = inline_keys(item, section, parent, report)?;
    is_right.then_some((keys, at))
}

/// An inline table of `parent`, and whether nothing is wrong in it.
pub(crate) fn inline_keys<'a, T: Keys>(
    item: &'a Spanned<DeValue<'a>>,
    section: &'static Section,
    parent: &Table<'a>,
    report: &mut Report,
) -> Option<(T, Item<'a>, bool)> {
    let DeValue::Table(entries) = item.get_ref() else {
        report.add(&item.span(), || format!("{} is no entry of {}: a table", show(item.get_ref()), section.header));
        return None;
    };
    let mut t = Table::new(section, entries, item.span());
    // The header begins with the key in backticks.
    let key = section.header.split('`').nth(1).unwrap_or_default();
    t.label = format!("{key} of {}", parent.label);
    let mut keys = T::initial();
    read(&mut keys, &mut t, report);
    Some((keys, Item { span: item.span(), entries: Some(entries) }, t.wrong.is_empty()))
}

/// Takes all keys of a table, and reports those that it does not have.
fn read<T: Keys>(keys: &mut T, t: &mut Table<'_>, report: &mut Report) {
    keys.read(t, report);
    unknown_keys(t, report);
}

/// Reports every key that the table does not have or that is for another kind of port.
fn unknown_keys(t: &Table<'_>, report: &mut Report) {
    for (key, _) in t.entries.iter() {
        let name: &str = key.get_ref();
        if t.section.keys_for(t.kind).any(|known| known.name == name) {
            continue;
        }
        report.add(&key.span(), || {
            let others = t.section.keys.iter().filter(|known| known.name == name).filter_map(|known| known.kind);
            let others: Vec<String> = others.map(quote).collect();
            if let Some(kind) = t.kind.filter(|_| !others.is_empty()) {
                let others = others.join(", ");
                return format!("{name} does not fit kind = {kind:?} in {}: it is for {others}", t.label);
            }
            let mut names: Vec<&str> = Vec::new();
            for key in t.section.keys_for(t.kind) {
                if !names.contains(&key.name) {
                    names.push(key.name);
                }
            }
            let otherwise = format!(": known are {}", names.join(", "));
            format!("unknown key {} in {}{}", quote(name), t.label, suggest(name, names.iter().copied(), &otherwise))
        });
    }
}

/// A value as messages show it.
pub(crate) fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => quote(s),
        DeValue::Integer(n) => n.to_string().chars().take(64).collect(),
        DeValue::Float(n) => n.to_string().chars().take(64).collect(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => d.to_string(),
        DeValue::Array(_) => "[..]".into(),
        DeValue::Table(_) => "{..}".into(),
    }
}

pub(crate) fn article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}
