//! What has to hold for any bytes a client may send, as functions that take those bytes: nothing panics, nothing is applied
//! that was not checked, what was applied is there after a restart, and every answer can be written as JSON.
//!
//! ```text
//!   gateway     path ⏎ body ──▶ objects ──▶ decode ──┐
//!   requests    (rpc, gRPC frame)* ──────────────────┴─▶ message ──▶ checks ──▶ machine in memory ──▶ answer ──▶ JSON
//! ```
//! `fuzz/` runs them under libFuzzer, and `tests/fuzz.rs` with seeds and some ten thousand random changes to these, so
//! that they cannot rot. They stand for the edge without its actors: the same checks, the same state machine, no raft.

use crate::api::http::gateway::decode::decode;
use crate::api::http::gateway::encode::encode;
use crate::api::http::gateway::find;
use crate::api::http::gateway::objects::{Budget, Objects};
use crate::api::http::gateway::schema::Schema;
use crate::mvcc::check;
use crate::state::{self, Machine, Outcome};
use crate::watch::NewWatch;
use bytes::{Buf as _, Bytes};
use castd_backend_memory::Memory;
use castd_proto::castdpb::{RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use castd_proto::{Rpc, health, v3electionpb, v3lockpb};
use prost::Message;
use raft::eraftpb::Entry;
use std::sync::Arc;

const OBJECT_BYTES_MAX: usize = 1 << 20;
const TXN_OPS_MAX: usize = 128;

/// The JSON gateway: up to the first line break a path, after it a body, which arrives in chunks as large as its first
/// byte says. Returns how many requests were answered.
pub fn gateway(data: &[u8]) -> usize {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let path = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let body = parts.next().unwrap_or_default();
    let Some(rpc) = find(&path) else { return 0 };
    let shape = Schema::get().request(rpc);
    let mut stand = Stand::new();
    let mut objects = Objects::new(OBJECT_BYTES_MAX, Budget::new(OBJECT_BYTES_MAX));
    let chunk_bytes = usize::from(body.first().copied().unwrap_or_default()).max(1);
    'body: for chunk in body.chunks(chunk_bytes) {
        if objects.push(chunk).is_err() {
            break;
        }
        loop {
            let object = match objects.next() {
                Ok(Some(object)) => object,
                Ok(None) => break,
                Err(_) => break 'body,
            };
            let mut message = Vec::new();
            if decode(shape, &object, &mut message).is_err() {
                break 'body;
            }
            // JSON says the same as the message, whatever order its fields came in.
            let again = |message: &[u8]| {
                let (mut json, mut again) = (Vec::new(), Vec::new());
                encode(shape, message, &mut json).expect("what was decoded can be encoded");
                decode(shape, &json, &mut again).expect("and decoded again");
                again
            };
            let ordered = again(&message);
            assert_eq!(ordered, again(&ordered), "{}", object.escape_ascii());
            stand.run(rpc, message.into());
        }
    }
    stand.restart()
}

/// Requests as gRPC brings them: for each a byte that chooses the RPC, then a frame (a flag, the length in four bytes, the
/// message). Returns how many were answered.
pub fn requests(data: &[u8]) -> usize {
    let mut data = Bytes::copy_from_slice(data);
    let mut stand = Stand::new();
    while data.len() >= 6 {
        let rpc = Rpc::ALL[usize::from(data.get_u8()) % Rpc::ALL.len()];
        let (flag, length) = (data.get_u8(), data.get_u32() as usize);
        if length > data.len() {
            break;
        }
        let message = data.split_to(length);
        // No compression is offered.
        if flag == 0 {
            stand.run(rpc, message);
        }
    }
    stand.restart()
}

/// One entry for [`requests`].
pub fn framed(rpc: Rpc, message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[rpc as u8, 0][..], &length, &message].concat()
}

/// A member's state without the member.
struct Stand {
    backend: Arc<Memory>,
    machine: Machine,
    answered: usize,
}

impl Stand {
    fn new() -> Self {
        let backend = Arc::new(Memory::new());
        let machine = Machine::open(backend.clone()).expect("an empty store opens");
        Stand { backend, machine, answered: 0 }
    }

