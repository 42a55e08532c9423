//! Makes sure, as the leader, that all members hold the same data, and raises the alarm CORRUPT where they do not.
//!
//! ```text
//!   Auditor ──StateHash, HashKv──▶ peers            (PeerCalls, no mail)
//!      ├──ListCompactionHashes──▶ Snapshotter       ├──ReadIndex──▶ RaftNode: do I still lead?
//!      └──Propose: CORRUPT──▶ RaftNode
//! ```
//! What is compared how, and what follows, stands in [`crate::consistency`]. One check is under way at a time, as a future
//! beside the mail; what takes reading all rows runs on a thread of its own. Other members' Auditors wait until they lead.

use crate::actors::Tick;
use crate::actors::raft_node::{Propose, Read, ReadIndex};
use crate::actors::snapshotter::ListCompactionHashes;
use crate::cast::{Identity, Published, Reply, RequestError};
use crate::consistency::ask::{Answers, Asker};
use crate::consistency::compactions::{self, CompactionsCheck};
use crate::consistency::history::{self, Finding, Own};
use crate::consistency::states::StatesCheck;
use crate::consistency::{PeerHash, Verdict};
use crate::ids::MemberId;
use crate::mvcc::{HashKv, MvccError};
use crate::raft::node::Status;
use crate::state::{Alarm, HashPoint, View};
use crate::telemetry::trace::SpanContext;
use actix::{Actor, ActorFutureExt as _, AsyncContext, Context, Handler, Recipient, WrapFuture as _};
use castd_proto::castdpb::{RaftRequest, raft_request::Op};
use castd_proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use prost::Message as _;
use raft::eraftpb::EntryType;
use slog::Logger;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often rolling hashes are compared: for a few hundred bytes from each peer.
const STATES_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub identity: Identity,
    /// `--corrupt-check-time`.
    pub history_every: Option<Duration>,
    /// `--compact-hash-check-time`, where the gate CompactHashCheck is on.
    pub compactions_every: Option<Duration>,
    /// How long one question may take.
    pub patience: Duration,
}

/// Where the Auditor's mail goes, and where it looks.
pub struct Links {
    pub propose: Recipient<Propose>,
    pub read_index: Recipient<ReadIndex>,
    pub list_compaction_hashes: Recipient<ListCompactionHashes>,
    pub peers: Asker,
    pub view: Published<View>,
    pub status: Published<Status>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    States,
    History,
    Compactions,
}

/// When a check is due next.
#[derive(Debug)]
struct Due {
    check: Check,
    every: Duration,
    at: Option<Duration>,
}

pub struct Auditor {
    due: Vec<Due>,
    /// Due, and not begun.
    waiting: VecDeque<Check>,
    is_checking: bool,
    states: StatesCheck,
    compactions: CompactionsCheck,
    settings: Settings,
    links: Arc<Links>,
    log: Logger,
}

/// What a check has brought to light.
enum Findings {
    States { own: Vec<HashPoint>, peers: Answers<Vec<HashPoint>> },
    History { own: Own, peers: Answers<PeerHash> },
    Compactions(Vec<(HashKv, Answers<PeerHash>)>),
}

impl Auditor {
    pub fn new(settings: Settings, links: Links, log: Logger) -> Self {
        let checks = [
            (Check::States, Some(STATES_EVERY)),
            (Check::History, settings.history_every),
            (Check::Compactions, settings.compactions_every),
        ];
        let due = checks.into_iter().filter_map(|(check, every)| Some(Due { check, every: every?, at: None }));
        Auditor {
            due: due.collect(),
            waiting: VecDeque::new(),
            is_checking: false,
            states: StatesCheck::default(),
            compactions: CompactionsCheck::default(),
            settings,
            links: Arc::new(links),
            log,
        }
    }

    fn own(&self) -> MemberId {
        self.settings.identity.member
    }

    /// Begins the next check that is due, unless one is under way.
    fn begin_next(&mut self, context: &mut Context<Self>) {
        if self.is_checking {
            return;
        }
        let Some(check) = self.waiting.pop_front() else { return };
        if !self.links.status.load().is_leader {
            self.waiting.clear();
            return;
        }
        let (own, peers): (Vec<_>, Vec<_>) = {
            let members = Arc::clone(&self.links.view.load().members);
            members.list().map(|member| MemberId(member.id)).partition(|id| *id == self.own())
        };
        if own.is_empty() {
            return;
        }
        let members = peers.len() + 1;
        self.is_checking = true;
        if check == Check::Compactions {
            slog::info!(self.log, "starting compact hash check"; "local-member-id" => %self.own(),
                "timeout" => ?self.settings.patience);
        }
        let (links, member, compactions) = (Arc::clone(&self.links), self.own(), self.compactions);
        let found = async move {
            match check {
                Check::States => Ok(ask_states(&links, &peers).await),
                Check::History => ask_history(&links, member, &peers).await,
                Check::Compactions => Ok(ask_compactions(&links, compactions, &peers, member).await),
            }
        };
        let judged = found.into_actor(self).map(move |found, this, context| {
            this.is_checking = false;
            match found {
                Ok(found) => this.judge(found, members),
                Err(error) => slog::warn!(this.log, "failed to check hash KV"; "error" => %error),
            }
            this.begin_next(context);
        });
        context.spawn(judged);
    }

