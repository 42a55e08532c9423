//! What is to be replicated, and the way of each request into the log.
//!
//! ```text
//!   propose ───▶ queue ─┬─ this member leads ─▶ raft's log ─────────────────┬─▶ committed: answered
//!   forwarded ──▶ ▲     └─ another one does ──▶ Forward, with a tag ─▶ … ───┘
//!                 └── of other members, only while this one leads
//! ```
//! What this member proposes as the leader is named by its place in the log, and never proposed twice. What it forwards is
//! named by a [`RequestTag`], repeated under the same one (to another leader, over a new connection, after an election
//! time-out without outcome), and answered when the entry with the tag is applied *here*: nothing travels back, and a client
//! reads its own write from the member that answered it. The state machine carries a tag out once, and remembers
//! [`TAG_WINDOW`] of them; so what is under way never spans more.

use super::{Effect, Node, Proposal, RaftError};
use crate::ids::{MemberId, RequestId};
use crate::raft::forwarded::ForwardedProposal;
use crate::raft::tag::{RequestTag, TAG_WINDOW};
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

/// Bytes of proposals that are in the log but not committed; what comes beyond waits in the queue.
const UNCOMMITTED_BYTES_MAX: usize = 32 << 20;
/// Bytes of requests that are on their way to the leader; what comes beyond waits in the queue.
const FORWARDED_BYTES_MAX: usize = 32 << 20;
/// Requests of other members that may wait here, and their bytes. Who sent what comes beyond repeats it.
const FOREIGN_MAX: usize = 16_384;
const FOREIGN_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(UNCOMMITTED_BYTES_MAX < 64 << 20, "raft-rs must never be the one who refuses");

/// Who waits for an entry.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// A request of this member, while it leads.
    Own(RequestId),
    /// Of a member that has forwarded it, which may be this one before it led.
    Tagged(RequestTag),
}

#[derive(Debug)]
struct Queued {
    origin: Origin,
    kind: EntryType,
    data: Bytes,
    deadline: Duration,
}

/// A proposal that is in the log.
#[derive(Debug)]
struct Pending {
    index: u64,
    term: u64,
    origin: Origin,
    bytes: usize,
    deadline: Duration,
}

/// A request of this member that another one is to propose.
#[derive(Debug)]
struct OnItsWay {
    request: RequestId,
    kind: EntryType,
    data: Bytes,
    deadline: Duration,
    /// Last sent, or proposed, then,
    sent_at: Duration,
    /// and in that term.
    sent_in: u64,
}

#[derive(Default)]
pub(super) struct Writes {
    queue: VecDeque<Queued>,
    /// Changes of the membership wait apart. Raft takes one at a time: another one before that is applied would silently
    /// become an empty entry.
    membership_queue: VecDeque<Queued>,
    pending: VecDeque<Pending>,
    uncommitted_bytes: usize,
    last_proposed: Option<RequestId>,
    /// By the sequence of their tags.
    on_their_way: BTreeMap<u64, OnItsWay>,
    on_their_way_bytes: usize,
    last_sequence: u64,
    /// Some of them may have to be repeated.
    is_look_due: bool,
    /// All of them.
    is_repetition_due: bool,
    /// What other members asked for, in the queues or in the log: repetitions of it are superfluous.
    tags: HashSet<RequestTag>,
    tagged_queued: usize,
    tagged_queued_bytes: usize,
}

impl Writes {
    fn enqueue(&mut self, queued: Queued) {
        if let Origin::Tagged(_) = queued.origin {
            self.tagged_queued += 1;
            self.tagged_queued_bytes += queued.data.len();
        }
        match queued.kind {
            EntryType::EntryNormal => self.queue.push_back(queued),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.membership_queue.push_back(queued),
        }
    }

    /// The oldest, a change of the membership only if there may be one.
    fn take(&mut self, may_change_membership: bool) -> Option<Queued> {
        let (first, change) = (self.queue.front(), self.membership_queue.front());
        let is_change = may_change_membership
            && change.is_some_and(|change| first.is_none_or(|first| change.deadline <= first.deadline));
        let queued = if is_change { self.membership_queue.pop_front() } else { self.queue.pop_front() }?;
        self.took(&queued);
        Some(queued)
    }

    fn took(&mut self, queued: &Queued) {
        if let Origin::Tagged(_) = queued.origin {
            self.tagged_queued -= 1;
            self.tagged_queued_bytes -= queued.data.len();
        }
    }

    /// A link to the leader has been opened: what was on the one before is lost.
    pub(super) fn repeat_all(&mut self) {
        (self.is_look_due, self.is_repetition_due) = (true, true);
    }

    /// Another term or another leader: what was sent to the one before may never be proposed.
    pub(super) fn leader_changed(&mut self) {
        self.is_look_due = true;
    }

    /// Leadership is lost: what others asked for they will ask of the next leader.
    pub(super) fn forget_tagged(&mut self) {
        for queue in [&mut self.queue, &mut self.membership_queue] {
            queue.retain(|queued| matches!(queued.origin, Origin::Own(_)));
        }
        self.tags.clear();
        (self.tagged_queued, self.tagged_queued_bytes) = (0, 0);
    }
}

