//! A machine of a runbook: a shell with its own settings, that takes block after block as an operator would type them.
//!
//! What is started there with `&` goes on between the blocks. A command that fails ends the shell, and so the test.

use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// For one block: members that join have to be connected for a while first.
const BLOCK_WITHIN: Duration = Duration::from_secs(60);
/// What the shell says after each block.
const DONE: &str = "@@@ done";

/// So that a loop of the page tries again sooner; `trap` shows where a block failed.
const PREPARATION: &str = "set -eEuo pipefail
sleep() { command sleep 0.1; }
trap 'echo \"failed with $?: $BASH_COMMAND\" >&2' ERR
";

pub struct Machine {
    shell: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    directory: PathBuf,
}

impl Machine {
    /// With these variables and none of etcd's from elsewhere, in this directory.
    pub fn start(directory: &Path, path: &str, settings: &[(String, String)]) -> Machine {
        std::fs::create_dir_all(directory).expect("a directory");
        let errors = OpenOptions::new().create(true).append(true).open(directory.join("stderr")).expect("a file");
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        let mut shell = command
            .args(["--noprofile", "--norc"])
            .env("PATH", path)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Whatever is started in it ends with it.
            .process_group(0)
            .spawn()
            .expect("bash is there");
        let input = shell.stdin.take().expect("piped");
        let output = BufReader::new(shell.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut machine = Machine { shell, input, lines, directory: directory.to_owned() };
        machine.run(PREPARATION);
        machine
    }

    /// Runs the commands in the shell itself; what they printed.
    #[track_caller]
    pub fn run(&mut self, commands: &str) -> String {
        let file = self.directory.join("block.sh");
        std::fs::write(&file, commands).expect("written");
        // Nothing in the block may read the shell's own input.
        writeln!(self.input, ". ./block.sh < /dev/null\necho '{DONE}'").expect("the shell runs");
        let (mut printed, started) = (String::new(), Instant::now());
        loop {
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) if line == DONE => return printed,
                Ok(line) => printed += &(line + "\n"),
                // What runs in the background keeps the output open after the shell has ended.
                Err(_) if self.shell.try_wait().is_ok_and(|status| status.is_some()) => {
                    self.give_up("failed", commands, &printed)
                }
                Err(_) if started.elapsed() > BLOCK_WITHIN => self.give_up("does not end", commands, &printed),
                Err(_) => {}
            }
        }
    }

    #[track_caller]
    fn give_up(&self, what: &str, commands: &str, printed: &str) -> ! {
        panic!("on {} this {what}:\n{commands}--- stdout\n{printed}{}", self.name(), self.told());
    }

    fn name(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// All that went wrong on it, and the end of the log.
    pub fn told(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        let log = read("castd.log");
        let start = log.ceil_char_boundary(log.len().saturating_sub(3_000));
        format!("--- stderr of {}\n{}--- log of {0}\n{}", self.name(), read("stderr"), &log[start..])
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("castd.log")).unwrap_or_default()
    }

    /// As if somebody had pulled the plug.
    pub fn crash(&mut self) {
        self.run("kill -KILL %castd; wait");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        let _ = self.shell.wait();
    }
}
