//! A log file that is set aside when it is full (`--enable-log-rotation`), named and cleaned up as etcd's library
//! (lumberjack) does it.
//!
//! ```text
//!   castd.log ──full──▶ castd-2006-01-02T15-04-05.000.log ──compress──▶ castd-2006-01-02T15-04-05.000.log.gz
//!                            └── too many, or too old: removed
//! ```
//! Renaming and opening happen on the log's own thread, between two lines; removing and compressing on another one, since
//! a full file takes seconds to compress. A file that cannot be renamed is written on: no line is lost for that.
//!
//! Signals do nothing here, as in etcd: who wants to rotate from outside leaves `--enable-log-rotation` off.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::telemetry::clock::Clock;

const MEGABYTE: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const COMPRESSED: &str = ".gz";

/// `--log-rotation-config-json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    pub megabytes_max: u64,
    /// 0 for no limit.
    pub age_days_max: u64,
    /// 0 for no limit.
    pub backups_max: u64,
    /// In names; otherwise they are in UTC.
    pub local_time: bool,
    pub compress: bool,
}

impl LogRotation {
    fn has_to_tidy(&self) -> bool {
        self.age_days_max > 0 || self.backups_max > 0 || self.compress
    }

    fn stamp(&self, now: SystemTime) -> NaiveDateTime {
        if self.local_time {
            DateTime::<Local>::from(now).naive_local()
        } else {
            DateTime::<Utc>::from(now).naive_utc()
        }
    }
}

/// What went wrong beside writing lines, until somebody writes it down.
type Complaint = Arc<Mutex<Option<String>>>;

pub(super) struct RotatingFile {
    path: PathBuf,
    bytes_max: u64,
    rotation: LogRotation,
    clock: Clock,
    file: File,
    bytes: u64,
    /// Wakes the thread that tidies up; `None` if there is nothing to tidy.
    tidy: Option<Sender<()>>,
    complaint: Complaint,
}

impl RotatingFile {
    pub(super) fn open(path: &Path, rotation: LogRotation, clock: Clock) -> io::Result<Self> {
        Self::open_sized(path, rotation, rotation.megabytes_max.saturating_mul(MEGABYTE), clock)
    }

    fn open_sized(path: &Path, rotation: LogRotation, bytes_max: u64, clock: Clock) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        let complaint = Complaint::default();
        let tidy = if rotation.has_to_tidy() {
            let (sender, wishes) = mpsc::channel();
            let (path, complaint) = (path.to_owned(), Arc::clone(&complaint));
            std::thread::Builder::new()
                .name("log-tidy".to_owned())
                .spawn(move || tidy_on_demand(&path, rotation, clock, &wishes, &complaint))?;
            Some(sender)
        } else {
            None
        };
        let rotating = Self { path: path.to_owned(), bytes_max, rotation, clock, file, bytes, tidy, complaint };
        rotating.wish_to_tidy();
        Ok(rotating)
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            if let Err(error) = self.rotate() {
                complain(&self.complaint, format!("cannot rotate the log file: {error}"));
            }
            // Also after a failure: it is tried again when as much again has been written.
            self.bytes = 0;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// What to tell in a line of its own, once.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode();
        let backup = self.free_name();
        fs::rename(&self.path, &backup)?;
        // Should this fail, lines go on into the renamed file.
        self.file = OpenOptions::new().append(true).create(true).mode(mode).open(&self.path)?;
        self.wish_to_tidy();
        Ok(())
    }

    /// Two files set aside within a millisecond must not overwrite each other.
    fn free_name(&self) -> PathBuf {
        let names = Names::of(&self.path);
        let mut stamp = self.rotation.stamp(self.clock.wall());
        loop {
            let name = self.path.with_file_name(names.backup(stamp));
            if !name.exists() && !self.path.with_file_name(names.backup(stamp) + COMPRESSED).exists() {
                return name;
            }
            stamp += TimeDelta::milliseconds(1);
        }
    }

    fn wish_to_tidy(&self) {
        if let Some(tidy) = &self.tidy {
            // The thread lives as long as this sender.
            let _ = tidy.send(());
        }
    }
}

fn complain(complaint: &Complaint, text: String) {
    complaint.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
}

/// `castd.log` as `castd-` and `.log`.
struct Names {
    prefix: String,
    extension: String,
}

