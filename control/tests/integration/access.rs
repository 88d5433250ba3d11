//! Who may attach and who may command: containers and users that are not root.

use crate::harness::*;
use dray_config::SocketName;
use dray_vhost::memif::{Client, ClientOptions};
use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const NOBODY: u32 = 65534;
const TENANT: u32 = 4242;
const STRANGER: u32 = 4343;

fn done(result: libc::c_long, what: &str) {
    assert_eq!(result, 0, "{what}: {}", Error::last_os_error());
}

/// Does `what` on a thread of its own that is `NOBODY` of `group`, and sees `dir` as a container sees a volume that is mounted
/// read-only.
fn contained<T: Send>(dir: &Path, group: u32, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let dir = CString::new(dir.as_os_str().as_bytes()).unwrap();
            let nothing = std::ptr::null();
            let mount = |from: *const libc::c_char, to: &CString, flags| {
                // SAFETY: the strings outlive the call, which only reads them.
                done(unsafe { libc::mount(from, to.as_ptr(), nothing, flags, nothing.cast()) }.into(), "mount");
            };
            // SAFETY: a plain system call, for this thread alone.
            done(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into(), "unshare");
            mount(nothing, &c"/".to_owned(), libc::MS_REC | libc::MS_PRIVATE);
            mount(dir.as_ptr(), &dir, libc::MS_BIND);
            mount(nothing, &dir, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY);
            // The C library's functions would change all threads.
            // SAFETY: plain system calls; no groups need no memory.
            unsafe {
                done(libc::syscall(libc::SYS_setgroups, 0, 0), "setgroups");
                done(libc::syscall(libc::SYS_setresgid, group, group, group), "setresgid");
                done(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY), "setresuid");
            }
            what()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_container_that_is_not_root_attaches_through_its_read_only_directory() {
    let Some(test) = Test::begin() else { return };
    fs::set_permissions(test.path(""), Permissions::from_mode(0o755)).unwrap();
    let config = |group: u32| {
        format!(
            "[[port]]\nname = \"web\"\nkind = \"memif\"\nsocket = \"DIR/web/memif.sock\"\nsocket-group = \"{group}\"\n\
             [[port]]\nname = \"vm\"\nkind = \"vhost-user\"\nrole = \"server\"\nsocket = \"DIR/vm/vm.sock\"\n\
             socket-mode = \"0600\"\nsocket-owner = \"{NOBODY}\"\n"
        ) + &bridge("blue", &["web", "vm"])
    };
    let drayd = Drayd::start(&test, &config(TENANT));
    let socket = test.path("web/memif.sock");
    let is = |path: &str| {
        let meta = fs::symlink_metadata(test.path(path)).unwrap();
        (meta.mode() & 0o777, meta.uid(), meta.gid())
    };
    assert_eq!(is("web/memif.sock"), (0o660, 0, TENANT));
    assert_eq!(is("vm/vm.sock"), (0o600, NOBODY, 0));
    let web = drayd.port("web");
    let web = web.detail.memif().unwrap();
    assert_eq!((web.socket_mode.as_deref(), web.socket_group.as_deref()), (Some("0660"), Some("4242")));

    let attach = || {
        let options = ClientOptions { name: "tenant".into(), timeout: PATIENCE, ..ClientOptions::default() };
        Client::connect(&SocketName::Path(socket.clone()), 0, &options)
    };
    // A stream can't talk to it, but who may not connect at all hears of that first.
    let knock = || UnixStream::connect(&socket).unwrap_err().kind();
    let client = contained(socket.parent().unwrap(), TENANT, || {
        let written = fs::write(test.path("web/planted"), "").unwrap_err();
        assert_eq!(written.kind(), ErrorKind::ReadOnlyFilesystem);
        attach().unwrap_or_else(|why| panic!("{why}"))
    });
    drayd.wait_link("web", "up");
    assert_eq!(contained(socket.parent().unwrap(), STRANGER, knock), ErrorKind::PermissionDenied);
    assert!(contained(&test.path("vm"), STRANGER, || UnixStream::connect(test.path("vm/vm.sock"))).is_ok());
    drop(client);

    // Another group is another socket: the plan says that the port is opened anew.
    let file = test.file("new.toml", &(config(STRANGER) + "[control]\nsocket = \"DIR/dray.sock\"\n"));
    let change = format!("- port web\n+ port web: memif server {} id 0, group {STRANGER}\n", socket.display());
    assert_eq!(drayd.dray(&format!("config diff {}", file.display())), change);
    drayd.dray(&format!("config apply {}", file.display()));
    assert_eq!(contained(socket.parent().unwrap(), TENANT, knock), ErrorKind::PermissionDenied);
    let _client = contained(socket.parent().unwrap(), STRANGER, attach).unwrap_or_else(|why| panic!("{why}"));
    drayd.wait_link("web", "up");
    let file = test
        .file("control.toml", &(config(STRANGER) + "[control]\nsocket = \"DIR/dray.sock\"\nsocket-mode = \"0600\"\n"));
    assert!(drayd.refused(&format!("config apply {}", file.display()), 1).contains("needs a restart of drayd"));
    drayd.finish();
}

/// drayd is root and writes its own file only: whoever may command it does not write elsewhere with its rights.
#[test]
fn a_configuration_is_saved_with_the_rights_of_who_saves_it() {
    let Some(test) = Test::begin() else { return };
    fs::set_permissions(test.path(""), Permissions::from_mode(0o755)).unwrap();
    let control = format!("[control]\nsocket = \"DIR/dray.sock\"\nsocket-group = \"{TENANT}\"\n");
    let drayd = Drayd::start(&test, &(memif_ports(&["a"]) + &control));
    // The build's directory may be closed to others.
    let program = test.path("dray");
    fs::copy(dray(), &program).unwrap();
    let dray = |group: u32, args: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--socket").arg(test.path("dray.sock")).args(args).current_dir(test.path(""));
        let output = command.uid(NOBODY).gid(group).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, error) = dray(STRANGER, &["status"]);
    assert!(status == Some(1) && error.contains("only its owner and group may"), "{error}");
    assert_eq!(dray(TENANT, &["status"]).0, Some(0));

    for (name, owner) in [("closed", 0), ("open", NOBODY)] {
        fs::create_dir(test.path(name)).unwrap();
        fs::set_permissions(test.path(name), Permissions::from_mode(0o755)).unwrap();
        chown(test.path(name), Some(owner), Some(owner)).unwrap();
    }
    let (status, error) = dray(TENANT, &["config", "save", "closed/dray.toml"]);
    assert!(status == Some(1) && error.contains("closed/dray.toml: Permission denied"), "{error}");
    assert_eq!(fs::read_dir(test.path("closed")).unwrap().count(), 0);
    assert_eq!(dray(TENANT, &["config", "save", "open/dray.toml"]), (Some(0), String::new()));
    let meta = fs::metadata(test.path("open/dray.toml")).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o640, NOBODY));
    // Its own file is drayd's.
    assert_eq!(dray(TENANT, &["config", "save"]).0, Some(0));
    let meta = fs::metadata(test.path("dray.toml")).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o640, 0));
    assert!(test.path("dray.toml~").exists());
    drayd.finish();
}
