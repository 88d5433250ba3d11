//! Requests and answers as lines.

use crate::{INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, Request, RpcError};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

impl Request {
    /// The method's name on the wire, such as `port.show`.
    pub fn method(&self) -> String {
        self.method_and_params().0
    }

    fn method_and_params(&self) -> (String, Value) {
        let open = |value: Value| match value {
            Value::Object(map) => map.into_iter().next().expect("serde writes a variant as an object of one key"),
            other => unreachable!("a variant with fields became {other}"),
        };
        let (method, inner) =
            open(serde_json::to_value(self).expect("no map keys that are not strings, no failing types"));
        if matches!(self, Request::Status {} | Request::Watch { .. }) {
            return (method, inner);
        }
        let (command, params) = open(inner);
        (format!("{method}.{command}"), params)
    }

    /// The request as a line, without the newline.
    pub fn encode(&self, id: u64) -> String {
        let (method, params) = self.method_and_params();
        json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
    }

    /// Reads a line: the request's id, and the request or what is wrong with it. The id is null if it can't be read.
    pub fn decode(line: &[u8]) -> (Value, Result<Request, RpcError>) {
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

    fn from_call(mut call: Value, no_id: bool) -> Result<Request, RpcError> {
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
        let params = call.get_mut("params").map_or(Value::Null, Value::take);
        let Some(method) = call.get("method").and_then(Value::as_str) else {
            return invalid("method must be a string");
        };
        // Making the list takes longer than most requests.
        static METHODS: LazyLock<Vec<String>> = LazyLock::new(Request::methods);
        if !METHODS.iter().any(|known| known == method) {
            let short: String = method.chars().take(64).collect();
            return Err(RpcError::new(METHOD_NOT_FOUND, format!("there is no method {short:?}")));
        }
        let params = match params {
            Value::Null => Value::Object(Map::new()),
            Value::Object(_) => params,
            _ => return Err(RpcError::new(INVALID_PARAMS, "params must be an object: they have names".into())),
        };
        let request = match method.split_once('.') {
            Some((group, command)) => json!({ group: { command: params } }),
            None => json!({ method: params }),
        };
        serde_json::from_value(request).map_err(|error| RpcError::new(INVALID_PARAMS, format!("{method}: {error}")))
    }

    /// The names of all methods.
    pub fn methods() -> Vec<String> {
        let root = Request::augment_subcommands(clap::Command::new("dray"));
        let mut methods = Vec::new();
        for group in root.get_subcommands() {
            if group.get_subcommands().next().is_none() {
                methods.push(group.get_name().to_string());
            }
            for command in group.get_subcommands() {
                methods.push(format!("{}.{}", group.get_name(), command.get_name()));
            }
        }
        methods
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
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Dray {
        #[command(subcommand)]
        request: Request,
    }

    fn command(line: &str) -> Request {
        let words = std::iter::once("dray").chain(line.split(' '));
        Dray::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).request
    }

    #[test]
    fn clap_is_sound() {
        <Dray as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn commands_are_methods() {
        let lines = [
            ("status", r#"{"id":1,"jsonrpc":"2.0","method":"status","params":{}}"#),
            (
                "port show web --connect",
                r#"{"id":1,"jsonrpc":"2.0","method":"port.show","params":{"connect":true,"name":"web"}}"#,
            ),
            ("port del web", r#"{"id":1,"jsonrpc":"2.0","method":"port.del","params":{"name":"web"}}"#),
            (
                "bridge add blue --vni 42 --port web --port trunk:10",
                concat!(
                    r#"{"id":1,"jsonrpc":"2.0","method":"bridge.add","params":{"name":"blue","#,
                    r#""ports":[{"port":"web"},{"port":"trunk","vlan":10}],"vni":42}}"#
                ),
            ),
            (
                "fdb add blue 02:00:00:00:00:0a --vtep 10.9.0.2",
                concat!(
                    r#"{"id":1,"jsonrpc":"2.0","method":"fdb.add","params":{"bridge":"blue","#,
                    r#""mac":"02:00:00:00:00:0a","port":null,"vtep":"10.9.0.2"}}"#
                ),
            ),
        ];
        for (line, wire) in lines {
            let request = command(line);
            assert_eq!(request.encode(1), wire);
            assert_eq!(Request::decode(wire.as_bytes()), (json!(1), Ok(request)));
        }
    }

    #[test]
    fn every_method_is_reached_by_its_name() {
        let file = std::env::temp_dir().join(format!("dray-api-{}", std::process::id()));
        std::fs::write(&file, "# nothing\n").unwrap();
        let lines = [
            "status".to_string(),
            "port show".into(),
            "port add a --kind memif --socket /a --ring-size 512 --bridge blue:10".into(),
            "port del a".into(),
            "port set a mtu 1500".into(),
            "port up a".into(),
            "port down a".into(),
            "port clear".into(),
            "bridge show".into(),
            "bridge add b".into(),
            "bridge del b".into(),
            "bridge join b a c:10".into(),
            "bridge leave b a".into(),
            "bridge set b peers 10.0.0.1 10.0.0.2".into(),
            "fdb show --bridge b".into(),
            "fdb add b 02:00:00:00:00:01 --port a:10".into(),
            "fdb del b 02:00:00:00:00:01".into(),
            format!("fdb load {} --delete", file.display()),
            "fdb flush --port a".into(),
            "vtep show".into(),
            "vtep add 10.0.0.1 10.0.0.2".into(),
            "vtep del 10.0.0.1 --bridge b".into(),
            "worker show".into(),
            "drop show".into(),
            "log show".into(),
            "log level warn,port=debug".into(),
            "watch --kind link --kind vtep --since 7".into(),
            "config show".into(),
            format!("config diff {}", file.display()),
            format!("config apply {}", file.display()),
            "config set fdb ageing 60".into(),
            "config reload".into(),
            "config save".into(),
        ];
        let mut methods = Vec::new();
        for line in &lines {
            let request = command(line);
            let (id, decoded) = Request::decode(request.encode(7).as_bytes());
            assert_eq!((id, decoded), (json!(7), Ok(request.clone())), "{line}");
            methods.push(request.method());
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(methods, Request::methods());
    }

    #[test]
    fn optional_parameters_may_be_left_out() {
        let show = command("port show");
        assert_eq!(Request::decode(br#"{"jsonrpc":"2.0","id":"a","method":"port.show"}"#), (json!("a"), Ok(show)));
        let add = Request::Port(PortRequest::Add(Box::new(PortAdd {
            name: "a".into(),
            kind: "eth".into(),
            ..PortAdd::default()
        })));
        let line = br#"{"jsonrpc":"2.0","id":2,"method":"port.add","params":{"name":"a","kind":"eth"}}"#;
        assert_eq!(Request::decode(line), (json!(2), Ok(add)));
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
            assert_eq!(Request::decode(line.as_bytes()).1.unwrap_err().code, code, "{line}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Request::decode(deep.as_bytes()).1.unwrap_err().code, PARSE_ERROR);
    }

    #[test]
    fn wrong_commands_are_refused() {
        for line in [
            "port show --connect",
            "port show web --secrets",
            "config save --secrets",
            "fdb add b 02:00:00:00:00:01",
            "fdb add b 02:00:00:00:00:01 --port a --vtep 10.0.0.1",
            "bridge add b --port a:4095",
            "config apply /nonexistent/dray.toml",
        ] {
            assert!(Dray::try_parse_from(std::iter::once("dray").chain(line.split(' '))).is_err(), "{line}");
        }
    }

    #[test]
    fn responses() {
        let done = Response::new(json!(1), Ok(json!([])));
        assert_eq!(done.encode(), r#"{"jsonrpc":"2.0","id":1,"result":[]}"#);
        assert_eq!(Response::decode(done.encode().as_bytes()).unwrap(), done);
        let refused = Response::new(json!(1), Err(RpcError::new(REFUSED, "no".into())));
        assert_eq!(refused.encode(), r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}"#);
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
