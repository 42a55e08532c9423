//! Single questions to a peer: dials when needed, and keeps the connection for the next one.
//!
//! For handlers of the edge and for workers, which wait for an answer. Raft's messages never go this way.

use crate::cast::{Identity, Published};
use crate::ids::MemberId;
use crate::peer::dial::{Client, DialError, Dialled, dial};
use crate::peer::identity_to;
use crate::peer::roster::Roster;
use castd_proto::castdpb::PeerIdentity;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("member {0} is not known")]
    UnknownMember(MemberId),
    #[error("member {0} has no peer URL that can be dialled")]
    NoUrl(MemberId),
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct PeerCalls {
    own: Identity,
    roster: Published<Roster>,
    open_timeout: Duration,
    open: Arc<Mutex<BTreeMap<MemberId, Dialled>>>,
}

impl PeerCalls {
    pub fn new(own: Identity, roster: Published<Roster>, open_timeout: Duration) -> Self {
        PeerCalls { own, roster, open_timeout, open: Arc::default() }
    }

    /// The first field of every request to `to`.
    pub fn identity(&self, to: MemberId) -> PeerIdentity {
        identity_to(self.own, to)
    }

    /// A client for one or more calls to `to`. Runs on the caller's runtime. A connection that broke is replaced with the
    /// next call of this; whoever calls over it sets a time limit.
    ///
    /// # Errors
    /// When the member is unknown, or cannot be reached at any of its URLs.
    pub async fn client(&self, to: MemberId) -> Result<Client, CallError> {
        let urls = self.roster.load().urls(to).ok_or(CallError::UnknownMember(to))?;
        if let Some(dialled) = self.open.lock().get(&to).filter(|dialled| !dialled.is_closed()) {
            return Ok(dialled.client());
        }
        let mut failure = CallError::NoUrl(to);
        for url in &urls {
            match dial(url, self.open_timeout).await {
                Ok((dialled, _)) => {
                    let client = dialled.client();
                    let mut open = self.open.lock();
                    // Those who have left are forgotten when somebody new is met.
                    let roster = self.roster.load();
                    open.retain(|member, dialled| roster.knows(*member) && !dialled.is_closed());
                    open.insert(to, dialled);
                    return Ok(client);
                }
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    /// The connection to `to` gave no answer: the next call opens another one.
    pub fn give_up(&self, to: MemberId) {
        self.open.lock().remove(&to);
    }
}
