//! The process itself: what it takes from flags, environment and files, what it says, and how it ends.

mod data_dir;
mod flags;
mod life;
mod local_cluster;
mod settings;
mod stop;

use crate::harness::server::Server;
use crate::harness::{Setup, wait_until};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

/// Longer than the 10 s for which a locked data dir is waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A run that ended by itself.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// Ended with that code, having said that on stderr.
    #[track_caller]
    fn with(&self, code: i32, text: &str) {
        assert_eq!((self.status.code(), self.status.signal()), (Some(code), None), "{self:#?}");
        assert!(self.said().contains(text), "{text:?} is not in what it said: {self:#?}");
    }

    /// What a person reads on stderr: plain lines, and the texts of JSON lines.
    fn said(&self) -> String {
        let texts = self.stderr.lines().map(|line| match serde_json::from_str::<serde_json::Value>(line) {
            Ok(serde_json::Value::Object(fields)) => {
                let texts = fields.values().filter_map(|value| value.as_str());
                texts.collect::<Vec<_>>().join("\n")
            }
            _ => line.to_owned(),
        });
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// Runs a server that is not expected to serve.
fn run_to_end(setup: &Setup, data: &Path) -> Ended {
    let outputs = tempfile::tempdir().expect("a directory");
    let file = |name: &str| std::fs::File::create(outputs.path().join(name)).expect("a file");
    let mut command = setup.command(data);
    command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
    let mut child = command.current_dir(outputs.path()).spawn().expect("castd can be run");
    let mut status = None;
    let read = |name: &str| {
        let bytes = std::fs::read(outputs.path().join(name)).expect("written");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("castd ends by itself", ENDS_WITHIN, || {
            status = child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
    }));
    if waited.is_err() {
        let _ = child.kill();
        let _ = child.wait();
        panic!("it goes on: {}", read("stderr"));
    }
    Ended { status: status.expect("it has ended"), stdout: read("stdout"), stderr: read("stderr") }
}

/// The value of that field in the first JSON line of the log with that message.
fn logged(server: &Server, message: &str, field: &str) -> Option<serde_json::Value> {
    let log = server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.into_iter().find(|line| line["msg"] == message).map(|line| line[field].clone())
}
