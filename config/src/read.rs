//! TOML text to values in range, with their places. What must fit together is checked in [`crate::validate`].

use crate::bridge::resolve_statics;
use crate::error::{Errors, Report, quote, suggest};
use crate::log::log_level;
use crate::schema::{self, Key, REQUIRED, Section, Value};
use crate::validate::{Places, validate};
use crate::{Balance, Control, Fdb, Log, SocketName, ValidConfig, Worker, allowed_cpus};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;
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
    let mut reader = Reader { report: Report::default() };
    let (config, places) = reader.file(root.get_ref(), cpus);
    let mut report = reader.report;
    validate(&config, &places, cpus, &mut report);
    report.finish(file_name, text)?;
    Ok(config)
}

/// A table being read.
pub(crate) struct Table<'a> {
    pub(crate) section: &'static Section,
    pub(crate) entries: &'a DeTable<'a>,
    pub(crate) span: Span,
    /// Which port kind it is, if that matters and is known.
    pub(crate) kind: Option<&'static str>,
    /// How messages name it: `[[port]] "web"`.
    pub(crate) label: String,
}

pub(crate) struct Reader {
    pub(crate) report: Report,
}

/// A value and where it is; no place if the file has no (right) value, and a default stands in.
pub(crate) type Placed<T> = (T, Option<Span>);

impl Reader {
    fn file(&mut self, root: &DeTable<'_>, cpus: &[usize]) -> (ValidConfig, Places) {
        const TABLES: [(&str, bool); 8] = [
            ("control", false),
            ("worker", true),
            ("balance", false),
            ("fdb", false),
            ("log", false),
            ("port", true),
            ("bridge", true),
            ("vxlan", false),
        ];
        for (key, _) in root.iter() {
            let name: &str = key.get_ref();
            if !TABLES.iter().any(|(table, _)| *table == name) {
                self.report.add(&key.span(), || {
                    let known = TABLES.iter().map(|(table, _)| *table);
                    let otherwise =
                        ": there are [control], [[worker]], [balance], [fdb], [log], [[port]], [[bridge]] and [vxlan]";
                    format!("unknown table {}{}", quote(name), suggest(name, known, otherwise))
                });
            }
        }
        let mut places = Places::default();

        let mut control = Control::default();
        if let Some(t) = self.table(root, "control", &schema::CONTROL) {
            let (socket, place) = self.string(&t, "socket", |s| match s.parse()? {
                SocketName::Path(path) => Ok(path),
                SocketName::Abstract(_) => Err("the control socket is a path: its mode is what protects it".into()),
            });
            control.socket = socket.unwrap_or(control.socket);
            places.control_socket = place;
            let mode;
            (control.access, mode) = self.access(&t);
            if let (Some(place), 1..) = (mode, control.access.mode & 0o007) {
                self.report.add(&place, || {
                    format!(
                        "socket-mode = \"{:04o}\": who may connect to the control socket is as good as root: nothing for \
                         others, like \"0660\" with a socket-group",
                        control.access.mode
                    )
                });
            }
            control.metrics = self
                .string(&t, "metrics", |s| {
                    SocketAddr::from_str(s).map_err(|_| "an address and port, like \"127.0.0.1:9177\"".into())
                })
                .0;
        }

        let mut workers = Vec::new();
        for t in self.tables(root, "worker", &schema::WORKER, schema::MAX_WORKERS) {
            let (cpu, place) = self.integer(&t, "cpu", 0);
            let idle_sleep = self.integer(&t, "idle-sleep", 0).0 as u16;
            workers.push(Worker { cpu: cpu as usize, idle_sleep });
            places.workers.push(place);
        }
        if workers.is_empty() {
            workers.push(Worker { cpu: cpus.last().copied().unwrap_or(0), idle_sleep: 0 });
            places.workers.push(None);
        }

        let mut balance = Balance::default();
        if let Some(t) = self.table(root, "balance", &schema::BALANCE) {
            balance.interval = self.integer(&t, "interval", balance.interval.into()).0 as u16;
        }

        let mut fdb = Fdb::default();
        if let Some(t) = self.table(root, "fdb", &schema::FDB) {
            fdb.size = self.integer(&t, "size", fdb.size as u64).0 as usize;
            fdb.ageing = self.integer(&t, "ageing", fdb.ageing.into()).0 as u16;
        }

        let mut log = Log::default();
        if let Some(t) = self.table(root, "log", &schema::LOG) {
            log.level = self.string(&t, "level", log_level).0.unwrap_or(log.level);
        }

        let mut ports = Vec::new();
        let mut without_mac = Vec::new();
        for t in self.tables(root, "port", &schema::PORT, schema::MAX_PORTS) {
            let (port, has_mac, place) = self.port(t);
            without_mac.extend((!has_mac).then_some(ports.len()));
            ports.push(port);
            places.ports.push(place);
        }

        let mut bridges = Vec::new();
        for t in self.tables(root, "bridge", &schema::BRIDGE, schema::MAX_BRIDGES) {
            let (bridge, place) = self.bridge(t);
            bridges.push(bridge);
            places.bridges.push(place);
        }

        let mut vxlan = None;
        places.has_vxlan = root.get("vxlan").is_some();
        if let Some(t) = self.table(root, "vxlan", &schema::VXLAN) {
            let (mut read, place) = self.vxlan(&t);
            read.mtu = ports.iter().find(|port| port.name == read.port).map_or(0, |port| port.mtu);
            vxlan = Some(read);
            places.vxlan = place;
        }

        let mut config = ValidConfig { control, workers, balance, log, ports, bridges, vxlan, fdb };
        for i in without_mac {
            config.ports[i].mac = config.default_mac(&config.ports[i].name);
        }
        for i in 0..config.ports.len() {
            if config.ports[i].max_macs == 0 {
                config.ports[i].max_macs = config.default_max_macs(&config.ports[i]);
            }
        }
        resolve_statics(&mut config, &places, &mut self.report);
        (config, places)
    }

