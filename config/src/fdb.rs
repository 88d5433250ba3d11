//! `[fdb]`: the forwarding database.

use crate::schema::{Keys, Takes, integer, key, keys};

keys! {
    /// The forwarding database: which MAC address is where.
    pub struct Fdb = FDB "[fdb]" {
        /// How many MAC addresses it holds.
        size: usize = key("size", integer(1024, 1 << 26)).takes(Takes::Restart).default(1 << 20);
        /// After how long an address that was not seen is forgotten; it may take an eighth longer, at least 2 seconds
        /// and at most 60.
        ageing: u16 = key("ageing", integer(1, 32767)).unit("seconds").default(300);
    }
}

impl Default for Fdb {
    fn default() -> Self {
        Fdb::initial()
    }
}
