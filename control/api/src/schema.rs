//! The JSON Schema of all messages, made from their types.

use crate::{AnyRequest, ErrorData, Event, RpcError, Terms};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// Where [`Api::types`] are in an OpenRPC document.
const TYPES: &str = "/components/schemas";

/// What there is to know of the messages, for whoever makes something of it: arguments of a command, a page, a client in another
/// language. Schemas are of JSON Schema, draft 7.
#[derive(Clone, Debug)]
pub struct Api {
    /// All methods.
    pub methods: Vec<MethodInfo>,
    /// What there may be beside the parameters of a request that changes something.
    pub terms: Vec<Param>,
    /// The types that have a name, by it. A schema refers to them by `{"$ref": "#/components/schemas/NAME"}`.
    pub types: Map<String, Value>,
}

/// A method.
#[derive(Clone, Debug)]
pub struct MethodInfo {
    /// Such as `port.show`.
    pub name: &'static str,
    /// A command line of `dray` that makes such a request, without `dray`.
    pub example: &'static str,
    /// What it does.
    pub meaning: String,
    /// Its parameters: first those that must be given.
    pub params: Vec<Param>,
    /// The schema of its reply.
    pub reply: Value,
    /// Whether it has [`Api::terms`].
    pub has_terms: bool,
}

impl MethodInfo {
    /// What its name begins with: of [`AnyRequest::GROUPS`].
    pub fn group(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(group, _)| group)
    }
}

/// A parameter of a method.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Whether it must be given.
    pub required: bool,
    /// The schema of its value. `description` says what it means.
    pub schema: Value,
}

/// The description in a schema.
pub fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

/// The name of the type that a schema refers to, if it does.
pub fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix('#')?.strip_prefix(TYPES)?.strip_prefix('/')
}

/// The fields of an object: first those that it always has, in the order of their declaration.
pub fn fields(object: &Value) -> Vec<Param> {
    let required: Vec<&str> = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(all) = object["properties"].as_object() else { return Vec::new() };
    let field = |name: &str, required| {
        let schema = all.get(name)?.clone();
        Some(Param { name: name.into(), required, schema })
    };
    let optional = all.keys().filter(|name| !required.contains(&name.as_str()));
    let always = required.iter().filter_map(|name| field(name, true));
    always.chain(optional.filter_map(|name| field(name, false))).collect()
}

impl Default for Api {
    fn default() -> Self {
        Api::new()
    }
}

impl Api {
    /// The messages of this version.
    pub fn new() -> Api {
        // Requests are described as they are read: what may be left out. Replies as they are written: what is left out.
        let settings = || {
            let flat = |schema: &mut Schema| {
                if let Some(Value::String(text)) = schema.get_mut("description") {
                    *text = text.replace('\n', " ");
                }
            };
            let place = |settings: &mut SchemaSettings| settings.definitions_path = TYPES.into();
            SchemaSettings::draft07().with(place).with_transform(RecursiveTransform(flat))
        };
        let given = |schema: &mut Schema| drop(schema.remove("default"));
        let mut requests = settings().for_deserialize().into_generator();
        let mut replies = settings().for_serialize().with_transform(RecursiveTransform(given)).into_generator();
        let methods = AnyRequest::methods().map(|method| {
            let params = finished(&mut requests, method.params);
            MethodInfo {
                name: method.name,
                example: method.example,
                meaning: description(&params).into(),
                params: fields(&params),
                reply: finished(&mut replies, method.reply),
                has_terms: Terms::METHODS.contains(&method.name),
            }
        });
        let methods = methods.collect();
        let terms = fields(&finished(&mut requests, Terms::json_schema));
        // What follows the reply to `watch`, and what there is instead of a reply.
        replies.subschema_for::<Event>();
        replies.subschema_for::<RpcError>();
        replies.subschema_for::<ErrorData>();
        let mut types = replies.take_definitions(true);
        types.extend(requests.take_definitions(true));
        Api { methods, terms, types }
    }

    /// A method's parameters, and the terms that it may have.
    pub fn params(&self, method: &MethodInfo) -> impl Iterator<Item = &Param> {
        let terms: &[Param] = if method.has_terms { &self.terms } else { &[] };
        let known = self.methods.iter().find(|known| known.name == method.name);
        known.into_iter().flat_map(|known| &known.params).chain(terms)
    }

