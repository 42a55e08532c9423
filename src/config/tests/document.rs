//! `docs/configuration.md` against the table. With `CASTD_WRITE_DOCS` set, writes its tables instead.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::flag::{Flag, Section};
use crate::config::help::{SECTIONS, shown_default};
use crate::config::state::{GATES_WITHOUT_EFFECT, State, state_of};
use crate::config::table::{FILE_KEYS, FLAGS, GATES, Stage};

/// Everything below this line of the document is written here.
const WRITTEN_FROM: &str = "<!-- Written by the tests:";

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", cell(text)) }
}

fn key(flag: &Flag) -> String {
    match flag.file_path() {
        None => "–".to_owned(),
        Some(path) if path == [flag.name] => String::new(),
        Some(path) => code(&path.join(".")),
    }
}

fn state(flag: &Flag) -> String {
    match state_of(flag) {
        State::Works => "works".to_owned(),
        State::WorksInPart(text) => format!("works, but {text}"),
        State::WithoutEffect(text) => format!("no effect: {text}"),
        State::NoEffectYet(text) => format!("no effect yet: {text}"),
        State::Refused(text) => format!("refused for now: {text}"),
    }
}

fn row(out: &mut String, flag: &Flag) {
    let name = if FILE_KEYS.iter().any(|row| row.name == flag.name) { String::new() } else { code(flag.name) };
    let columns =
        [name, cell(&flag.type_in_words()), code(shown_default(flag)), key(flag), cell(flag.help), cell(&state(flag))];
    // Writing to a String cannot fail.
    let _ = writeln!(out, "| {} |", columns.join(" | "));
}

fn written() -> String {
    let mut out = String::new();
    for (section, title) in SECTIONS {
        let _ = write!(
            out,
            "\n### {title}\n\n| Flag | Type | Default | Key | What it is for | In castd |\n|---|---|---|---|---|---|\n"
        );
        FLAGS.iter().chain(FILE_KEYS).filter(|flag| flag.section == section).for_each(|flag| row(&mut out, flag));
    }
    out.push_str("\n### Feature gates\n\n`--feature-gates=Name=true,Other=false`. `AllAlpha` and `AllBeta` switch all gates of a stage that are not named.\n\n| Gate | Stage | Default | In castd |\n|---|---|---|---|\n");
    for (gate, of) in GATES {
        let (stage, default) = if *of == Stage::Alpha { ("alpha", false) } else { ("beta", true) };
        let without_effect = GATES_WITHOUT_EFFECT.iter().find(|(name, _)| name == gate);
        let state = without_effect.map_or("works".to_owned(), |(_, reason)| format!("no effect: {reason}"));
        let _ = writeln!(out, "| `{gate}` | {stage} | `{default}` | {state} |");
    }
    let ignored: Vec<String> = FLAGS
        .iter()
        .filter(|flag| flag.section == Section::Hidden && flag.help.is_empty() && flag.file_path().is_none())
        .filter(|flag| matches!(state_of(flag), State::WithoutEffect(_)))
        .map(|flag| code(&format!("--{}", flag.name)))
        .collect();
    let _ = write!(
        out,
        "\n### Taken and forgotten\n\nFlags of etcd 0.4, with any value or none, as in etcd: {}.\n",
        ignored.join(", ")
    );
    out
}

#[test]
fn the_document_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let document = std::fs::read_to_string(&path).expect("readable");
    let (by_hand, rest) = document.split_once(WRITTEN_FROM).expect("the line that marks what is written here");
    let (mark, found) = rest.split_once('\n').expect("more below the mark");
    let wanted = written();
    if std::env::var_os("CASTD_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{by_hand}{WRITTEN_FROM}{mark}\n{wanted}")).expect("writable");
        return;
    }
    for (found, wanted) in found.lines().zip(wanted.lines()) {
        assert_eq!(found, wanted, "write it again, as the document says");
    }
    assert_eq!(found.lines().count(), wanted.lines().count(), "write it again, as the document says");
}