impl Node {
    pub fn propose(&mut self, now: Duration, proposal: Proposal) {
        let deadline = now + self.settings.request_timeout;
        let Proposal { request, kind, data } = proposal;
        self.writes.enqueue(Queued { origin: Origin::Own(request), kind, data, deadline });
    }

    /// Requests of `from`'s clients, for this member to propose. What it cannot is dropped: `from` repeats it.
    pub fn forwarded(&mut self, now: Duration, from: MemberId, requests: Vec<ForwardedProposal>) {
        if !self.is_leader() {
            return;
        }
        let deadline = now + self.settings.request_timeout;
        for ForwardedProposal { boot, sequence, kind, data } in requests {
            let writes = &mut self.writes;
            let is_full = writes.tagged_queued >= FOREIGN_MAX
                || (writes.tagged_queued > 0 && writes.tagged_queued_bytes + data.len() > FOREIGN_BYTES_MAX);
            let tag = RequestTag { member: from, boot, sequence };
            if !is_full && writes.tags.insert(tag) {
                writes.enqueue(Queued { origin: Origin::Tagged(tag), kind, data, deadline });
            }
        }
    }

    /// The newest request that is in raft's log or on its way to the leader. Those before it went first.
    pub fn last_proposed(&self) -> Option<RequestId> {
        self.writes.last_proposed
    }

    /// Time has passed: some of what was sent may have been lost.
    pub(super) fn look_for_lost_requests(&mut self) {
        self.writes.is_look_due |= !self.writes.on_their_way.is_empty();
    }

    /// What waits goes on: into the log if this member leads, else to whoever does.
    pub(super) fn send_queued(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.is_leader() {
            self.propose_tagged(now);
            self.propose_queued(effects);
        } else if let Some(leader) = self.leader() {
            self.forward_queued(now, leader, effects);
        }
    }

    /// What was forwarded before this member led is now its own to propose, under the tags that it has.
    fn propose_tagged(&mut self, now: Duration) {
        if !std::mem::take(&mut self.writes.is_look_due) {
            return;
        }
        self.writes.is_repetition_due = false;
        let (term, own, boot) = (self.raft.raft.term, self.settings.id, self.settings.boot);
        let deadline = now + self.settings.request_timeout;
        let mut again = Vec::new();
        for (sequence, on_its_way) in &mut self.writes.on_their_way {
            if on_its_way.sent_in != term {
                (on_its_way.sent_in, on_its_way.sent_at) = (term, now);
                let origin = Origin::Tagged(RequestTag { member: own, boot, sequence: *sequence });
                again.push(Queued { origin, kind: on_its_way.kind, data: on_its_way.data.clone(), deadline });
            }
        }
        again.into_iter().for_each(|queued| self.writes.enqueue(queued));
    }

