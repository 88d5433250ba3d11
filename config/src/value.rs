//! Values of keys: addresses, sockets, roles, texts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A MAC address, first byte on the wire first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(inline, extend("format" = "mac"))]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Mac {
    type Err = String;

    /// Reads six two-digit hexadecimal bytes with colons between them.
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || "a MAC address is six hexadecimal bytes, like \"02:00:00:00:00:01\"".to_string();
        let mut mac = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|c| c.is_ascii_hexdigit()));
            *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(wrong)?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Mac(mac)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl Mac {
    /// Whether it is the address of one station: not a group address and not all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The default MAC of the port `name`: locally administered, the same at every start. The underlay port's is
    /// mixed with the VTEP's address, so that hosts with the same port names differ on a common network.
    pub fn of_name(name: &str, underlay: Option<Ipv4Addr>) -> Mac {
        // FNV-1a, 64 bits (draft-eastlake-fnv), folded to the 40 bits there is room for.
        let bytes = name.bytes().chain(underlay.into_iter().flat_map(|ip| ip.octets()));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let b = (hash ^ (hash >> 40)).to_be_bytes();
        Mac([0x02, b[3], b[4], b[5], b[6], b[7]])
    }
}

/// A Unix socket's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketName {
    /// A path in the file system.
    Path(PathBuf),
    /// Linux's abstract namespace, written `@name`.
    Abstract(String),
}

/// Bytes of a Unix socket's name: `sun_path` without the final (or, if abstract, first) NUL (unix(7)).
const SOCKET_NAME_MAX: usize = 107;

impl FromStr for SocketName {
    type Err = String;

    /// Reads an absolute path or `@name`.
    fn from_str(s: &str) -> Result<Self, String> {
        let (name, abstract_name) = match s.strip_prefix('@') {
            Some(name) => (name, true),
            None => (s, false),
        };
        if name.len() > SOCKET_NAME_MAX {
            Err(format!("a socket's name has at most {SOCKET_NAME_MAX} bytes, not {}", name.len()))
        } else if name.is_empty()
            || name.contains(char::is_control)
            || !(abstract_name || Path::new(name).is_absolute())
        {
            Err("a socket is an absolute path, or \"@name\" in the abstract namespace".into())
        } else if abstract_name {
            Ok(SocketName::Abstract(name.into()))
        } else {
            Ok(SocketName::Path(name.into()))
        }
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketName::Path(path) => write!(f, "{}", path.display()),
            SocketName::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// Which side of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Role {
    /// Listens. With memif ("master" there) it maps the client's memory.
    #[default]
    Server,
    /// Connects. With memif ("slave" there) it brings the memory; with vhost-user the VM's side does, whatever its role.
    Client,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Server => "server",
            Role::Client => "client",
        })
    }
}

/// The longest `description`, characters.
const MAX_DESCRIPTION: usize = 128;

pub(crate) const DESCRIPTION: &str = "at most 128 characters, none of them a control character";
pub(crate) const NAME: &str = "1 to 32 of `A-Z a-z 0-9 _ . : -`, unique";
pub(crate) const PEERS: &str = "IPv4 addresses, at most 4096";
pub(crate) const ROLE: &str = "`\"server\"`, `\"client\"`";
pub(crate) const SOCKET: &str = "an absolute path, or `@name` in the abstract namespace";

/// The name of a port or bridge.
pub(crate) fn name(s: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    if (1..=32).contains(&s.len()) && s.chars().all(good) {
        Ok(s.to_string())
    } else {
        Err("a name is 1 to 32 of A-Z a-z 0-9 _ . : -".into())
    }
}

pub(crate) fn role(s: &str) -> Result<Role, String> {
    match s {
        "server" => Ok(Role::Server),
        "client" => Ok(Role::Client),
        _ => Err("not a role: \"server\" or \"client\"".into()),
    }
}

/// A text for people, which is shown in a line of its own or in a table.
pub(crate) fn description(s: &str) -> Result<String, String> {
    let characters = s.chars().count();
    if characters > MAX_DESCRIPTION {
        Err(format!("at most {} characters, not {characters}", MAX_DESCRIPTION))
    } else if s.is_empty() || s.contains(char::is_control) {
        Err("a text without control characters; leave it out if there is none".into())
    } else {
        Ok(s.into())
    }
}

pub(crate) fn unicast(s: &str) -> Result<Mac, String> {
    let mac: Mac = s.parse()?;
    station(mac).map(|()| mac)
}

/// Whether a station can have this address.
pub(crate) fn station(mac: Mac) -> Result<(), String> {
    if mac.is_unicast() {
        Ok(())
    } else if mac == Mac::default() {
        Err("the address of a station is not all zeros".into())
    } else {
        Err("a group address: the first byte of a station's is even".into())
    }
}

/// An IPv4 address that a station can have.
pub(crate) fn address(s: &str) -> Result<Ipv4Addr, String> {
    let ip: Ipv4Addr = match s.parse() {
        Ok(ip) => ip,
        Err(_) if s.split('/').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()) => {
            return Err("IPv6 is not in this version: an IPv4 address".into());
        }
        Err(_) => return Err("not an IPv4 address, like \"10.9.0.2\"".into()),
    };
    host(ip).map(|()| ip)
}

/// Whether a station can have this address.
pub(crate) fn host(ip: Ipv4Addr) -> Result<(), String> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
        return Err("not the address of a station: an IPv4 unicast address, like \"10.9.0.2\"".into());
    }
    Ok(())
}
