//! Requests and answers as lines.

use crate::{AnyRequest, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, RpcError, Terms};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

impl AnyRequest {
    /// Reads a line: the request's id, and the request or what is wrong with it. The id is null if it can't be read.
    pub fn decode(line: &[u8]) -> (Value, Result<AnyRequest, RpcError>) {
        let (id, request) = Self::decode_on_terms(line);
        (id, request.map(|(request, _)| request))
    }

    /// As [`AnyRequest::decode`], with the terms on which a change is wanted.
    pub fn decode_on_terms(line: &[u8]) -> (Value, Result<(AnyRequest, Terms), RpcError>) {
        let call: Value = match serde_json::from_slice(line) {
            Ok(call) => call,
            Err(error) => return (Value::Null, Err(RpcError::new(PARSE_ERROR, format!("not JSON: {error}")))),
        };
        let id = match call.get("id") {
            Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
            _ => Value::Null,
        };
        let request = Self::from_call(call, id.is_null());
        (id, request)
    }

    fn from_call(mut call: Value, no_id: bool) -> Result<(AnyRequest, Terms), RpcError> {
        let invalid = |why: &str| Err(RpcError::new(INVALID_REQUEST, why.into()));
        if !call.is_object() {
            return invalid("a request is an object, and one at a time");
        }
        if call.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return invalid("jsonrpc must be \"2.0\"");
        }
        if no_id {
            return invalid("id must be a number or a string");
        }
        let mut params = call.get_mut("params").map_or(Value::Null, Value::take);
        let Some(method) = call.get("method").and_then(Value::as_str) else {
            return invalid("method must be a string");
        };
        let terms = match params.as_object_mut().filter(|_| Terms::METHODS.contains(&method)) {
            Some(params) => Terms::take(params)?,
            None => Terms::default(),
        };
        Ok((Self::from_params(method, params)?, terms))
    }

    /// The request of `method` with these parameters.
    ///
    /// # Errors
    /// There is no such method, or it takes others.
    pub fn from_params(method: &str, mut params: Value) -> Result<AnyRequest, RpcError> {
        let is_object = matches!(params, Value::Null | Value::Object(_));
        if !params.is_object() {
            params = Value::Object(Map::new());
        }
        match AnyRequest::read(method, &mut params) {
            None => {
                let short: String = method.chars().take(64).collect();
                Err(RpcError::new(METHOD_NOT_FOUND, format!("there is no method {short:?}")))
            }
            Some(_) if !is_object => {
                Err(RpcError::new(INVALID_PARAMS, "params must be an object: they have names".into()))
            }
            Some(request) => request.map_err(|error| RpcError::new(INVALID_PARAMS, format!("{method}: {error}"))),
        }
    }
}

/// What the switch answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    jsonrpc: String,
    /// The request's id; null if it could not be read.
    pub id: Value,
    /// The reply or why there is none.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The reply or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The reply; its type depends on the method.
    Result(Value),
    /// Why there is none.
    Error(RpcError),
}

impl Response {
    /// The answer to the request `id`.
    pub fn new(id: Value, outcome: Result<Value, RpcError>) -> Self {
        let outcome = match outcome {
            Ok(reply) => Outcome::Result(reply),
            Err(error) => Outcome::Error(error),
        };
        Response { jsonrpc: "2.0".into(), id, outcome }
    }

    /// The answer as a line, without the newline.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("no map keys that are not strings, no failing types")
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is no JSON-RPC response.
    pub fn decode(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

#[cfg(test)]
mod tests {
    use crate::*;
    use serde_json::json;

    #[test]
    fn optional_parameters_may_be_left_out() {
        let show = PortShow::default().into();
        assert_eq!(AnyRequest::decode(br#"{"jsonrpc":"2.0","id":"a","method":"port.show"}"#), (json!("a"), Ok(show)));
        let keys = [("kind", "eth".into())].into();
        let add = PortAdd { name: "a".into(), keys, ..PortAdd::default() }.into();
        let line = br#"{"jsonrpc":"2.0","id":2,"method":"port.add","params":{"name":"a","kind":"eth"}}"#;
        assert_eq!(AnyRequest::decode(line), (json!(2), Ok(add)));
    }

    #[test]
    fn wrong_requests_have_their_codes() {
        let cases = [
            ("", PARSE_ERROR),
            ("{\"jsonrpc\":", PARSE_ERROR),
            ("\u{0}", PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            ("3", INVALID_REQUEST),
            (r#"{"id":1,"method":"status"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","method":"status"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":[],"method":"status"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":3}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port"}"#, METHOD_NOT_FOUND),
            (r#"{"jsonrpc":"2.0","id":1,"method":"status."}"#, METHOD_NOT_FOUND),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port.show.x"}"#, METHOD_NOT_FOUND),
            (r#"{"jsonrpc":"2.0","id":1,"method":"status","params":[]}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":1}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port.del"}"#, INVALID_PARAMS),
            // The daemon writes no file but its own.
            (r#"{"jsonrpc":"2.0","id":1,"method":"config.save","params":{"file":"/etc/passwd"}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"port.add","params":{"name":"a","kind":"b","x":1}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"fdb.del","params":{"bridge":"b","mac":"02:00"}}"#, INVALID_PARAMS),
        ];
        for (line, code) in cases {
            assert_eq!(AnyRequest::decode(line.as_bytes()).1.unwrap_err().code, code, "{line}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(AnyRequest::decode(deep.as_bytes()).1.unwrap_err().code, PARSE_ERROR);
    }

    #[test]
    fn responses() {
        let done = Response::new(json!(1), Ok(json!([])));
        assert_eq!(done.encode(), r#"{"jsonrpc":"2.0","id":1,"result":[]}"#);
        assert_eq!(Response::decode(done.encode().as_bytes()).unwrap(), done);
        let refused = Response::new(json!(1), Err(RpcError::new(REFUSED, "no".into())));
        assert_eq!(
            refused.encode(),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no","data":{"code":"failed"}}}"#
        );
        assert_eq!(Response::decode(refused.encode().as_bytes()).unwrap(), refused);
    }

    #[test]
    fn replies_tolerate_other_versions() {
        let port: PortInfo = serde_json::from_value(json!({ "name": "web", "link": "up", "new_field": 1 })).unwrap();
        assert_eq!((port.name.as_str(), port.link.as_str(), port.rx_packets), ("web", "up", 0));
        let entry = FdbEntry { bridge: "b".into(), is_static: true, ..FdbEntry::default() };
        assert_eq!(
            serde_json::to_value(entry).unwrap(),
            json!({ "bridge": "b", "mac": "00:00:00:00:00:00", "age_seconds": 0, "static": true })
        );
    }
}