    fn judge(&mut self, found: Findings, members: usize) {
        match found {
            Findings::States { own, peers } => self.judge_states(own, peers, members),
            Findings::History { own, peers } => self.judge_history(own, &peers, members),
            Findings::Compactions(found) => self.judge_compactions(&found),
        }
    }

    fn judge_states(&mut self, own: Vec<HashPoint>, peers: Answers<Vec<HashPoint>>, members: usize) {
        let mut said = vec![(self.own(), own)];
        for (peer, answer) in peers {
            match answer {
                Ok(points) => said.push((peer, points)),
                Err(error) => {
                    slog::debug!(self.log, "no state hashes to compare"; "remote-peer-id" => %peer, "error" => %error);
                }
            }
        }
        let compared = self.states.compare(members, &said);
        let corrupt = match compared.verdict {
            Verdict::Same => return,
            Verdict::Corrupt(corrupt) => corrupt,
            Verdict::Undecided => vec![MemberId(0)],
        };
        let hashes = compared.said.iter().map(|(member, hash)| format!("{member}:{:016x}", hash.0));
        for member in corrupt {
            self.report(member, |log| {
                slog::error!(log, "members differ in what they have applied"; "applied-index" => compared.index,
                    "hashes" => hashes.clone().collect::<Vec<_>>().join(" "), "corrupt-member-id" => %member);
            });
        }
    }

    /// The lines are etcd's.
    fn judge_history(&mut self, own: Own, peers: &Answers<PeerHash>, members: usize) {
        let answered: Vec<_> =
            peers.iter().filter_map(|(peer, answer)| Some((*peer, *answer.as_ref().ok()?))).collect();
        let compared = history::compare(own, &answered, members);
        let (before, after) = (own.before, own.after);
        for finding in &compared.findings {
            match finding {
                Finding::Unsteady => slog::warn!(self.log, "found hash mismatch";
                    "revision-1" => before.hash_revision, "compact-revision-1" => before.compact_revision,
                    "hash-1" => before.hash, "revision-2" => after.hash_revision,
                    "compact-revision-2" => after.compact_revision, "hash-2" => after.hash),
                Finding::AheadOfLeader { peer, revision } => slog::warn!(self.log,
                    "revision from follower must be less than or equal to leader's";
                    "leader-revision" => own.revision, "follower-revision" => revision, "follower-peer-id" => %peer),
                Finding::CompactedBeyondLeader { peer, compact_revision } => slog::warn!(self.log,
                    "compact revision from follower must be less than or equal to leader's";
                    "leader-compact-revision" => after.compact_revision,
                    "follower-compact-revision" => compact_revision, "follower-peer-id" => %peer),
                Finding::OtherHash { peer, hash } => slog::warn!(self.log,
                    "same compact revision then hashes must match";
                    "leader-compact-revision" => before.compact_revision, "leader-hash" => before.hash,
                    "follower-compact-revision" => hash.compact_revision, "follower-hash" => hash.hash,
                    "follower-peer-id" => %peer),
            }
        }
        for member in compared.corrupt {
            self.report(member, |log| {
                slog::error!(log, "found hash mismatch"; "revision" => before.hash_revision, "corrupt-member-id" => %member);
            });
        }
        slog::info!(self.log, "finished peer corruption check"; "number-of-peers-checked" => answered.len());
    }

    /// The lines are etcd's.
    fn judge_compactions(&mut self, found: &[(HashKv, Answers<PeerHash>)]) {
        let leader = self.own();
        for (hash, answers) in found {
            let peers = heard(answers);
            let compared = self.compactions.compare(leader, *hash, &peers);
            for (peer, skipped) in &compared.skipped {
                let reason = match skipped {
                    compactions::Skipped::NoResponse => "no response".to_owned(),
                    compactions::Skipped::OtherCompaction { peer, leader } => {
                        format!("the peer's CompactRevision {peer} doesn't match leader's CompactRevision {leader}")
                    }
                };
                slog::warn!(self.log, "Skipped peer's hash"; "number-of-peers" => peers.len(), "leader-id" => %leader,
                    "peer-id" => %peer, "reason" => reason);
            }
            let corrupt = match &compared.verdict {
                Verdict::Same if compared.is_conclusive => {
                    slog::info!(self.log, "successfully checked hash on whole cluster";
                        "number-of-peers-checked" => compared.checked, "revision" => hash.hash_revision,
                        "compactRevision" => hash.compact_revision);
                    return;
                }
                Verdict::Same => {
                    slog::warn!(self.log, "skipped revision in compaction hash check; was not able to check all peers";
                        "number-of-peers-checked" => compared.checked, "number-of-peers" => peers.len(),
                        "revision" => hash.hash_revision, "compactRevision" => hash.compact_revision);
                    continue;
                }
                Verdict::Corrupt(corrupt) => corrupt.clone(),
                Verdict::Undecided => {
                    slog::error!(self.log, "Detected compaction hash mismatch but cannot identify the corrupted members, \
                        so intentionally set the memberID as 0"; "leader-id" => %leader,
                        "leader-revision" => hash.hash_revision, "leader-compact-revision" => hash.compact_revision,
                        "leader-hash" => hash.hash);
                    vec![MemberId(0)]
                }
            };
            let quorum_exists = compared.verdict != Verdict::Undecided;
            for (peer, peer_hash) in &compared.differing {
                slog::error!(self.log, "Detected compaction hash mismatch"; "leader-id" => %leader,
                    "leader-revision" => hash.hash_revision, "leader-compact-revision" => hash.compact_revision,
                    "leader-hash" => hash.hash, "peer-id" => %peer, "peer-hash" => peer_hash,
                    "quorum-exist" => quorum_exists);
            }
            corrupt.into_iter().for_each(|member| self.report(member, |_| ()));
            return;
        }
        slog::info!(self.log, "finished compaction hash check"; "number-of-hashes-checked" => found.len());
    }

