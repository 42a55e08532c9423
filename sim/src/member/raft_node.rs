//! The shell of RaftNode: closes batches, remembers who waits, and turns effects into mail.

use super::mail::{ToApplier, ToCompactor, ToLeaseKeeper, ToLogWriter, ToPeerLinks, ToRaftNode, ToSnapshotter, Waiter};
use super::{Around, Fatal};
use crate::member::edge::{News, Ticket};
use crate::planted::{self, Bug};
use crate::trace::Line;
use bytes::Bytes;
use castd::cast::RequestError;
use castd::ids::RequestId;
use castd::lease::Grant;
use castd::raft::forwarded::ForwardedProposal;
use castd::raft::node::{Effect, Node, Proposal, RaftError, Status};
use castd_proto::castdpb::{self, raft_request::Op};
use prost::Message as _;
use raft::eraftpb::EntryType;
use std::collections::{BTreeMap, BTreeSet};

/// A batch is closed after so many messages even when more are waiting.
const BATCH_MESSAGES_MAX: usize = 1_000;

enum Waiting {
    Write(Waiter),
    Reads(Vec<Ticket>),
}

pub struct RaftNode {
    pub node: Node,
    waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    told: Option<Status>,
    effects: Vec<Effect>,
    batch: usize,
    settle_is_due: bool,
    /// For the planted bug that forgets them.
    forwarded: BTreeSet<u64>,
    /// For the one that proposes anew.
    proposed: BTreeMap<RequestId, Bytes>,
}

impl RaftNode {
    pub fn new(node: Node) -> Self {
        RaftNode {
            node,
            waiting: BTreeMap::new(),
            next_request: 0,
            told: None,
            effects: Vec::new(),
            batch: 0,
            settle_is_due: true,
            forwarded: BTreeSet::new(),
            proposed: BTreeMap::new(),
        }
    }

