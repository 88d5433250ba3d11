//! A file that does not answer: whoever closes it, or asks how large it is, waits for ever and can't be killed.

use crate::peer::TempDir;
use dray_testing::fuse::Fuse;
use std::fs::{File, OpenOptions};
use std::path::Path;

/// Whether there can be one here.
///
/// # Errors
/// Why not.
pub(super) fn check() -> Result<(), String> {
    Fuse::check()
}

/// Its file system, which is mounted as long as this is there.
pub(super) struct Silent {
    /// Unmounted before its directory is removed.
    fuse: Fuse,
    _dir: TempDir,
}

impl Silent {
    /// Mounts it. Only this process gets answers.
    ///
    /// # Errors
    /// If it can't be.
    pub fn mount() -> Result<Silent, String> {
        let dir = TempDir::new()?;
        let is_own = |thread| Path::new(&format!("/proc/self/task/{thread}")).exists();
        let fuse = Fuse::mount(dir.path(), move |request| is_own(request.thread))?;
        Ok(Silent { fuse, _dir: dir })
    }

    /// The file, opened. As blocking as any: who closes it, waits.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn file(&self) -> Result<File, String> {
        let options = OpenOptions::new().read(true).write(true).clone();
        options.open(self.fuse.file()).map_err(|e| format!("open a file that does not answer: {e}"))
    }
}
