//! What a watcher is told about, until `mvcc` says it.

use crate::ids::Revision;
use castd_proto::mvccpb::KeyValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowKey {
    pub main: Revision,
    pub sub: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: KeyValue,
    pub previous: Option<RowKey>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub revision: Revision,
    pub events: Vec<Event>,
}
