//! Who is at the other end of a connection, and how much of what peers share is theirs: places for connections that are half-open,
//! and attempts.

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::Hash;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Attempts of a tenant at one port that are not to wait: the first ones, and those after a link that was up for [`LIVED`].
const FREE: u32 = 3;
/// How long the next ones are kept apart; it doubles.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A link that was up for so long was not made in a loop.
pub(crate) const LIVED: Duration = Duration::from_secs(2);
/// After so long without an attempt a tenant is forgotten.
const FORGET: Duration = Duration::from_secs(10);
/// Tenants of one port that are remembered; all others count as one.
const TENANTS: usize = 16;
/// Bytes of a control group's name that are looked at.
const GROUP: u64 = 4096;

/// Whose process a peer is, by what it cannot choose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tenant {
    /// A control group: a container, a virtual machine or a service. Its processes stay in it, however many they are and whatever
    /// users and namespaces they make. One that may make groups below its own can be several; it needs as many for each place that it
    /// takes from others.
    Group(String),
    /// A user, if the group can't be seen: the process has ended, or has no number in our namespace. A container that has several
    /// users is several then, and those of different containers with the same user are one.
    User(u32),
}

/// Who connected, as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub tenant: Tenant,
    /// 0: not in our namespace.
    pid: i32,
    uid: u32,
}

impl Peer {
    pub fn of(fd: &OwnedFd) -> Peer {
        let (pid, uid) = getsockopt(fd, PeerCredentials).map_or((0, u32::MAX), |peer| (peer.pid(), peer.uid()));
        let group = || {
            let mut text = String::new();
            File::open(format!("/proc/{pid}/cgroup")).ok()?.take(GROUP).read_to_string(&mut text).ok()?;
            (!text.is_empty()).then_some(text)
        };
        let tenant = if pid > 0 { group().map(Tenant::Group) } else { None };
        Peer { tenant: tenant.unwrap_or(Tenant::User(uid)), pid, uid }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "uid {}", self.uid),
            pid => write!(f, "pid {pid}, uid {}", self.uid),
        }
    }
}

/// Which of the half-open connections, oldest first, is to be given up: the oldest one of the process that has most, of the tenant
/// that has most.
pub(crate) fn greediest(half_open: &[(u64, &Peer)]) -> Option<u64> {
    let tenants = most(half_open, |peer| &peer.tenant);
    most(&tenants, |peer| peer.pid).first().map(|(token, _)| *token)
}

/// The largest group; of several the one with the oldest connection.
fn most<'a, K: Eq + Hash>(connections: &[(u64, &'a Peer)], key: impl Fn(&'a Peer) -> K) -> Vec<(u64, &'a Peer)> {
    let mut groups: HashMap<K, Vec<(u64, &Peer)>> = HashMap::new();
    for connection in connections {
        groups.entry(key(connection.1)).or_default().push(*connection);
    }
    groups.into_values().max_by_key(|group| (group.len(), Reverse(group[0].0))).unwrap_or_default()
}

/// The attempts at a port.
#[derive(Default)]
pub(crate) struct Attempts {
    tenants: HashMap<Tenant, Breath>,
    others: Breath,
}

impl Attempts {
    /// When an attempt that comes now is to be looked at; `None`: never, there are too many.
    pub fn admit(&mut self, tenant: &Tenant, now: Instant) -> Option<Instant> {
        if self.tenants.len() >= TENANTS {
            self.tenants.retain(|_, breath| !breath.is_over(now));
        }
        if self.tenants.len() >= TENANTS && !self.tenants.contains_key(tenant) {
            return self.others.admit(now);
        }
        self.tenants.entry(tenant.clone()).or_default().admit(now)
    }

    /// A tenant's link ends, which was up for [`LIVED`].
    pub fn lived(&mut self, tenant: &Tenant) {
        self.tenants.remove(tenant);
    }
}

/// The attempts of one.
#[derive(Default)]
pub(crate) struct Breath {
    /// How many there were.
    many: u32,
    /// Until when the next one waits.
    next: Option<Instant>,
}

