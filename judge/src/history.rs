//! What clients saw: every request, when it began and when it was answered, and with what.
//!
//! ```text
//!   clients, watchers ──record──▶ History ──▶ check/
//! ```
//! Every request to the key space is written down as a transaction, also a plain put or get: one shape for the model to
//! carry out. A request without an answer may have been carried out, once, at any time after it began.

use std::collections::BTreeMap;
use std::fmt;

/// Since the history began.
pub type Micros = u64;

/// So much of a value is shown.
const BRIEF_CHARS: usize = 12;

/// A key with what etcd says of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: String,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    Get {
        key: String,
    },
    List {
        prefix: String,
    },
    /// Answered with the pair before.
    Put {
        key: String,
        value: String,
        lease: i64,
    },
    /// Answered with what was deleted.
    Delete {
        key: String,
    },
    DeleteAll {
        prefix: String,
    },
    /// What was there at an earlier revision.
    Past {
        prefix: String,
        revision: i64,
    },
    /// A request in the place of an operation.
    Nested(Box<Request>),
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pair { key, value, created, modified, version, lease } = self;
        write!(f, "{key}={}@{created}..{modified}#{version}", brief(value))?;
        of_lease(*lease, f)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Get { key } => write!(f, "Get({key})"),
            Op::List { prefix } => write!(f, "List({prefix}…)"),
            Op::Put { key, value, lease } => {
                write!(f, "Put({key}={})", brief(value))?;
                of_lease(*lease, f)
            }
            Op::Delete { key } => write!(f, "Delete({key})"),
            Op::DeleteAll { prefix } => write!(f, "Delete({prefix}…)"),
            Op::Past { prefix, revision } => write!(f, "List({prefix}… at {revision})"),
            Op::Nested(request) => request.fmt(f),
        }
    }
}

impl fmt::Debug for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compare::Modified { key, is } => write!(f, "{key} modified at {is}"),
            Compare::Value { key, is } => write!(f, "{key}={}", brief(is)),
        }
    }
}

fn of_lease(lease: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if lease == 0 { Ok(()) } else { write!(f, " of lease {lease:x}") }
}

/// A value as a reader of a violation wants it: its beginning says who wrote it.
pub fn brief(value: &str) -> String {
    match value.char_indices().nth(BRIEF_CHARS) {
        Some((end, _)) if value.len() > end + 8 => format!("{}…[{}]", &value[..end], value.len()),
        _ => value.to_owned(),
    }
}

