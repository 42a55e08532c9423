//! The edge: what clients talk to. Not actors: a handler checks limits and permission, asks an actor once, and shapes the
//! answer.
//!
//! ```text
//!   listen.rs   one port for gRPC, HTTP/1.1 and HTTP/2
//!   grpc/       one file for each of etcd's services
//!   http/       the JSON gateway, /version, /health, /metrics
//!   permit.rs   who may call what
//!   call_notes.rs   what is noted of a call, in case it turns out to be slow
//!   status.rs   errors as gRPC codes and texts: part of the wire contract
//! ```

pub mod call_notes;
pub mod grpc;
pub mod http;
pub mod listen;
pub mod member_http;
pub mod permit;
pub mod status;
