//! The cases, a file for each group of services, and the values they share.

mod auth;
mod castd;
mod cluster;
mod concurrency;
mod kv;
mod lease;
mod maintenance;
mod watch;

use castd_proto::{etcdserverpb::ResponseHeader, mvccpb::KeyValue};

use crate::Case;

pub fn all() -> Vec<Case> {
    let groups = [
        kv::cases(),
        watch::cases(),
        lease::cases(),
        cluster::cases(),
        maintenance::cases(),
        auth::cases(),
        concurrency::cases(),
        castd::cases(),
    ];
    groups.into_iter().flatten().collect()
}

/// `H` in the notation.
pub fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 })
}

/// `KV` in the notation, 14 bytes.
pub fn key_value() -> KeyValue {
    KeyValue { key: "k".into(), create_revision: 2, mod_revision: 3, version: 4, value: "v".into(), lease: 5 }
}
