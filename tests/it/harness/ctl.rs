//! Debian's etcdctl, asked about one server.

use super::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

const LINE_WITHIN: Duration = Duration::from_secs(30);
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What a command said before it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Answer {
    /// What it printed, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// Exactly these lines, and success.
    #[track_caller]
    pub fn prints(self, lines: &str) {
        assert_eq!(self.ok(), lines);
    }

    pub fn last_stderr_line(&self) -> &str {
        self.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default()
    }

    /// That exit code, nothing printed, and that as the last of its complaints.
    #[track_caller]
    pub fn fails(self, code: i32, complaint: &str) {
        assert_eq!((self.code, self.last_stderr_line(), self.stdout.as_str()), (code, complaint, ""), "{self:?}");
    }

    /// The whole of its only line of JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }
}

/// etcdctl for the server at `endpoint`, with nothing of the developer's environment.
pub fn command(endpoint: &str, arguments: &[&str]) -> Command {
    let endpoint = format!("--endpoints={endpoint}");
    bare_command(&[&[endpoint.as_str()], arguments].concat())
}

/// As [`command`], for a server that is named otherwise, or not at all.
pub fn bare_command(arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDCTL_")) {
        command.env_remove(name);
    }
    command.env("ETCDCTL_API", "3").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs etcdctl to its end.
pub fn etcdctl(endpoint: &str, arguments: &[&str], input: Option<&str>) -> Answer {
    finish(command(endpoint, arguments), input)
}

/// Runs a prepared etcdctl to its end.
pub fn finish(mut command: Command, input: Option<&str>) -> Answer {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("etcdctl is installed");
    let watchdog = Watchdog::over(&child);
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that has seen enough closes its end; that is its answer, not our failure.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("etcdctl ends");
    drop(watchdog);
    Answer {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}

/// Kills a command that does not end, so that a case fails instead of standing still.
struct Watchdog(#[expect(dead_code, reason = "dropped when the command has ended")] Sender<()>);

impl Watchdog {
    fn over(child: &Child) -> Self {
        let (pid, (sender, ended)) = (Pid::from_child(child), channel());
        std::thread::spawn(move || {
            if ended.recv_timeout(ENDS_WITHIN) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self(sender)
    }
}

impl Server {
    pub fn etcdctl(&self, arguments: &[&str]) -> Answer {
        etcdctl(&self.endpoint(), arguments, None)
    }

    pub fn etcdctl_reading(&self, arguments: &[&str], input: &str) -> Answer {
        etcdctl(&self.endpoint(), arguments, Some(input))
    }

    /// Leaves it running, for commands that do not end by themselves.
    pub fn etcdctl_running(&self, arguments: &[&str]) -> Running {
        Running::start(command(&self.endpoint(), arguments))
    }
}

/// An etcdctl under way. Dropping it kills it.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        let command = command.stdin(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("etcdctl is installed");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    /// Has it end, by Ctrl-C or by closing its input: what it still printed, and its exit code.
    pub fn end(mut self, interrupt: bool) -> Answer {
        if interrupt {
            self.interrupt();
        }
        let code = self.wait();
        let rest: Vec<_> = self.lines.iter().map(|line| line + "\n").collect();
        Answer { stdout: rest.concat(), stderr: String::new(), code }
    }

    /// The next line it prints; `None` once it has closed its output.
    #[track_caller]
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(LINE_WITHIN) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line in {LINE_WITHIN:?}"),
        }
    }

    #[track_caller]
    pub fn prints(&self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.line().as_deref(), Some(*line));
        }
    }

    /// Says a line to it.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "{line}").expect("it reads");
    }

    /// As Ctrl-C would.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("a running child can be signalled");
    }

    /// Its exit code, when it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        self.child.stdin = None;
        let mut code = None;
        super::wait_until("etcdctl ends", LINE_WITHIN, || {
            code = self.child.try_wait().expect("a child can be waited for").map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        code.expect("set when the wait ended")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
