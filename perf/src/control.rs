//! A client of drayd's control socket.

use dray_api::{FdbBatch, FdbLoaded, Request, RpcError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long drayd may take to be there, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub(crate) struct Control(BufReader<UnixStream>);

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn connect(socket: &Path) -> Result<Control, String> {
        let open = || {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Control(BufReader::new(stream)))
        };
        open().map_err(|e: std::io::Error| format!("{}: {e}", socket.display()))
    }

    /// Connects, as soon as there is somebody.
    ///
    /// # Errors
    /// If nobody is.
    pub fn open(socket: &Path) -> Result<Control, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Control::connect(socket) {
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                result => return result,
            }
        }
    }

    /// What it answers to `request`.
    ///
    /// # Errors
    /// What it refuses, that it has ended, or that it takes too long.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, String> {
        #[derive(Deserialize)]
        struct Answer<T> {
            result: Option<T>,
            error: Option<RpcError>,
        }
        let mut line = String::new();
        let io = |e: std::io::Error| format!("drayd's control socket: {e}");
        self.0.get_mut().write_all((request.encode(1) + "\n").as_bytes()).map_err(io)?;
        self.0.read_line(&mut line).map_err(io)?;
        let answer: Answer<T> = serde_json::from_str(&line).map_err(|e| format!("drayd's answer: {e}"))?;
        match answer {
            Answer { result: Some(result), .. } => Ok(result),
            Answer { error: Some(error), .. } => Err(format!("drayd refuses: {error}")),
            _ => Err("drayd's answer has no result".into()),
        }
    }

    /// Adds or deletes static entries.
    ///
    /// # Errors
    /// If one was refused.
    pub fn load(&mut self, batch: FdbBatch, delete: bool) -> Result<(), String> {
        for request in batch.into_requests(delete) {
            let loaded: FdbLoaded = self.call(&request)?;
            if let Some(refused) = loaded.refused.first() {
                return Err(format!("drayd refuses an FDB entry: {}", refused.reason));
            }
        }
        Ok(())
    }
}
