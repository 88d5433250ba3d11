//! `[control]`: the control socket and the metrics.

use crate::error::Report;
use crate::read::Table;
use crate::schema::{Group, Keys, Takes, key, keys, word};
use crate::validate::Places;
use crate::{Access, SocketName};
use std::net::SocketAddr;
use std::path::PathBuf;

keys! {
    /// The control socket and the metrics.
    pub struct Control = CONTROL "[control]" {
        /// Unix socket on which `drayd` takes commands. Whoever may connect to it is as good as root. Its directory, if
        /// missing, is made for the socket's owner and group alone.
        socket: PathBuf = key("socket", word("an absolute path of at most 107 bytes", path, |path| path.display().to_string()))
            .takes(Takes::Restart)
            .default(CONTROL_SOCKET.into());
        /// Who may connect to it.
        access: Access = Group(Some(Takes::Restart));
        /// Where OpenMetrics is served over HTTP.
        metrics: Option<SocketAddr> = key("metrics", word("`address:port`", tcp, SocketAddr::to_string))
            .takes(Takes::Restart)
            .optional("off");
    }
}

/// The default of [`Control::socket`]: in a directory of its own, beside those of the tenants' sockets.
pub const CONTROL_SOCKET: &str = "/run/dray/control/dray.sock";

impl Default for Control {
    fn default() -> Self {
        Control::initial()
    }
}

fn path(s: &str) -> Result<PathBuf, String> {
    match s.parse()? {
        SocketName::Path(path) => Ok(path),
        SocketName::Abstract(_) => Err("the control socket is a path: its mode is what protects it".into()),
    }
}

fn tcp(s: &str) -> Result<SocketAddr, String> {
    s.parse().map_err(|_| "an address and port, like \"127.0.0.1:9177\"".into())
}

/// Whoever may connect can do all.
pub(crate) fn check(control: &Control, t: &Table<'_>, report: &mut Report) {
    if let (Some(place), 1..) = (t.at("socket-mode"), control.access.mode & 0o007) {
        report.add(&place, || {
            format!(
                "socket-mode = \"{:04o}\": who may connect to the control socket is as good as root: nothing for \
                 others, like \"0660\" with a socket-group",
                control.access.mode
            )
        });
    }
}
