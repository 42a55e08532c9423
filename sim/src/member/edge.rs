//! The edge: what handlers of requests do, each step on a thread of its own, between asking an actor and hearing from it.
//!
//! ```text
//!   Ask ─▶ start ─┬─▶ Propose ───────▶ Written ──────────────────────────────────┬─▶ Answer
//!                 ├─▶ ReadIndex ─────▶ ReadReady ─▶ the view of then ────────────┤
//!                 └─▶ the leader's word: KeepAlive here, or of whoever leads ────┘
//! ```
//! As in `src/api/grpc`: checks first, learners answer little, and what only the leader knows is asked of it, again and again
//! until the request has taken too long.

mod asked;
mod membership;

pub use self::asked::{Answer, Ask, Call, News, Origin, PeerAnswer, PeerAsk, Ticket};

use self::membership::{checked_member, propose_change, with_outlook};
use super::Around;
use super::mail::{Out, ToLeaseKeeper, ToRaftNode, Waiter};
use castd::cast::RequestError;
use castd::ids::{LeaseId, MemberId};
use castd::lease::{self, Confirmation, LeaseError, TTL_SECS_MAX, ttl_secs_min};
use castd::mvcc::check;
use castd::raft::node::{MemberProgress, RaftError, TICK};
use castd::state::Outcome;
use castd_proto::castdpb::{MemberAttributes, RaftRequest, membership_change::Kind, raft_request::Op};
use castd_proto::etcdserverpb as pb;
use prost::Message as _;
use raft::eraftpb::EntryType;
use std::collections::BTreeMap;
use std::time::Duration;

const TXN_OPS_MAX: usize = 128;
/// Who leads may change at any moment, but not be asked all the time.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Before a member tries again to make itself known.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// Entries that may be committed and not yet applied before new writes are refused.
const APPLY_BACKLOG_MAX: u64 = 5_000;

enum Work {
    Write,
    Range(pb::RangeRequest),
    ReadTxn(pb::TxnRequest),
    ListMembers,
    KeepAlive {
        lease: LeaseId,
        confirming: Option<Confirmation>,
    },
    Promote {
        id: MemberId,
    },
    /// A change of the membership is proposed.
    Change {
        ask: Ask,
        member: pb::Member,
    },
    Publish,
}

struct Task {
    origin: Origin,
    work: Work,
    until: Duration,
    /// Another member has been asked, and its answer counts.
    at_peer: bool,
}

#[derive(Default)]
pub struct Edge {
    tasks: BTreeMap<Ticket, Task>,
    next_ticket: u64,
}

impl Edge {
    /// Requests that wait for something.
    pub fn waiting(&self) -> usize {
        self.tasks.len()
    }

    /// Calls of clients that are under way: their connections break when the member ends.
    pub fn calls(&self) -> impl Iterator<Item = Call> {
        self.tasks.values().filter_map(|task| match task.origin {
            Origin::Client(call) => Some(call),
            Origin::Peer { .. } | Origin::Own => None,
        })
    }

    fn begin(&mut self, origin: Origin, work: Work, around: &Around<'_>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let until = around.now + around.settings.request_timeout;
        self.tasks.insert(ticket, Task { origin, work, until, at_peer: false });
        ticket
    }

    pub fn publish(&mut self, around: &mut Around<'_>) {
        let ticket = self.begin(Origin::Own, Work::Publish, around);
        self.propose_publication(ticket, around);
    }

    fn propose_publication(&self, ticket: Ticket, around: &mut Around<'_>) {
        let id = around.id.0;
        let attributes = MemberAttributes { member_id: id, name: format!("m{id}"), client_urls: Vec::new() };
        propose(Op::MemberAttributes(attributes), ticket, around);
    }

    /// A client's request has come in.
    pub fn start(&mut self, call: Call, ask: Ask, around: &mut Around<'_>) {
        if let Err(error) = self.try_start(Origin::Client(call), ask, around) {
            around.out.push(Out::Answer { call, answer: Answer::Failed(error) });
        }
    }

