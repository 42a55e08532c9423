//! Times a slice while it is applied, for metrics, and for the log lines about what took too long or failed.
//!
//! The time of an entry is that of changing the index and building the batch; writing the batch is the slice's, as a
//! commit is in etcd. When only all of it together was slow, one line tells of the slowest entry.

use crate::cast::RequestError;
use crate::mvcc::MvccError;
use crate::state::{Observer, Outcome};
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::{Metrics, RequestKind};
use crate::telemetry::request_text;
use castd_proto::castdpb::RaftRequest;
use prost::Message as _;
use raft::eraftpb::Entry;
use slog::Logger;
use std::fmt;
use std::time::Duration;

pub(super) struct Stopwatch<'a> {
    entries: &'a [Entry],
    /// `--warning-apply-duration`.
    slow: Duration,
    clock: Clock,
    metrics: &'a Metrics,
    log: &'a Logger,
    started: Duration,
    last: Duration,
    slowest: Option<Lap>,
    told_slow: bool,
}

/// One entry of the slice.
struct Lap {
    place: usize,
    took: Duration,
    response: String,
}

impl<'a> Stopwatch<'a> {
    pub(super) fn start(
        entries: &'a [Entry],
        slow: Duration,
        clock: Clock,
        metrics: &'a Metrics,
        log: &'a Logger,
    ) -> Self {
        let started = clock.now();
        Stopwatch { entries, slow, clock, metrics, log, started, last: started, slowest: None, told_slow: false }
    }

    fn lap(&mut self) -> Duration {
        let now = self.clock.now();
        now.saturating_sub(std::mem::replace(&mut self.last, now))
    }

    /// The view is published: that was the slice.
    pub(super) fn stop(self, now: Duration) {
        let took = now.saturating_sub(self.started);
        if took > self.slow
            && !self.told_slow
            && let Some(slowest) = &self.slowest
        {
            self.tell_slow(slowest.place, took, &slowest.response, None);
        }
    }

    fn tell_slow(&self, place: usize, took: Duration, response: &str, error: Option<&RequestError>) {
        self.metrics.server.slow_apply.inc();
        let request = EntryText(self.entries.get(place));
        slog::warn!(self.log, "apply request took too long"; "took" => ?took, "expected-duration" => ?self.slow,
            "prefix" => "", "request" => %request, "response" => response, "entries" => self.entries.len(),
            "error" => error.map(ToString::to_string));
    }
}

impl Observer for Stopwatch<'_> {
    fn applied(&mut self, place: usize, kind: Option<RequestKind>, outcome: &Result<Outcome, RequestError>) {
        let took = self.lap();
        let error = outcome.as_ref().err();
        // A repetition is what a member does that has heard nothing of its request.
        let succeeded =
            matches!(error, None | Some(RequestError::Repeated | RequestError::Mvcc(MvccError::Compacted { .. })));
        if let Some(kind) = kind {
            self.metrics.requests.applied(kind, succeeded, took);
        }
        if took > self.slow {
            self.told_slow = true;
            self.tell_slow(place, took, &response(outcome), error);
            self.lap();
        } else if self.slowest.as_ref().is_none_or(|slowest| slowest.took < took) {
            // The answer's size is looked at only if it may be needed.
            let response =
                if self.last.saturating_sub(self.started) > self.slow { response(outcome) } else { String::new() };
            self.slowest = Some(Lap { place, took, response });
        }
        if !succeeded && let Some(error) = error {
            slog::warn!(self.log, "failed to apply request"; "took" => ?took,
                "request" => %EntryText(self.entries.get(place)), "response" => "", "error" => %error);
            self.lap();
        }
    }

    fn written(&mut self) {
        let took = self.lap();
        self.metrics.disk.backend_commit.observe(took.as_secs_f64());
    }
}

/// As etcd tells of answers.
fn response(outcome: &Result<Outcome, RequestError>) -> String {
    let bytes = match outcome {
        Ok(Outcome::Put(answer)) => answer.encoded_len(),
        Ok(Outcome::DeleteRange(answer)) => answer.encoded_len(),
        Ok(Outcome::Txn(answer)) => answer.encoded_len(),
        Ok(Outcome::Compact(answer)) => answer.encoded_len(),
        Ok(Outcome::LeaseGrant(answer)) => answer.encoded_len(),
        Ok(Outcome::LeaseRevoke(answer)) => answer.encoded_len(),
        Ok(_) | Err(_) => return String::new(),
    };
    format!("size:{bytes}")
}

/// Decodes an entry only when its line is written.
struct EntryText<'a>(Option<&'a Entry>);

impl fmt::Display for EntryText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.0.and_then(|entry| RaftRequest::decode(entry.data.clone()).ok());
        f.write_str(
            &request.and_then(|request| request.op).map_or_else(String::new, |op| request_text::raft_request(&op)),
        )
    }
}
