//! File descriptors: how many there may be, and how many the configuration may need.

use crate::ports;
use dray_config::ValidConfig;
use dray_vhost::RESERVED_DESCRIPTORS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What drayd itself has: connections of the control socket, and what it has open whatever is configured.
const OWN: u64 = 128;
/// Raises the limit as far as this process may (setrlimit(2)). Its children have the same.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    // Within the hard limit it is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// How many descriptors `config` may need at most: with every memif socket full of half-open connections, and every port with a
/// peer that brings all that it may, beside one whose link is about to go. Most need far fewer: two a queue. What peers are not
/// given is in it.
pub fn needed(config: &ValidConfig) -> u64 {
    OWN + RESERVED_DESCRIPTORS + ports::descriptors(config)
}

/// That `config` may need more than there may be.
pub fn warning(config: &ValidConfig) -> Option<String> {
    let limit = getrlimit(Resource::Nofile).current?;
    let needed = needed(config);
    (needed > limit).then(|| {
        format!(
            "file descriptors: peers may need up to {needed}, and RLIMIT_NOFILE is {limit}: those that find none left are \
             refused; set LimitNOFILE= in the service's unit, or ulimit -Hn in a shell, to {needed} or more"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ValidConfig {
        dray_config::parse("test", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn all_that_peers_may_bring_is_counted() {
        assert_eq!(needed(&config("")), 256);
        // A socket is counted once: itself, 65 connections, 32 that can't be closed.
        let memif = |n: u32, more: &str| format!("[[port]]\nname='m{n}'\nkind='memif'\nsocket='/m'\nid={n}\n{more}\n");
        // A connection, 32 rings that are described, and the rings of two links.
        assert_eq!(needed(&config(&memif(0, ""))), 256 + 98 + 37);
        assert_eq!(needed(&config(&(memif(0, "") + &memif(1, "queues=4")))), 256 + 98 + 37 + 49);
        assert_eq!(needed(&config(&memif(0, "role='client'"))), 256 + 37);
        // Its sockets, what wakes its thread, who closes (9), a message's files; three for each ring.
        let vm = "[[port]]\nname='v'\nkind='vhost-user'\nsocket='/v'\nqueues=2\n";
        assert_eq!(needed(&config(vm)), 256 + 41 + 12);
        let nic = "[[port]]\nname='n'\nkind='eth'\ndevice='net_null0'\nqueues=2\n";
        assert_eq!(needed(&config(nic)), 256 + 24);
    }
}
