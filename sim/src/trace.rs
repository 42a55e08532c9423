//! What happened, line by line, and one number that stands for all of it.
//!
//! Lines are small values: they are hashed, the last ones are kept for whoever reads a failure, and they become text only
//! when somebody wants to read them.

use castd::ids::MemberId;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// So many are shown with a failure.
const KEPT: usize = 120;

/// Something that happened.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Line {
    Boots { boot: u64, applied: u64, last: u64 },
    Crashes { writes_lost: u64, batches_lost: u64 },
    Departs,
    DiskFails,
    Refuses,
    Replaced { place: usize },
    Turn { actor: &'static str, mail: usize },
    Tick,
    Status { term: u64, leader: u64, leads: bool },
    Appends { number: u64, entries: usize, last: u64 },
    Persisted { number: u64 },
    Applied { index: u64, revision: i64, hash: u64 },
    Message { to: u64, kind: &'static str, term: u64, index: u64, log_term: u64, entries: usize, reject: bool },
    Forwards { to: u64, requests: usize },
    Arrives { from: u64 },
    LinkOpens { to: u64 },
    LinkCloses { to: u64 },
    LinkRefused { to: u64, why: &'static str },
    SnapshotOffered { index: u64 },
    SnapshotCarried { to: u64, index: u64, ok: bool },
    SnapshotTaken { index: u64 },
    InstallBegins { index: u64 },
    Installed { index: u64 },
    LogCut { index: u64 },
    Flushed { applied: u64 },
    Asked { client: usize, call: u64, what: &'static str },
    Answered { client: usize, call: u64, what: &'static str },
    GivenUp { client: usize, call: u64 },
    Told { client: usize, events: usize, revision: i64 },
    Fault { what: &'static str, who: u64, nanos: u64 },
    FaultEnds { what: &'static str },
    Job { what: &'static str },
    Mended,
}

pub struct Trace {
    hash: Fold,
    lines: u64,
    kept: VecDeque<(Duration, Option<MemberId>, Line)>,
    is_printed: bool,
}

impl Trace {
    pub fn new(is_printed: bool) -> Self {
        Trace { hash: Fold::default(), lines: 0, kept: VecDeque::new(), is_printed }
    }

    pub fn note(&mut self, at: Duration, who: Option<MemberId>, line: Line) {
        (at.as_nanos() as u64, who, line).hash(&mut self.hash);
        self.lines += 1;
        if self.is_printed {
            println!("{}", text(at, who, &line));
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((at, who, line));
    }

    /// Of all lines: two runs that did the same have the same.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The newest ones.
    pub fn tail(&self) -> String {
        self.kept.iter().map(|(at, who, line)| text(*at, *who, line) + "\n").collect()
    }
}

fn text(at: Duration, who: Option<MemberId>, line: &Line) -> String {
    let who = who.map_or_else(|| "-".to_owned(), |who| who.to_string());
    format!("{:>12.6} {who:>4} {line}", at.as_secs_f64())
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Quick, and the same in every process.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        crate::dice::mix(self.0)
    }
}
