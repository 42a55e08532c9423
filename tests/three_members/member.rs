//! One member: what survives a crash, what does not, and the mail between its actors.

use crate::backend::ForgetfulBackend;
use crate::clients::Asked;
use crate::network::Rows;
use castd::ids::{LogIndex, MemberId, RequestId};
use castd::raft::log::{Install, LogError, LogStore, LogWrite, MemoryLog};
use castd::raft::node::{AppendLog, CommittedEntry, Node, ReplaceLog, Settings};
use castd::raft::terms::LogPosition;
use castd::recovery;
use castd::state::Machine;
use castd_backend_api::{Backend, Table, WriteBatch};
use raft::eraftpb::{ConfState, Entry};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// To the LogWriter.
pub enum ToLog {
    Append(AppendLog),
    Replace(ReplaceLog),
    Fetch { low: LogIndex, high: LogIndex, bytes_max: u64 },
}

/// To the Applier.
pub enum ToApplier {
    Slice(Vec<CommittedEntry>),
    Install(LogPosition),
}

/// To RaftNode.
pub enum ToNode {
    LogPersisted(u64),
    LogFetched(LogIndex, Vec<Entry>),
    Applied(LogIndex),
    Installed(LogPosition),
    LogCut(LogPosition),
}

/// What lives in memory and dies with a crash.
pub struct Running {
    pub node: Node,
    pub machine: Machine,
    pub to_log: VecDeque<ToLog>,
    /// Written to the log, not synced.
    pub written: Option<u64>,
    pub to_applier: VecDeque<ToApplier>,
    pub to_node: VecDeque<ToNode>,
    pub asked: HashMap<RequestId, Asked>,
    /// What it could send to a member that is far behind.
    pub offered: Option<Rows>,
    /// Where the log may be cut, once the backend is that far on disk.
    pub positions: VecDeque<LogPosition>,
}

pub struct Member {
    pub id: MemberId,
    pub disk: MemoryLog,
    pub backend: Arc<ForgetfulBackend>,
    /// Snapshots from the leader, by the name that a pending install has for them.
    files: BTreeMap<String, Rows>,
    boots: u64,
    pub running: Option<Running>,
    pub up_at: Duration,
    pub next_tick: Duration,
}

impl Member {
    pub fn found(id: MemberId, members: &[MemberId]) -> Self {
        let mut disk = MemoryLog::new();
        let members: Vec<_> =
            members.iter().map(|id| recovery::initial_member(*id, &[format!("http://localhost:{}", id.0)])).collect();
        recovery::begin(&mut disk, &members).expect("a working disk");
        let (backend, files) = Default::default();
        let (up_at, next_tick) = (Duration::ZERO, Duration::ZERO);
        Member { id, disk, backend, files, boots: 0, running: None, up_at, next_tick }
    }

