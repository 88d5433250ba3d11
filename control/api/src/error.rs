//! Why a request fails.

use serde::{Deserialize, Serialize};

/// Not JSON (JSON-RPC 2.0, section 5.1).
pub const PARSE_ERROR: i64 = -32700;

/// JSON, but not a request; or one longer than `MAX_REQUEST`.
pub const INVALID_REQUEST: i64 = -32600;

/// There is no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;

/// The method takes other parameters.
pub const INVALID_PARAMS: i64 = -32602;

/// The switch refused; the message says why.
pub const REFUSED: i64 = -32000;

/// The configuration file that was sent is wrong; the message says where, and what would be right.
pub const BAD_FILE: i64 = -32001;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcError {
    /// Such as [`REFUSED`].
    pub code: i64,
    /// For people.
    pub message: String,
}

impl RpcError {
    /// An error.
    pub fn new(code: i64, message: String) -> Self {
        RpcError { code, message }
    }
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}