    /// Requests that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn wait(&mut self, waiting: Waiting) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.waiting.insert(request, waiting);
        request
    }

    pub fn handle(&mut self, mail: ToRaftNode, around: &mut Around<'_>) -> Result<(), Fatal> {
        let now = around.now;
        self.batch += 1;
        self.settle_is_due |= !matches!(
            mail,
            ToRaftNode::LogCut { .. } | ToRaftNode::SnapshotOffered { .. } | ToRaftNode::SnapshotWithdrawn
        );
        match mail {
            ToRaftNode::Propose { data, kind, waiter } => {
                let request = self.wait(Waiting::Write(waiter));
                if planted::is_on(Bug::RetriesWrites) && kind == EntryType::EntryNormal {
                    self.proposed.insert(request, data.clone());
                }
                self.node.propose(now, Proposal { request, kind, data });
            }
            ToRaftNode::ReadIndex { tickets } => {
                if planted::is_on(Bug::ReadsWithoutAsking) {
                    for ticket in tickets {
                        around.edge(ticket, News::ReadReady(Ok(())));
                    }
                    return Ok(());
                }
                let request = self.wait(Waiting::Reads(tickets));
                self.node.read_index(now, request);
            }
            ToRaftNode::LookUpProgress { member, ticket } => {
                let progress = self.node.progress_of(member);
                around.edge(ticket, News::Progress(progress));
            }
            ToRaftNode::TransferLeadership { target } => drop(self.node.transfer_leader(target)),
            ToRaftNode::Step { messages } => messages.into_iter().for_each(|message| self.node.step(message)),
            ToRaftNode::Forwarded { from, requests } => self.node.forwarded(now, from, requests),
            ToRaftNode::PeerUnreachable { peer } => self.node.unreachable(peer),
            ToRaftNode::LinkChanged { peer, connected_since } => self.node.link_changed(peer, connected_since),
            ToRaftNode::Tick { now } => self.node.tick(now),
            ToRaftNode::LogPersisted { number } => self.node.log_persisted(number, &mut self.effects),
            ToRaftNode::LogFetched { low, entries } => self.node.log_fetched(low, entries),
            ToRaftNode::Applied { index } => self.node.applied(index),
            ToRaftNode::ConfChangeApplied { applied } => {
                self.node.conf_change_applied(&applied).map_err(Fatal::new)?;
                around.checks.conf_change_followed();
            }
            ToRaftNode::LeasesExpired { leases, term } => {
                let leases = leases.into_iter().map(|grant| granted(grant, 0)).collect();
                self.propose_own(Op::LeaseExpire(castdpb::LeaseExpire { leases, term: term.0 }), term.0, around);
            }
            ToRaftNode::LeasesCheckpointed { remaining_secs, term } => {
                let leases = remaining_secs.into_iter().map(|(grant, secs)| granted(grant, secs)).collect();
                let op = Op::LeaseCheckpoint(castdpb::LeaseCheckpoints { leases, term: term.0 });
                self.propose_own(op, term.0, around);
            }
            ToRaftNode::LogCut { position } => self.node.log_cut(position),
            ToRaftNode::SnapshotOffered { position, conf_state } => self.node.snapshot_offered(position, conf_state),
            ToRaftNode::SnapshotWithdrawn => self.node.snapshot_withdrawn(),
            ToRaftNode::SnapshotSent { to, ok } => self.node.snapshot_sent(to, ok),
            ToRaftNode::SnapshotInstalled { position } => self.node.install_finished(position),
        }
        if self.batch >= BATCH_MESSAGES_MAX {
            self.settle(around);
        }
        Ok(())
    }

    /// The mailbox is empty.
    pub fn close_batch(&mut self, around: &mut Around<'_>) {
        if self.settle_is_due {
            self.settle(around);
        }
    }

    fn settle(&mut self, around: &mut Around<'_>) {
        (self.batch, self.settle_is_due) = (0, false);
        let mut effects = std::mem::take(&mut self.effects);
        self.node.settle(around.now, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(effect, around);
        }
        self.effects = effects;
    }

    fn propose_own(&mut self, op: Op, term: u64, around: &mut Around<'_>) {
        let status = self.node.status();
        let is_stale = status.term.0 != term || !status.is_leader;
        if is_stale && !planted::is_on(Bug::StaleLeaderRevokes) {
            return;
        }
        let data = castdpb::RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
        let request = self.wait(Waiting::Write(Waiter::Nobody));
        self.node.propose(around.now, Proposal { request, kind: EntryType::EntryNormal, data });
    }

    fn carry_out(&mut self, effect: Effect, around: &mut Around<'_>) {
        match effect {
            Effect::Send(messages) => around.mail(ToPeerLinks::Send { messages }),
            Effect::Forward { to, requests } => {
                let requests = self.tagged(requests, around);
                around.mail(ToPeerLinks::Forward { to, requests });
            }
            Effect::AppendLog(write) => around.mail(ToLogWriter::AppendLog { write }),
            Effect::ReplaceLog(replace) => around.mail(ToLogWriter::ReplaceLog { replace }),
            Effect::FetchLog { low, high, bytes_max } => around.mail(ToLogWriter::FetchLog { low, high, bytes_max }),
            Effect::EntriesCommitted(entries) => {
                around.checks.committed(around.place, &entries);
                let mut waiter = |request: RequestId| match self.waiting.remove(&request) {
                    Some(Waiting::Write(waiter)) => Some(waiter),
                    Some(Waiting::Reads(_)) | None => None,
                };
                let waiters = entries.iter().map(|committed| committed.request.and_then(&mut waiter)).collect();
                around.mail(ToApplier::EntriesCommitted { entries, waiters });
            }
            Effect::InstallSnapshot { position } => around.mail(ToApplier::InstallSnapshot { position }),
            Effect::SnapshotWanted { to, index_min } => around.mail(ToSnapshotter::SnapshotWanted { to, index_min }),
            Effect::ReadsReady(requests) => {
                for request in requests {
                    if let Some(Waiting::Reads(tickets)) = self.waiting.remove(&request) {
                        tickets.into_iter().for_each(|ticket| around.edge(ticket, News::ReadReady(Ok(()))));
                    }
                }
            }
            Effect::Failed(request, error) => self.fail(request, error, around),
            Effect::StatusChanged(status) => self.status_changed(status, around),
            Effect::ReadsLate { .. } => around.checks.summary.count("a read was late"),
            Effect::DiskStuck { .. } => around.checks.summary.count("a disk was stuck"),
        }
    }

    fn fail(&mut self, request: RequestId, error: RaftError, around: &mut Around<'_>) {
        assert_ne!(error, RaftError::ProposalDropped, "raft refused what it should have been kept from");
        if let Some(data) = self.proposed.remove(&request)
            && let Some(waiting @ Waiting::Write(Waiter::Edge(_))) = self.waiting.remove(&request)
        {
            let (request, kind) = (self.wait(waiting), EntryType::EntryNormal);
            self.node.propose(around.now, Proposal { request, kind, data });
            self.settle_is_due = true;
            return;
        }
        match self.waiting.remove(&request) {
            Some(Waiting::Write(Waiter::Edge(ticket))) => {
                around.edge(ticket, News::Written(Err(RequestError::Raft(error))));
            }
            Some(Waiting::Write(Waiter::Compactor)) => around.mail(ToCompactor::Answered { ok: false }),
            Some(Waiting::Write(Waiter::Nobody)) => {}
            Some(Waiting::Reads(tickets)) => {
                tickets.into_iter().for_each(|ticket| around.edge(ticket, News::ReadReady(Err(error))));
            }
            None => panic!("{request} failed, which nobody waits for"),
        }
    }

    fn status_changed(&mut self, status: Status, around: &mut Around<'_>) {
        let before = self.told.replace(status);
        around.shared.status = status;
        around.checks.status(around.place, around.id, around.boot, status);
        if before.is_some_and(|before| before.term == status.term && before.leader == status.leader) {
            return;
        }
        let (term, leader) = (status.term.0, status.leader.map_or(0, |leader| leader.0));
        around.note(Line::Status { term, leader, leads: status.is_leader });
        let now = around.now;
        around.mail(ToLeaseKeeper::LeaderChanged { status, now });
        around.mail(ToCompactor::LeaderChanged { status, now });
    }

    /// Counts repetitions, and spoils them if that is the planted bug.
    fn tagged(&mut self, mut requests: Vec<ForwardedProposal>, around: &mut Around<'_>) -> Vec<ForwardedProposal> {
        for request in &mut requests {
            if !self.forwarded.insert(request.sequence) {
                around.checks.summary.count("a forwarded request was repeated");
                if planted::is_on(Bug::ForgetsTags) {
                    request.boot ^= 0x5555_0000 + self.forwarded.len() as u64;
                }
            }
        }
        requests
    }
}

fn granted(grant: Grant, remaining_ttl_secs: i64) -> castdpb::GrantedLease {
    castdpb::GrantedLease { id: grant.lease.0, granted_index: grant.index.0, remaining_ttl_secs }
}
