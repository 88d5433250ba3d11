//! `[balance]`: how receive queues are spread over the workers.

use crate::schema::{Keys, integer, key, keys};

keys! {
    /// How receive queues are spread over the workers. One that comes up goes to the worker that polls the fewest. When
    /// a worker is busy for 85 % of the time and more, and moving one of its queues to another worker brings their
    /// loads closer by a quarter or more, that queue is moved. Order is kept: a queue stays where it is while a port
    /// of its bridges takes frames of several workers in several rings, as NICs and memif ports with several queues do.
    pub struct Balance = BALANCE "[balance]" {
        /// How long it is from one look at the loads to the next; each moves one queue at most. 0: queues stay where
        /// they are.
        interval: u16 = key("interval", integer(0, 3600)).unit("seconds").default(5);
    }
}

impl Default for Balance {
    fn default() -> Self {
        Balance::initial()
    }
}
