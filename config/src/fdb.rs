//! `[fdb]`: the forwarding database.

use crate::schema::{Section, Value, key};

/// `[fdb]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fdb {
    /// How many MACs the table holds; default 1,048,576.
    pub size: usize,
    /// Seconds after which a MAC that was not seen is forgotten; default 300, at most 32,767.
    pub ageing: u16,
}

impl Default for Fdb {
    fn default() -> Self {
        Fdb { size: 1 << 20, ageing: 300 }
    }
}

/// `[fdb]`
pub static FDB: Section = Section {
    header: "[fdb]",
    meaning: "The forwarding database: which MAC address is where.",
    keys: &[
        key(
            "size",
            Value::Integer(1024, 1 << 26),
            "1048576",
            "How many MAC addresses it holds. A change needs a restart.",
        ),
        key(
            "ageing",
            Value::Integer(1, 32767),
            "300",
            "Seconds after which an address that was not seen is forgotten; it may take an eighth longer, at least 2 seconds and at most 60.",
        ),
    ],
};
