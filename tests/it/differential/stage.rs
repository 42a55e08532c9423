//! Plays a script to one server, and notes what comes back.

use super::blur;
use super::script::{Names, Step, Talk, steps};
use crate::harness::ctl::{self, Running};
use crate::harness::{Answer, Server, Setup, wait_until};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// Stands in an answer that should have named something.
pub const NO_ID: &str = "(no id in this answer)";

/// What a server answered to each line, in order.
pub type Transcript = Vec<(String, Answer)>;

/// A server, and the processes that the script has left running.
struct Stage {
    server: Server,
    names: Names,
    running: BTreeMap<String, Running>,
}

/// Plays the script to a server started from `setup`.
pub async fn play(script: &str, setup: Setup) -> Transcript {
    let mut stage = Stage { server: setup.start(), names: Names::default(), running: BTreeMap::new() };
    let mut transcript = Vec::new();
    for (line, step) in steps(script) {
        println!("{line}");
        if let Some(answer) = stage.take(step).await {
            println!("{}{}{}\n", answer.stdout, answer.stderr, answer.code);
            transcript.push((line, answer));
        }
    }
    transcript
}

impl Stage {
    async fn take(&mut self, step: Step) -> Option<Answer> {
        match step {
            Step::Stop => self.server.end(),
            Step::Kill => self.server.kill(),
            Step::Start => self.server.restart(),
            Step::Grant { id, ttl } => {
                self.server.api().grant(id, ttl).await.expect("granted");
            }
            Step::Command(talk) => return Some(self.command(&talk)),
            Step::Run { process, talk } => {
                self.running.insert(process, self.start(&talk));
            }
            Step::Say { process, text } => {
                let text = self.fill_in(&text);
                self.running.get_mut(&process).expect("it is running").say(&text);
            }
            Step::Hear { process, lines } => {
                let running = &self.running[&process];
                let heard: Vec<_> = (0..lines).map_while(|_| running.line()).map(|line| line + "\n").collect();
                return Some(self.neutral("", Answer { stdout: heard.concat(), stderr: String::new(), code: 0 }));
            }
            Step::End { process, interrupt } => {
                let running = self.running.remove(&process).expect("it is running");
                return Some(self.neutral("", running.end(interrupt)));
            }
        }
        None
    }

    /// Runs one command, as often as it takes.
    fn command(&mut self, talk: &Talk) -> Answer {
        let mut answer = self.run(talk);
        if let Some(text) = &talk.until {
            let text = self.fill_in(text);
            wait_until(&format!("{text} in what {} prints", talk.command()), PATIENCE, || {
                answer = self.run(talk);
                answer.stdout.contains(&text)
            });
        }
        if let Some(file) = &talk.saves {
            answer.stdout += &match std::fs::metadata(self.server.directory().join(file)) {
                Ok(metadata) => {
                    let (rest, mode) = (metadata.len() % 512, metadata.permissions().mode() & 0o777);
                    format!("{file}: {rest} bytes above a multiple of 512, mode {mode:o}\n")
                }
                Err(error) => format!("{file}: {error}\n"),
            };
        }
        if let Some(name) = &talk.name
            && !self.names.learn(name, &answer.stdout)
        {
            answer.stdout += NO_ID;
        }
        self.neutral(&talk.command(), answer)
    }

    fn run(&self, talk: &Talk) -> Answer {
        match talk.lines {
            None => ctl::finish(self.prepared(talk), Some(&talk.input)),
            Some(count) => {
                let running = self.start(talk);
                let lines: Vec<_> = (0..count).map_while(|_| running.line()).map(|line| line + "\n").collect();
                Answer { stdout: lines.concat(), stderr: String::new(), code: 0 }
            }
        }
    }

    fn start(&self, talk: &Talk) -> Running {
        let mut running = Running::start(self.prepared(talk));
        talk.input.lines().for_each(|line| running.say(&self.fill_in(line)));
        running
    }

    fn prepared(&self, talk: &Talk) -> std::process::Command {
        let words: Vec<String> = talk.words.iter().map(|word| self.fill_in(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command =
            if talk.bare { ctl::bare_command(&words) } else { ctl::command(&self.server.endpoint(), &words) };
        command.envs(talk.environment.iter().map(|(name, value)| (name, self.fill_in(value))));
        command
    }

    fn fill_in(&self, text: &str) -> String {
        let directory = self.server.directory().display().to_string();
        let text = text.replace("{endpoint}", &self.server.endpoint()).replace("{dir}", &directory);
        self.names.fill_in(&text)
    }

    /// Without what no two runs have in common.
    fn neutral(&self, command: &str, answer: Answer) -> Answer {
        let mut answer = blur::in_order(command, answer);
        for text in [&mut answer.stdout, &mut answer.stderr] {
            *text = self.names.put_in(text).replace(&self.server.directory().display().to_string(), "{dir}");
        }
        blur::blur(command, answer)
    }
}
