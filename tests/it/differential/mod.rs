//! One script of etcdctl commands, for etcd 3.4 and for Castd on each backend, at the same addresses one after the
//! other. What comes back must be the same but for `deltas.rs`: output, exit code, last line of complaint.
//!
//! ```text
//!   script.txt ──▶ etcd  ──▶ answers ──blur──deltas──┐
//!        └───────▶ castd ──▶ answers ──blur──────────┴─▶ equal, and each delta was needed
//! ```

mod blur;
mod deltas;
mod script;

use crate::harness::server::Ports;
use crate::harness::{Answer, Backend, Place, Server, Setup, block_on};
use deltas::DELTAS;
use script::{Step, Talk, steps};
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Fewer would not be the whole of etcdctl.
const COMMANDS_MIN: usize = 120;

/// What a server answered to each command, in order.
struct Transcript(Vec<(String, Answer)>);

/// Plays the script to a server started from `setup`.
async fn play(setup: Setup) -> Transcript {
    let mut server = setup.start();
    let mut names = BTreeMap::new();
    let mut transcript = Vec::new();
    for step in steps() {
        match &step {
            Step::Stop => server.end(),
            Step::Kill => server.kill(),
            Step::Start => server.restart(),
            Step::Grant { id, ttl } => {
                server.api().grant(*id, *ttl).await.expect("granted");
            }
            Step::Command(talk) => transcript.push((talk.line.clone(), answer(&server, talk, &mut names))),
        }
    }
    Transcript(transcript)
}

/// Runs one command. Ids that the server made up are replaced by the names the script gives them.
fn answer(server: &Server, talk: &Talk, names: &mut BTreeMap<String, i64>) -> Answer {
    println!("{}", talk.line);
    let words: Vec<String> = talk.words.iter().map(|word| script::fill_in(word, names)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut answer = match talk.lines {
        None => server.etcdctl_reading(&words, &talk.input),
        Some(count) => {
            let running = server.etcdctl_running(&words);
            let lines: Vec<_> = (0..count).map_while(|_| running.line()).map(|line| line + "\n").collect();
            Answer { stdout: lines.concat(), stderr: String::new(), code: 0 }
        }
    };
    answer.stderr = answer.last_stderr_line().to_owned();
    if let Some(name) = &talk.names {
        names.insert(name.clone(), script::granted_id(&answer.stdout));
    }
    for (name, id) in names.iter() {
        let name = format!("<{name}>");
        answer.stdout = answer.stdout.replace(&format!("{id:016x}"), &name).replace(&id.to_string(), &name);
    }
    blur::blur(&talk.line, answer)
}

#[test]
fn castd_answers_as_etcd_does_but_for_the_listed_deltas() {
    let _place = Place::take();
    let ports = Ports::free();
    let etcd = block_on(play(Setup::etcd("etcd").ports(ports)));
    assert!(etcd.0.len() >= COMMANDS_MIN, "only {} commands", etcd.0.len());
    // While the script itself is being written.
    if std::env::var_os("CASTD_TEST_SERVER").is_some() {
        let again = block_on(play(Setup::etcd("etcd").ports(ports)));
        for (line, answer) in &etcd.0 {
            println!("=== {line}\n{}{}{}", answer.stdout, answer.stderr, answer.code);
        }
        compare("etcd again", &etcd, &again, &[]);
        return;
    }
    for backend in Backend::ALL {
        let castd = block_on(play(Setup::castd(*backend).ports(ports)));
        compare(backend.name(), &etcd, &castd, DELTAS);
    }
}

fn compare(name: &str, etcd: &Transcript, castd: &Transcript, deltas: &[deltas::Delta]) {
    assert_eq!(etcd.0.len(), castd.0.len());
    let mut needed = BTreeSet::new();
    let mut differences = String::new();
    for ((line, theirs), (_, ours)) in etcd.0.iter().zip(&castd.0) {
        if theirs == ours {
            continue;
        }
        let mut expected = theirs.clone();
        for (number, delta) in deltas.iter().enumerate().filter(|(_, delta)| delta.command == line) {
            expected = delta.apply(&expected);
            needed.insert(number);
        }
        if &expected != ours {
            differences += &format!("\n=== {line}\n--- etcd, with deltas\n{expected:?}\n--- {name}\n{ours:?}\n");
        }
    }
    for (number, delta) in deltas.iter().enumerate().filter(|(number, _)| !needed.contains(number)) {
        differences += &format!("\n=== delta {number} never occurs: {} ({})\n", delta.command, delta.reference);
    }
    assert!(differences.is_empty(), "{differences}");
}