    /// What was applied is what the backend holds.
    fn restart(self) -> usize {
        let Stand { backend, machine, answered } = self;
        let view = machine.view();
        let before = (view.mvcc.revision(), view.leases.len(), state::hash(&view).expect("readable"));
        drop((view, machine));
        let view = Machine::open(backend).expect("what was written opens").view();
        let after = (view.mvcc.revision(), view.leases.len(), state::hash(&view).expect("readable"));
        assert_eq!(before, after);
        answered
    }

    fn apply(&mut self, op: Op) -> Option<Outcome> {
        let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        let entry = Entry { index: self.machine.applied().0 + 1, term: 1, data, ..Default::default() };
        let applied = self.machine.apply(&[entry]).expect("no request ends a member");
        let [outcome] = applied.outcomes.try_into().expect("one entry has one outcome");
        outcome.ok()
    }

    /// Every answer has a JSON.
    fn answer(&mut self, rpc: Rpc, message: &impl Message) {
        let mut json = Vec::new();
        encode(Schema::get().answer(rpc), &message.encode_to_vec(), &mut json).expect("an answer can be encoded");
        serde_json::from_slice::<serde::de::IgnoredAny>(&json).expect("as JSON");
        self.answered += 1;
    }

    /// Decodes, checks and carries out one request, as far as it needs no cluster.
    fn run(&mut self, rpc: Rpc, message: Bytes) {
        /// Reads a request, or is done with it.
        macro_rules! read {
            ($message:ty) => {
                match <$message>::decode(message) {
                    Ok(request) => request,
                    Err(_) => return,
                }
            };
        }
        macro_rules! only_read {
            ($message:ty) => {{
                // Printing it is what logs and traces do.
                let _ = format!("{:?}", read!($message));
            }};
        }
        match rpc {
            Rpc::KvRange | Rpc::KvRangeStream => {
                let range = read!(pb::RangeRequest);
                if check::range(&range).is_ok()
                    && let Ok(found) = self.machine.view().mvcc.range(&range)
                {
                    assert!(found.kvs.len() as i64 <= found.count, "{range:?}");
                    let (kvs, more, count) = (found.kvs, found.more, found.count);
                    self.answer(Rpc::KvRange, &pb::RangeResponse { header: None, kvs, more, count });
                }
            }
            Rpc::KvPut => {
                let put = read!(pb::PutRequest);
                if check::put(&put).is_ok()
                    && let Some(Outcome::Put(put)) = self.apply(Op::Put(put))
                {
                    self.answer(rpc, &put);
                }
            }
            Rpc::KvDeleteRange => {
                let delete = read!(pb::DeleteRangeRequest);
                if check::delete_range(&delete).is_ok()
                    && let Some(Outcome::DeleteRange(deleted)) = self.apply(Op::DeleteRange(delete))
                {
                    self.answer(rpc, &deleted);
                }
            }
            Rpc::KvTxn => {
                let txn = read!(pb::TxnRequest);
                if check::txn(&txn, TXN_OPS_MAX).is_err() {
                    return;
                }
                if check::read_only(&txn) {
                    if let Ok((done, _)) = self.machine.view().mvcc.txn(&txn) {
                        self.answer(rpc, &done);
                    }
                } else if let Some(Outcome::Txn(done)) = self.apply(Op::Txn(txn)) {
                    self.answer(rpc, &done);
                }
            }
            Rpc::KvCompact => {
                let compact = read!(pb::CompactionRequest);
                if let Some(Outcome::Compact(compacted)) = self.apply(Op::Compact(compact)) {
                    self.answer(rpc, &compacted);
                }
            }
            Rpc::Watch => {
                let watch = read!(pb::WatchRequest);
                if let Some(RequestUnion::CreateRequest(create)) = watch.request_union {
                    let _ = NewWatch::from_request(&create);
                }
            }
            Rpc::LeaseGrant => {
                let grant = read!(pb::LeaseGrantRequest);
                // The edge would choose one.
                if grant.id != 0
                    && let Some(Outcome::LeaseGrant(granted)) = self.apply(Op::LeaseGrant(grant))
                {
                    self.answer(rpc, &granted);
                }
            }
            Rpc::LeaseRevoke => {
                let revoke = read!(pb::LeaseRevokeRequest);
                if let Some(Outcome::LeaseRevoke(revoked)) = self.apply(Op::LeaseRevoke(revoke)) {
                    self.answer(rpc, &revoked);
                }
            }
            Rpc::LeaseKeepAlive => only_read!(pb::LeaseKeepAliveRequest),
            Rpc::LeaseTimeToLive => only_read!(pb::LeaseTimeToLiveRequest),
            Rpc::LeaseLeases => only_read!(pb::LeaseLeasesRequest),
            Rpc::ClusterMemberAdd => only_read!(pb::MemberAddRequest),
            Rpc::ClusterMemberRemove => only_read!(pb::MemberRemoveRequest),
            Rpc::ClusterMemberUpdate => only_read!(pb::MemberUpdateRequest),
            Rpc::ClusterMemberList => only_read!(pb::MemberListRequest),
            Rpc::ClusterMemberPromote => only_read!(pb::MemberPromoteRequest),
            Rpc::MaintenanceAlarm => only_read!(pb::AlarmRequest),
            Rpc::MaintenanceStatus => only_read!(pb::StatusRequest),
            Rpc::MaintenanceDefragment => only_read!(pb::DefragmentRequest),
            Rpc::MaintenanceHash => only_read!(pb::HashRequest),
            Rpc::MaintenanceHashKv => {
                let hash = read!(pb::HashKvRequest);
                let _ = self.machine.view().mvcc.hash_kv(hash.revision);
            }
            Rpc::MaintenanceSnapshot => only_read!(pb::SnapshotRequest),
            Rpc::MaintenanceMoveLeader => only_read!(pb::MoveLeaderRequest),
            Rpc::MaintenanceDowngrade => only_read!(pb::DowngradeRequest),
            Rpc::AuthEnable => only_read!(pb::AuthEnableRequest),
            Rpc::AuthDisable => only_read!(pb::AuthDisableRequest),
            Rpc::AuthStatus => only_read!(pb::AuthStatusRequest),
            Rpc::Authenticate => only_read!(pb::AuthenticateRequest),
            Rpc::AuthUserAdd => only_read!(pb::AuthUserAddRequest),
            Rpc::AuthUserGet => only_read!(pb::AuthUserGetRequest),
            Rpc::AuthUserList => only_read!(pb::AuthUserListRequest),
            Rpc::AuthUserDelete => only_read!(pb::AuthUserDeleteRequest),
            Rpc::AuthUserChangePassword => only_read!(pb::AuthUserChangePasswordRequest),
            Rpc::AuthUserGrantRole => only_read!(pb::AuthUserGrantRoleRequest),
            Rpc::AuthUserRevokeRole => only_read!(pb::AuthUserRevokeRoleRequest),
            Rpc::AuthRoleAdd => only_read!(pb::AuthRoleAddRequest),
            Rpc::AuthRoleGet => only_read!(pb::AuthRoleGetRequest),
            Rpc::AuthRoleList => only_read!(pb::AuthRoleListRequest),
            Rpc::AuthRoleDelete => only_read!(pb::AuthRoleDeleteRequest),
            Rpc::AuthRoleGrantPermission => only_read!(pb::AuthRoleGrantPermissionRequest),
            Rpc::AuthRoleRevokePermission => only_read!(pb::AuthRoleRevokePermissionRequest),
            Rpc::Lock => only_read!(v3lockpb::LockRequest),
            Rpc::LockUnlock => only_read!(v3lockpb::UnlockRequest),
            Rpc::ElectionCampaign => only_read!(v3electionpb::CampaignRequest),
            Rpc::ElectionProclaim => only_read!(v3electionpb::ProclaimRequest),
            Rpc::ElectionLeader | Rpc::ElectionObserve => only_read!(v3electionpb::LeaderRequest),
            Rpc::ElectionResign => only_read!(v3electionpb::ResignRequest),
            Rpc::HealthCheck | Rpc::HealthWatch => only_read!(health::HealthCheckRequest),
        }
    }
}
