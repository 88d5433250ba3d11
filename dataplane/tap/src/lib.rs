//! Kernel ports: TAP devices, by which a container's own sockets, or the host's, are on the switch; and interfaces that the kernel has
//! already.
//!
//! A TAP device is made where it belongs, inside the container's network namespace, and outlives the process that made it. What the
//! kernel leaves to a device (checksums, segmentation) crosses the switch undone and goes to whoever takes it so.
//!
//! `unsafe` lives in `device.rs` and `interface.rs` (ioctls, socket options), `queue.rs` (reading and writing frames) and `vhost_net.rs`
//! (frames in rings).
#![deny(unsafe_code)]

mod coalesce;
mod datagrams;
mod device;
mod interface;
mod namespace;
mod queue;
mod readiness;
mod rtnetlink;
mod vhost_net;

pub use device::{Failure, Losses, Made, Tap, TapOptions, interface_index, interface_names, remove_left};
pub use interface::{Interface, State};
pub use namespace::Namespace;
pub use readiness::sleep;
