//! Before a member that has data serves anybody: does it hold what its peers hold? For the gate InitialCorruptCheck.
//!
//! Peers that do not answer are no reason not to start: they may be down. Those that start at the same time answer, since peers
//! are served before clients.

use super::ask::{AskError, Asker};
use super::history::{Initial, compare_initial};
use crate::api::status::EtcdError;
use crate::cast::Cast;
use crate::ids::MemberId;
use crate::mvcc::MvccError;
use slog::{Logger, info, o, warn};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum InitialCheckError {
    #[error("{member} failed to fetch hash ({error})")]
    Own { member: MemberId, error: MvccError },
    #[error("{0} found data inconsistency with peers")]
    Inconsistent(MemberId),
}

/// The lines are etcd's.
///
/// # Errors
/// When a peer has other data at this member's revision.
pub async fn check(cast: &Cast, patience: Duration, log: &Logger) -> Result<(), InitialCheckError> {
    let member = cast.identity().member;
    info!(log, "starting initial corruption check"; "local-member-id" => %member, "timeout" => ?patience);
    let view = cast.own_view();
    let own = view.mvcc.hash_kv(0).map_err(|error| InitialCheckError::Own { member, error })?;
    let peers: Vec<_> = view.members.list().filter(|peer| peer.id != member.0).collect();
    let ids: Vec<_> = peers.iter().map(|peer| MemberId(peer.id)).collect();
    let answers = Asker::new(cast.peer_calls().clone(), patience).hash_kv(&ids, own.hash_revision).await;
    let mut is_consistent = true;
    for (peer, (id, answer)) in peers.iter().zip(answers) {
        let log = log.new(o!("local-member-id" => member.to_string(), "local-member-revision" => own.hash_revision,
            "local-member-compact-revision" => own.compact_revision, "local-member-hash" => own.hash,
            "remote-peer-id" => id.to_string(), "remote-peer-endpoints" => peer.peer_urls.join(",")));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let text = match &error {
                    AskError::Refused(status) if status.message() == EtcdError::FutureRevision.message() => {
                        "cannot fetch hash from slow remote peer"
                    }
                    AskError::Refused(status) if status.message() == EtcdError::Compacted.message() => {
                        "cannot fetch hash from remote peer; local member is behind"
                    }
                    _ => "failed hash kv request",
                };
                warn!(log, "{text}"; "error" => %error);
                continue;
            }
        };
        let log = log.new(o!("remote-peer-revision" => answer.revision,
            "remote-peer-compact-revision" => answer.hash.compact_revision, "remote-peer-hash" => answer.hash.hash));
        match compare_initial(own, answer.hash) {
            Initial::Same => {}
            Initial::OtherHash => {
                warn!(log, "found different hash values from remote peer");
                is_consistent = false;
            }
            Initial::OtherCompaction => warn!(log, "found different compact revision values from remote peer"),
        }
    }
    if !is_consistent {
        return Err(InitialCheckError::Inconsistent(member));
    }
    info!(log, "initial corruption checking passed; no corruption"; "local-member-id" => %member);
    Ok(())
}
