//! `[control]`: the control socket and the metrics.

use crate::Access;
use crate::schema::{ACCOUNT, MODE, Section, Value, key};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[control]`
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// Path of the control socket; default [`CONTROL_SOCKET`].
    pub socket: PathBuf,
    /// Who may connect to it.
    pub access: Access,
    /// Where OpenMetrics is served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// The default of [`Control::socket`]: in a directory of its own, beside those of the tenants' sockets.
pub const CONTROL_SOCKET: &str = "/run/dray/control/dray.sock";

impl Default for Control {
    fn default() -> Self {
        Control { socket: CONTROL_SOCKET.into(), access: Access::default(), metrics: None }
    }
}

/// `[control]`
pub static CONTROL: Section = Section {
    header: "[control]",
    meaning: "The control socket and the metrics. Changes need a restart.",
    keys: &[
        key(
            "socket",
            Value::String("an absolute path of at most 107 bytes"),
            "\"/run/dray/control/dray.sock\"",
            "Unix socket on which `drayd` takes commands. Whoever may connect to it is as good as root. Its directory, if \
             missing, is made for the socket's owner and group alone.",
        ),
        key("socket-mode", MODE, "\"0660\"", "Who may connect: the socket's permission bits. None for others."),
        key("socket-owner", ACCOUNT, "the user of `drayd`", "The socket's owner."),
        key("socket-group", ACCOUNT, "the group of `drayd`", "The socket's group."),
        key("metrics", Value::String("`address:port`"), "off", "Where OpenMetrics is served over HTTP."),
    ],
};
