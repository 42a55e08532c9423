//! The values of all flags, whoever set them: defaults, then a command line and an environment, or a file.

use std::collections::{BTreeMap, BTreeSet};

use super::flag::{Flag, Kind};
use super::go::{self, quote};
use super::table;
use crate::membership::urls::{UrlError, UrlSet};

/// The value of one flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Text(String),
    /// Nanoseconds; Go's durations may be negative.
    Duration(i64),
    Urls(UrlSet),
    List(Vec<String>),
}

/// Why a text is no value for a flag. Printed after `invalid value "…" for flag -x: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error(transparent)]
    Number(#[from] go::NumberError),
    /// `max-concurrent-streams` alone shows more of Go.
    #[error("strconv.ParseUint: parsing {}: {reason}", quote(text))]
    Uint32 { text: String, reason: &'static str },
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("invalid value")]
    Choice,
    #[error("invalid value {}", quote(.0))]
    Choices(String),
    #[error(transparent)]
    Gates(#[from] GateError),
}

/// Why a list of feature gates was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    #[error("missing bool value for {0}")]
    Missing(String),
    #[error("invalid value of {gate}={value}, err: strconv.ParseBool: parsing {}: invalid syntax", quote(value))]
    NotBool { gate: String, value: String },
}

/// Reads `text` as a value for `flag`. `before` is the value it has now: some kinds keep or extend it.
///
/// # Errors
/// [`ValueError`], in Go's words.
pub fn parse(flag: &Flag, text: &str, before: &Value) -> Result<Value, ValueError> {
    let value = match flag.kind {
        Kind::Bool => Value::Bool(go::parse_bool(text).ok_or(go::NumberError::Syntax)?),
        Kind::Uint | Kind::Uint64 => Value::Unsigned(go::parse_uint(text)?),
        Kind::Uint32 => {
            let refused = |reason| ValueError::Uint32 { text: text.to_owned(), reason };
            match go::parse_uint(text) {
                Ok(value) if value <= u64::from(u32::MAX) => Value::Unsigned(value),
                Err(go::NumberError::Syntax) => return Err(refused("invalid syntax")),
                Ok(_) | Err(go::NumberError::Range) => return Err(refused("value out of range")),
            }
        }
        Kind::Int | Kind::Int64 => Value::Signed(go::parse_int(text)?),
        Kind::Text => Value::Text(text.to_owned()),
        Kind::Duration => Value::Duration(go::parse_duration(text).map_err(|_| go::NumberError::Syntax)?),
        Kind::Urls if text.is_empty() => before.clone(),
        Kind::Urls => Value::Urls(UrlSet::parse(text)?.without_duplicates()),
        Kind::Origins if text == "*" => Value::List(vec![text.to_owned()]),
        Kind::Origins => {
            let origins = UrlSet::parse(text)?.without_duplicates();
            Value::List(origins.iter().map(ToString::to_string).collect())
        }
        Kind::Set => {
            Value::List(text.split(',').map(str::to_owned).collect::<BTreeSet<String>>().into_iter().collect())
        }
        Kind::List => Value::List(text.split(',').map(str::to_owned).collect()),
        Kind::Choice(words) if words.contains(&text) => Value::Text(text.to_owned()),
        Kind::Choice(_) => return Err(ValueError::Choice),
        Kind::Choices(words) => match text.split(',').find(|word| !words.contains(word)) {
            Some(word) => return Err(ValueError::Choices(word.to_owned())),
            None => Value::Text(text.to_owned()),
        },
        Kind::Gates => {
            parse_gates(text)?;
            match before {
                Value::Text(earlier) if !earlier.is_empty() => Value::Text(format!("{earlier},{text}")),
                _ => Value::Text(text.to_owned()),
            }
        }
        Kind::Ignored => before.clone(),
    };
    Ok(value)
}

