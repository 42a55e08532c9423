//! YAML 1.1 (and so JSON) as Go's YAML library reads it, as a [`config::Format`] for the `config` crate.
//!
//! ```text
//!   text ─ yaml_rust2 events ─▶ frames on a stack ─▶ config::Value
//! ```
//! `config`'s own YAML does not do: it forgets which words were quoted, knows no `yes` and `off`, and refuses a key that
//! comes twice. Only the first document counts. Not read: UTF-16. Read although Go does not:
//! lines indented with tabs.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use config::{FileStoredFormat, Format, Map, Value, ValueKind};
use yaml_rust2::parser::{Event, Parser, Tag};
use yaml_rust2::scanner::{ScanError, TScalarStyle};

use super::go;

/// Nesting deeper than this is no configuration.
const DEPTH_MAX: usize = 100;
/// Values a document may have once its aliases are written out.
const VALUES_MAX: usize = 100_000;

/// Why a text is no configuration file. The texts are those of Go's libraries as etcd prints them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    #[error("error converting YAML to JSON: yaml: {}{text}", line.map(|n| format!("line {n}: ")).unwrap_or_default())]
    Syntax { line: Option<usize>, text: String },
    #[error("error converting YAML to JSON: json: unsupported value: {0}")]
    NotFinite(&'static str),
    /// The whole document is a word, a number or a list.
    #[error(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {0} into Go value of type embed.configYAML"
    )]
    Root(&'static str),
}

impl YamlError {
    fn plain(text: impl Into<String>) -> YamlError {
        YamlError::Syntax { line: None, text: text.into() }
    }
}

/// The format, for [`config::File`].
#[derive(Clone, Copy, Debug)]
pub struct GoYaml;

impl FileStoredFormat for GoYaml {
    fn file_extensions(&self) -> &'static [&'static str] {
        &["yml", "yaml", "json"]
    }
}

impl Format for GoYaml {
    fn parse(&self, uri: Option<&String>, text: &str) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        Ok(load(uri, text)?)
    }
}

/// The JSON word for what a value is.
pub fn kind_word(value: &ValueKind) -> &'static str {
    match value {
        ValueKind::Nil => "null",
        ValueKind::Boolean(_) => "bool",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) | ValueKind::Float(_) => {
            "number"
        }
        ValueKind::String(_) => "string",
        ValueKind::Table(_) => "object",
        ValueKind::Array(_) => "array",
    }
}

fn load(uri: Option<&String>, text: &str) -> Result<Map<String, Value>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.chars().any(is_forbidden) {
        return Err(YamlError::plain("control characters are not allowed"));
    }
    match first_document(uri, text)?.kind {
        ValueKind::Table(table) => Ok(table),
        ValueKind::Nil => Ok(Map::new()),
        other => Err(YamlError::Root(kind_word(&other))),
    }
}

fn is_forbidden(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
}

/// A list or a map whose end has not come yet.
enum Frame {
    List { anchor: usize, items: Vec<Value> },
    Map { anchor: usize, entries: Map<String, Value>, key: Option<Key>, merged: Vec<Value> },
}

enum Key {
    Name(String),
    /// `<<`: the maps in the value lend their entries.
    Merge,
}

struct Loader<'a> {
    uri: Option<&'a String>,
    frames: Vec<Frame>,
    /// Finished values that an alias may repeat, by anchor; with how many values they are.
    anchored: BTreeMap<usize, (Value, usize)>,
    started: BTreeSet<usize>,
    values: usize,
}