    /// A start from what is on disk.
    pub fn boot(&mut self) {
        self.boots += 1;
        let machine = Machine::open(self.backend.clone()).expect("what was written is sound");
        let pending = self.disk.load(machine.applied()).expect("a working disk").pending_install;
        if let Some(name) = pending {
            self.fill(&name);
            self.disk.clear_pending_install().expect("a working disk");
        }
        let recovered = recovery::recover(&mut self.disk, self.backend.clone());
        let recovered = recovered.unwrap_or_else(|error| panic!("member {} cannot come back: {error}", self.id));
        let settings = Settings {
            id: self.id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            request_timeout: Duration::from_secs(1),
            catchup_entries: 30,
            seed: 7,
            boot: self.boots,
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let applied = recovered.machine.applied();
        let node = Node::new(settings, recovered.window, applied, &logger).expect("raft takes what was recovered");
        let (to_log, to_applier, to_node, asked, positions) = Default::default();
        self.running = Some(Running {
            node,
            machine: recovered.machine,
            to_log,
            written: None,
            to_applier,
            to_node,
            asked,
            offered: None,
            positions,
        });
    }

    /// The state becomes that of a snapshot.
    fn fill(&mut self, name: &str) {
        let rows = self.files.get(name).expect("files are synced before raft hears of them");
        self.backend = Arc::default();
        self.backend.write(&rows.rows).expect("a working disk");
        self.backend.flush().expect("a working disk");
    }

    /// A snapshot has arrived, complete and on disk.
    pub fn keep(&mut self, rows: Rows) {
        self.files.insert(name(rows.position), rows);
    }

    /// The LogWriter takes its mail. Answers how many entries it fetched.
    pub fn write_log(&mut self, answers_before_sync: bool) -> usize {
        let Some(running) = &mut self.running else { return 0 };
        let mut fetched = 0;
        while let Some(mail) = running.to_log.pop_front() {
            match mail {
                ToLog::Append(AppendLog { number, entries, hard_state }) => {
                    let write = LogWrite { entries, hard_state, must_sync: false };
                    self.disk.append(&write).expect("raft writes what fits");
                    if answers_before_sync {
                        running.to_node.push_back(ToNode::LogPersisted(number));
                    } else {
                        running.written = Some(number);
                    }
                }
                ToLog::Replace(ReplaceLog { number, position, conf_state, hard_state }) => {
                    let pending = Some(name(position));
                    self.disk.replace(&Install { position, conf_state, hard_state, pending }).expect("a working disk");
                    running.written = None;
                    running.to_node.push_back(ToNode::LogPersisted(number));
                }
                ToLog::Fetch { low, high, bytes_max } => {
                    let entries = match self.disk.entries(low, high, bytes_max) {
                        Err(LogError::Refused { .. }) => Vec::new(),
                        other => other.expect("a working disk"),
                    };
                    fetched += entries.len();
                    running.to_node.push_back(ToNode::LogFetched(low, entries));
                }
            }
        }
        fetched
    }

    /// Its fsync returns.
    pub fn sync_log(&mut self) {
        let Some(running) = &mut self.running else { return };
        if let Some(number) = running.written.take() {
            self.disk.sync().expect("a working disk");
            running.to_node.push_back(ToNode::LogPersisted(number));
        }
    }

    /// The Applier swaps its store.
    pub fn install(&mut self, position: LogPosition) {
        self.fill(&name(position));
        self.disk.clear_pending_install().expect("a working disk");
        let Some(running) = &mut self.running else { return };
        running.machine = Machine::open(self.backend.clone()).expect("a sound snapshot");
        assert_eq!(running.machine.applied(), position.index);
        running.positions.clear();
        running.to_node.push_back(ToNode::Installed(position));
    }

    /// Everything that the state is made of.
    pub fn rows(&self) -> Option<Rows> {
        let view = self.running.as_ref()?.machine.view();
        let mut rows = WriteBatch::new();
        for table in Table::ALL {
            let mut copy = |key: &[u8], value: &[u8]| {
                rows.put(table, key.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            };
            self.backend.scan(table, b"", b"", &mut copy).expect("a working disk");
        }
        Some(Rows { position: LogPosition { index: view.applied, term: view.term }, rows })
    }

    /// Cuts the log somewhere below what the backend has on disk.
    pub fn cut_log(&mut self, keep: usize) -> Option<LogPosition> {
        let running = self.running.as_mut()?;
        let durable = running.machine.durable_index().expect("a working disk");
        let reached = running.positions.iter().take_while(|position| position.index <= durable).count();
        let cut = running.positions.drain(..reached.saturating_sub(keep)).next_back()?;
        let voters = running.machine.view().conf_state.voters;
        running.to_node.push_back(ToNode::LogCut(cut));
        self.disk.truncate(cut, &ConfState { voters, ..ConfState::default() }).expect("a working disk");
        Some(cut)
    }
}

fn name(position: LogPosition) -> String {
    format!("{}-{}", position.index, position.term)
}
