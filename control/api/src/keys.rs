//! Keys of the configuration file in requests: as they are declared there, with `_` for `-`.

use dray_config::schema::{self, DefaultValue, Key, Section};
use dray_config::suggest;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Declares a request's keys of a table, but those that the request has itself.
macro_rules! keys {
    ($(#[doc = $doc:literal])+ $Keys:ident = $SECTION:ident without $others:expr;) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        #[serde(transparent)]
        pub struct $Keys(pub BTreeMap<String, Value>);

        impl<const N: usize> From<[(&str, Value); N]> for $Keys {
            fn from(keys: [(&str, Value); N]) -> Self {
                $Keys(keys.map(|(name, value)| (name.to_owned(), value)).into())
            }
        }

        impl<'de> Deserialize<'de> for $Keys {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let all = BTreeMap::deserialize(from)?;
                known(&schema::$SECTION, &$others, all).map($Keys).map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $Keys {
            fn schema_name() -> Cow<'static, str> {
                stringify!($Keys).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                described(&schema::$SECTION, &$others)
            }
        }
    };
}

keys! {
    /// Keys of a `[[port]]`.
    PortKeys = PORT without ["name"];
}

keys! {
    /// Keys of a `[[bridge]]`.
    BridgeKeys = BRIDGE without ["name", "ports"];
}

/// The keys of `section` but `others`, by their names in requests. Ports of several kinds may have one of the same name.
fn by_name(section: &'static Section, others: &[&str]) -> BTreeMap<String, Vec<&'static Key>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for key in section.keys.iter().filter(|key| !others.contains(&key.name)) {
        all.entry(key.name.replace('-', "_")).or_default().push(key);
    }
    all
}

/// Whether a key must be given, whatever else is.
fn is_required(all: &[&Key]) -> bool {
    all.iter().all(|key| key.kind.is_none() && key.default == DefaultValue::Required)
}

/// Those of `all` that have a value.
fn known(
    section: &'static Section,
    others: &[&str],
    mut all: BTreeMap<String, Value>,
) -> Result<BTreeMap<String, Value>, String> {
    let keys = by_name(section, others);
    all.retain(|_, value| !value.is_null());
    if let Some(unknown) = all.keys().find(|name| !keys.contains_key(*name)) {
        let names = keys.keys().map(String::as_str);
        return Err(format!("unknown key {unknown:?}{}", suggest(unknown, names, ": it is none of the file's")));
    }
    match keys.iter().find(|(name, of)| is_required(of) && !all.contains_key(*name)) {
        Some((missing, _)) => Err(format!("missing field `{missing}`")),
        None => Ok(all),
    }
}

/// The schema of an object with these keys.
fn described(section: &'static Section, others: &[&str]) -> Schema {
    let keys = by_name(section, others);
    let required: Vec<&String> = keys.iter().filter(|(_, of)| is_required(of)).map(|(name, _)| name).collect();
    let properties: Map<String, Value> = keys.iter().map(|(name, of)| (name.clone(), value(of))).collect();
    schemars::json_schema!({ "type": "object", "properties": properties, "required": required })
}

/// The schema of a key's value.
fn value(of: &[&Key]) -> Value {
    use schema::Value::{Array, Boolean, Integer, PowerOfTwo, String};
    let range = |key: &&Key| match key.value {
        Integer(min, max) | PowerOfTwo(min, max) => Some((min, max)),
        _ => None,
    };
    let description = description(of);
    match of[0].value {
        String(_) => json!({ "type": "string", "description": description }),
        Boolean => json!({ "type": "boolean", "description": description }),
        Array(_) => json!({ "type": "array", "items": { "type": ["string", "object"] }, "description": description }),
        Integer(..) | PowerOfTwo(..) => {
            let (min, max) =
                of.iter().filter_map(range).fold((u64::MAX, 0), |(min, max), of| (min.min(of.0), max.max(of.1)));
            json!({ "type": "integer", "minimum": min, "maximum": max, "description": description })
        }
    }
}

/// What a key means: which kinds have it, the first sentence of its meaning, and its default.
fn description(of: &[&Key]) -> String {
    let kinds: Vec<&str> = of.iter().filter_map(|key| key.kind).collect();
    let has_all = kinds.is_empty() || kinds.len() == schema::KINDS.len();
    let kinds = if has_all { String::new() } else { format!("{}: ", kinds.join(", ")) };
    let meaning = of[0].meaning.split_once(". ").map_or(of[0].meaning, |(first, _)| first).trim_end_matches('.');
    let unit = if of[0].unit.is_empty() { String::new() } else { format!(" ({})", of[0].unit) };
    let default = |key: &Key| match &key.default {
        DefaultValue::Toml(value) => Some(value.trim_matches('"').to_owned()),
        DefaultValue::Words(words) => Some((*words).to_owned()),
        DefaultValue::Required => None,
    };
    let mut defaults: Vec<(String, Vec<&str>)> = Vec::new();
    for key in of {
        let Some(default) = default(key).filter(|default| default != "none" && default != "[]") else { continue };
        match defaults.iter_mut().find(|(other, _)| *other == default) {
            Some((_, kinds)) => kinds.extend(key.kind),
            None => defaults.push((default, key.kind.into_iter().collect())),
        }
    }
    let default = match &defaults[..] {
        [] => String::new(),
        [(only, _)] => format!(" [default: {only}]"),
        several => {
            let each = several.iter().map(|(default, kinds)| format!("{default} ({})", kinds.join(", ")));
            format!(" [default: {}]", each.collect::<Vec<_>>().join(", "))
        }
    };
    format!("{kinds}{meaning}{unit}{default}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn keys_are_those_of_the_file() {
        let read = |keys: Value| from_value::<PortKeys>(keys).map(|keys| keys.0.len()).map_err(|why| why.to_string());
        assert_eq!(read(json!({ "kind": "memif", "ring_size": 512, "mtu": null })), Ok(2));
        assert_eq!(read(json!({ "mtu": 1500 })), Err("missing field `kind`".into()));
        let unknown = read(json!({ "kind": "memif", "ring_szie": 512 })).unwrap_err();
        assert_eq!(unknown, "unknown key \"ring_szie\"; did you mean \"ring_size\"?");
        assert!(read(json!({ "kind": "memif", "name": "a" })).is_err());
    }

    #[test]
    fn keys_are_described() {
        let schema = described(&schema::PORT, &["name"]);
        let key = |name: &str| &schema.as_value()["properties"][name];
        let text = |name: &str| key(name)["description"].as_str().unwrap();
        assert_eq!(schema.as_value()["required"], json!(["kind"]));
        assert_eq!(text("queues"), "Queue pairs [default: 1 (memif, tap, eth), 16 (vhost-user)]");
        assert_eq!(text("secret"), "memif: Must be the same on both sides");
        assert_eq!(text("buffer_size"), "memif: Size of a buffer, as a client (bytes) [default: 2048]");
        assert_eq!((&key("ring_size")["minimum"], &key("ring_size")["maximum"]), (&json!(64), &json!(16384)));
        assert!(text("max_macs").ends_with("that are not the underlay 4096 at most]"), "{}", text("max_macs"));
    }
}
