//! Who is told what inside a member, and what a member wants of the world around it. As in ARCHITECTURE.md's table of messages.

use super::edge::{Answer, Call, News, Origin, PeerAnswer, PeerAsk, Ticket};
use super::watch_hub::Shown;
use crate::disk::SnapshotFile;
use bytes::Bytes;
use castd::ids::{LogIndex, MemberId, Revision, Term};
use castd::lease::{Confirmation, Grant, LeaseTable};
use castd::membership::members::Members;
use castd::mvcc::{Changes, Deleted};
use castd::peer::guard::Refusal;
use castd::raft::conf_change::AppliedConfChange;
use castd::raft::forwarded::ForwardedProposal;
use castd::raft::node::{AppendLog, CommittedEntry, ReplaceLog, Status};
use castd::raft::terms::LogPosition;
use castd::snapshot::outbound::{Parcel, Sendable};
use castd::state::{LeaseChange, View};
use castd::watch::{CatchUpBatch, Cohort, NewWatch, StreamId};
use castd_proto::castdpb::{PeerEnvelope, PeerLane, SnapshotHeader};
use raft::eraftpb::{ConfState, Entry, EntryType, Message};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    RaftNode,
    LogWriter,
    Applier,
    WatchHub,
    LeaseKeeper,
    PeerLinks,
    Snapshotter,
    Compactor,
}

impl Actor {
    pub const ALL: [Actor; 8] = [
        Actor::RaftNode,
        Actor::LogWriter,
        Actor::Applier,
        Actor::WatchHub,
        Actor::LeaseKeeper,
        Actor::PeerLinks,
        Actor::Snapshotter,
        Actor::Compactor,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Actor::RaftNode => "RaftNode",
            Actor::LogWriter => "LogWriter",
            Actor::Applier => "Applier",
            Actor::WatchHub => "WatchHub",
            Actor::LeaseKeeper => "LeaseKeeper",
            Actor::PeerLinks => "PeerLinks",
            Actor::Snapshotter => "Snapshotter",
            Actor::Compactor => "Compactor",
        }
    }
}

/// Who waits for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    Edge(Ticket),
    Compactor,
    /// The member's own wish; what becomes of it, the log will show.
    Nobody,
}

macro_rules! mails {
    ($($actor:ident: $mail:ident { $($name:ident $({ $($field:ident: $type:ty),* $(,)? })?,)* })*) => {
        $(
            pub enum $mail {
                $($name $({ $($field: $type),* })?,)*
            }

            impl $mail {
                pub const NAMES: &[&str] = &[$(concat!(stringify!($actor), "::", stringify!($name)),)*];

                pub fn name(&self) -> &'static str {
                    match self {
                        $($mail::$name $({ $($field: _),* })? => concat!(stringify!($actor), "::", stringify!($name)),)*
                    }
                }
            }

            impl From<$mail> for Mail {
                fn from(mail: $mail) -> Mail {
                    Mail::$actor(mail)
                }
            }
        )*

        /// One message, and so to whom it is.
        pub enum Mail {
            $($actor($mail),)*
        }

        impl Mail {
            pub fn to(&self) -> Actor {
                match self {
                    $(Mail::$actor(_) => Actor::$actor,)*
                }
            }

            pub fn name(&self) -> &'static str {
                match self {
                    $(Mail::$actor(mail) => mail.name(),)*
                }
            }

            /// Of every kind of message there is.
            pub fn names() -> impl Iterator<Item = &'static str> {
                [$($mail::NAMES),*].into_iter().flatten().copied()
            }
        }
    };
}