    fn try_start(&mut self, origin: Origin, ask: Ask, around: &mut Around<'_>) -> Result<(), RequestError> {
        let is_local = matches!(&ask, Ask::Range(range) if range.serializable);
        if around.shared.status.is_learner && !is_local {
            return Err(RequestError::NotSupportedForLearner);
        }
        match ask {
            Ask::Range(range) => {
                check::range(&range)?;
                if range.serializable {
                    let answer = read_range(&range, around)?;
                    reply(origin, Ok(answer), around);
                    return Ok(());
                }
                let ticket = self.begin(origin, Work::Range(range), around);
                around.mail(ToRaftNode::ReadIndex { tickets: vec![ticket] });
            }
            Ask::Put(put) => {
                check::put(&put)?;
                self.write(origin, Op::Put(put), around)?;
            }
            Ask::Delete(delete) => {
                check::delete_range(&delete)?;
                self.write(origin, Op::DeleteRange(delete), around)?;
            }
            Ask::Txn(txn) => {
                check::txn(&txn, TXN_OPS_MAX)?;
                if check::read_only(&txn) {
                    let ticket = self.begin(origin, Work::ReadTxn(txn), around);
                    around.mail(ToRaftNode::ReadIndex { tickets: vec![ticket] });
                } else {
                    self.write(origin, Op::Txn(txn), around)?;
                }
            }
            Ask::Compact(compact) => self.write(origin, Op::Compact(compact), around)?,
            Ask::Grant { lease, ttl_secs } => {
                if ttl_secs > TTL_SECS_MAX {
                    return Err(LeaseError::TtlTooLarge.into());
                }
                let ttl = ttl_secs.max(ttl_secs_min(around.settings.election_timeout));
                self.write(origin, Op::LeaseGrant(pb::LeaseGrantRequest { id: lease, ttl }), around)?;
            }
            Ask::Revoke { lease } => {
                self.write(origin, Op::LeaseRevoke(pb::LeaseRevokeRequest { id: lease }), around)?
            }
            Ask::KeepAlive { lease } => {
                let work = Work::KeepAlive { lease: LeaseId(lease), confirming: None };
                let ticket = self.begin(origin, work, around);
                self.ask_leader(ticket, around);
            }
            Ask::Promote { id } => {
                let ticket = self.begin(origin, Work::Promote { id }, around);
                self.ask_leader(ticket, around);
            }
            ask @ (Ask::AddMember { .. } | Ask::RemoveMember { .. } | Ask::UpdateMember { .. }) => {
                let (kind, member) = checked_member(&ask, around)?;
                let ticket = self.begin(origin, Work::Change { ask, member: member.clone() }, around);
                propose_change(kind, member, ticket, around);
            }
            Ask::MoveLeader { to } => {
                if !around.shared.status.is_leader {
                    return Err(RequestError::NotLeader);
                }
                around.mail(ToRaftNode::TransferLeadership { target: Some(to) });
                reply(origin, Ok(Answer::Moved), around);
            }
            Ask::ListMembers => {
                let ticket = self.begin(origin, Work::ListMembers, around);
                around.mail(ToRaftNode::ReadIndex { tickets: vec![ticket] });
            }
        }
        Ok(())
    }

    fn write(&mut self, origin: Origin, op: Op, around: &mut Around<'_>) -> Result<(), RequestError> {
        let committed = around.shared.status.committed.0;
        if committed > around.shared.view.applied.0 + APPLY_BACKLOG_MAX {
            return Err(RequestError::TooManyRequests);
        }
        let ticket = self.begin(origin, Work::Write, around);
        propose(op, ticket, around);
        Ok(())
    }

    /// Another member asks for this member's word as the leader.
    pub fn start_for_peer(&mut self, origin: Origin, ask: PeerAsk, around: &mut Around<'_>) {
        let work = match ask {
            PeerAsk::KeepAlive(lease) => Work::KeepAlive { lease, confirming: None },
            PeerAsk::Promote(id) => Work::Promote { id },
        };
        let ticket = self.begin(origin, work, around);
        self.ask_here(ticket, around);
    }

    fn ask_here(&mut self, ticket: Ticket, around: &mut Around<'_>) {
        let Some(task) = self.tasks.get_mut(&ticket) else { return };
        match &mut task.work {
            Work::KeepAlive { lease, confirming } => {
                *confirming = None;
                around.mail(ToLeaseKeeper::KeepAlive { lease: *lease, confirmed: None, ticket });
            }
            Work::Promote { id } => around.mail(ToRaftNode::LookUpProgress { member: *id, ticket }),
            _ => {}
        }
    }

    /// Here first: mostly it is this one. Then of whoever leads.
    fn ask_leader(&mut self, ticket: Ticket, around: &mut Around<'_>) {
        self.ask_here(ticket, around);
    }

