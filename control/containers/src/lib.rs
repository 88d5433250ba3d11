//! Containers: which process a name stands for. Docker is asked by its socket (Docker Engine API, `GET /containers/NAME/json`), Podman by
//! its socket, which speaks the same, or its command, containerd by the command `ctr`.
//!
//! Every wait has a limit.
#![forbid(unsafe_code)]

mod engine;
mod process;

pub use engine::Engine;
pub use process::Process;

use std::fmt;
use std::path::{Path, PathBuf};

/// Where `ip netns` keeps network namespaces.
const NETNS: &str = "/run/netns";

/// A container that an engine has. In words `docker:web`, `podman:web`, `containerd:default/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// Its engine.
    pub engine: Engine,
    /// What it is called there.
    pub name: String,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.engine.name(), self.name)
    }
}

impl Container {
    /// Reads `ENGINE:NAME`. None if it is something else.
    pub fn read(text: &str) -> Option<Container> {
        let (engine, name) = dray_config::engine(text)?;
        let engine = Engine::ALL.into_iter().find(|known| known.name() == engine)?;
        Some(Container { engine, name: name.into() })
    }

    /// Its first process; none if it does not run. Blocks until the engine has answered, for ten seconds at most.
    ///
    /// # Errors
    /// Why that is not known: the engine has no such container, or does not answer.
    pub fn process(&self) -> Result<Option<Process>, String> {
        match self.engine.find(&self.name) {
            Ok(Some((_, pid))) => Ok(pid.and_then(Process::of)),
            Ok(None) => Err(format!("{} has no container {:?}", self.engine, self.name)),
            Err(why) => Err(format!("{}: {why}", self.engine)),
        }
    }
}

/// What somebody has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is called: a container's engine and name, a process id, a namespace's name or path.
    pub name: String,
    /// The file of its network namespace; none if it is a container that does not run.
    pub netns: Option<PathBuf>,
}

/// What `name` stands for: a process id, a path, `ENGINE:NAME`, a namespace in /run/netns, or the name or id of a container of any engine.
/// Blocks until all engines have answered, for ten seconds each at most.
///
/// # Errors
/// What was looked for and where, or between which it is to be chosen.
pub fn find(name: &str) -> Result<Place, String> {
    if name.parse::<u32>().is_ok() {
        let netns = PathBuf::from(format!("/proc/{name}/ns/net"));
        let is_there = Path::new("/proc").join(name).exists();
        let place = Place { name: name.into(), netns: Some(netns) };
        return is_there.then_some(place).ok_or_else(|| format!("there is no process {name}"));
    }
    if name.starts_with('/') {
        let place = Place { name: name.into(), netns: Some(name.into()) };
        return Path::new(name).exists().then_some(place).ok_or_else(|| format!("there is no file {name}"));
    }
    if let Some(container) = Container::read(name) {
        let netns = container.process()?.map(|process| process.netns());
        return Ok(Place { name: container.to_string(), netns });
    }
    let netns = Path::new(NETNS).join(name);
    if !name.contains('/') && netns.exists() {
        return Ok(Place { name: name.into(), netns: Some(netns) });
    }
    let mut found: Vec<(Container, Option<u32>)> = Vec::new();
    let mut looked = vec![format!("{NETNS}: no such file")];
    for engine in Engine::ALL {
        match engine.find(name) {
            // One engine may answer for another one: Podman on Docker's socket.
            Ok(Some((_, Some(pid)))) if found.iter().any(|(_, other)| *other == Some(pid)) => {}
            Ok(Some((name, pid))) => found.push((Container { engine, name }, pid)),
            Ok(None) => looked.push(format!("{engine}: no such container")),
            Err(why) => looked.push(format!("{engine}: {why}")),
        }
    }
    match &found[..] {
        [(container, pid)] => {
            let process = pid.and_then(Process::of);
            Ok(Place { name: container.to_string(), netns: process.map(|process| process.netns()) })
        }
        [] => Err(format!("no container or network namespace is called {name:?}. {}", looked.join("; "))),
        several => {
            let names: Vec<String> = several.iter().map(|(container, _)| container.to_string()).collect();
            Err(format!("several containers are called {name:?}: say which, {}", names.join(" or ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_of() {
        let read = |text: &str| Container::read(text).map(|container| container.to_string());
        assert_eq!(read("docker:web"), Some("docker:web".into()));
        assert_eq!(read("containerd:k8s.io/web"), Some("containerd:k8s.io/web".into()));
        assert_eq!([read("docker:"), read("web"), read("lxc:web")], [None, None, None]);
        assert_eq!(Engine::ALL.map(Engine::name), dray_config::ENGINES);
    }

    #[test]
    fn processes_and_paths_need_no_engine() {
        let own = std::process::id().to_string();
        let netns = |name: &str| find(name).map(|place| place.netns.unwrap().display().to_string());
        assert_eq!(netns(&own), Ok(format!("/proc/{own}/ns/net")));
        assert_eq!(netns("/proc/self/ns/net"), Ok("/proc/self/ns/net".into()));
        assert_eq!(netns("4194999"), Err("there is no process 4194999".into()));
        assert_eq!(netns("/proc/none"), Err("there is no file /proc/none".into()));
    }

    #[test]
    fn what_is_not_found_says_where_it_was_looked_for() {
        let why = find("dray-has-no-such-container").unwrap_err();
        for part in ["/run/netns: no such file", "Docker: ", "Podman: ", "containerd: "] {
            assert!(why.contains(part), "{why}");
        }
    }
}