    fn propose_queued(&mut self, effects: &mut Vec<Effect>) {
        // While leadership moves away raft would refuse them.
        let has_none = self.writes.queue.is_empty() && self.writes.membership_queue.is_empty();
        if has_none || self.raft.raft.lead_transferee.is_some() {
            return;
        }
        let mut may_change_membership = !self.raft.raft.has_pending_conf();
        let writes = &mut self.writes;
        let mut entries = Vec::with_capacity(writes.queue.len());
        let first_pending = writes.pending.len();
        let term = self.raft.raft.term;
        let mut index = self.raft.raft.raft_log.last_index();
        while writes.uncommitted_bytes < UNCOMMITTED_BYTES_MAX {
            let Some(Queued { origin, kind, data, deadline }) = writes.take(may_change_membership) else { break };
            may_change_membership &= kind == EntryType::EntryNormal;
            index += 1;
            let bytes = data.len();
            writes.uncommitted_bytes += bytes;
            writes.pending.push_back(Pending { index, term, origin, bytes, deadline });
            let mut entry = Entry::default();
            entry.set_entry_type(kind);
            entry.data = data;
            match origin {
                Origin::Own(request) => writes.last_proposed = Some(request),
                Origin::Tagged(tag) => entry.context = Bytes::copy_from_slice(&tag.to_bytes()),
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.id.0;
        message.set_entries(entries.into());
        if self.raft.raft.step(message).is_err() {
            for refused in self.writes.pending.drain(first_pending..) {
                self.writes.uncommitted_bytes -= refused.bytes;
                match refused.origin {
                    Origin::Own(request) => effects.push(Effect::Failed(request, RaftError::ProposalDropped)),
                    Origin::Tagged(tag) => drop(self.writes.tags.remove(&tag)),
                }
            }
        }
    }

    fn forward_queued(&mut self, now: Duration, leader: MemberId, effects: &mut Vec<Effect>) {
        let (term, boot) = (self.raft.raft.term, self.settings.boot);
        let repeat_after = self.election_timeout();
        let writes = &mut self.writes;
        let forwarded = |sequence, on_its_way: &OnItsWay| ForwardedProposal {
            boot,
            sequence,
            kind: on_its_way.kind,
            data: on_its_way.data.clone(),
        };
        let mut requests = Vec::new();
        if std::mem::take(&mut writes.is_look_due) {
            let all = std::mem::take(&mut writes.is_repetition_due);
            for (sequence, on_its_way) in &mut writes.on_their_way {
                if all || on_its_way.sent_in != term || now >= on_its_way.sent_at + repeat_after {
                    (on_its_way.sent_in, on_its_way.sent_at) = (term, now);
                    requests.push(forwarded(*sequence, on_its_way));
                }
            }
        }
        while writes.on_their_way_bytes < FORWARDED_BYTES_MAX {
            let oldest = writes.on_their_way.first_key_value().map_or(writes.last_sequence + 1, |(oldest, _)| *oldest);
            let sequence = writes.last_sequence + 1;
            if sequence - oldest >= TAG_WINDOW {
                break;
            }
            let Some(Queued { origin, kind, data, deadline }) = writes.take(true) else { break };
            // There are no others while another member leads.
            let Origin::Own(request) = origin else { continue };
            writes.last_sequence = sequence;
            writes.last_proposed = Some(request);
            writes.on_their_way_bytes += data.len();
            let on_its_way = OnItsWay { request, kind, data, deadline, sent_at: now, sent_in: term };
            requests.push(forwarded(sequence, &on_its_way));
            writes.on_their_way.insert(sequence, on_its_way);
        }
        if !requests.is_empty() {
            effects.push(Effect::Forward { to: leader, requests });
        }
    }

    /// The local request behind a committed entry. Requests whose place in the log was taken by another entry fail.
    pub(super) fn request_of(&mut self, entry: &Entry, effects: &mut Vec<Effect>) -> Option<RequestId> {
        let mut request = None;
        while let Some(pending) = self.writes.pending.pop_front_if(|pending| pending.index <= entry.index) {
            self.writes.uncommitted_bytes -= pending.bytes;
            match pending.origin {
                Origin::Own(own) if pending.index == entry.index && pending.term == entry.term => request = Some(own),
                Origin::Own(own) => effects.push(Effect::Failed(own, RaftError::LeaderChanged)),
                Origin::Tagged(tag) => drop(self.writes.tags.remove(&tag)),
            }
        }
        if entry.context.is_empty() {
            return request;
        }
        let tag = RequestTag::from_context(&entry.context)?;
        if tag.member != self.settings.id || tag.boot != self.settings.boot {
            return None;
        }
        self.arrived(tag.sequence)
    }

    fn arrived(&mut self, sequence: u64) -> Option<RequestId> {
        let arrived = self.writes.on_their_way.remove(&sequence)?;
        self.writes.on_their_way_bytes -= arrived.data.len();
        Some(arrived.request)
    }

    /// A snapshot has taken the place of the log up to `index`: what became of the entries in it, nobody will say.
    pub(super) fn skip_pending(&mut self, index: u64, effects: &mut Vec<Effect>) {
        while let Some(pending) = self.writes.pending.pop_front_if(|pending| pending.index <= index) {
            self.writes.uncommitted_bytes -= pending.bytes;
            match pending.origin {
                Origin::Own(request) => effects.push(Effect::Failed(request, RaftError::LeaderChanged)),
                Origin::Tagged(tag) => drop(self.writes.tags.remove(&tag)),
            }
        }
    }

    pub(super) fn expire_writes(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(queued) = self.writes.queue.pop_front_if(|queued| queued.deadline <= now) {
            self.expire_queued(&queued, effects);
        }
        while let Some(queued) = self.writes.membership_queue.pop_front_if(|queued| queued.deadline <= now) {
            self.expire_queued(&queued, effects);
        }
        while let Some(pending) = self.writes.pending.pop_front_if(|pending| pending.deadline <= now) {
            self.writes.uncommitted_bytes -= pending.bytes;
            self.expire_origin(pending.origin, pending.deadline, effects);
        }
        while let Some((sequence, oldest)) = self.writes.on_their_way.first_key_value()
            && oldest.deadline <= now
        {
            let (sequence, deadline) = (*sequence, oldest.deadline);
            if let Some(request) = self.arrived(sequence) {
                let error = self.timed_out(deadline);
                effects.push(Effect::Failed(request, error));
            }
        }
    }

    fn expire_queued(&mut self, queued: &Queued, effects: &mut Vec<Effect>) {
        self.writes.took(queued);
        self.expire_origin(queued.origin, queued.deadline, effects);
    }

    fn expire_origin(&mut self, origin: Origin, deadline: Duration, effects: &mut Vec<Effect>) {
        match origin {
            Origin::Own(request) => {
                let error = self.timed_out(deadline);
                effects.push(Effect::Failed(request, error));
            }
            Origin::Tagged(tag) => drop(self.writes.tags.remove(&tag)),
        }
    }
}
