//! What is to be logged about the configuration once there is a logger: reading it comes first.

use super::go;
use crate::telemetry::log::LogLevel;

/// Severity of a log line, with zap's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    /// Logged like an error; etcd would panic in a development build.
    Dpanic,
    Panic,
    /// Logged just before the process ends.
    Fatal,
}

impl Level {
    /// `--log-level` as zap reads it: any case, empty for info.
    pub fn parse(text: &str) -> Option<Level> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Some(Level::Debug),
            "info" | "" => Some(Level::Info),
            "warn" | "warning" => Some(Level::Warn),
            "error" => Some(Level::Error),
            "dpanic" => Some(Level::Dpanic),
            "panic" => Some(Level::Panic),
            "fatal" => Some(Level::Fatal),
            _ => None,
        }
    }

    pub fn as_text(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Dpanic => "dpanic",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }
}

impl From<Level> for LogLevel {
    /// The logger knows one level above error.
    fn from(level: Level) -> LogLevel {
        LogLevel(match level {
            Level::Debug => slog::Level::Debug,
            Level::Info => slog::Level::Info,
            Level::Warn => slog::Level::Warning,
            Level::Error => slog::Level::Error,
            Level::Dpanic | Level::Panic | Level::Fatal => slog::Level::Critical,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    Text(String),
    Number(i64),
    Bool(bool),
    List(Vec<String>),
}

impl From<&str> for FieldValue {
    fn from(value: &str) -> Self {
        FieldValue::Text(value.to_owned())
    }
}

impl From<String> for FieldValue {
    fn from(value: String) -> Self {
        FieldValue::Text(value)
    }
}

impl From<Vec<String>> for FieldValue {
    fn from(value: Vec<String>) -> Self {
        FieldValue::List(value)
    }
}

impl From<bool> for FieldValue {
    fn from(value: bool) -> Self {
        FieldValue::Bool(value)
    }
}

impl From<u64> for FieldValue {
    fn from(value: u64) -> Self {
        FieldValue::Number(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

/// As Go prints durations.
impl From<std::time::Duration> for FieldValue {
    fn from(value: std::time::Duration) -> Self {
        FieldValue::Text(go::format_duration(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// The fields of a [`Note`], last one first: so slog hands out those of a call, and the log turns them round.
pub struct NoteFields<'a>(&'a [(&'static str, FieldValue)]);

impl slog::KV for NoteFields<'_> {
    fn serialize(&self, record: &slog::Record<'_>, serializer: &mut dyn slog::Serializer) -> slog::Result {
        self.0.iter().rev().try_for_each(|(key, value)| match value {
            FieldValue::Text(text) => serializer.emit_str(key, text),
            FieldValue::Number(number) => serializer.emit_i64(key, *number),
            FieldValue::Bool(value) => serializer.emit_bool(key, *value),
            FieldValue::List(items) => slog::Value::serialize(&slog::Serde(items.clone()), record, key, serializer),
        })
    }
}

/// One log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(&'static str, FieldValue)>,
}

impl Note {
    pub fn new(level: Level, message: impl Into<String>) -> Note {
        Note { level, message: message.into(), fields: Vec::new() }
    }

    /// The fields as the logger takes them.
    pub fn values(&self) -> NoteFields<'_> {
        NoteFields(&self.fields)
    }

    #[must_use]
    pub fn with(mut self, field: &'static str, value: impl Into<FieldValue>) -> Note {
        self.fields.push((field, value.into()));
        self
    }
}
