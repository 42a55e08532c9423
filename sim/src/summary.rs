//! What was done, so that a run that did nothing does not pass for one that found nothing.

use crate::faults::FaultKind;
use crate::member::mail::Mail;
use raft::eraftpb::MessageType;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    /// Requests that clients began, and those that were answered.
    pub operations: u64,
    pub answered: u64,
    pub events: u64,
    pub faults: BTreeMap<&'static str, u64>,
    pub mail: BTreeMap<&'static str, u64>,
    pub raft: BTreeMap<&'static str, u64>,
    pub asked: BTreeMap<&'static str, u64>,
    /// Whatever else is worth counting.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Summary {
    pub fn count(&mut self, what: &'static str) {
        self.add_count(what, 1);
    }

    pub fn add_count(&mut self, what: &'static str, many: u64) {
        if many == 0 {
            return;
        }
        *self.counts.entry(what).or_default() += many;
    }

    pub fn fault(&mut self, kind: FaultKind) {
        *self.faults.entry(kind.name()).or_default() += 1;
    }

    pub fn mail(&mut self, name: &'static str) {
        *self.mail.entry(name).or_default() += 1;
    }

    pub fn raft_message(&mut self, kind: MessageType) {
        *self.raft.entry(raft_name(kind)).or_default() += 1;
    }

    pub fn asked(&mut self, name: &'static str) {
        self.operations += 1;
        *self.asked.entry(name).or_default() += 1;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: &Summary) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.answered += other.answered;
        self.events += other.events;
        for (mine, theirs) in [
            (&mut self.faults, &other.faults),
            (&mut self.mail, &other.mail),
            (&mut self.raft, &other.raft),
            (&mut self.asked, &other.asked),
            (&mut self.counts, &other.counts),
        ] {
            for (what, many) in theirs {
                *mine.entry(what).or_default() += many;
            }
        }
    }

    /// What has not come to pass at all, of faults, of messages inside members and of raft's.
    pub fn missing(&self) -> Vec<&'static str> {
        let faults = FaultKind::ALL.iter().map(|kind| kind.name()).filter(|name| !self.faults.contains_key(name));
        let mail = Mail::names().filter(|name| !self.mail.contains_key(name));
        let raft = RAFT.iter().map(|kind| raft_name(*kind)).filter(|name| !self.raft.contains_key(name));
        let counts = EXPECTED.iter().copied().filter(|name| !self.counts.contains_key(name));
        faults.chain(mail).chain(raft).chain(counts).collect()
    }

    /// Amounts that a run over `seeds` seeds has to reach, and has not.
    pub fn shortfalls(&self, seeds: u64) -> Vec<String> {
        let mut short: Vec<String> = Vec::new();
        let mut expect = |what: &str, found: u64, least: u64| {
            if found < least {
                short.push(format!("{what}: {found}, at least {least} were expected"));
            }
        };
        expect("operations", self.operations, seeds * 500);
        expect("answered operations", self.answered, seeds * 350);
        for (what, a_thousand_seeds) in AMOUNTS {
            expect(what, self.of(what), seeds * a_thousand_seeds / 1_000);
        }
        for kind in FaultKind::ALL {
            let found = self.faults.get(kind.name()).copied().unwrap_or(0);
            expect(kind.name(), found, if kind.is_of_disk() { seeds / 20 } else { seeds / 10 });
        }
        if seeds >= 500 {
            short.extend(self.missing().into_iter().map(|what| format!("{what} never came to pass")));
        }
        short
    }
}

/// Of raft's messages, those that members send each other.
const RAFT: [MessageType; 11] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// What has to have happened at all.
const EXPECTED: &[&str] = &[
    "a boot",
    "a boot with a pending install",
    "a boot that rebuilt the state",
    "a change of the membership was overtaken",
    "a compaction was finished",
    "a damaged member was replaced",
    "a disk was stuck",
    "a member ended because of its disk",
    "a forwarded request was repeated",
    "a link was refused",
    "a member joined where another one had been",
    "a read was late",
    "a snapshot took the place of entries behind it",
    "a snapshot was withdrawn",
    "a view kept rows from being deleted",
    "a watch was ended by compaction",
    "entries were fetched from the log",
    "files of a log were deleted",
    "files of a log were used again",
    "history was compacted by itself",
    "history was read for watchers",
    "snapshots were found damaged",
    "the leader was asked by another member",
    "writes were misdirected",
];

/// How often something has to have happened in a thousand seeds.
const AMOUNTS: &[(&str, u64)] = &[
    ("a leader was elected", 3_000),
    ("a member crashed", 3_000),
    ("a member joined", 200),
    ("a removed member departed", 100),
    ("a snapshot was installed", 500),
    ("a snapshot was taken", 500),
    ("a store was flushed", 200),
    ("hashes compared", 500_000),
    ("history was compacted", 1_000),
    ("leases expired", 1_000),
    ("log writes lost in a crash", 250),
    ("packets came twice", 20_000),
    ("packets were lost", 20_000),
    ("sectors were lost", 200),
    ("sectors were torn", 100),
    ("sectors were zeroed", 50),
    ("the membership changed", 2_000),
];

pub fn raft_name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::MsgHup => "MsgHup",
        MessageType::MsgBeat => "MsgBeat",
        MessageType::MsgPropose => "MsgPropose",
        MessageType::MsgAppend => "MsgAppend",
        MessageType::MsgAppendResponse => "MsgAppendResponse",
        MessageType::MsgRequestVote => "MsgRequestVote",
        MessageType::MsgRequestVoteResponse => "MsgRequestVoteResponse",
        MessageType::MsgSnapshot => "MsgSnapshot",
        MessageType::MsgHeartbeat => "MsgHeartbeat",
        MessageType::MsgHeartbeatResponse => "MsgHeartbeatResponse",
        MessageType::MsgUnreachable => "MsgUnreachable",
        MessageType::MsgSnapStatus => "MsgSnapStatus",
        MessageType::MsgCheckQuorum => "MsgCheckQuorum",
        MessageType::MsgTransferLeader => "MsgTransferLeader",
        MessageType::MsgTimeoutNow => "MsgTimeoutNow",
        MessageType::MsgReadIndex => "MsgReadIndex",
        MessageType::MsgReadIndexResp => "MsgReadIndexResp",
        MessageType::MsgRequestPreVote => "MsgRequestPreVote",
        MessageType::MsgRequestPreVoteResponse => "MsgRequestPreVoteResponse",
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { seeds, operations, answered, events, .. } = self;
        writeln!(f, "{seeds} seeds, {operations} operations, {answered} answered, {events} events")?;
        for (title, counts) in [
            ("requests", &self.asked),
            ("faults", &self.faults),
            ("raft messages", &self.raft),
            ("mail", &self.mail),
            ("and", &self.counts),
        ] {
            let all: Vec<String> = counts.iter().map(|(what, many)| format!("{what} {many}")).collect();
            writeln!(f, "{title}: {}", all.join(", "))?;
        }
        Ok(())
    }
}
