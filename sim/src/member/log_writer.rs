//! The shell of LogWriter: gathers writes, and waits for its disk.

use super::mail::{Job, Out, ToLogWriter, ToRaftNode, ToSnapshotter};
use super::{Around, Fatal};
use crate::planted::{self, Bug};
use castd::raft::log::{Install, LogError, LogWrite};
use castd::raft::node::{AppendLog, ReplaceLog};
use castd::raft::terms::LogPosition;
use castd::snapshot::file_name;

/// The Snapshotter is told whenever the log has grown or shrunk by so much.
const GROWTH_STEP_BYTES: u64 = 1 << 20;

#[derive(Default)]
pub struct LogWriter {
    queue: Vec<AppendLog>,
    /// Written, and being synced.
    under_way: Option<u64>,
    pending_install: Option<LogPosition>,
    told_bytes: u64,
}

impl LogWriter {
    /// It takes no mail while it waits for its disk.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    pub fn handle(&mut self, mail: ToLogWriter, around: &mut Around<'_>) -> Result<(), Fatal> {
        match mail {
            ToLogWriter::AppendLog { write } => self.queue.push(write),
            ToLogWriter::ReplaceLog { replace } => {
                // What came before goes before: it may hold a vote.
                if let Some(number) = self.write(around)? {
                    around.disk.sync_log()?;
                    around.mail(ToRaftNode::LogPersisted { number });
                }
                let ReplaceLog { number, position, conf_state, hard_state } = replace;
                if around.disk.load()?.terms.last_index() > position.index.0 {
                    around.checks.summary.count("a snapshot took the place of entries behind it");
                }
                around.disk.replace_log(&Install {
                    position,
                    conf_state,
                    hard_state,
                    pending: Some(file_name(position)),
                })?;
                self.pending_install = Some(position);
                around.mail(ToRaftNode::LogPersisted { number });
                self.tell_growth(around);
            }
            ToLogWriter::FetchLog { low, high, bytes_max } => {
                let entries = match around.disk.fetch(low, high, bytes_max) {
                    // Cut or overwritten since RaftNode asked.
                    Err(LogError::Refused { .. }) => Vec::new(),
                    entries => entries?,
                };
                around.checks.summary.count("entries were fetched from the log");
                around.mail(ToRaftNode::LogFetched { low, entries });
            }
            ToLogWriter::TruncateLog { position, conf_state } => {
                around.disk.cut_log(position, &conf_state)?;
                around.note(crate::trace::Line::LogCut { index: position.index.0 });
                around.checks.summary.count("a log was cut");
                self.tell_growth(around);
            }
            ToLogWriter::ClearPendingInstall { position } => {
                // Another one may have been accepted since, and is still to be installed.
                if self.pending_install.take_if(|pending| *pending == position).is_some() {
                    around.disk.clear_pending_install()?;
                }
            }
        }
        Ok(())
    }

    /// The mailbox is empty: what is queued is written, with one fsync.
    pub fn close_batch(&mut self, around: &mut Around<'_>) -> Result<(), Fatal> {
        let Some(number) = self.write(around)? else { return Ok(()) };
        if planted::is_on(Bug::AnswersBeforeSync) {
            around.mail(ToRaftNode::LogPersisted { number });
        }
        self.under_way = Some(number);
        let after = around.disk_time(1);
        around.out.push(Out::Later { after, job: Job::SyncLog });
        Ok(())
    }

    fn write(&mut self, around: &mut Around<'_>) -> Result<Option<u64>, Fatal> {
        let Some(number) = self.queue.last().map(|write| write.number) else { return Ok(None) };
        let writes: Vec<LogWrite> = self
            .queue
            .drain(..)
            .map(|write| LogWrite { entries: write.entries, hard_state: write.hard_state, must_sync: false })
            .collect();
        let last = writes.iter().filter_map(|write| write.entries.last()).map(|entry| entry.index).max();
        let entries = writes.iter().map(|write| write.entries.len()).sum();
        around.note(crate::trace::Line::Appends { number, entries, last: last.unwrap_or(0) });
        around.disk.write_log(&writes, around.id)?;
        Ok(Some(number))
    }

    /// The disk has answered.
    pub fn synced(&mut self, around: &mut Around<'_>) -> Result<(), Fatal> {
        let Some(number) = self.under_way.take() else { return Ok(()) };
        around.disk.sync_log()?;
        around.note(crate::trace::Line::Persisted { number });
        if !planted::is_on(Bug::AnswersBeforeSync) {
            around.mail(ToRaftNode::LogPersisted { number });
        }
        self.tell_growth(around);
        Ok(())
    }

    fn tell_growth(&mut self, around: &mut Around<'_>) {
        let live_bytes = around.disk.log_size().live_bytes;
        if live_bytes.abs_diff(self.told_bytes) >= GROWTH_STEP_BYTES {
            self.told_bytes = live_bytes;
            around.mail(ToSnapshotter::LogGrown { live_bytes });
        }
    }
}
