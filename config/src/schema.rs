//! The keys of the configuration file: one table, which the reader, the plan's messages and the reference page share.

pub use crate::balance::BALANCE;
pub use crate::bridge::{BRIDGE, MEMBER, STATIC};
pub use crate::control::CONTROL;
pub use crate::fdb::FDB;
pub use crate::log::LOG;
pub use crate::port::PORT;
pub use crate::vxlan::{NEIGHBOUR, VXLAN};
pub use crate::worker::WORKER;

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// As written in the file, `[[port]]`; for the inline tables, where they are found.
    pub header: &'static str,
    /// What it describes, one sentence.
    pub meaning: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: &'static [Key],
}

/// A key of the file.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Type and range of the value.
    pub value: Value,
    /// Value if the key is left out: TOML, or words.
    pub default: &'static str,
    /// The port kinds it belongs to; none: every kind.
    pub kinds: &'static [&'static str],
    /// What it means, for the reference.
    pub meaning: &'static str,
}

/// Type and range of a value.
#[derive(Debug)]
pub enum Value {
    /// Text; the words say which.
    String(&'static str),
    /// A whole number from the first to the second, both included.
    Integer(u64, u64),
    /// A power of two from the first to the second, both included.
    PowerOfTwo(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// A list; the words say of what.
    Array(&'static str),
}

impl Value {
    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::String(_) => "string",
            Value::Integer(..) | Value::PowerOfTwo(..) => "integer",
            Value::Boolean => "boolean",
            Value::Array(_) => "array",
        }
    }

    /// What values are right, in words.
    pub fn range(&self) -> String {
        match *self {
            Value::String(words) | Value::Array(words) => words.into(),
            Value::Integer(min, max) => format!("{min} to {max}"),
            Value::PowerOfTwo(min, max) => format!("a power of two from {min} to {max}"),
            Value::Boolean => "`true`, `false`".into(),
        }
    }
}

/// At most so many `[[worker]]`.
pub const MAX_WORKERS: usize = 64;
/// At most so many `[[port]]`.
pub const MAX_PORTS: usize = 1024;
/// At most so many `[[bridge]]`.
pub const MAX_BRIDGES: usize = 4096;
/// At most so many addresses in one `peers` list.
pub const MAX_PEERS: usize = 4096;
/// At most so many VTEPs in all lists and static entries together. Tunnels have numbers of 16 bits, and while one configuration takes the
/// place of another, both have theirs, and 4,096 learned ones.
pub const MAX_VTEPS: usize = 16_384;

/// The longest `description`, characters.
pub const MAX_DESCRIPTION: usize = 128;

pub(crate) const DESCRIPTION: Value = Value::String("at most 128 characters, none of them a control character");
pub(crate) const NAME: Value = Value::String("1 to 32 of `A-Z a-z 0-9 _ . : -`, unique");
pub(crate) const SOCKET: Value = Value::String("an absolute path, or `@name` in the abstract namespace");
pub(crate) const MODE: Value = Value::String("octal digits, like `\"0660\"`");
pub(crate) const ACCOUNT: Value = Value::String("a name or a number of this host");
pub(crate) const MAC: Value = Value::String("a unicast MAC address");
pub(crate) const PEERS: Value = Value::Array("IPv4 addresses, at most 4096");
pub(crate) const ROLE: Value = Value::String("`\"server\"`, `\"client\"`");
pub(crate) const QUEUES: Value = Value::Integer(1, 16);
pub(crate) const VLAN: Value = Value::Integer(1, 4094);
pub(crate) const PACKETS_A_SECOND: Value = Value::Integer(1, u32::MAX as u64);

pub(crate) const fn key(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    Key { name, value, default, kinds: &[], meaning }
}

/// Only for these kinds of port.
pub(crate) const fn of(kinds: &'static [&'static str], key: Key) -> Key {
    Key { kinds, ..key }
}

pub(crate) const fn memif(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    of(&["memif"], key(name, value, default, meaning))
}

pub(crate) const fn vhost_user(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    of(&["vhost-user"], key(name, value, default, meaning))
}

pub(crate) const fn eth(name: &'static str, value: Value, default: &'static str, meaning: &'static str) -> Key {
    of(&["eth"], key(name, value, default, meaning))
}

/// The word in [`Key::default`] of a key that must be given.
pub const REQUIRED: &str = "required";

/// All tables, in the order of the reference.
pub static SECTIONS: &[&Section] =
    &[&CONTROL, &WORKER, &BALANCE, &FDB, &LOG, &PORT, &BRIDGE, &MEMBER, &STATIC, &VXLAN, &NEIGHBOUR];

impl Section {
    /// The keys that fit `kind`; all if it is not known.
    pub fn keys_for(&self, kind: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| key.kinds.is_empty() || kind.is_none_or(|kind| key.kinds.contains(&kind)))
    }
}
