//! curl, as scripts use it: one request with its whole answer, or a stream that both sides write to.

use super::http::{HttpAnswer, parse};
use super::server::Server;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

const LINE_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    One,
    Two,
}

impl Http {
    pub const BOTH: [Http; 2] = [Http::One, Http::Two];

    fn flag(self) -> &'static str {
        match self {
            Http::One => "--http1.1",
            Http::Two => "--http2-prior-knowledge",
        }
    }
}

fn command(server: &Server, http: Http, path: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--no-buffer", "--noproxy", "*", http.flag()]);
    command.arg(format!("{}{path}", server.setup.client_url()));
    command
}

/// POSTs `body`, with further arguments for curl.
pub fn curl(server: &Server, http: Http, path: &str, body: &str, arguments: &[&str]) -> HttpAnswer {
    let mut command = command(server, http, path);
    // With its chunks, as `parse` wants it.
    command
        .args(["--include", "--raw", "--max-time", "60", "--header", "Expect:", "--data-binary", "@-"])
        .args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl is installed");
    let mut stdin = child.stdin.take().expect("piped");
    // curl reads all of it before it begins.
    stdin.write_all(body.as_bytes()).expect("curl reads");
    drop(stdin);
    let output = child.wait_with_output().expect("curl ends");
    assert!(output.status.success(), "curl {path}: {}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout).unwrap_or_else(|| panic!("not HTTP: {}", String::from_utf8_lossy(&output.stdout)))
}

/// A request whose body and answer are both under way. Dropping it kills curl.
pub struct Stream {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Stream {
    pub fn open(server: &Server, http: Http, path: &str) -> Stream {
        // `.` is stdin, not waited for.
        let arguments = ["--request", "POST", "--header", "Expect:", "--upload-file", "."];
        Stream::start(command(server, http, path).args(arguments))
    }

    /// One with a body that is there at once. Go's server begins to answer when it has all of it.
    pub fn post(server: &Server, http: Http, path: &str, body: &str) -> Stream {
        Stream::start(command(server, http, path).args(["--data-binary", body]))
    }

    fn start(command: &mut Command) -> Stream {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl is installed");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Stream { stdin: child.stdin.take(), child, lines }
    }

    /// Sends a piece of the body.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("not yet closed");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("curl reads");
    }

    /// Ends the body.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// The next line of the answer; `None` once it has ended.
    #[track_caller]
    pub fn line(&self) -> Option<serde_json::Value> {
        match self.lines.recv_timeout(LINE_WITHIN) {
            Ok(line) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line in {LINE_WITHIN:?}"),
        }
    }

    /// What the next line says as a result.
    #[track_caller]
    pub fn result(&self) -> serde_json::Value {
        let mut line = self.line().expect("the stream goes on");
        let result = line.get_mut("result").map(serde_json::Value::take);
        result.unwrap_or_else(|| panic!("not a result: {line}"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