    /// This member does not lead.
    fn ask_elsewhere(&mut self, ticket: Ticket, around: &mut Around<'_>) {
        let Some(task) = self.tasks.get_mut(&ticket) else { return };
        if !matches!(task.origin, Origin::Client(_)) {
            return self.end(ticket, Err(RequestError::NotLeader), around);
        }
        if around.now >= task.until {
            let error =
                if around.shared.status.leader.is_some() { RaftError::Timeout.into() } else { RequestError::NoLeader };
            return self.end(ticket, Err(error), around);
        }
        match around.shared.status.leader {
            None => around.out.push(Out::Edge { after: TICK, ticket, news: News::Timer }),
            Some(own) if own == around.id => {
                around.out.push(Out::Edge { after: ASK_AGAIN_AFTER, ticket, news: News::Timer })
            }
            Some(to) => {
                let ask = match &task.work {
                    Work::KeepAlive { lease, .. } => PeerAsk::KeepAlive(*lease),
                    Work::Promote { id } => PeerAsk::Promote(*id),
                    _ => return,
                };
                task.at_peer = true;
                around.checks.summary.count("the leader was asked by another member");
                around.out.push(Out::AskPeer { to, ticket, ask });
                // One that does not answer for so long does not lead any more.
                let after = around.settings.election_timeout.max(Duration::from_secs(1));
                around.out.push(Out::Edge { after, ticket, news: News::Peer(PeerAnswer::MayChange) });
            }
        }
    }

    /// Something has come of what was asked.
    pub fn go_on(&mut self, ticket: Ticket, news: News, around: &mut Around<'_>) {
        let Some(task) = self.tasks.get_mut(&ticket) else { return };
        match news {
            News::Written(Ok(Outcome::MembershipOvertaken)) => self.change_again(ticket, around),
            News::Written(outcome) => self.written(ticket, outcome, around),
            News::ReadReady(Err(error)) => self.end(ticket, Err(error.into()), around),
            News::ReadReady(Ok(())) => self.read(ticket, around),
            News::Dropped => self.end(ticket, Err(RaftError::Timeout.into()), around),
            News::Kept(answer) => self.kept(ticket, answer, around),
            News::Progress(progress) => self.promote(ticket, progress, around),
            News::Peer(answer) => {
                if !std::mem::take(&mut task.at_peer) {
                    return;
                }
                match answer {
                    PeerAnswer::Kept { ttl_secs } => self.end(ticket, Ok(Answer::Kept { ttl_secs }), around),
                    PeerAnswer::Members(members) => {
                        self.end(ticket, Ok(Answer::Members { member: None, members }), around)
                    }
                    PeerAnswer::Failed(error) => self.end(ticket, Err(error), around),
                    PeerAnswer::MayChange => {
                        around.out.push(Out::Edge { after: ASK_AGAIN_AFTER, ticket, news: News::Timer });
                    }
                }
            }
            News::Timer => match &task.work {
                Work::Publish => self.propose_publication(ticket, around),
                _ if around.shared.status.leader == Some(around.id) => self.ask_here(ticket, around),
                _ => self.ask_elsewhere(ticket, around),
            },
        }
    }

    fn written(&mut self, ticket: Ticket, outcome: Result<Outcome, RequestError>, around: &mut Around<'_>) {
        let Some(task) = self.tasks.get(&ticket) else { return };
        if let Work::Publish = task.work {
            match outcome {
                Ok(_) => drop(self.tasks.remove(&ticket)),
                Err(_) => around.out.push(Out::Edge { after: PUBLISH_PAUSE, ticket, news: News::Timer }),
            }
            return;
        }
        let member = match &task.work {
            Work::Change { member, .. } => Some(member.clone()),
            _ => None,
        };
        let answer = outcome.map(|outcome| match outcome {
            Outcome::Members(members) => Answer::Members { member, members },
            outcome => Answer::Written(outcome),
        });
        self.end(ticket, answer, around);
    }

    fn read(&mut self, ticket: Ticket, around: &mut Around<'_>) {
        let Some(task) = self.tasks.get_mut(&ticket) else { return };
        let answer = match &task.work {
            Work::Range(range) => read_range(range, around),
            Work::ReadTxn(txn) => {
                let view = &around.shared.view;
                view.mvcc.txn(txn).map(|(answer, _)| Answer::Txn(answer)).map_err(RequestError::from)
            }
            Work::ListMembers => {
                let members = around.shared.view.members.list().cloned().collect();
                Ok(Answer::Members { member: None, members })
            }
            Work::KeepAlive { lease, confirming } => {
                around.mail(ToLeaseKeeper::KeepAlive { lease: *lease, confirmed: *confirming, ticket });
                return;
            }
            Work::Write | Work::Promote { .. } | Work::Change { .. } | Work::Publish => return,
        };
        self.end(ticket, answer, around);
    }

