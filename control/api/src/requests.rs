//! What requests there are: each with the name of its method, the type of its reply and an example, in its subject's file.

use crate::{
    BridgeRequest, ConfigRequest, DropRequest, FdbRequest, LogRequest, PortRequest, Status, StatusShow, VtepRequest,
    Watch, Watching, WorkerRequest,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A request to the switch, and the subcommand of `dray` that makes it. It is the object `params` on the wire.
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
        #[cfg_attr(feature = "clap", derive(clap::Subcommand))]
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

/// Any of the requests.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "clap", derive(clap::Subcommand))]
#[allow(clippy::large_enum_variant)]
pub enum AnyRequest {
    /// What the switch is and does
    Status(StatusShow),
    /// Show, add, change and delete ports
    #[cfg_attr(feature = "clap", command(subcommand))]
    Port(PortRequest),
    /// Show, add, change and delete bridges
    #[cfg_attr(feature = "clap", command(subcommand))]
    Bridge(BridgeRequest),
    /// Show and change the forwarding database
    #[cfg_attr(feature = "clap", command(subcommand))]
    Fdb(FdbRequest),
    /// Show the other VTEPs, and change the lists of them
    #[cfg_attr(feature = "clap", command(subcommand))]
    Vtep(VtepRequest),
    /// Show the workers
    #[cfg_attr(feature = "clap", command(subcommand))]
    Worker(WorkerRequest),
    /// Show what was dropped, and why
    #[cfg_attr(feature = "clap", command(subcommand))]
    Drop(DropRequest),
    /// Show and change what drayd logs
    #[cfg_attr(feature = "clap", command(subcommand))]
    Log(LogRequest),
    /// Print what happens, as it happens
    Watch(Watch),
    /// Show, change, compare, apply and save the configuration
    #[cfg_attr(feature = "clap", command(subcommand))]
    Config(ConfigRequest),
}

impl Request for StatusShow {
    const METHOD: &'static str = "status";
    const EXAMPLE: &'static str = "status";
    type Reply = Status;
}

impl From<StatusShow> for AnyRequest {
    fn from(request: StatusShow) -> Self {
        AnyRequest::Status(request)
    }
}

/// Notifications follow the reply: see [`Watching`].
impl Request for Watch {
    const METHOD: &'static str = "watch";
    const EXAMPLE: &'static str = "watch --kind link --kind vtep";
    type Reply = Watching;
}

impl From<Watch> for AnyRequest {
    fn from(request: Watch) -> Self {
        AnyRequest::Watch(request)
    }
}

impl AnyRequest {
    /// All methods.
    pub fn methods() -> impl Iterator<Item = Method> {
        const STATUS: &[Method] = &[Method::of::<StatusShow>()];
        const WATCH: &[Method] = &[Method::of::<Watch>()];
        let all = [
            STATUS,
            PortRequest::METHODS,
            BridgeRequest::METHODS,
            FdbRequest::METHODS,
            VtepRequest::METHODS,
            WorkerRequest::METHODS,
            DropRequest::METHODS,
            LogRequest::METHODS,
            WATCH,
            ConfigRequest::METHODS,
        ];
        all.into_iter().flatten().copied()
    }

    /// The request of the method `method`; `None` if there is no such method. `params` is taken.
    pub(crate) fn read(method: &str, params: &mut Value) -> Option<serde_json::Result<AnyRequest>> {
        match method {
            StatusShow::METHOD => Some(serde_json::from_value(params.take()).map(AnyRequest::Status)),
            Watch::METHOD => Some(serde_json::from_value(params.take()).map(AnyRequest::Watch)),
            _ => PortRequest::read(method, params)
                .or_else(|| BridgeRequest::read(method, params))
                .or_else(|| FdbRequest::read(method, params))
                .or_else(|| VtepRequest::read(method, params))
                .or_else(|| WorkerRequest::read(method, params))
                .or_else(|| DropRequest::read(method, params))
                .or_else(|| LogRequest::read(method, params))
                .or_else(|| ConfigRequest::read(method, params)),
        }
    }

    /// [`Request::METHOD`].
    pub fn method(&self) -> &'static str {
        match self {
            AnyRequest::Status(_) => StatusShow::METHOD,
            AnyRequest::Port(request) => request.method(),
            AnyRequest::Bridge(request) => request.method(),
            AnyRequest::Fdb(request) => request.method(),
            AnyRequest::Vtep(request) => request.method(),
            AnyRequest::Worker(request) => request.method(),
            AnyRequest::Drop(request) => request.method(),
            AnyRequest::Log(request) => request.method(),
            AnyRequest::Watch(_) => Watch::METHOD,
            AnyRequest::Config(request) => request.method(),
        }
    }

    /// [`Request::encode`].
    pub fn encode(&self, id: u64) -> String {
        match self {
            AnyRequest::Status(request) => request.encode(id),
            AnyRequest::Port(request) => request.encode(id),
            AnyRequest::Bridge(request) => request.encode(id),
            AnyRequest::Fdb(request) => request.encode(id),
            AnyRequest::Vtep(request) => request.encode(id),
            AnyRequest::Worker(request) => request.encode(id),
            AnyRequest::Drop(request) => request.encode(id),
            AnyRequest::Log(request) => request.encode(id),
            AnyRequest::Watch(request) => request.encode(id),
            AnyRequest::Config(request) => request.encode(id),
        }
    }
}

pub(crate) fn is_false(is: &bool) -> bool {
    !is
}
