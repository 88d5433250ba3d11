//! Who may connect to a socket: keys of `[control]` and of some ports.

use crate::read::{Reader, Table};
use crate::{Role, SocketName};
use nix::unistd::{Group, User};
use std::ops::Range;

type Span = Range<usize>;

/// Who may connect to a Unix socket that Dray listens on: whoever may write to its file (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits of the file, at most 0777; default 0660.
    pub mode: u32,
    /// Its owner; drayd's user if absent.
    pub owner: Option<Account>,
    /// Its group; drayd's if absent.
    pub group: Option<Account>,
}

/// A user or a group of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As the file has it, a name or a number.
    pub name: String,
    /// Its number.
    pub id: u32,
}

impl Default for Access {
    fn default() -> Self {
        Access { mode: 0o660, owner: None, group: None }
    }
}

impl Reader {
    /// The keys of who may connect to a socket. With the place of the first that is there.
    pub(crate) fn access(&mut self, t: &Table<'_>) -> (Access, Option<Span>) {
        let (mode, mode_place) = self.string(t, "socket-mode", mode);
        let (owner, owner_place) = self.string(t, "socket-owner", |name| {
            account(name, "user", |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
        });
        let (group, group_place) = self.string(t, "socket-group", |name| {
            account(name, "group", |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
        });
        let access = Access { mode: mode.unwrap_or(Access::default().mode), owner, group };
        (access, mode_place.or(owner_place).or(group_place))
    }

    /// As [`Reader::access`], of a port: it has to listen on a file for that.
    pub(crate) fn port_access(&mut self, t: &Table<'_>, socket: &SocketName, role: Role) -> (Access, Option<Span>) {
        let (access, place) = self.access(t);
        if let Some(place) = place.as_ref().filter(|_| access != Access::default()) {
            let why = match (role, socket) {
                (Role::Client, _) => "role = \"server\": a client's socket is its peer's",
                (Role::Server, SocketName::Abstract(_)) => {
                    "a path: who is in the network namespace may connect to @name"
                }
                (Role::Server, SocketName::Path(_)) => return (access, Some(place.clone())),
            };
            self.report.add(place, || format!("socket-mode, socket-owner and socket-group are for {why}"));
        }
        (access, place)
    }
}

/// A file's permission bits.
fn mode(s: &str) -> Result<u32, String> {
    let is_octal = (3..=4).contains(&s.len()) && s.bytes().all(|c| c.is_ascii_digit());
    let mode = u32::from_str_radix(s, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| "permission bits are octal digits, like \"0660\"".into())
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
