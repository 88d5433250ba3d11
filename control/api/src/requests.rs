//! What requests there are: each with the name of its method, the type of its reply and an example, in its subject's file.

use crate::{
    AttachRequest, BridgeRequest, ConfigRequest, DetachRequest, DropRequest, ExposeRequest, FdbRequest, LogRequest,
    PortRequest, StatusRequest, VtepRequest, WatchRequest, WorkerRequest,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A request to the switch: the object `params` on the wire, and the arguments of a subcommand of `dray`.
pub trait Request: Serialize + DeserializeOwned + JsonSchema + Into<AnyRequest> {
    /// The method's name on the wire, such as `port.show`: the subcommand with a dot.
    const METHOD: &'static str;
    /// A command line of `dray` that makes such a request, without `dray`.
    const EXAMPLE: &'static str;
    /// What the switch answers.
    type Reply: Serialize + DeserializeOwned + JsonSchema;

    /// The request as a line, without the newline.
    fn encode(&self, id: u64) -> String {
        #[derive(Serialize)]
        struct Call<'a, P> {
            jsonrpc: &'static str,
            id: u64,
            method: &'static str,
            params: &'a P,
        }
        let call = Call { jsonrpc: "2.0", id, method: Self::METHOD, params: self };
        serde_json::to_string(&call).expect("no map keys that are not strings, no failing types")
    }
}

/// What there is to know of a [`Request`] without its type.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// [`Request::METHOD`].
    pub name: &'static str,
    /// [`Request::EXAMPLE`].
    pub example: &'static str,
    /// The schema of the request.
    pub(crate) params: fn(&mut SchemaGenerator) -> Schema,
    /// The schema of its reply.
    pub(crate) reply: fn(&mut SchemaGenerator) -> Schema,
}

impl Method {
    pub(crate) const fn of<R: Request>() -> Method {
        Method {
            name: R::METHOD,
            example: R::EXAMPLE,
            params: R::json_schema,
            reply: SchemaGenerator::subschema_for::<R::Reply>,
        }
    }
}

/// Declares the requests of a group, whose types are in the same file:
/// `"METHOD" VARIANT(REQUEST) -> REPLY, "EXAMPLE";`
macro_rules! requests {
    ($(#[$meta:meta])* $of:ident in $group:ident {
        $($method:literal $variant:ident($request:ident) -> $reply:ty, $example:literal;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        // Each request has its own documentation; there is one at a time.
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum $of {
            $($variant($request),)*
        }

        $(
            impl $crate::Request for $request {
                const METHOD: &'static str = $method;
                const EXAMPLE: &'static str = $example;
                type Reply = $reply;
            }

            impl From<$request> for $crate::AnyRequest {
                fn from(request: $request) -> Self {
                    $crate::AnyRequest::$group($of::$variant(request))
                }
            }
        )*

        impl $of {
            pub(crate) const METHODS: &'static [$crate::Method] = &[$($crate::Method::of::<$request>()),*];

            /// The request of this name; `None` if it is of another group.
            pub(crate) fn read(
                method: &str,
                params: &mut serde_json::Value,
            ) -> Option<serde_json::Result<$crate::AnyRequest>> {
                match method {
                    $($method => Some(serde_json::from_value::<$request>(params.take()).map(Into::into)),)*
                    _ => None,
                }
            }

            pub(crate) fn method(&self) -> &'static str {
                match self {
                    $($of::$variant(_) => $method,)*
                }
            }

            pub(crate) fn encode(&self, id: u64) -> String {
                match self {
                    $($of::$variant(request) => $crate::Request::encode(request, id),)*
                }
            }
        }
    };
}
pub(crate) use requests;

/// Declares the groups of requests, each of which is in its own file: `"NAME" VARIANT(REQUESTS);`
macro_rules! groups {
    ($(#[doc = $doc:literal] $name:literal $group:ident($of:ident);)*) => {
        /// Any of the requests.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(clippy::large_enum_variant)]
        pub enum AnyRequest {
            $(#[doc = $doc] $group($of),)*
        }

        impl AnyRequest {
            /// The groups: what their methods begin with, or the only method; and what they are for.
            pub const GROUPS: &'static [(&'static str, &'static str)] = &[$(($name, $doc.trim_ascii())),*];

            /// All methods.
            pub fn methods() -> impl Iterator<Item = Method> {
                [$($of::METHODS),*].into_iter().flatten().copied()
            }

            /// The request of the method `method`; `None` if there is no such method. `params` is taken.
            pub(crate) fn read(method: &str, params: &mut Value) -> Option<serde_json::Result<AnyRequest>> {
                None$(.or_else(|| $of::read(method, params)))*
            }

            /// [`Request::METHOD`].
            pub fn method(&self) -> &'static str {
                match self {
                    $(AnyRequest::$group(request) => request.method(),)*
                }
            }

            /// [`Request::encode`].
            pub fn encode(&self, id: u64) -> String {
                match self {
                    $(AnyRequest::$group(request) => request.encode(id),)*
                }
            }
        }
    };
}

groups! {
    /// What the switch is and does
    "status" Status(StatusRequest);
    /// Give a running container a network device in a bridge
    "attach" Attach(AttachRequest);
    /// Take a container's devices away that attach has given it
    "detach" Detach(DetachRequest);
    /// Give this host a network device in a bridge, or take it away
    "expose" Expose(ExposeRequest);
    /// Show, add, change and delete ports
    "port" Port(PortRequest);
    /// Show, add, change and delete bridges
    "bridge" Bridge(BridgeRequest);
    /// Show and change the forwarding database
    "fdb" Fdb(FdbRequest);
    /// Show the other VTEPs, and change the lists of them
    "vtep" Vtep(VtepRequest);
    /// Show the workers
    "worker" Worker(WorkerRequest);
    /// Show what was dropped, and why
    "drop" Drop(DropRequest);
    /// Show and change what drayd logs
    "log" Log(LogRequest);
    /// Print what happens, as it happens
    "watch" Watch(WatchRequest);
    /// Show, change, compare, apply and save the configuration
    "config" Config(ConfigRequest);
}

pub(crate) fn is_false(is: &bool) -> bool {
    !is
}
