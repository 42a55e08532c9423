//! What the kernel knows about this process: read from /proc whenever the page is rendered.
//!
//! A number that cannot be read is 0 or keeps its last value.

use std::fs;

use parking_lot::Mutex;
use prometheus::{Counter, Gauge, IntGauge, Registry};
use rustix::process::{Resource, getrlimit};

use super::families::{gauge, real, registered};

/// The unit of times in /proc: `USER_HZ`, part of the kernel's interface and 100 wherever we run.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct ProcessMetrics {
    /// A counter cannot be set, only raised: by one page at a time.
    cpu_seconds: Mutex<Counter>,
    open_fds: IntGauge,
    max_fds: IntGauge,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    virtual_bytes_max: Gauge,
    start_time: Gauge,
    os_fd_used: IntGauge,
    os_fd_limit: IntGauge,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let cpu_seconds = Counter::new("process_cpu_seconds_total", "User and system CPU time spent, in seconds");
        Self {
            cpu_seconds: Mutex::new(registered(registry, cpu_seconds)),
            open_fds: gauge(registry, "process_open_fds", "Open file descriptors"),
            max_fds: gauge(registry, "process_max_fds", "How many file descriptors may be open"),
            resident_bytes: gauge(registry, "process_resident_memory_bytes", "Resident memory, in bytes"),
            virtual_bytes: gauge(registry, "process_virtual_memory_bytes", "Virtual memory, in bytes"),
            virtual_bytes_max: real(
                registry,
                "process_virtual_memory_max_bytes",
                "How much virtual memory may be used, in bytes",
            ),
            start_time: real(registry, "process_start_time_seconds", "When the process started, in Unix seconds"),
            os_fd_used: gauge(registry, "os_fd_used", "Open file descriptors"),
            os_fd_limit: gauge(registry, "os_fd_limit", "How many file descriptors may be open"),
        }
    }

    pub(super) fn refresh(&self) {
        if let Some(open) = open_fds() {
            self.open_fds.set(open);
            self.os_fd_used.set(open);
        }
        let limit = descriptors_max();
        self.max_fds.set(limit);
        self.os_fd_limit.set(limit);
        // Without a limit, the largest number there is, as Prometheus' own collector says it.
        self.virtual_bytes_max.set(getrlimit(Resource::As).current.unwrap_or(u64::MAX) as f64);

        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            let cpu = self.cpu_seconds.lock();
            let spent = stat.cpu_ticks as f64 / TICKS_PER_SECOND - cpu.get();
            if spent > 0.0 {
                cpu.inc_by(spent);
            }
            self.virtual_bytes.set(stat.virtual_bytes);
            if let Some(boot) = line_value("/proc/stat", "btime ") {
                self.start_time.set(boot as f64 + stat.start_ticks as f64 / TICKS_PER_SECOND);
            }
        }
        self.resident_bytes.set(memory().resident_bytes);
    }
}

/// How many file descriptors this process may have open.
#[must_use]
pub fn descriptors_max() -> i64 {
    getrlimit(Resource::Nofile).current.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

/// Memory of this process, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub resident_bytes: i64,
    /// Of them, what belongs to no file.
    pub anonymous_bytes: i64,
    /// Of the main thread.
    pub stack_bytes: i64,
}

/// Zeros where it cannot be read.
#[must_use]
pub fn memory() -> Memory {
    let bytes = |key| line_value("/proc/self/status", key).unwrap_or_default().saturating_mul(1024);
    Memory { resident_bytes: bytes("VmRSS:"), anonymous_bytes: bytes("RssAnon:"), stack_bytes: bytes("VmStk:") }
}

/// The fields of `/proc/self/stat` we show, see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: i64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field, the command, is in parentheses and may hold anything, parentheses too.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of the manual is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            start_ticks: field(22)?,
            virtual_bytes: i64::try_from(field(23)?).ok()?,
        })
    }
}

fn open_fds() -> Option<i64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    // The listing itself held one open.
    i64::try_from(listed).ok().map(|listed| listed - 1)
}

/// The number after `key` on the first line of the file that begins with it.
fn line_value(path: &str, key: &str) -> Option<i64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn a_command_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let text =
            "42 (ca) st d) S 1 42 42 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 4 0 123456 1048576 100 18446744073709551615";
        assert_eq!(Stat::parse(text), Some(Stat { cpu_ticks: 300, start_ticks: 123_456, virtual_bytes: 1_048_576 }));
        assert_eq!(Stat::parse("42 (castd) S 1"), None);
    }
}
