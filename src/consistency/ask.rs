//! Asks peers what they hold, all at once, each for so long.

use super::PeerHash;
use crate::ids::MemberId;
use crate::mvcc::HashKv;
use crate::peer::calls::{CallError, PeerCalls};
use crate::state::{HASH_SCHEME, HashPoint, StateHash};
use castd_proto::castdpb::{PeerHashKvRequest, PeerStateHashRequest};
use futures_util::future::join_all;
use std::time::Duration;
use tonic::Status;

/// Points that are taken from one answer.
const POINTS_MAX: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
    /// Of a release that hashes in another way.
    #[error("its hashes are computed in another way (scheme {0})")]
    OtherScheme(u32),
    #[error("the answer has no content")]
    Empty,
}

impl From<Status> for AskError {
    fn from(status: Status) -> Self {
        AskError::Refused(Box::new(status))
    }
}

pub type Answers<T> = Vec<(MemberId, Result<T, AskError>)>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Asker {
    calls: PeerCalls,
    patience: Duration,
}

impl Asker {
    pub fn new(calls: PeerCalls, patience: Duration) -> Self {
        Asker { calls, patience }
    }

    /// HashKV of each of `peers`, up to `revision`.
    pub async fn hash_kv(&self, peers: &[MemberId], revision: i64) -> Answers<PeerHash> {
        self.each(peers, async |peer| {
            let mut client = self.calls.client(peer).await?;
            let identity = Some(self.calls.identity(peer));
            let answer = client.hash_kv(PeerHashKvRequest { identity, revision }).await?.into_inner();
            let answer = answer.answer.ok_or(AskError::Empty)?;
            let hash = HashKv {
                hash: answer.hash,
                compact_revision: answer.compact_revision,
                hash_revision: answer.hash_revision,
            };
            Ok(PeerHash { hash, revision: answer.header.map_or(0, |header| header.revision) })
        })
        .await
    }

    /// The rolling hashes that each of `peers` remembers.
    pub async fn state_hashes(&self, peers: &[MemberId]) -> Answers<Vec<HashPoint>> {
        self.each(peers, async |peer| {
            let mut client = self.calls.client(peer).await?;
            let identity = Some(self.calls.identity(peer));
            let answer = client.state_hash(PeerStateHashRequest { identity, indexes: Vec::new() }).await?.into_inner();
            if answer.scheme != HASH_SCHEME {
                return Err(AskError::OtherScheme(answer.scheme));
            }
            let newest_first = answer.points.into_iter().rev().take(POINTS_MAX);
            let point = |point: castd_proto::castdpb::StateHashPoint| HashPoint {
                index: point.applied_index,
                hash: StateHash(point.hash),
            };
            Ok(newest_first.map(point).collect())
        })
        .await
    }

    async fn each<T>(&self, peers: &[MemberId], ask: impl AsyncFn(MemberId) -> Result<T, AskError>) -> Answers<T> {
        let ask = &ask;
        let asked = peers.iter().map(|peer| async move {
            let answer = tokio::time::timeout(self.patience, ask(*peer)).await;
            let answer = answer.unwrap_or_else(|_| {
                // Nothing may ever come over this connection again.
                self.calls.give_up(*peer);
                Err(AskError::TooSlow(self.patience))
            });
            (*peer, answer)
        });
        join_all(asked).await
    }
}