    /// The `name` of a port or bridge; from then on messages use it.
    pub(crate) fn name(&mut self, t: &mut Table<'_>) -> Placed<String> {
        let (name, place) = self.string(t, "name", |s| {
            let good = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
            if (1..=32).contains(&s.len()) && s.chars().all(good) {
                Ok(s.to_string())
            } else {
                Err("a name is 1 to 32 of A-Z a-z 0-9 _ . : -".into())
            }
        });
        if let Some(name) = &name {
            t.label = format!("{} {name:?}", t.section.header);
        }
        (name.unwrap_or_default(), place)
    }

    /// The table `name` of the file.
    pub(crate) fn table<'a>(
        &mut self,
        root: &'a DeTable<'a>,
        name: &str,
        section: &'static Section,
    ) -> Option<Table<'a>> {
        let value = root.get(name)?;
        let DeValue::Table(entries) = value.get_ref() else {
            self.report.add(&value.span(), || format!("{name} is written as a table: {}", section.header));
            return None;
        };
        let t = Table { section, entries, span: value.span(), kind: None, label: section.header.into() };
        self.unknown_keys(&t);
        Some(t)
    }

    /// The tables `[[name]]` of the file. Unknown keys are checked here unless the table has a name to be read first.
    pub(crate) fn tables<'a>(
        &mut self,
        root: &'a DeTable<'a>,
        name: &str,
        section: &'static Section,
        max: usize,
    ) -> Vec<Table<'a>> {
        let Some(value) = root.get(name) else { return Vec::new() };
        let wrong = || format!("{name} may be given several times: write {} with two brackets", section.header);
        let DeValue::Array(array) = value.get_ref() else {
            self.report.add(&value.span(), wrong);
            return Vec::new();
        };
        if array.len() > max {
            self.report.add(&array[max].span(), || format!("{} {}: at most {max}", array.len(), section.header));
        }
        let mut tables = Vec::new();
        for item in array.iter().take(max) {
            let DeValue::Table(entries) = item.get_ref() else {
                self.report.add(&item.span(), wrong);
                continue;
            };
            let t = Table { section, entries, span: item.span(), kind: None, label: section.header.into() };
            if !section.keys.iter().any(|key| key.name == "name") {
                self.unknown_keys(&t);
            }
            tables.push(t);
        }
        tables
    }

    /// An inline table of `parent`.
    pub(crate) fn inline<'a>(
        &mut self,
        item: &'a Spanned<DeValue<'a>>,
        section: &'static Section,
        parent: &Table<'_>,
    ) -> Option<Table<'a>> {
        let DeValue::Table(entries) = item.get_ref() else {
            self.report
                .add(&item.span(), || format!("{} is no entry of {}: a table", show(item.get_ref()), section.header));
            return None;
        };
        // It begins with the key in backticks.
        let key = section.header.split('`').nth(1).unwrap_or_default();
        let label = format!("{key} of {}", parent.label);
        let t = Table { section, entries, span: item.span(), kind: None, label };
        self.unknown_keys(&t);
        Some(t)
    }

    /// Reports every key that the table does not have or that is for another kind of port.
    pub(crate) fn unknown_keys(&mut self, t: &Table<'_>) {
        for (key, _) in t.entries.iter() {
            let name: &str = key.get_ref();
            if t.section.keys_for(t.kind).any(|known| known.name == name) {
                continue;
            }
            self.report.add(&key.span(), || {
                let others = t.section.keys.iter().filter(|known| known.name == name).flat_map(|known| known.kinds);
                let others: Vec<String> = others.map(|other| quote(other)).collect();
                if let Some(kind) = t.kind.filter(|_| !others.is_empty()) {
                    let others = others.join(", ");
                    return format!("{name} does not fit kind = {kind:?} in {}: it is for {others}", t.label);
                }
                let names: Vec<&str> = t.section.keys_for(t.kind).map(|known| known.name).collect();
                let otherwise = format!(": known are {}", names.join(", "));
                format!(
                    "unknown key {} in {}{}",
                    quote(name),
                    t.label,
                    suggest(name, names.iter().copied(), &otherwise)
                )
            });
        }
    }

    /// Where the value of `name` is.
    pub(crate) fn place(&self, t: &Table<'_>, name: &str) -> Option<Span> {
        t.entries.get(name).map(Spanned::span)
    }

    /// The value of `name`; if it is missing and required, that is reported.
    pub(crate) fn value<'a>(&mut self, t: &Table<'a>, name: &str) -> Option<(&'a Spanned<DeValue<'a>>, &'static Key)> {
        let key = t.section.keys_for(t.kind).find(|key| key.name == name).expect("the reader asks for known keys");
        let value = t.entries.get(name);
        if value.is_none() && key.default == REQUIRED {
            self.report.add(&t.span, || format!("{} needs {name}: {}", t.label, key.value.range().replace('`', "")));
        }
        value.map(|value| (value, key))
    }

    pub(crate) fn wrong_type(&mut self, value: &Spanned<DeValue<'_>>, key: &Key) {
        self.report.add(&value.span(), || {
            let right = key.value.range().replace('`', "");
            let got = value.get_ref();
            format!(
                "{} = {} is {}, not {}: {right}",
                key.name,
                show(got),
                article(got.type_str()),
                key.value.type_name()
            )
        });
    }

    pub(crate) fn string<T>(
        &mut self,
        t: &Table<'_>,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Placed<Option<T>> {
        let Some((value, key)) = self.value(t, name) else { return (None, None) };
        let DeValue::String(s) = value.get_ref() else {
            self.wrong_type(value, key);
            return (None, None);
        };
        match read(s) {
            Ok(read) => (Some(read), Some(value.span())),
            Err(why) => {
                self.report.add(&value.span(), || format!("{name} = {}: {why}", quote(s)));
                (None, None)
            }
        }
    }

    pub(crate) fn integer(&mut self, t: &Table<'_>, name: &str, default: u64) -> Placed<u64> {
        let Some((value, key)) = self.value(t, name) else { return (default, None) };
        let DeValue::Integer(n) = value.get_ref() else {
            self.wrong_type(value, key);
            return (default, None);
        };
        let read = u64::from_str_radix(n.as_str(), n.radix()).ok().filter(|n| match key.value {
            Value::Integer(min, max) => (min..=max).contains(n),
            Value::PowerOfTwo(min, max) => (min..=max).contains(n) && n.is_power_of_two(),
            _ => false,
        });
        match read {
            Some(n) => (n, Some(value.span())),
            None => {
                let shown: String = n.to_string().chars().take(64).collect();
                self.report.add(&value.span(), || format!("{name} = {shown} is out of range: {}", key.value.range()));
                (default, None)
            }
        }
    }

    pub(crate) fn boolean(&mut self, t: &Table<'_>, name: &str, default: bool) -> bool {
        let Some((value, key)) = self.value(t, name) else { return default };
        let DeValue::Boolean(b) = value.get_ref() else {
            self.wrong_type(value, key);
            return default;
        };
        *b
    }

    pub(crate) fn array<'a>(&mut self, t: &Table<'a>, name: &str) -> Option<&'a [Spanned<DeValue<'a>>]> {
        let (value, key) = self.value(t, name)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(value, key);
            return None;
        };
        Some(array)
    }
}

impl Table<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
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

fn article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}
