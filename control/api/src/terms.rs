//! On what terms a change is wanted.

use crate::{INVALID_PARAMS, RpcError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// On what terms a change is wanted: beside the parameters of every request that changes the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Terms {
    /// Whose the change is, if not the file's: a program's name of a-z 0-9 -. What it adds outlives restarts and "config apply"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Change nothing unless this is the configuration's generation, which status has
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
    /// Be content if what is to be added is there already just so, or what is to be deleted is not there
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ensure: bool,
}

impl Terms {
    /// Methods of requests that have terms: those that change the configuration.
    pub const METHODS: [&str; 22] = [
        "attach",
        "detach",
        "expose",
        "port.add",
        "port.del",
        "port.set",
        "port.up",
        "port.down",
        "bridge.add",
        "bridge.del",
        "bridge.join",
        "bridge.leave",
        "bridge.set",
        "fdb.add",
        "fdb.del",
        "fdb.load",
        "vtep.add",
        "vtep.del",
        "log.level",
        "config.set",
        "config.apply",
        "config.reload",
    ];

    /// Takes them out of a request's parameters.
    ///
    /// # Errors
    /// One is of another type.
    pub fn take(params: &mut Map<String, Value>) -> Result<Terms, RpcError> {
        let mut terms = Map::new();
        for key in ["owner", "if_generation", "ensure"] {
            terms.extend(params.remove(key).map(|value| (key.to_owned(), value)));
        }
        serde_json::from_value(Value::Object(terms)).map_err(|error| RpcError::new(INVALID_PARAMS, error.to_string()))
    }

    /// Puts them into a request, a line.
    pub fn put_into(&self, request: String) -> String {
        if *self == Terms::default() {
            return request;
        }
        let (Ok(mut call), Ok(Value::Object(terms))) =
            (serde_json::from_str::<Value>(&request), serde_json::to_value(self))
        else {
            return request;
        };
        if let Some(params) = call.get_mut("params").and_then(Value::as_object_mut) {
            params.extend(terms);
        }
        call.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyRequest, PortDel, Request};

    #[test]
    fn terms_go_beside_the_parameters_of_changes_only() {
        let terms = Terms { owner: Some("cni".into()), if_generation: Some(7), ensure: true };
        let line = terms.put_into(PortDel { name: "web".into() }.encode(1));
        let (_, read) = AnyRequest::decode_on_terms(line.as_bytes());
        assert_eq!(read, Ok((PortDel { name: "web".into() }.into(), terms.clone())));
        let line = terms.put_into(r#"{"jsonrpc":"2.0","id":1,"method":"port.show","params":{}}"#.into());
        assert_eq!(AnyRequest::decode_on_terms(line.as_bytes()).1.unwrap_err().code, INVALID_PARAMS);
        let wrong = r#"{"jsonrpc":"2.0","id":1,"method":"port.del","params":{"name":"a","ensure":"x"}}"#;
        assert_eq!(AnyRequest::decode_on_terms(wrong.as_bytes()).1.unwrap_err().code, INVALID_PARAMS);
        let all: Vec<&str> = AnyRequest::methods().map(|method| method.name).collect();
        assert!(Terms::METHODS.iter().all(|method| all.contains(method)));
    }
}