    /// The messages as a document of OpenRPC 1.3 (spec.open-rpc.org), of which clients in other languages can be made.
    pub fn openrpc(&self) -> Value {
        let param = |param: &Param| {
            let Param { name, required, schema } = param;
            json!({ "name": name, "description": description(schema), "required": required, "schema": schema })
        };
        let method = |method: &MethodInfo| {
            json!({
                "name": method.name,
                "summary": method.meaning,
                "paramStructure": "by-name",
                "params": self.params(method).map(param).collect::<Vec<_>>(),
                "result": { "name": "reply", "schema": method.reply },
            })
        };
        json!({
            "openrpc": "1.3.2",
            "info": { "title": "Dray's control socket", "version": env!("CARGO_PKG_VERSION") },
            "methods": self.methods.iter().map(method).collect::<Vec<_>>(),
            "components": { "schemas": self.types },
        })
    }
}

/// A schema, as the generator's settings want it.
fn finished(generator: &mut SchemaGenerator, schema: fn(&mut SchemaGenerator) -> Schema) -> Value {
    let mut schema = schema(generator);
    generator.transforms_mut().for_each(|transform| transform.transform(&mut schema));
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;

    fn method<'a>(api: &'a Api, name: &str) -> &'a MethodInfo {
        api.methods.iter().find(|method| method.name == name).unwrap()
    }

    #[test]
    fn parameters_that_must_be_given_come_first_and_all_are_described() {
        let api = Api::new();
        let params = |name| method(&api, name).params.iter().map(|p| (p.name.as_str(), p.required)).collect::<Vec<_>>();
        assert_eq!(params("port.set"), [("name", true), ("key", true), ("values", false)]);
        assert_eq!(params("fdb.add"), [("bridge", true), ("mac", true), ("port", false), ("vtep", false)]);
        assert_eq!(params("status"), []);
        for method in &api.methods {
            assert!(!method.meaning.is_empty(), "{}", method.name);
            assert!(method.params.iter().all(|param| !description(&param.schema).is_empty()), "{method:?}");
        }
        assert_eq!(
            description(&method(&api, "port.show").params[0].schema),
            "Only those in this bridge, or in any that matches"
        );
    }

    #[test]
    fn replies_are_described_as_they_are_written() {
        let api = Api::new();
        assert_eq!(reference(&method(&api, "status").reply), Some("Status"));
        assert_eq!(reference(&method(&api, "bridge.show").reply["items"]), Some("BridgeInfo"));
        let types = |schema: &Value| schema["anyOf"].as_array().unwrap().len();
        assert_eq!(types(&method(&api, "port.show").reply), 2);
        let port = fields(&api.types["PortInfo"]);
        let field = |name: &str| port.iter().find(|field| field.name == name).unwrap();
        assert!(field("kind").required && !field("reason").required);
        assert_eq!(types(&field("detail").schema), dray_config::schema::KINDS.len());
        assert_eq!(port[0].name, "name");
        for (name, of) in &api.types {
            let of = fields(of);
            assert!(of.iter().all(|field| field.schema["default"].is_null()), "{name}");
            assert!(
                of.iter().all(|field| reference(&field.schema).is_some() || !description(&field.schema).is_empty()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_type_is_the_same_in_requests_and_replies() {
        let of = |settings: SchemaSettings| settings.into_generator().into_root_schema_for::<dray_config::Member>();
        assert_eq!(of(SchemaSettings::draft07().for_serialize()), of(SchemaSettings::draft07().for_deserialize()));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(schema: &Value, types: &Map<String, Value>) {
            if schema["$ref"].is_string() {
                assert!(reference(schema).is_some_and(|name| types.contains_key(name)), "{schema}");
            }
            match schema {
                Value::Object(all) => all.values().for_each(|schema| walk(schema, types)),
                Value::Array(all) => all.iter().for_each(|schema| walk(schema, types)),
                _ => {}
            }
        }
        let api = Api::new();
        let document = api.openrpc();
        walk(&document, &api.types);
        assert_eq!(document["methods"].as_array().unwrap().len(), AnyRequest::methods().count());
        assert!(["Event", "RpcError", "ErrorData"].iter().all(|name| api.types.contains_key(*name)));
    }
}
