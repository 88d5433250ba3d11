//! Writing a configuration file.

use crate::merge;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The most that a file's mode admits: it may have secrets.
const MODE: u32 = 0o640;

/// Writes `text` into `file` in one step: after a crash there is either the old or the new one. Of the process; `durable`: of the host, too,
/// for which the disk is waited for.
///
/// # Errors
/// The system's reason; `file` is as it was then.
pub fn replace(file: &Path, text: &str, durable: bool) -> Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".tmp");
    let write = || {
        let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
        to.write_all(text.as_bytes())?;
        if durable {
            to.sync_all()?;
        }
        fs::rename(&temporary, file)?;
        if durable { File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all() } else { Ok(()) }
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Writes `text`, a rendered configuration, into `file` in one step: after a crash there is either the old or the new one. The old
/// one's comments and order stay, and the old one itself as `FILE~`. The new one has the old one's owner, group and mode, but is never for everybody.
///
/// # Errors
/// The system's reason; `file` is as it was then.
pub fn save(file: &Path, text: &str) -> Result<()> {
    // What a symbolic link points to is replaced, not the link.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let old = match fs::metadata(&file) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let beside = |suffix: &str| -> Result<PathBuf> {
        let mut name = file.file_name().ok_or(ErrorKind::IsADirectory)?.to_owned();
        name.push(suffix);
        Ok(file.with_file_name(name))
    };
    let temporary = beside(&format!(".{}.tmp", std::process::id()))?;
    let clear = || match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // Of a process that was killed while it saved, and had this one's number.
    clear()?;
    let merged = fs::read_to_string(&file).map(|old| merge(&old, text));
    let text = merged.as_deref().unwrap_or(text);
    let write = || {
        if old.is_some() {
            fs::hard_link(&file, &temporary)?;
            fs::rename(&temporary, beside("~")?)?;
            // It is still there if FILE~ is the same file already, after a crash between this and the end (rename(2)).
            clear()?;
        }
        let mode = old.as_ref().map_or(MODE, |old| old.mode() & MODE);
        let mut to = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        to.set_permissions(Permissions::from_mode(mode))?;
        if let Some(old) = &old
            && to.metadata().is_ok_and(|new| (new.uid(), new.gid()) != (old.uid(), old.gid()))
        {
            fchown(&to, Some(old.uid()), Some(old.gid()))?;
        }
        to.write_all(text.as_bytes())?;
        to.sync_all()?;
        fs::rename(&temporary, &file)?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saving_keeps_the_old_file_its_mode_and_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (file, link) = (dir.join("a.toml"), dir.join("link.toml"));
        let mode = || fs::metadata(&file).unwrap().mode() & 0o777;
        save(&file, "new").unwrap();
        assert_eq!((mode(), fs::read_dir(dir).unwrap().count()), (0o640, 1));
        // Never wider than before, and never for everybody.
        for (old, new) in [(0o600, 0o600), (0o604, 0o600), (0o666, 0o640)] {
            fs::set_permissions(&file, Permissions::from_mode(old)).unwrap();
            save(&file, "new").unwrap();
            assert_eq!(mode(), new);
        }
        std::os::unix::fs::symlink(&file, &link).unwrap();
        save(&link, "newer").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
        assert_eq!(fs::read_to_string(dir.join("a.toml~")).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(save(dir, "x").is_err());
        assert_eq!(fs::read_dir(dir).unwrap().count(), 3);
    }

    /// What a killed process has left is in nobody's way; and comments stay.
    #[test]
    fn saving_goes_on_after_a_crash_and_keeps_comments() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "# short\n[fdb]\nageing = 60 # seconds\n").unwrap();
        fs::write(dir.path().join(format!("a.toml.{}.tmp", std::process::id())), "half of it").unwrap();
        let mut config = crate::parse("a.toml", &fs::read_to_string(&file).unwrap()).unwrap();
        config.fdb.ageing = 70;
        save(&file, &crate::render(&config)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "# short\n[fdb]\nageing = 70 # seconds\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        // Killed between the two renames: both names are one file.
        fs::remove_file(dir.path().join("a.toml~")).unwrap();
        fs::hard_link(&file, dir.path().join("a.toml~")).unwrap();
        save(&file, "[fdb]\nageing = 80\n").unwrap();
        assert!(fs::read_to_string(&file).unwrap().contains("ageing = 80"));
        assert!(fs::read_to_string(dir.path().join("a.toml~")).unwrap().contains("ageing = 70"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn saving_keeps_owner_and_group() {
        if !dray_testing::is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
        save(&file, "new").unwrap();
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 4321));
    }
}
