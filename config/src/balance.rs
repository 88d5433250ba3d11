//! `[balance]`: how receive queues are spread over the workers.

use crate::schema::{Section, Value, key};

/// `[balance]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Seconds between two looks at the workers' loads; default 5. 0: never.
    pub interval: u16,
}

impl Default for Balance {
    fn default() -> Self {
        Balance { interval: 5 }
    }
}

/// `[balance]`
pub static BALANCE: Section = Section {
    header: "[balance]",
    meaning: "How receive queues are spread over the workers. One that comes up goes to the worker that polls the fewest. When \
              a worker is busy for 85 % of the time and more, and moving one of its queues to another worker brings their \
              loads closer by a quarter or more, that queue is moved. Order is kept: a queue stays where it is while a port \
              of its bridges takes frames of several workers in several rings, as NICs and memif ports with several queues do.",
    keys: &[key(
        "interval",
        Value::Integer(0, 3600),
        "5",
        "Seconds between two looks at the loads, each of which moves one queue at most. 0: queues stay where they are.",
    )],
};