fn first_document(uri: Option<&String>, text: &str) -> Result<Value, YamlError> {
    let mut parser = Parser::new_from_str(text);
    let mut loader = Loader { uri, frames: Vec::new(), anchored: BTreeMap::new(), started: BTreeSet::new(), values: 0 };
    loop {
        let (event, _) = parser.next_token().map_err(|error| in_gos_words(&error, text))?;
        let finished = match event {
            Event::StreamEnd => return Ok(Value::new(uri, ValueKind::Nil)),
            Event::Scalar(word, style, anchor, tag) => {
                let kind = scalar(word, style, tag)?;
                loader.finish(anchor, Value::new(uri, kind), 1)?
            }
            Event::Alias(anchor) => loader.repeat(anchor)?,
            Event::SequenceStart(anchor, _) => {
                loader.start(anchor, Frame::List { anchor, items: Vec::new() })?;
                None
            }
            Event::MappingStart(anchor, _) => {
                let frame = Frame::Map { anchor, entries: Map::new(), key: None, merged: Vec::new() };
                loader.start(anchor, frame)?;
                None
            }
            Event::SequenceEnd | Event::MappingEnd => loader.end()?,
            Event::Nothing | Event::StreamStart | Event::DocumentStart | Event::DocumentEnd => None,
        };
        if let Some(document) = finished {
            return Ok(document);
        }
    }
}

impl Loader<'_> {
    fn start(&mut self, anchor: usize, frame: Frame) -> Result<(), YamlError> {
        if self.frames.len() >= DEPTH_MAX {
            return Err(YamlError::plain(format!("exceeded max depth of {DEPTH_MAX}")));
        }
        // A map as a key of a map.
        if let Some(Frame::Map { key: None, .. }) = self.frames.last() {
            return Err(YamlError::plain("invalid map key"));
        }
        self.started.insert(anchor);
        self.frames.push(frame);
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Value>, YamlError> {
        let (anchor, kind) = match self.frames.pop() {
            None => return Ok(None),
            Some(Frame::List { anchor, items }) => (anchor, ValueKind::Array(items)),
            Some(Frame::Map { anchor, mut entries, merged, .. }) => {
                for table in merged {
                    lend(&mut entries, table)?;
                }
                (anchor, ValueKind::Table(entries))
            }
        };
        let value = Value::new(self.uri, kind);
        let size = if anchor > 0 { size_of(&value) } else { 1 };
        self.finish(anchor, value, size)
    }

    /// Puts a whole value where it belongs. Answers it when it is the document.
    fn finish(&mut self, anchor: usize, value: Value, size: usize) -> Result<Option<Value>, YamlError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(YamlError::plain("document contains excessive aliasing"));
        }
        if anchor > 0 {
            self.anchored.insert(anchor, (value.clone(), size));
        }
        match self.frames.last_mut() {
            None => return Ok(Some(value)),
            Some(Frame::List { items, .. }) => items.push(value),
            Some(Frame::Map { entries, key, merged, .. }) => match key.take() {
                None => *key = Some(key_of(&value)?),
                Some(Key::Merge) => merged.push(value),
                // The last of equal keys counts.
                Some(Key::Name(name)) => drop(entries.insert(name, value)),
            },
        }
        Ok(None)
    }

    fn repeat(&mut self, anchor: usize) -> Result<Option<Value>, YamlError> {
        match self.anchored.get(&anchor) {
            Some((value, size)) => {
                let (value, size) = (value.clone(), *size);
                self.values = self.values.saturating_add(size);
                self.finish(0, value, size)
            }
            None if self.started.contains(&anchor) => Err(YamlError::plain("anchor value contains itself")),
            None => Err(YamlError::plain("unknown anchor referenced")),
        }
    }
}

fn lend(entries: &mut Map<String, Value>, lender: Value) -> Result<(), YamlError> {
    match lender.kind {
        ValueKind::Table(table) => {
            for (name, value) in table {
                entries.entry(name).or_insert(value);
            }
            Ok(())
        }
        ValueKind::Array(tables) => {
            for table in tables {
                match table.kind {
                    ValueKind::Table(_) => lend(entries, table)?,
                    _ => return Err(merge_refused()),
                }
            }
            Ok(())
        }
        _ => Err(merge_refused()),
    }
}

fn merge_refused() -> YamlError {
    YamlError::plain("map merge requires map or sequence of maps as the value")
}