/// `A=true,B=false`, the last mention of a gate counts. Names that no gate has are refused, by name in their order.
///
/// # Errors
/// [`GateError`].
pub fn parse_gates(text: &str) -> Result<BTreeMap<String, bool>, GateError> {
    let mut gates = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let Some((gate, value)) = part.split_once('=') else {
            return Err(GateError::Missing(part.trim().to_owned()));
        };
        let (gate, value) = (gate.trim().to_owned(), value.trim());
        let on =
            go::parse_bool(value).ok_or_else(|| GateError::NotBool { gate: gate.clone(), value: value.to_owned() })?;
        gates.insert(gate, on);
    }
    let known = |name: &str| matches!(name, "AllAlpha" | "AllBeta") || table::GATES.iter().any(|gate| gate.0 == name);
    match gates.keys().find(|name| !known(name)) {
        Some(name) => Err(GateError::Unknown(name.clone())),
        None => Ok(gates),
    }
}

/// One value per flag, and which of them somebody set.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Value>,
    set: BTreeSet<&'static str>,
}

impl Default for Settings {
    fn default() -> Settings {
        let values = table::settings().map(|flag| (flag.name, default_of(flag))).collect();
        Settings { values, set: BTreeSet::new() }
    }
}

impl Settings {
    /// Sets a flag from its text.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn set_text(&mut self, flag: &'static Flag, text: &str) -> Result<(), ValueError> {
        let value = parse(flag, text, self.value(flag.name))?;
        self.set_value(flag, value);
        Ok(())
    }

    pub fn set_value(&mut self, flag: &'static Flag, value: Value) {
        self.values.insert(flag.name, value);
        self.set.insert(flag.name);
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    /// # Panics
    /// For a name that is not in the table: our mistake, found by the first test that builds a configuration.
    pub fn value(&self, name: &str) -> &Value {
        match self.values.get(name) {
            Some(value) => value,
            None => panic!("no flag is called {name}"),
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Bool(true))
    }

    pub fn unsigned(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Unsigned(value) => *value,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    pub fn signed(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Signed(value) => *value,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    pub fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(value) => value,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    /// Nanoseconds.
    pub fn nanos(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Duration(value) => *value,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    pub fn urls(&self, name: &str) -> UrlSet {
        match self.value(name) {
            Value::Urls(value) => value.clone(),
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(value) => value.clone(),
            other => unreachable!("{name} holds {other:?}"),
        }
    }
}

/// What `flag` is when nobody says anything.
pub fn default_of(flag: &Flag) -> Value {
    let empty = match flag.kind {
        Kind::Urls => Value::Urls(UrlSet::default()),
        Kind::Origins | Kind::Set | Kind::List => Value::List(Vec::new()),
        _ => Value::Text(String::new()),
    };
    if flag.default.is_empty() {
        return empty;
    }
    match parse(flag, flag.default, &empty) {
        Ok(value) => value,
        Err(error) => unreachable!("default of {}: {error}", flag.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        let settings = Settings::default();
        for flag in table::settings() {
            let value = settings.value(flag.name);
            let fits = match flag.kind {
                Kind::Bool => matches!(value, Value::Bool(_)),
                Kind::Uint | Kind::Uint64 | Kind::Uint32 => matches!(value, Value::Unsigned(_)),
                Kind::Int | Kind::Int64 => matches!(value, Value::Signed(_)),
                Kind::Duration => matches!(value, Value::Duration(_)),
                Kind::Urls => matches!(value, Value::Urls(_)),
                Kind::Origins | Kind::Set | Kind::List => matches!(value, Value::List(_)),
                Kind::Text | Kind::Choice(_) | Kind::Choices(_) | Kind::Gates | Kind::Ignored => {
                    matches!(value, Value::Text(_))
                }
            };
            assert!(fits, "{} has {value:?}", flag.name);
        }
    }

    #[test]
    fn names_and_variables_are_unique() {
        let variables: BTreeSet<String> = table::FLAGS.iter().map(Flag::environment_variable).collect();
        assert_eq!(variables.len(), table::FLAGS.len());
    }

    #[test]
    fn gates_are_refused_in_etcds_words() {
        for (text, error) in [
            ("X=true", "unrecognized feature gate: X"),
            ("CompactHashCheck", "missing bool value for CompactHashCheck"),
            (
                "CompactHashCheck=y",
                "invalid value of CompactHashCheck=y, err: strconv.ParseBool: parsing \"y\": invalid syntax",
            ),
        ] {
            assert_eq!(parse_gates(text).map_err(|e| e.to_string()), Err(error.to_owned()));
        }
        assert_eq!(parse_gates(" AllAlpha = true,,AllAlpha=f").map(|g| g["AllAlpha"]), Ok(false));
    }
}
