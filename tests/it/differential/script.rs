//! Reads `script.txt`: what is played to both servers. The file's head tells its syntax.

use std::collections::BTreeMap;

const SCRIPT: &str = include_str!("script.txt");

pub enum Step {
    Command(Talk),
    Stop,
    Kill,
    Start,
    /// A lease with an id of our choice, which etcdctl cannot ask for.
    Grant {
        id: i64,
        ttl: i64,
    },
}

/// One run of etcdctl.
pub struct Talk {
    /// As written, by which deltas refer to it.
    pub line: String,
    pub words: Vec<String>,
    pub input: String,
    /// Read that many lines and end it, for commands that do not end by themselves.
    pub lines: Option<usize>,
    /// The name to give to the lease it makes.
    pub names: Option<String>,
}

pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    let lines: Vec<&str> = SCRIPT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with('>') {
            continue;
        }
        let input = lines[index + 1..].iter().map_while(|line| line.strip_prefix('>'));
        let input = input.map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned() + "\n").collect();
        steps.push(step(line, input));
    }
    steps
}

fn step(line: &str, input: String) -> Step {
    match line {
        "@stop" => return Step::Stop,
        "@kill" => return Step::Kill,
        "@start" => return Step::Start,
        _ => {}
    }
    let mut words = words(line);
    if words[0] == "@grant" {
        let number = |word: &String| word.parse().expect("a number");
        return Step::Grant { id: number(&words[1]), ttl: number(&words[2]) };
    }
    let mut talk = Talk { line: line.to_owned(), words: Vec::new(), input, lines: None, names: None };
    if let Some(count) = words[0].strip_prefix("@lines=") {
        talk.lines = Some(count.parse().expect("a number"));
        words.remove(0);
    }
    if let Some(name) = words[0].strip_prefix("@name=") {
        talk.names = Some(name.to_owned());
        words.remove(0);
    }
    talk.words = words;
    Step::Command(talk)
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

/// `{name}` is the hex id of the lease of that name.
pub fn fill_in(word: &str, names: &BTreeMap<String, i64>) -> String {
    names.iter().fold(word.to_owned(), |word, (name, id)| word.replace(&format!("{{{name}}}"), &format!("{id:016x}")))
}

/// The id in what `lease grant` printed, simple or JSON.
pub fn granted_id(stdout: &str) -> i64 {
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(stdout) {
        return json["ID"].as_i64().expect("an id");
    }
    let id = stdout.strip_prefix("lease ").and_then(|rest| rest.split(' ').next()).expect("an id");
    i64::from_str_radix(id, 16).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}
