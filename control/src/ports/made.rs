//! Which devices were made in namespaces, kept in a file: what nobody wants any more when drayd starts, as its port was taken away
//! meanwhile, is removed. It need not outlive the host, as no device does.

use dray_config::{PortKind, ValidConfig};
use dray_tap::Made;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tracing::warn;

/// The devices of ports, by port.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    file: PathBuf,
    devices: Mutex<BTreeMap<String, Made>>,
}

impl Journal {
    /// Reads what an earlier drayd has left in `file`.
    pub fn read(file: &Path) -> Journal {
        let text = fs::read_to_string(file).unwrap_or_default();
        let devices = Mutex::new(text.lines().filter_map(read).collect());
        Journal(Arc::new(Inner { file: file.to_owned(), devices }))
    }

    /// The device of `port` is this one; none: it has none any more.
    pub fn note(&self, port: &str, made: Option<Made>) {
        let Ok(mut devices) = self.0.devices.lock() else { return };
        let before = match made.clone() {
            Some(made) => devices.insert(port.to_owned(), made),
            None => devices.remove(port),
        };
        if before == made {
            return;
        }
        let text: String = devices.iter().map(|(port, made)| written(port, made)).collect();
        let file = &self.0.file;
        let mut temporary = file.as_os_str().to_owned();
        temporary.push(".tmp");
        let write = || {
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
            fs::write(&temporary, &text)?;
            fs::rename(&temporary, file)
        };
        if let Err(error) = write() {
            warn!(target: "port", port = %port, "{}: {error}: if drayd is killed, nobody knows of the device", file.display());
        }
    }

    /// The device of `port` that was made last.
    pub fn of(&self, port: &str) -> Option<Made> {
        self.0.devices.lock().ok()?.get(port).cloned()
    }

    /// The devices of ports that `config` does not have, or not there.
    pub fn unwanted(&self, config: &ValidConfig) -> Vec<(String, Made)> {
        let Ok(devices) = self.0.devices.lock() else { return vec![] };
        let is_wanted = |port: &str, made: &Made| {
            config.ports.get(port).is_some_and(|port| match &port.kind {
                // One that follows a container is where that runs.
                PortKind::Tap(tap) => {
                    tap.ifname == made.ifname
                        && (tap.netns == made.netns || tap.netns.is_none() && tap.container.is_some())
                }
                _ => false,
            })
        };
        let all = devices.iter().filter(|(port, made)| !is_wanted(port, made));
        all.map(|(port, made)| (port.clone(), made.clone())).collect()
    }
}

/// A line: neither port nor interface names have blanks, paths may.
fn written(port: &str, Made { netns_id, index, netns, ifname }: &Made) -> String {
    let netns = netns.as_ref().map_or_else(String::new, |netns| netns.display().to_string());
    format!("{port} {ifname} {index} {netns_id} {netns}\n")
}

fn read(line: &str) -> Option<(String, Made)> {
    let mut words = line.splitn(5, ' ');
    let (port, ifname, index, netns_id, netns) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let netns = (!netns.is_empty()).then(|| netns.into());
    Some((port.into(), Made { netns_id: netns_id.into(), index: index.parse().ok()?, netns, ifname: ifname.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wants_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.d/devices");
        let made = |netns: Option<&str>, ifname: &str| Made {
            netns_id: "b:7".into(),
            index: 2,
            netns: netns.map(Into::into),
            ifname: ifname.into(),
        };
        let journal = Journal::read(&file);
        let (a, b, host) =
            (made(Some("/run/netns/a b"), "eth0"), made(Some("/run/netns/b"), "eth0"), made(None, "dray0"));
        for (port, made) in [("a", &a), ("b", &b), ("host", &host), ("gone", &b)] {
            journal.note(port, Some(made.clone()));
        }
        journal.note("gone", None);
        let journal = Journal::read(&file);
        assert_eq!(journal.of("a"), Some(a.clone()));
        let unwanted = |text: &str| {
            let config = dray_config::parse_for("test", text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
            journal.unwanted(&config).into_iter().map(|(port, _)| port).collect::<Vec<_>>()
        };
        let port = |name: &str, keys: &str| format!("[[port]]\nname = '{name}'\nkind = 'tap'\n{keys}\n");
        assert_eq!(unwanted(""), ["a", "b", "host"]);
        let all = port("a", "netns = '/run/netns/a b'")
            + &port("b", "container = 'docker:b'")
            + &port("host", "ifname = 'dray0'");
        assert_eq!(unwanted(&all), [""; 0]);
        assert_eq!(unwanted(&port("a", "netns = '/run/netns/c'")), ["a", "b", "host"]);
        fs::write(&file, "nonsense\nhost dray0 x b:7 \n").unwrap();
        assert_eq!(Journal::read(&file).of("host"), None);
    }
}