impl Names {
    fn of(path: &Path) -> Self {
        let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        Names { prefix: format!("{stem}-"), extension: extension.to_owned() }
    }

    fn backup(&self, stamp: NaiveDateTime) -> String {
        format!("{}{}{}", self.prefix, stamp.format(TIME_FORMAT), self.extension)
    }

    /// When a file of that name was set aside, if it is one of ours.
    fn stamp(&self, name: &str) -> Option<NaiveDateTime> {
        let name = name.strip_suffix(COMPRESSED).unwrap_or(name);
        let stamp = name.strip_prefix(&self.prefix)?.strip_suffix(&self.extension)?;
        NaiveDateTime::parse_from_str(stamp, TIME_FORMAT).ok()
    }
}

/// What to do with the files that were set aside.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    remove: Vec<String>,
    compress: Vec<String>,
}

fn plan(files: impl Iterator<Item = String>, names: &Names, rotation: LogRotation, now: NaiveDateTime) -> Plan {
    let mut backups: Vec<(NaiveDateTime, String)> =
        files.filter_map(|name| names.stamp(&name).map(|stamp| (stamp, name))).collect();
    backups.sort_by(|one, other| other.cmp(one));
    let age_max = TimeDelta::from_std(DAY.saturating_mul(u32::try_from(rotation.age_days_max).unwrap_or(u32::MAX)));
    let oldest = match age_max {
        Ok(age) if rotation.age_days_max > 0 => now.checked_sub_signed(age),
        _ => None,
    };
    let mut plan = Plan::default();
    // A file that is being compressed is there twice, and counts once.
    let mut kept = BTreeSet::new();
    for (stamp, name) in backups {
        kept.insert(stamp);
        let is_one_too_many = rotation.backups_max > 0 && kept.len() as u64 > rotation.backups_max;
        if is_one_too_many || oldest.is_some_and(|oldest| stamp < oldest) {
            plan.remove.push(name);
        } else if rotation.compress && !name.ends_with(COMPRESSED) {
            plan.compress.push(name);
        }
    }
    plan
}

/// Runs until the log ends.
fn tidy_on_demand(path: &Path, rotation: LogRotation, clock: Clock, wishes: &Receiver<()>, complaint: &Complaint) {
    while wishes.recv().is_ok() {
        while wishes.try_recv().is_ok() {}
        if let Err(error) = tidy(path, rotation, clock.wall()) {
            complain(complaint, format!("cannot tidy up old log files: {error}"));
        }
    }
}

fn tidy(path: &Path, rotation: LogRotation, now: SystemTime) -> io::Result<()> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = fs::read_dir(directory)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let plan = plan(files, &Names::of(path), rotation, rotation.stamp(now));
    // One that fails does not keep the others.
    let mut outcome = Ok(());
    for name in plan.remove {
        outcome = outcome.and(fs::remove_file(directory.join(name)));
    }
    for name in plan.compress {
        let compressed = directory.join(format!("{name}{COMPRESSED}"));
        let packed = compress(&directory.join(name), &compressed);
        if packed.is_err() {
            // Half a file must not pass for a whole one.
            let _ = fs::remove_file(&compressed);
        }
        outcome = outcome.and(packed);
    }
    outcome
}

fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mode = source.metadata()?.permissions().mode();
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(to)?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const KEEP_ALL: LogRotation =
        LogRotation { megabytes_max: 1, age_days_max: 0, backups_max: 0, local_time: false, compress: false };

    fn listed(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        let clock = Clock::start();
        while !condition() {
            assert!(clock.now() < Duration::from_secs(20), "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_full_file_is_set_aside_under_the_time_and_no_line_is_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("logs/castd.log");
        let mut file = RotatingFile::open_sized(&path, KEEP_ALL, 100, Clock::start()).expect("opened");
        for number in 0..50 {
            file.write(format!("line {number:>4} of many\n").as_bytes()).expect("written");
        }
        file.write(&[b'x'; 300]).expect("longer than a file may be, and still written");
        let names = listed(&directory.path().join("logs"));
        assert_eq!(names.len(), 11, "{names:?}");
        let stamped = names.iter().filter(|name| Names::of(&path).stamp(name).is_some()).count();
        assert_eq!(stamped, 10, "{names:?}");
        assert_eq!(names[0].len(), "castd-2006-01-02T15-04-05.000.log".len());
        let all: String =
            names.iter().map(|name| fs::read_to_string(directory.path().join("logs").join(name)).unwrap()).collect();
        for number in 0..50 {
            assert_eq!(all.matches(&format!("line {number:>4} of many\n")).count(), 1, "{number}");
        }
        assert_eq!(file.complaint(), None);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o177, 0);
    }

    #[test]
    fn a_file_that_was_full_before_the_start_is_set_aside_by_the_first_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("castd");
        fs::write(&path, [b'o'; 99]).expect("written");
        let mut file = RotatingFile::open_sized(&path, KEEP_ALL, 100, Clock::start()).expect("opened");
        file.write(b"new\n").expect("written");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(listed(directory.path()).len(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_set_aside_is_written_on_and_complained_about_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("castd.log");
        let mut file = RotatingFile::open_sized(&path, KEEP_ALL, 10, Clock::start()).expect("opened");
        file.write(b"one one one\n").expect("written");
        let gone = directory.path().join("elsewhere.log");
        fs::rename(&path, &gone).expect("renamed behind its back");
        file.write(b"two\n").expect("written");
        assert!(file.complaint().expect("a complaint").starts_with("cannot rotate"));
        assert_eq!(file.complaint(), None);
        assert_eq!(fs::read_to_string(&gone).unwrap(), "one one one\ntwo\n");
    }

    #[test]
    fn old_files_go_by_number_and_by_age_and_strangers_stay() {
        let names = Names::of(Path::new("/var/log/castd.log"));
        let at = |text: &str| NaiveDateTime::parse_from_str(text, TIME_FORMAT).expect("a time");
        let files = [
            "castd.log",
            "castd-2024-01-05T00-00-00.000.log",
            "castd-2024-01-04T00-00-00.000.log.gz",
            "castd-2024-01-03T00-00-00.000.log",
            "castd-2024-01-03T00-00-00.000.log.gz",
            "castd-2024-01-01T00-00-00.000.log",
            "castd-yesterday.log",
            "castd-2024-01-01T00-00-00.000.txt",
            "other-2024-01-01T00-00-00.000.log",
        ];
        let planned =
            |rotation| plan(files.iter().map(ToString::to_string), &names, rotation, at("2024-01-05T12-00-00.000"));
        assert_eq!(planned(KEEP_ALL), Plan::default());
        let three = planned(LogRotation { backups_max: 3, compress: true, ..KEEP_ALL });
        assert_eq!(three.remove, ["castd-2024-01-01T00-00-00.000.log"]);
        assert_eq!(three.compress, ["castd-2024-01-05T00-00-00.000.log", "castd-2024-01-03T00-00-00.000.log"]);
        let young = planned(LogRotation { age_days_max: 2, ..KEEP_ALL });
        assert_eq!(
            young.remove,
            [
                "castd-2024-01-03T00-00-00.000.log.gz",
                "castd-2024-01-03T00-00-00.000.log",
                "castd-2024-01-01T00-00-00.000.log"
            ]
        );
        let eternal = planned(LogRotation { age_days_max: u64::MAX, ..KEEP_ALL });
        assert_eq!(eternal, Plan::default());
    }

    #[test]
    fn files_set_aside_are_compressed_and_only_so_many_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("castd.log");
        let rotation = LogRotation { backups_max: 2, compress: true, local_time: true, ..KEEP_ALL };
        let mut file = RotatingFile::open_sized(&path, rotation, 10, Clock::start()).expect("opened");
        for number in 0..6 {
            file.write(format!("line number {number}\n").as_bytes()).expect("written");
        }
        let packed =
            |directory: &Path| listed(directory).into_iter().filter(|it| it.ends_with(".gz")).collect::<Vec<_>>();
        wait_until("two compressed files and the current one", || {
            packed(directory.path()).len() == 2 && listed(directory.path()).len() == 3
        });
        let texts = packed(directory.path()).into_iter().map(|name| {
            let mut text = String::new();
            let file = File::open(directory.path().join(name)).expect("a file");
            flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("compressed");
            text
        });
        assert_eq!(texts.collect::<Vec<_>>(), ["line number 3\n", "line number 4\n"]);
        assert_eq!(file.complaint(), None);
    }
}