fn size_of(value: &Value) -> usize {
    1 + match &value.kind {
        ValueKind::Table(table) => table.values().map(size_of).sum(),
        ValueKind::Array(items) => items.iter().map(size_of).sum(),
        _ => 0,
    }
}

fn key_of(value: &Value) -> Result<Key, YamlError> {
    match &value.kind {
        ValueKind::String(name) if name == "<<" => Ok(Key::Merge),
        ValueKind::String(name) => Ok(Key::Name(name.clone())),
        ValueKind::I64(number) => Ok(Key::Name(number.to_string())),
        ValueKind::U64(number) => Ok(Key::Name(number.to_string())),
        ValueKind::Float(number) => Ok(Key::Name(go::json_float(*number))),
        ValueKind::Boolean(value) => Ok(Key::Name(value.to_string())),
        _ => Err(YamlError::plain("invalid map key")),
    }
}

fn scalar(word: String, style: TScalarStyle, tag: Option<Tag>) -> Result<ValueKind, YamlError> {
    match tag {
        None if style == TScalarStyle::Plain => plain(word),
        None => Ok(ValueKind::String(word)),
        Some(tag)
            if tag.handle.ends_with(",2002:") && matches!(tag.suffix.as_str(), "int" | "float" | "bool" | "null") =>
        {
            let value = plain(word.clone())?;
            match (core_type(&value), tag.suffix.as_str()) {
                ("int", "float") => Ok(value),
                (found, wanted) if found == wanted => Ok(value),
                (found, wanted) => Err(YamlError::plain(format!("cannot decode !!{found} `{word}` as a !!{wanted}"))),
            }
        }
        // `!!str`, and whatever nobody knows.
        Some(_) => Ok(ValueKind::String(word)),
    }
}

/// YAML's name of what a plain word is.
fn core_type(value: &ValueKind) -> &'static str {
    match value {
        ValueKind::Nil => "null",
        ValueKind::Boolean(_) => "bool",
        ValueKind::Float(_) => "float",
        ValueKind::I64(_) | ValueKind::U64(_) => "int",
        _ => "str",
    }
}

/// What a word without quotes is.
fn plain(word: String) -> Result<ValueKind, YamlError> {
    match word.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(ValueKind::Nil),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(ValueKind::Boolean(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(ValueKind::Boolean(false));
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Err(YamlError::NotFinite("+Inf")),
        "-.inf" | "-.Inf" | "-.INF" => return Err(YamlError::NotFinite("-Inf")),
        ".nan" | ".NaN" | ".NAN" => return Err(YamlError::NotFinite("NaN")),
        _ => {}
    }
    Ok(number(&word).unwrap_or(ValueKind::String(word)))
}

fn number(word: &str) -> Option<ValueKind> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    // Go's library looks for underscores in what begins like an integer only.
    let digits: String = word.chars().filter(|c| *c != '_' || word.starts_with('.')).collect();
    if let Ok(value) = go::parse_int(&digits) {
        return Some(ValueKind::I64(value));
    }
    if let Ok(value) = go::parse_uint(&digits) {
        return Some(ValueKind::U64(value));
    }
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    let is_decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.contains(|c: char| c.is_ascii_digit())
        && unsigned.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    digits.parse::<f64>().ok().filter(|value| is_decimal && value.is_finite()).map(ValueKind::Float)
}