impl Breath {
    fn is_over(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| next + FORGET <= now)
    }

    /// As [`Attempts::admit`].
    pub fn admit(&mut self, now: Instant) -> Option<Instant> {
        if self.is_over(now) {
            *self = Breath::default();
        }
        let at = self.next.map_or(now, |next| next.max(now));
        if at > now + PAUSE.1 {
            return None;
        }
        self.many += 1;
        let pause = match self.many.saturating_sub(FREE) {
            0 => Duration::ZERO,
            n => PAUSE.0.saturating_mul(1 << (n - 1).min(16)).min(PAUSE.1),
        };
        self.next = Some(at + pause);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(group: &str, pid: i32) -> Peer {
        Peer { tenant: Tenant::Group(group.into()), pid, uid: 0 }
    }

    #[test]
    fn who_has_most_gives_up_its_oldest() {
        let (honest, other) = (peer("/honest", 1), peer("/other", 2));
        let attackers: Vec<Peer> = (0..9).map(|pid| peer("/attacker", 100 + pid / 4)).collect();
        assert_eq!(greediest(&[]), None);
        assert_eq!(greediest(&[(7, &honest)]), Some(7));
        // However many processes an attacker has.
        let mut all = vec![(1, &honest), (2, &other)];
        all.extend((3..).zip(&attackers));
        assert_eq!(greediest(&all), Some(3), "of the process that has most");
        all.remove(2);
        assert_eq!(greediest(&all), Some(7), "of the process that has most then");
        // A process of the attacker's own tenant, which has one, is not hurt by one that has more.
        assert_eq!(greediest(&[(1, &attackers[8]), (2, &attackers[0]), (3, &attackers[1])]), Some(2));
        // All have one: the oldest, never the newcomer.
        assert_eq!(greediest(&[(4, &other), (5, &attackers[0]), (6, &honest)]), Some(4));
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_comes_back_again_and_again_waits() {
        let mut attempts = Attempts::default();
        let (a, b) = (Tenant::Group("/a".into()), Tenant::User(7));
        let start = Instant::now();
        // Each comes as soon as the one before was looked at.
        let mut now = start;
        let waits = [0, 0, 0, 0, 50, 100, 200, 400, 800, 1000, 1000];
        for (i, wait) in waits.into_iter().enumerate() {
            let at = attempts.admit(&a, now).unwrap();
            assert_eq!(at - now, wait * MS, "attempt {i}");
            now = at;
        }
        // A second one at the same time is one too many; it does not make the next wait longer. Others do not wait.
        assert_eq!(attempts.admit(&a, now), Some(now + 1000 * MS));
        assert_eq!(attempts.admit(&a, now), None);
        assert_eq!(attempts.admit(&b, now), Some(now));
        now += 1000 * MS;
        assert_eq!(attempts.admit(&a, now), Some(now + 1000 * MS));
        // Who was there for long, or away for long, begins anew.
        attempts.lived(&a);
        (0..4).for_each(|_| assert_eq!(attempts.admit(&a, now), Some(now)));
        assert_eq!(attempts.admit(&a, now), Some(now + 50 * MS));
        now += 150 * MS + FORGET;
        (0..4).for_each(|_| assert_eq!(attempts.admit(&a, now), Some(now)));
        assert_eq!(attempts.admit(&a, now), Some(now + 50 * MS));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        let looked_at = (0..10_000).filter(|uid| attempts.admit(&Tenant::User(*uid), now).is_some()).count();
        // Each of those that are remembered, and some of all others together.
        assert_eq!(looked_at, TENANTS + 8);
        assert_eq!(attempts.tenants.len(), TENANTS);
        // They are forgotten.
        let later = now + FORGET;
        assert_eq!(attempts.admit(&Tenant::User(20_000), later), Some(later));
        assert_eq!(attempts.tenants.len(), 1);
    }

    #[test]
    fn a_peer_is_known_by_its_group() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&ours.into());
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(peer, Peer { tenant: Tenant::Group(group), pid: std::process::id() as i32, uid });
        assert_eq!(peer.to_string(), format!("pid {}, uid {uid}", std::process::id()));
    }
}
