//! drayd, the daemon, and dray, its command.
