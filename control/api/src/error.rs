//! Why a request fails.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Declares numbers of errors, and [`NUMBERS`].
macro_rules! numbers {
    ($(#[doc = $doc:literal] $name:ident = $number:literal;)*) => {
        $(#[doc = $doc] pub const $name: i64 = $number;)*

        /// The numbers of errors, and what they mean.
        pub const NUMBERS: &[(i64, &str)] = &[$(($number, $doc)),*];
    };
}

numbers! {
    /// Not JSON (JSON-RPC 2.0, section 5.1).
    PARSE_ERROR = -32700;
    /// JSON, but not a request; or one longer than `MAX_REQUEST`.
    INVALID_REQUEST = -32600;
    /// There is no such method.
    METHOD_NOT_FOUND = -32601;
    /// The method takes other parameters.
    INVALID_PARAMS = -32602;
    /// The switch refused; the message says why.
    REFUSED = -32000;
    /// The configuration file that was sent is wrong; the message says where, and what would be right.
    BAD_FILE = -32001;
    /// Nobody answers on the control socket. `dray` says this, not the switch.
    UNREACHABLE = -32002;
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RpcError {
    /// A number, as JSON-RPC wants it.
    pub code: i64,
    /// What is wrong, for people.
    pub message: String,
    /// What is wrong, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ErrorData>,
}

/// What is wrong, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorData {
    /// What a program can act on.
    pub code: ErrorCode,
    /// What it is about: an object or its key, as in `port.web.mtu`, or a place in a file, as in `dray.toml:3:7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Declares [`ErrorCode`], and [`CODES`].
macro_rules! codes {
    ($(#[doc = $doc:literal] $code:ident;)*) => {
        /// What a program can act on.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        #[schemars(inline)]
        pub enum ErrorCode {
            $(#[doc = $doc] $code,)*
            /// One that this version does not know.
            #[default]
            #[serde(other)]
            #[schemars(skip)]
            Other,
        }

        /// The codes, and what they mean.
        pub const CODES: &[(ErrorCode, &str)] = &[$((ErrorCode::$code, $doc)),*];
    };
}

codes! {
    /// What the request names is not there.
    NotFound;
    /// What is to be added is there already.
    Exists;
    /// Something else is in the way, which has to be changed first.
    Conflict;
    /// The request, a value in it, or the file is wrong.
    Invalid;
    /// Too much is asked at once: ask again later.
    Busy;
    /// Who asks may not.
    Denied;
    /// The system does not do what it takes, such as opening a port or writing a file.
    Failed;
    /// Nobody answers on the control socket. `dray` says this, not the switch.
    Unreachable;
}

impl ErrorCode {
    /// Its name, as in JSON.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

impl RpcError {
    /// An error of this number. What a program can act on follows from it; for [`REFUSED`] it is [`RpcError::refused`].
    pub fn new(code: i64, message: String) -> Self {
        let of = match code {
            METHOD_NOT_FOUND => ErrorCode::NotFound,
            UNREACHABLE => ErrorCode::Unreachable,
            REFUSED => ErrorCode::Failed,
            _ => ErrorCode::Invalid,
        };
        RpcError { code, message, data: Some(ErrorData { code: of, path: None }) }
    }

    /// What the switch refuses.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        RpcError { code: REFUSED, message: message.into(), data: Some(ErrorData { code, path: None }) }
    }

    /// The same, of this object, key or place.
    pub fn at(mut self, path: impl Into<String>) -> Self {
        if let Some(data) = &mut self.data {
            data.path = Some(path.into());
        }
        self
    }
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_str, to_string};

    #[test]
    fn codes_on_the_wire() {
        let error = RpcError::refused(ErrorCode::NotFound, "no").at("port.web");
        let wire = r#"{"code":-32000,"message":"no","data":{"code":"not-found","path":"port.web"}}"#;
        assert_eq!((to_string(&error).unwrap().as_str(), from_str(wire).unwrap()), (wire, error));
        let invalid = RpcError::new(INVALID_PARAMS, "no".into());
        assert_eq!(to_string(&invalid).unwrap(), r#"{"code":-32602,"message":"no","data":{"code":"invalid"}}"#);
        // Of an older and of a newer drayd.
        assert_eq!(from_str::<RpcError>(r#"{"code":-32000,"message":"no"}"#).unwrap().data, None);
        let newer =
            from_str::<RpcError>(r#"{"code":-32000,"message":"no","data":{"code":"tired","since":1}}"#).unwrap();
        assert_eq!(newer.data.map(|data| data.code), Some(ErrorCode::Other));
    }
}
