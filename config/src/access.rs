//! Who may connect to a socket: keys of `[control]` and of some ports.

use crate::error::Report;
use crate::schema::{Keys, key, keys, word};
use crate::validate::Places;
use crate::{Role, SocketName};
use nix::unistd::{Group, User};

keys! {
    /// Who may connect to a Unix socket that Dray listens on: whoever may write to its file (unix(7)).
    pub struct Access {
        /// Who may connect to the socket: its permission bits. The control socket's has none for others. A port's is for
        /// a server's socket that is a path; the ports of one socket have the same, as with owner and group.
        mode: u32 = key("socket-mode", word("octal digits, like `\"0660\"`", mode, |mode| format!("{mode:04o}")))
            .default(0o660);
        /// The socket's owner.
        owner: Option<Account> = key("socket-owner", word("a name or a number of this host", user, Account::to_string))
            .optional("the user of `drayd`");
        /// The socket's group.
        group: Option<Account> = key("socket-group", word("a name or a number of this host", group, Account::to_string))
            .optional("the group of `drayd`");
    }
}

/// A user or a group of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As the file has it, a name or a number.
    pub name: String,
    /// Its number.
    pub id: u32,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Default for Access {
    fn default() -> Self {
        Access::initial()
    }
}

/// A port has to listen on a file for that.
pub(crate) fn check(access: &Access, socket: &SocketName, role: Role, t: &dyn Places, report: &mut Report) {
    let Some(place) = place(t).filter(|_| *access != Access::default()) else { return };
    let why = match (role, socket) {
        (Role::Client, _) => "role = \"server\": a client's socket is its peer's",
        (Role::Server, SocketName::Abstract(_)) => "a path: who is in the network namespace may connect to @name",
        (Role::Server, SocketName::Path(_)) => return,
    };
    report.add(&place, || format!("socket-mode, socket-owner and socket-group are for {why}"));
}

/// Where the first of the keys is.
pub(crate) fn place(t: &dyn Places) -> Option<std::ops::Range<usize>> {
    t.at("socket-mode").or(t.at("socket-owner")).or(t.at("socket-group"))
}

/// A file's permission bits.
fn mode(s: &str) -> Result<u32, String> {
    let is_octal = (3..=4).contains(&s.len()) && s.bytes().all(|c| c.is_ascii_digit());
    let mode = u32::from_str_radix(s, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| "permission bits are octal digits, like \"0660\"".into())
}

fn user(s: &str) -> Result<Account, String> {
    account(s, "user", |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

fn group(s: &str) -> Result<Account, String> {
    account(s, "group", |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

/// A user or a group by name or number; `look` finds the number of a name.
fn account(s: &str, kind: &str, look: impl FnOnce(&str) -> nix::Result<Option<u32>>) -> Result<Account, String> {
    let is_number = !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    let id = match s.parse::<u32>() {
        // -1 is no number of anybody (chown(2)).
        Ok(id) if is_number => Some(id).filter(|id| *id != u32::MAX),
        _ if is_number || s.is_empty() || s.contains(char::is_control) => None,
        _ => look(s).map_err(|error| format!("looking for the {kind}: {error}"))?,
    };
    let id = id.ok_or_else(|| format!("this host has no such {kind}: an existing name, or a number"))?;
    Ok(Account { name: s.into(), id })
}