impl Op {
    pub fn is_write(&self) -> bool {
        match self {
            Op::Get { .. } | Op::List { .. } | Op::Past { .. } => false,
            Op::Put { .. } | Op::Delete { .. } | Op::DeleteAll { .. } => true,
            Op::Nested(request) => request.may_write(),
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub enum Compare {
    Modified {
        key: String,
        is: i64,
    },
    /// False where there is no such key.
    Value {
        key: String,
        is: String,
    },
}

impl Compare {
    pub fn key(&self) -> &str {
        match self {
            Compare::Modified { key, .. } | Compare::Value { key, .. } => key,
        }
    }
}

/// One request. Without comparisons it always succeeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub compares: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
    /// What the member has, without asking the others.
    pub is_serializable: bool,
}

impl Request {
    pub fn plain(op: Op) -> Self {
        Request { success: vec![op], ..Default::default() }
    }

    pub fn may_write(&self) -> bool {
        self.success.iter().chain(&self.failure).any(Op::is_write)
    }

    /// All operations that it could come to, those of nested requests included.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.success.iter().chain(&self.failure).flat_map(|op| -> Box<dyn Iterator<Item = &Op>> {
            match op {
                Op::Nested(request) => Box::new(request.ops()),
                other => Box::new(std::iter::once(other)),
            }
        })
    }

    /// The values that it would write; each is written by one request only.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.ops().filter_map(|op| match op {
            Op::Put { value, .. } => Some(value.as_str()),
            _ => None,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpAnswer {
    Got(Vec<Pair>),
    Put { previous: Option<Pair> },
    Deleted(Vec<Pair>),
    Nested { succeeded: bool, results: Vec<OpAnswer> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub revision: i64,
    pub succeeded: bool,
    pub results: Vec<OpAnswer>,
}

/// Why a request was not carried out, by the rules of the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What it asked for is compacted.
    Compacted,
    /// It asked for a revision that is still to come.
    Future,
    /// The lease that it names is not there.
    NoLease,
    Other(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(Answer),
    Refused(Refusal),
    Unknown(String),
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub client: usize,
    pub invoked: Micros,
    /// Meaningless for an unknown outcome.
    pub returned: Micros,
    pub request: Request,
    pub outcome: Outcome,
}

impl Operation {
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Refused(_) | Outcome::Unknown(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRequest {
    Grant { ttl_secs: i64 },
    KeepAlive,
    Revoke,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// For so long, for a grant or a keepalive; at a revision, for a revoke.
    Done {
        ttl_secs: i64,
        revision: i64,
    },
    /// There is no such lease (any more).
    NotFound,
    Unknown,
}

#[derive(Clone, Debug)]
pub struct LeaseOperation {
    pub lease: i64,
    pub invoked: Micros,
    pub returned: Micros,
    pub request: LeaseRequest,
    pub outcome: LeaseOutcome,
}

/// History below `revision` was given up, or was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compaction {
    pub revision: i64,
    pub invoked: Micros,
    pub returned: Micros,
    pub outcome: CompactionOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionOutcome {
    Done,
    /// Somebody else has compacted that far, or the revision is still to come.
    Refused,
    Unknown,
}

/// One change of one key, as a watcher is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(Pair),
    Delete { key: String },
}

impl Event {
    pub fn key(&self) -> &str {
        match self {
            Event::Put(pair) => &pair.key,
            Event::Delete { key } => key,
        }
    }
}

/// What happened, by revision: there is one truth of it, in the order in which it happened.
pub type Log = BTreeMap<i64, Vec<Event>>;

/// One thing that a watcher was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A response with events, each with its revision, and the pair before if that was asked for.
    Events(Vec<(i64, Event, Option<Pair>)>),
    /// Everything up to here has been told.
    Progress(i64),
    /// It cannot go on: what it wants is compacted up to here.
    Compacted(i64),
}

/// One life of a watcher: from its start until its connection ended.
#[derive(Clone, Debug)]
pub struct Watch {
    pub watcher: usize,
    pub prefix: String,
    pub start: i64,
    pub wants_previous: bool,
    pub told: Vec<(Micros, Told)>,
}

impl Watch {
    /// Where the next life has to begin.
    pub fn next_start(&self) -> i64 {
        let seen = self.told.iter().map(|(_, told)| match told {
            Told::Events(events) => events.last().map_or(0, |(revision, ..)| *revision),
            Told::Progress(revision) => *revision,
            Told::Compacted(_) => 0,
        });
        seen.max().unwrap_or(0).max(self.start - 1) + 1
    }
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub leases: Vec<LeaseOperation>,
    pub watches: Vec<Watch>,
    /// In the order in which they were asked for.
    pub compactions: Vec<Compaction>,
}

impl History {
    /// The highest revision that anybody had asked to compact to before `at`; 0 if nobody had.
    pub fn compacted_at_most(&self, at: Micros) -> i64 {
        let asked = self.compactions.iter().filter(|it| it.invoked <= at && it.outcome != CompactionOutcome::Refused);
        asked.map(|it| it.revision).max().unwrap_or(0)
    }

    /// The highest revision that somebody knew was compacted before `at`; 0 if nobody did.
    pub fn compacted_at_least(&self, at: Micros) -> i64 {
        let done = self.compactions.iter().filter(|it| it.returned < at && it.outcome == CompactionOutcome::Done);
        done.map(|it| it.revision).max().unwrap_or(0)
    }
}
