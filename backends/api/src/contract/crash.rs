//! A child process writes the history and is killed in the middle; what it leaves must be a prefix of whole batches.
//!
//! ```text
//!   parent ──starts──▶ child: the same test binary, one test of it, with the directory in the environment
//!          ◀──lines──  "written n", "flushed n durable m"
//!          ──SIGKILL─▶
//!          opens the directory and compares
//! ```

use super::{Engine, history};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const DIRECTORY: &str = "CASTD_CONTRACT_DIRECTORY";
const FLUSH_EVERY: u64 = 23;

pub fn a_kill_leaves_whole_batches_and_all_that_was_flushed<E: Engine>(child: &str) {
    if !E::PROMISES.survives_reopening {
        return;
    }
    let (_, child) = child.split_once("::").expect("a path inside the crate");
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut held = 0;
    for more in [7, 60, 150, 31] {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", child, "--nocapture"])
            .env(DIRECTORY, &state)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut written, mut flushed) = (held, 0);
        let mut killed = false;
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["written", n] => written = n.parse().unwrap(),
                ["flushed", n, "durable", durable] => {
                    let (n, durable): (u64, u64) = (n.parse().unwrap(), durable.parse().unwrap());
                    assert!(durable <= n, "{durable} was durable when {n} were written");
                    flushed = n;
                }
                _ => {}
            }
            if written >= held + more && !killed {
                process.kill().unwrap();
                killed = true;
            }
        }
        process.wait().unwrap();
        assert!(killed, "the child ended by itself after {written} batches");

        let backend = E::open(&state).unwrap();
        let kept = history::check(&*backend).unwrap();
        assert!(kept >= flushed, "{flushed} batches were flushed, {kept} are left");
        assert!(kept <= written + 1, "{written} batches were written, {kept} are there");
        held = kept;
    }
}

/// Writes batches for ever, where the parent asked for it.
pub fn child<E: Engine>() {
    let Some(state) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let backend = E::open(&state).unwrap();
    let mut out = std::io::stdout();
    writeln!(out).unwrap(); // ends the line that the test harness began
    let first = history::applied(&*backend).unwrap() + 1;
    for n in first.. {
        backend.write(&history::batch(n)).unwrap();
        writeln!(out, "written {n}").unwrap();
        if n % FLUSH_EVERY == 0 {
            backend.flush().unwrap();
            writeln!(out, "flushed {n} durable {}", history::durable(&*backend).unwrap()).unwrap();
        }
        out.flush().unwrap();
    }
}