/// Says what `yaml_rust2` says the way libyaml says it in Go. Its line is the one below for errors of the scanner, and
/// it does not say "line 0".
fn in_gos_words(error: &ScanError, source: &str) -> YamlError {
    let info = error.info();
    let (text, of_parser) = match info.rsplit_once(", ").filter(|_| info.starts_with("while ")) {
        Some((_, "found unknown anchor")) => {
            let name: String = source
                .chars()
                .skip(error.marker().index())
                .skip_while(|c| *c == '*')
                .take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
                .collect();
            return YamlError::plain(format!("unknown anchor '{name}' referenced"));
        }
        Some((context, "expected ',' or ']'")) if context.ends_with("flow sequence") => {
            ("did not find expected ',' or ']'", true)
        }
        Some((context, text)) => (text, context.starts_with("while parsing a ") && !context.contains("scalar")),
        None if info.starts_with("unexpected character") || info.contains("tab") => {
            ("found character that cannot start any token", false)
        }
        None if info == "simple key expected" || info.contains("simple key expect") => {
            ("could not find expected ':'", false)
        }
        None => (info, info.starts_with("did not find expected <")),
    };
    // Misspelt there.
    let text = if text.ends_with("hexadecimal number") { "did not find expected hexdecimal number" } else { text };
    // A missing comma inside a map is told in two parts.
    let text = match info.find("did not find expected ','") {
        Some(at) => info.get(at..).unwrap_or(text),
        None => text,
    };
    // An open quote is told where it opens; in Go, where the text ends.
    let line = match text {
        "found unexpected end of stream" => source.matches('\n').count(),
        _ => error.marker().line().saturating_sub(1),
    };
    let line = (line > 0).then_some(if of_parser { line } else { line + 1 });
    YamlError::Syntax { line, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> BTreeMap<String, ValueKind> {
        load(None, text).expect(text).into_iter().map(|(name, value)| (name, value.kind)).collect()
    }

    fn refusal(text: &str) -> String {
        match load(None, text) {
            Ok(table) => format!("taken as {table:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn words_are_what_yaml_1_1_makes_of_them_unless_quoted() {
        let table = read(
            "a: yes\nb: 'yes'\nc: off\nd: 0x1F\ne: 1e3\nf: 1_000\ng: 017\nh: ~\ni:\nj: \"5\"\nk: 1:30\nl: +12\nm: !!str 5\n\
             u: 18446744073709551615\no: 12345678901234567890123\np: -1.5\nq: 1.2.3\nr: 2001-01-01\nt: .\n",
        );
        let text = |word: &str| ValueKind::String(word.to_owned());
        for (key, value) in [
            ("a", ValueKind::Boolean(true)),
            ("b", text("yes")),
            ("c", ValueKind::Boolean(false)),
            ("d", ValueKind::I64(31)),
            ("e", ValueKind::Float(1000.0)),
            ("f", ValueKind::I64(1000)),
            ("g", ValueKind::I64(15)),
            ("h", ValueKind::Nil),
            ("i", ValueKind::Nil),
            ("j", text("5")),
            ("k", text("1:30")),
            ("l", ValueKind::I64(12)),
            ("m", text("5")),
            ("u", ValueKind::U64(u64::MAX)),
            ("o", ValueKind::Float(1.234_567_890_123_456_8e22)),
            ("p", ValueKind::Float(-1.5)),
            ("q", text("1.2.3")),
            ("r", text("2001-01-01")),
            ("t", text(".")),
        ] {
            assert_eq!(table[key], value, "{key}");
        }
    }

    /// Checked against etcd 3.4.23.
    #[test]
    fn a_tag_counts_more_than_quotes() {
        let text =
            "a: !!int '5'\nb: !!bool \"yes\"\nc: !!float 5\nd: !!null ''\ne: !!str 5\nf: !x 5\ng: !!foo 5\nh: ! 5\n";
        let table = read(text);
        assert_eq!(table["a"], ValueKind::I64(5));
        assert_eq!(table["b"], ValueKind::Boolean(true));
        assert_eq!(table["c"], ValueKind::I64(5));
        assert_eq!(table["d"], ValueKind::Nil);
        for key in ["e", "f", "g", "h"] {
            assert_eq!(table[key], ValueKind::String("5".to_owned()), "{key}");
        }
    }

    #[test]
    fn json_repeated_keys_aliases_merges_and_second_documents_are_as_in_go() {
        assert_eq!(read("{\"name\":\"x\",\t\"n\":1}")["n"], ValueKind::I64(1));
        assert_eq!(read("a: 1\na: 2\n")["a"], ValueKind::I64(2));
        assert_eq!(read("a: &x 1\nb: *x\n")["b"], ValueKind::I64(1));
        assert_eq!(read("base: &b {a: 1, c: 2}\n<<: *b\na: 3\n")["a"], ValueKind::I64(3));
        assert_eq!(read("base: &b {a: 1, c: 2}\n<<: *b\na: 3\n")["c"], ValueKind::I64(2));
        assert_eq!(read("---\na: 1\n---\na: 2\n")["a"], ValueKind::I64(1));
        assert_eq!(read("1: x\n1.5: x\ntrue: x\n").len(), 3);
        assert!(read("").is_empty() && read("null").is_empty() && read("# c\n").is_empty());
    }

    /// Each checked against etcd 3.4.23.
    #[test]
    fn bad_yaml_is_refused_in_gos_words() {
        for (text, error) in [
            ("{\n", "line 1: did not find expected node content"),
            ("name: \"x\n", "line 2: found unexpected end of stream"),
            ("name: 'x\n", "line 2: found unexpected end of stream"),
            ("a: 1\nb: \"x\n", "line 3: found unexpected end of stream"),
            ("name: [a\n", "line 1: did not find expected ',' or ']'"),
            ("a: 1\nb: [x\n", "line 2: did not find expected ',' or ']'"),
            ("a: {b: c\nd: e\n", "line 1: did not find expected ',' or '}'"),
            ("a: b: c\n", "mapping values are not allowed in this context"),
            ("a: 1\n b: 2\n", "line 2: mapping values are not allowed in this context"),
            ("name: %x\n", "found character that cannot start any token"),
            ("name: @x\n", "found character that cannot start any token"),
            ("a: `b\n", "found character that cannot start any token"),
            ("a: }\n", "did not find expected node content"),
            ("a: 1\nb\n", "line 3: could not find expected ':'"),
            ("name: \"a\\zb\"\n", "found unknown escape character"),
            ("a: 1\nb: \"\\x\"\n", "line 2: did not find expected hexdecimal number"),
            ("name: *x\n", "unknown anchor 'x' referenced"),
            ("a: &\n", "did not find expected alphabetic or numeric character"),
            ("name: a\0b\n", "control characters are not allowed"),
            ("<<: 5\n", "map merge requires map or sequence of maps as the value"),
            ("[a]: x\n", "invalid map key"),
            ("a: &a [*a]\n", "anchor value contains itself"),
            ("a: !!int x\n", "cannot decode !!str `x` as a !!int"),
            ("a: !!bool 5\n", "cannot decode !!int `5` as a !!bool"),
            ("a: !!int 1.5\n", "cannot decode !!float `1.5` as a !!int"),
            ("a: !!null x\n", "cannot decode !!str `x` as a !!null"),
        ] {
            assert_eq!(refusal(text), format!("error converting YAML to JSON: yaml: {error}"), "{text:?}");
        }
        assert_eq!(refusal("a: .inf"), "error converting YAML to JSON: json: unsupported value: +Inf");
        for (text, word) in [("foo\n", "string"), ("1", "number"), ("true", "bool"), ("[a]", "array")] {
            assert_eq!(
                refusal(text),
                format!(
                    "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {word} into Go value of type embed.configYAML"
                )
            );
        }
    }

    #[test]
    fn a_hostile_file_is_refused_before_it_costs_memory_or_stack() {
        assert!(refusal(&"[".repeat(100_000)).contains("max depth") || refusal(&"[".repeat(100_000)).contains("limit"));
        assert!(refusal(&"- ".repeat(100_000)).contains("max depth"));
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            laughs += &format!("a{i}: &a{i} [{}]\n", vec![alias; 9].join(", "));
        }
        assert!(refusal(&laughs).contains("excessive aliasing"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-c:\\-\\[\\]{}&*!|>'\"%@`#?,~<. \t\n0-9]{0,40}|\\PC*") {
            let _ = load(None, &text);
        }
    }
}
