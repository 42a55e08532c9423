//! Reads a script: what is played to both servers.
//!
//! One etcdctl command a line, split as a shell would, up to ` # ` and a remark that sets it apart from others; lines with
//! `>` are its input. What is not a command, or comes before one:
//!
//! ```text
//!   @lines=N command        reads N lines of its output and ends it
//!   @name=L command         calls the first id in its answer that has no name L: of a lease, a member, a cluster
//!   @until=TEXT command     asks again and again, until the answer holds TEXT
//!   @env=NAME=VALUE command with that in its environment
//!   @bare command           without --endpoints
//!   @big=N command          with an input of N bytes
//!   @saves=FILE command     and looks at what it has written to that file of {dir}
//!   @run=P command          leaves it running, as P
//!   @say=P TEXT             says that to P     @hear=P N   reads N lines from P     @end=P   interrupts P, and waits
//!   @close=P                ends P's input, and waits
//!   @grant ID TTL           a lease with that id, which etcdctl cannot ask for
//!   @stop @kill @start      the server's life
//!   {L}                     the id of L in hex; {endpoint}, {dir}: the server's address, a directory
//! ```

use std::collections::BTreeMap;

pub enum Step {
    Command(Talk),
    Run { process: String, talk: Talk },
    Say { process: String, text: String },
    Hear { process: String, lines: usize },
    End { process: String, interrupt: bool },
    Grant { id: i64, ttl: i64 },
    Stop,
    Kill,
    Start,
}

/// One run of etcdctl.
#[derive(Default)]
pub struct Talk {
    pub words: Vec<String>,
    pub input: String,
    pub lines: Option<usize>,
    pub name: Option<String>,
    pub until: Option<String>,
    pub environment: Vec<(String, String)>,
    pub bare: bool,
    pub saves: Option<String>,
}

impl Talk {
    /// The command alone, by which it is known how to blur its answer.
    pub fn command(&self) -> String {
        self.words.join(" ")
    }
}

/// Each step with its line, by which deltas refer to it.
pub fn steps(script: &str) -> Vec<(String, Step)> {
    let mut steps = Vec::new();
    let lines: Vec<&str> = script.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.starts_with('>')) {
        let input = lines[index + 1..].iter().map_while(|line| line.strip_prefix('>'));
        let input = input.map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned() + "\n").collect();
        steps.push(((*line).to_owned(), step(line, input)));
    }
    steps
}

fn step(line: &str, input: String) -> Step {
    let mut talk = Talk { input, ..Talk::default() };
    let mut words = words(line.split_once(" # ").map_or(line, |(command, _)| command)).into_iter().peekable();
    let mut process = None;
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    while let Some(directive) = words.peek().and_then(|word| word.strip_prefix('@')).map(str::to_owned) {
        words.next();
        let (name, value) = directive.split_once('=').unwrap_or((&directive, ""));
        let value = value.to_owned();
        let mut next = || words.next().unwrap_or_else(|| panic!("a word is missing: {line}"));
        match name {
            "stop" => return Step::Stop,
            "kill" => return Step::Kill,
            "start" => return Step::Start,
            "grant" => {
                return Step::Grant { id: next().parse().expect("an id"), ttl: next().parse().expect("seconds") };
            }
            "say" => {
                let text = line.split_once(' ').map_or("", |(_, text)| text).to_owned();
                return Step::Say { process: value, text };
            }
            "hear" => return Step::Hear { process: value, lines: number(&next()) },
            "end" => return Step::End { process: value, interrupt: true },
            "close" => return Step::End { process: value, interrupt: false },
            "run" => process = Some(value),
            "lines" => talk.lines = Some(number(&value)),
            "name" => talk.name = Some(value),
            "until" => talk.until = Some(value),
            "bare" => talk.bare = true,
            "saves" => talk.saves = Some(value),
            "big" => talk.input = "x".repeat(number(&value)),
            "env" => {
                let (name, value) = value.split_once('=').expect("a name and a value");
                talk.environment.push((name.to_owned(), value.to_owned()));
            }
            _ => panic!("unknown: @{name}"),
        }
    }
    talk.words = words.collect();
    match process {
        Some(process) => Step::Run { process, talk },
        None => Step::Command(talk),
    }
}

/// As a shell would split them, with quotes of both kinds and no escapes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote) = (None, None);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_with(String::new);
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_with(String::new).push(character),
        }
    }
    assert!(quote.is_none(), "{line}");
    words.extend(word);
    words
}

/// Ids that the servers made up, by the names that a script gives them.
#[derive(Default)]
pub struct Names(BTreeMap<String, u64>);

/// What stands before an id.
const BEFORE_IDS: &[&str] = &["lease ", "Member ", "/", "\"ID\":", "\"cluster_id\":"];
/// Ids that are made up are large; this many digits, in hex, are not a number of anything.
const ID_DIGITS_MIN: usize = 10;

impl Names {
    /// Finds the id in an answer that has none of the names yet. False if there is none.
    #[must_use]
    pub fn learn(&mut self, name: &str, answer: &str) -> bool {
        let found = BEFORE_IDS.iter().flat_map(|before| {
            let radix = if before.ends_with(':') { 10 } else { 16 };
            answer.split(before).skip(1).filter_map(move |rest| {
                // Members are padded with blanks, and some ids are short.
                let rest = rest.trim_start_matches(' ');
                let digits = rest.bytes().take_while(|byte| char::from(*byte).is_digit(radix)).count();
                let id = u64::from_str_radix(&rest[..digits], radix).ok()?;
                (digits >= ID_DIGITS_MIN).then_some(id)
            })
        });
        let id = found.into_iter().find(|id| !self.0.values().any(|known| known == id));
        id.is_some_and(|id| self.0.insert(name.to_owned(), id).is_none())
    }

    /// `{name}` is the hex id of that name.
    pub fn fill_in(&self, word: &str) -> String {
        self.0.iter().fold(word.to_owned(), |word, (name, id)| word.replace(&format!("{{{name}}}"), &format!("{id:x}")))
    }

    /// Writes the names where the ids were: padded with zeros, with blanks, or not at all.
    pub fn put_in(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, id)| {
            let shapes = [format!("{id:016x}"), format!("{id:>16x}"), format!("{id:x}"), id.to_string()];
            shapes.iter().fold(text, |text, shape| text.replace(shape, &format!("<{name}>")))
        })
    }
}