    fn kept(&mut self, ticket: Ticket, answer: lease::Answer, around: &mut Around<'_>) {
        let Some(Task { work: Work::KeepAlive { confirming, .. }, .. }) = self.tasks.get_mut(&ticket) else { return };
        match answer {
            lease::Answer::Renewed { ttl_secs } => self.end(ticket, Ok(Answer::Kept { ttl_secs }), around),
            lease::Answer::Gone => self.end(ticket, Ok(Answer::Kept { ttl_secs: 0 }), around),
            lease::Answer::Unconfirmed if confirming.is_none() => {
                *confirming = Some(Confirmation { term: around.shared.status.term, asked_at: around.now });
                around.mail(ToRaftNode::ReadIndex { tickets: vec![ticket] });
            }
            lease::Answer::NotLeader | lease::Answer::Unconfirmed => self.ask_elsewhere(ticket, around),
        }
    }

    fn promote(&mut self, ticket: Ticket, progress: MemberProgress, around: &mut Around<'_>) {
        let Some(Task { work: Work::Promote { id }, .. }) = self.tasks.get(&ticket) else { return };
        let (id, progress) = match progress {
            MemberProgress::NotLeader => return self.ask_elsewhere(ticket, around),
            MemberProgress::NoMember => (*id, None),
            MemberProgress::At(progress) => (*id, Some(progress)),
        };
        if let Err(error) = with_outlook(around, |outlook| outlook.may_promote(progress)) {
            return self.end(ticket, Err(error.into()), around);
        }
        let member = pb::Member { id: id.0, ..Default::default() };
        if let Some(task) = self.tasks.get_mut(&ticket) {
            task.work = Work::Change { ask: Ask::Promote { id }, member: member.clone() };
        }
        propose_change(Kind::Promote, member, ticket, around);
    }

    /// Another change of the membership came first.
    fn change_again(&mut self, ticket: Ticket, around: &mut Around<'_>) {
        around.checks.summary.count("a change of the membership was overtaken");
        let Some(Task { work, .. }) = self.tasks.get_mut(&ticket) else { return };
        let Work::Change { ask, member } = work else { return };
        if let Ask::Promote { id } = ask {
            let member = *id;
            *work = Work::Promote { id: member };
            return around.mail(ToRaftNode::LookUpProgress { member, ticket });
        }
        match checked_member(ask, around) {
            Ok((kind, checked)) => {
                *member = checked.clone();
                propose_change(kind, checked, ticket, around);
            }
            Err(error) => self.end(ticket, Err(error), around),
        }
    }

    fn end(&mut self, ticket: Ticket, answer: Result<Answer, RequestError>, around: &mut Around<'_>) {
        if let Some(task) = self.tasks.remove(&ticket) {
            reply(task.origin, answer, around);
        }
    }
}

fn reply(origin: Origin, answer: Result<Answer, RequestError>, around: &mut Around<'_>) {
    match origin {
        Origin::Client(call) => {
            let answer = answer.unwrap_or_else(Answer::Failed);
            around.out.push(Out::Answer { call, answer });
        }
        Origin::Peer { .. } => {
            let answer = match answer {
                Ok(Answer::Kept { ttl_secs }) => PeerAnswer::Kept { ttl_secs },
                Ok(Answer::Members { members, .. }) => PeerAnswer::Members(members),
                Err(RequestError::NotLeader) | Ok(_) => PeerAnswer::MayChange,
                Err(error) => PeerAnswer::Failed(error),
            };
            around.out.push(Out::AnswerPeer { origin, answer });
        }
        Origin::Own => {}
    }
}

fn propose(op: Op, ticket: Ticket, around: &mut Around<'_>) {
    let data = RaftRequest { op: Some(op), ..Default::default() }.encode_to_vec().into();
    around.mail(ToRaftNode::Propose { data, kind: EntryType::EntryNormal, waiter: Waiter::Edge(ticket) });
}

fn read_range(range: &pb::RangeRequest, around: &Around<'_>) -> Result<Answer, RequestError> {
    let view = &around.shared.view;
    let header = Some(pb::ResponseHeader { revision: view.mvcc.revision().0, ..Default::default() });
    let outcome = view.mvcc.range(range)?;
    Ok(Answer::Range(pb::RangeResponse { header, kvs: outcome.kvs, more: outcome.more, count: outcome.count }))
}
