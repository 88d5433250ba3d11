//! Workers, ports and the publishing of tables.
