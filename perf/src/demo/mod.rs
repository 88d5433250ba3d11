//! The demo: three hosts, an overlay, and traffic, on one machine.

pub mod container;