    /// Raises the alarm of `member`, unless it is on; 0 stands for nobody in particular.
    fn report(&self, member: MemberId, say: impl FnOnce(&Logger)) {
        let alarm = Alarm { kind: AlarmType::Corrupt.into(), member };
        if self.links.view.load().alarms.contains(alarm) {
            return;
        }
        say(&self.log);
        let request = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: member.0,
            alarm: AlarmType::Corrupt.into(),
        };
        let data = RaftRequest { op: Some(Op::Alarm(request)), ..Default::default() }.encode_to_vec().into();
        // If it gets lost, the next check raises it.
        let (sender, _) = oneshot::channel();
        let (kind, reply, span) = (EntryType::EntryNormal, Reply::internal(sender), SpanContext::default());
        self.links.propose.do_send(Propose { data, kind, reply, span });
    }
}

async fn ask_states(links: &Links, peers: &[MemberId]) -> Findings {
    let peers = links.peers.state_hashes(peers).await;
    // Last, so that it has what the others had.
    let own = links.view.load().hash_points().collect();
    Findings::States { own, peers }
}

async fn ask_history(links: &Links, member: MemberId, peers: &[MemberId]) -> Result<Findings, RequestError> {
    let (before, _) = hash_own(links).await?;
    let peers = links.peers.hash_kv(peers, before.hash_revision).await;
    let (reply, confirmed) = oneshot::channel();
    links.read_index.do_send(ReadIndex { reads: vec![Read { reply, span: SpanContext::default() }] });
    confirmed.await.unwrap_or(Err(RequestError::Stopped))?;
    let (after, revision) = hash_own(links).await?;
    Ok(Findings::History { own: Own { member, before, after, revision }, peers })
}

/// Of everything up to now, and where that is.
async fn hash_own(links: &Links) -> Result<(HashKv, i64), RequestError> {
    let view = links.view.load();
    let revision = view.mvcc.revision().0;
    let (sender, hashed) = oneshot::channel();
    let work = move || drop(sender.send(view.mvcc.hash_kv(0)));
    std::thread::Builder::new().name("audit".into()).spawn(work).map_err(|_| RequestError::Stopped)?;
    let hash: Result<HashKv, MvccError> = hashed.await.map_err(|_| RequestError::Stopped)?;
    Ok((hash?, revision))
}

/// Asks for the hashes of one compaction after the other, until one is conclusive; what it means is said by the actor.
async fn ask_compactions(links: &Links, mut check: CompactionsCheck, peers: &[MemberId], member: MemberId) -> Findings {
    let (reply, known) = oneshot::channel();
    links.list_compaction_hashes.do_send(ListCompactionHashes { reply });
    let mut found = Vec::new();
    for hash in check.unchecked(known.await.unwrap_or_default()) {
        let answers = links.peers.hash_kv(peers, hash.hash_revision).await;
        let is_conclusive = check.compare(member, hash, &heard(&answers)).is_conclusive;
        found.push((hash, answers));
        if is_conclusive {
            break;
        }
    }
    Findings::Compactions(found)
}

fn heard(answers: &Answers<PeerHash>) -> Vec<(MemberId, Option<PeerHash>)> {
    answers.iter().map(|(peer, answer)| (*peer, answer.as_ref().ok().copied())).collect()
}

impl Actor for Auditor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        if let Some(every) = self.settings.history_every {
            slog::info!(self.log, "enabled corruption checking"; "local-member-id" => %self.own(), "interval" => ?every);
        }
    }
}

impl Handler<Tick> for Auditor {
    type Result = ();

    fn handle(&mut self, tick: Tick, context: &mut Self::Context) {
        for due in &mut self.due {
            let at = *due.at.get_or_insert(tick.now + due.every);
            if tick.now >= at {
                due.at = Some(tick.now + due.every);
                if !self.waiting.contains(&due.check) {
                    self.waiting.push_back(due.check);
                }
            }
        }
        self.begin_next(context);
    }
}