mails! {
    RaftNode: ToRaftNode {
        Propose { data: Bytes, kind: EntryType, waiter: Waiter },
        ReadIndex { tickets: Vec<Ticket> },
        LookUpProgress { member: MemberId, ticket: Ticket },
        TransferLeadership { target: Option<MemberId> },
        Step { messages: Vec<Message> },
        Forwarded { from: MemberId, requests: Vec<ForwardedProposal> },
        PeerUnreachable { peer: MemberId },
        LinkChanged { peer: MemberId, connected_since: Option<Duration> },
        Tick { now: Duration },
        LogPersisted { number: u64 },
        LogFetched { low: LogIndex, entries: Vec<Entry> },
        Applied { index: LogIndex },
        ConfChangeApplied { applied: AppliedConfChange },
        LeasesExpired { leases: Vec<Grant>, term: Term },
        LeasesCheckpointed { remaining_secs: Vec<(Grant, i64)>, term: Term },
        LogCut { position: LogPosition },
        SnapshotOffered { position: LogPosition, conf_state: ConfState },
        SnapshotWithdrawn,
        SnapshotSent { to: MemberId, ok: bool },
        SnapshotInstalled { position: LogPosition },
    }
    LogWriter: ToLogWriter {
        AppendLog { write: AppendLog },
        ReplaceLog { replace: ReplaceLog },
        FetchLog { low: LogIndex, high: LogIndex, bytes_max: u64 },
        TruncateLog { position: LogPosition, conf_state: ConfState },
        ClearPendingInstall { position: LogPosition },
    }
    Applier: ToApplier {
        EntriesCommitted { entries: Vec<CommittedEntry>, waiters: Vec<Option<Waiter>> },
        InstallSnapshot { position: LogPosition },
        DeletePiece { rows_max: usize },
        Tick { now: Duration },
    }
    WatchHub: ToWatchHub {
        OpenStream { stream: StreamId },
        CloseStream { stream: StreamId },
        OpenWatch { stream: StreamId, watch: NewWatch },
        CancelWatch { stream: StreamId, watch_id: i64 },
        RequestProgress { stream: StreamId },
        StreamDrained { stream: StreamId, bytes: usize },
        StoreChanged { changes: Arc<[Changes]>, compacted: Option<Revision> },
        StoreReplaced { revision: Revision, compacted: Revision },
        CaughtUp { batch: CatchUpBatch },
        Tick { now: Duration },
    }
    LeaseKeeper: ToLeaseKeeper {
        KeepAlive { lease: castd::ids::LeaseId, confirmed: Option<Confirmation>, ticket: Ticket },
        LeasesChanged { changes: Vec<LeaseChange>, now: Duration },
        LeasesReplaced { leases: LeaseTable, now: Duration },
        LeaderChanged { status: Status, now: Duration },
        Tick { now: Duration },
    }
    PeerLinks: ToPeerLinks {
        Send { messages: Vec<Message> },
        Forward { to: MemberId, requests: Vec<ForwardedProposal> },
        MembershipChanged { members: Arc<Members> },
        PeerIntroduced { peer: MemberId, urls: Vec<String> },
        Opened { peer: MemberId, attempt: u64 },
        Closed { peer: MemberId, attempt: u64 },
        Refused { peer: MemberId, attempt: u64, refusal: Refusal },
        Tick { now: Duration },
    }
    Snapshotter: ToSnapshotter {
        BackendDurable { durable: LogIndex, view: Arc<View> },
        LogGrown { live_bytes: u64 },
        SnapshotWanted { to: MemberId, index_min: LogIndex },
        SendSnapshot { message: Message },
        SnapshotInstalled { position: LogPosition },
        Flushed,
        SnapshotTaken { position: LogPosition },
        Prepared { prepared: Option<(Outgoing, bool)> },
        Carried { to: MemberId, ok: bool },
        Tick { now: Duration },
    }
    Compactor: ToCompactor {
        LeaderChanged { status: Status, now: Duration },
        HistoryCompacted,
        PieceDeleted { deleted: Deleted },
        Answered { ok: bool },
        Tick { now: Duration },
    }
}

/// A snapshot on its way to another member.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub file: Arc<SnapshotFile>,
}

impl Sendable for Outgoing {
    fn header(&self) -> &SnapshotHeader {
        &self.file.header
    }
}

/// Work that takes time, on a thread of its own or in the kernel; whoever began it goes on meanwhile.
pub enum Job {
    /// The LogWriter waits for its disk.
    SyncLog,
    Flush,
    TakeSnapshot {
        view: Arc<View>,
    },
    PrepareSnapshot {
        view: Arc<View>,
        to: MemberId,
        index_min: LogIndex,
    },
    /// The Applier's store is filled from a snapshot.
    Fill {
        position: LogPosition,
    },
    CatchUp {
        cohort: Arc<Cohort>,
    },
    /// Snapshots that were received and not needed are removed.
    Tidy,
    HoldView {
        view: Arc<View>,
    },
}

impl Job {
    pub fn name(&self) -> &'static str {
        match self {
            Job::SyncLog => "SyncLog",
            Job::Flush => "Flush",
            Job::TakeSnapshot { .. } => "TakeSnapshot",
            Job::PrepareSnapshot { .. } => "PrepareSnapshot",
            Job::Fill { .. } => "Fill",
            Job::CatchUp { .. } => "CatchUp",
            Job::Tidy => "Tidy",
            Job::HoldView { .. } => "HoldView",
        }
    }
}

/// What a member wants done.
pub enum Out {
    Mail(Mail),
    Later {
        after: Duration,
        job: Job,
    },
    /// The edge goes on with something, on a thread of its own.
    Edge {
        after: Duration,
        ticket: Ticket,
        news: News,
    },
    Answer {
        call: Call,
        answer: Answer,
    },
    Envelope {
        to: MemberId,
        attempt: u64,
        lane: PeerLane,
        envelope: Box<PeerEnvelope>,
    },
    /// Connect to the member that is reached there.
    Dial {
        peer: MemberId,
        attempt: u64,
        after: Duration,
        urls: Vec<String>,
    },
    HangUp {
        peer: MemberId,
        attempt: u64,
    },
    Carry {
        parcel: Box<Parcel<Outgoing>>,
    },
    AskPeer {
        to: MemberId,
        ticket: Ticket,
        ask: PeerAsk,
    },
    AnswerPeer {
        origin: Origin,
        answer: PeerAnswer,
    },
    /// The edge sends what waits on a stream.
    Pump {
        after: Duration,
        stream: StreamId,
    },
    /// To a client's watcher.
    Show {
        client: usize,
        session: u64,
        shown: Vec<Shown>,
    },
    /// It was removed, knows it, and ends.
    Depart,
}
