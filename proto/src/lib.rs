//! etcd's wire contract and Castd's own, generated from the .proto files of this crate (see `build.rs`).
//!
//! ```text
//!   etcd/rpc.proto          etcdserverpb   KV, Watch, Lease, Cluster, Maintenance, Auth
//!   etcd/kv.proto           mvccpb         what a store holds
//!   etcd/auth.proto         authpb         users, roles, permissions
//!   etcd/v3lock.proto       v3lockpb       Lock
//!   etcd/v3election.proto   v3electionpb   Election
//!   grpc/health.proto       health         grpc.health.v1
//!   castd/internal.proto    castdpb        log entries, rows, snapshots, the peer link
//! ```
//! Every `bytes` field is a [`bytes::Bytes`]. Field names are snake case whatever the .proto says: `peerURLs` is
//! `peer_urls`, `ID` is `id`. [`Rpc`] names every call of the client-facing services, so that code which has to decide
//! something for each of them can `match` without `_`.
//!
//! There is no logic here: what the messages mean is the business of whoever handles them.

mod http_paths;
mod secrets;

/// The descriptors of all files above, encoded, with the field names as the .proto files spell them and without comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// How many messages go each way in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

include!(concat!(env!("OUT_DIR"), "/rpc.rs"));

/// Generated code is not written to our lints.
macro_rules! generated {
    ($(#[$doc:meta])* $module:ident = $package:literal) => {
        $(#[$doc])*
        #[allow(clippy::all, clippy::pedantic, rustdoc::all)]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// etcd's client API.
    etcdserverpb = "etcdserverpb"
);
generated!(
    /// What a store holds and what a watcher is told about it.
    mvccpb = "mvccpb"
);
generated!(
    /// Users, roles and permissions.
    authpb = "authpb"
);
generated!(
    /// etcd's lock service.
    v3lockpb = "v3lockpb"
);
generated!(
    /// etcd's election service.
    v3electionpb = "v3electionpb"
);
generated!(
    /// gRPC's standard health service.
    health = "grpc.health.v1"
);
generated!(
    /// What members write to their logs and stores and send to each other.
    castdpb = "castdpb"
);
