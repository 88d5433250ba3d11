//! What a user writes and what the switch runs: schema, validation and plan.
#![forbid(unsafe_code)]

mod access;
mod balance;
mod bridge;
mod control;
mod error;
mod fdb;
mod layer;
mod list;
mod locate;
mod log;
mod merge;
mod mtu;
mod plan;
mod port;
mod read;
mod reference;
mod render;
mod running;
mod save;
pub mod schema;
mod statics;
mod valid;
mod validate;
mod value;
mod vxlan;
mod worker;

pub use access::{Access, Account};
pub use balance::Balance;
pub use bridge::{Bridge, StaticMac, StaticTo};
pub use control::{CONTROL_SOCKET, Control};
pub use error::{Error, Errors, Place, suggest};
pub use fdb::Fdb;
pub use layer::{Item, read_layer, write_layer, write_layer_port};
pub use list::{Keyed, List};
pub use locate::error_at_port;
pub use log::Log;
pub use merge::merge;
pub use mtu::{Mtus, VXLAN_OVERHEAD};
pub use plan::{Action, BridgeChange, plan};
pub use port::{
    Allowed, ENGINES, Eth, HIDDEN_SECRET, LinkFollows, Memif, Port, PortKind, Prefix, Route, Rps, StormLimits, Tap,
    Transport, VhostUser, engine,
};
pub use read::{load, parse, parse_for};
pub use reference::{EXAMPLE, reference};
pub use render::{render, text};
pub use running::Running;
pub use save::{replace, save};
pub use schema::KeyChange;
pub use statics::Statics;
pub use valid::{Member, ValidConfig};
pub use value::{Mac, Role, SocketName};
pub use vxlan::{Local, Neighbour, Vxlan};
pub use worker::{Worker, allowed_cpus};
