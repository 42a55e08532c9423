//! Who is first of those who wait under a prefix: the core of locks and elections.
//!
//! ```text
//!   ledger/3a   created at revision 5 ◀── first: holds the lock, or leads
//!   ledger/7f   created at revision 6 ◀── waits for the key of revision 5 to go
//!   ledger/1c   created at revision 8 ◀── waits for the key of revision 6 to go
//! ```
//! etcd's recipe, key for key, so that its clients' own locks and elections stand in the same queue: a key is the prefix and
//! the lease it lives by, its `create_revision` the place, and the lowest one comes first. Each waits for the key before
//! it, so that one that goes wakes one.
//!
//! Beyond the recipe, whoever waits looks after the own key too, and in the same view as after the key before: a session
//! that ran out never gets its turn. Nothing here can stop a holder from working on after its lease ran out; only a
//! resource can that compares create revisions (`examples/fenced_lock.rs`).
//!
//! Requests are made here, views are read; sending, waiting and giving up is the business of `api/grpc/session.rs`.

mod following;
#[cfg(test)]
mod tests;

pub use following::{Following, Heard, News};

use crate::ids::{LeaseId, Revision};
use crate::mvcc::{MvccError, View};
use bytes::Bytes;
use castd_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op::Response,
};
use castd_proto::mvccpb::KeyValue;

/// Why somebody does not hold, lead or hear what they asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    #[error("the key that waited for the lock is gone")]
    SessionExpired,
    #[error("the key is not that of the leader any more")]
    NotLeader,
    #[error("nobody leads")]
    NoLeader,
    #[error("the request does not say which leader it means")]
    LeaderMissing,
    #[error("the election cannot be observed any longer")]
    ObserveEnded,
}

/// All keys below a name.
#[derive(Clone, Debug)]
pub struct Queue {
    prefix: Bytes,
    end: Bytes,
}

/// A key in the queue, as it was when it was found or put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub key: Bytes,
    pub created: Revision,
    /// That of the session, unless somebody else has put the key.
    pub lease: LeaseId,
}

/// What came of joining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub place: Place,
    /// What an older key holds; `None` if the key is new.
    pub found: Option<Bytes>,
    pub is_first: bool,
}

/// How a place stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    First,
    /// Behind this key.
    After(Bytes),
    /// Deleted, or put anew by somebody else: whoever waited there waits no more.
    Lost,
}

impl Queue {
    pub fn new(name: &[u8]) -> Self {
        let followed_by = |last: u8| [name, &[last]].concat().into();
        Self { prefix: followed_by(b'/'), end: followed_by(b'/' + 1) }
    }

    pub fn key(&self, lease: LeaseId) -> Bytes {
        // As Go prints a signed number in hex.
        let sign = if lease.0 < 0 { "-" } else { "" };
        [&self.prefix[..], format!("{sign}{:x}", lease.0.unsigned_abs()).as_bytes()].concat().into()
    }

    /// How many wait, whoever they are.
    pub fn len(&self, view: &View) -> i64 {
        view.count(&self.prefix, &self.end)
    }

    /// Takes a place, or finds the one that the lease has already, and asks who is first.
    pub fn join(&self, lease: LeaseId, value: Bytes) -> TxnRequest {
        let key = self.key(lease);
        let put = PutRequest { key: key.clone(), value, lease: lease.0, ..Default::default() };
        let found = RangeRequest { key: key.clone(), ..Default::default() };
        let first = || operation(Request::RequestRange(self.oldest()));
        TxnRequest {
            compare: vec![created_at(key, Revision(0))],
            success: vec![operation(Request::RequestPut(put)), first()],
            failure: vec![operation(Request::RequestRange(found)), first()],
        }
    }

    /// `None` if `answer` is not one to [`Queue::join`].
    pub fn joined(&self, lease: LeaseId, answer: &TxnResponse) -> Option<Joined> {
        let mut responses = answer.responses.iter().map(|response| response.response.as_ref());
        let (own, first) = (responses.next()??, responses.next()??);
        let (place, found) = match own {
            Response::ResponsePut(_) => {
                let created = Revision(answer.header.as_ref()?.revision);
                (Place { key: self.key(lease), created, lease }, None)
            }
            Response::ResponseRange(range) => {
                let kv = range.kvs.first()?;
                (Place::of(kv), Some(kv.value.clone()))
            }
            _ => return None,
        };
        let Response::ResponseRange(first) = first else { return None };
        let is_first = first.kvs.first().is_none_or(|first| first.create_revision == place.created.0);
        Some(Joined { place, found, is_first })
    }

    /// The key that comes first.
    ///
    /// # Errors
    /// When the backend cannot be read.
    pub fn first(&self, view: &View) -> Result<Option<KeyValue>, MvccError> {
        Ok(view.range(&self.oldest())?.kvs.pop())
    }

    /// # Errors
    /// When the backend cannot be read.
    pub fn turn(&self, place: &Place, view: &View) -> Result<Turn, MvccError> {
        let own = view.range(&RangeRequest { key: place.key.clone(), ..Default::default() })?.kvs.pop();
        if own.as_ref().map(Place::of).as_ref() != Some(place) {
            return Ok(Turn::Lost);
        }
        let before = RangeRequest {
            max_create_revision: place.created.0 - 1,
            sort_order: SortOrder::Descend as i32,
            ..self.oldest()
        };
        Ok(match view.range(&before)?.kvs.pop() {
            Some(before) => Turn::After(before.key),
            None => Turn::First,
        })
    }

    fn oldest(&self) -> RangeRequest {
        RangeRequest {
            key: self.prefix.clone(),
            range_end: self.end.clone(),
            limit: 1,
            sort_order: SortOrder::Ascend as i32,
            sort_target: SortTarget::Create as i32,
            ..Default::default()
        }
    }
}

impl Place {
    fn of(kv: &KeyValue) -> Self {
        Self { key: kv.key.clone(), created: Revision(kv.create_revision), lease: LeaseId(kv.lease) }
    }

    /// Another value for the same place.
    pub fn put(&self, value: Bytes) -> TxnRequest {
        let put = PutRequest { key: self.key.clone(), value, lease: self.lease.0, ..Default::default() };
        self.if_held(Request::RequestPut(put))
    }

    /// Gives the place up. Does nothing to a key of the same name that came later.
    pub fn leave(&self) -> TxnRequest {
        self.if_held(Request::RequestDeleteRange(DeleteRangeRequest { key: self.key.clone(), ..Default::default() }))
    }

    fn if_held(&self, request: Request) -> TxnRequest {
        TxnRequest {
            compare: vec![created_at(self.key.clone(), self.created)],
            success: vec![operation(request)],
            failure: Vec::new(),
        }
    }
}

fn operation(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// Revision 0 stands for "does not exist".
fn created_at(key: Bytes, revision: Revision) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key,
        target_union: Some(TargetUnion::CreateRevision(revision.0)),
        ..Default::default()
    }
}
