//! One record as one line, in etcd's layout.
//!
//! ```text
//!   {"level":"info","ts":"2024-01-02T15:04:05.000000Z","caller":"raft/node.rs:123","msg":"…","field":1,"error":"…"}
//!   2024-01-02T15:04:05.000000Z<TAB>info<TAB>raft/node.rs:123<TAB>…<TAB>{"field": 1, "error": "…"}
//! ```
//! Times are UTC, which etcd's layout writes as `Z`. A line is built on the caller's thread, in a buffer that thread
//! keeps: the time is the caller's, and what goes through the queue is plain text.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::SystemTime;

use slog::{KV, Key, Level, OwnedKVList, Record, Serializer};
use time::OffsetDateTime;

use super::LogFormat;

/// Buffers larger than this are not kept for the next line.
const KEPT_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

#[derive(Default)]
struct Buffers {
    line: Vec<u8>,
    fields: Fields,
}

/// Builds the line of `record` and gives it, with its line end, to `write`.
pub(super) fn with_line(
    format: LogFormat,
    now: SystemTime,
    record: &Record<'_>,
    values: &OwnedKVList,
    write: impl FnOnce(&str),
) {
    // Taken out rather than borrowed: a field's `Display` may log in its turn. An ending thread has no buffers left.
    let mut buffers = BUFFERS.try_with(RefCell::take).unwrap_or_default();
    let Buffers { line, fields } = &mut buffers;
    line.clear();
    fields.collect(record, values);
    match format {
        LogFormat::Json => json(line, now, record, fields),
        LogFormat::Console => console(line, now, record, fields),
    }
    // Built from `str` pieces only; were that ever wrong, a mangled line is better than none.
    write(&String::from_utf8_lossy(line));
    if line.capacity() + fields.bytes.capacity() <= KEPT_BYTES_MAX {
        let _ = BUFFERS.try_with(|kept| kept.replace(buffers));
    }
}

fn json(line: &mut Vec<u8>, now: SystemTime, record: &Record<'_>, fields: &Fields) {
    line.extend_from_slice(b"{\"level\":\"");
    line.extend_from_slice(level_name(record.level()).as_bytes());
    line.extend_from_slice(b"\",\"ts\":\"");
    push_time(line, now);
    line.extend_from_slice(b"\",\"caller\":\"");
    push_caller(line, record);
    line.extend_from_slice(b"\",\"msg\":\"");
    push_escaped(line, *record.msg());
    line.push(b'"');
    for field in fields.in_order() {
        line.push(b',');
        line.extend_from_slice(field.key);
        line.push(b':');
        line.extend_from_slice(field.value);
    }
    line.extend_from_slice(b"}\n");
}

fn console(line: &mut Vec<u8>, now: SystemTime, record: &Record<'_>, fields: &Fields) {
    push_time(line, now);
    line.push(b'\t');
    line.extend_from_slice(level_name(record.level()).as_bytes());
    line.push(b'\t');
    push_caller(line, record);
    line.push(b'\t');
    // Only what would break the line is escaped; quotes stay readable.
    let _ = Escape { bytes: line, quotes: false }.write_fmt(*record.msg());
    for (position, field) in fields.in_order().enumerate() {
        line.extend_from_slice(if position == 0 { b"\t{" } else { b", " });
        line.extend_from_slice(field.key);
        line.extend_from_slice(b": ");
        line.extend_from_slice(field.value);
    }
    line.extend_from_slice(if fields.spans.is_empty() { b"\n" } else { b"}\n" });
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Critical => "fatal",
        Level::Error => "error",
        Level::Warning => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

pub(super) fn timestamp(time: SystemTime) -> String {
    let mut text = Vec::new();
    push_time(&mut text, time);
    String::from_utf8_lossy(&text).into_owned()
}

fn push_time(line: &mut Vec<u8>, now: SystemTime) {
    let utc = OffsetDateTime::from(now);
    let _ = write!(
        line,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        utc.year(),
        u8::from(utc.month()),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second(),
        utc.microsecond()
    );
}

/// The file with the folder it is in, as etcd names its callers.
fn push_caller(line: &mut Vec<u8>, record: &Record<'_>) {
    let file = record.file();
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(slash, _)| slash + 1);
    push_escaped(line, format_args!("{}:{}", file.get(start..).unwrap_or(file), record.line()));
}

fn push_escaped(line: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let _ = Escape { bytes: line, quotes: true }.write_fmt(text);
}

/// Escapes as a JSON string does whatever is written to it.
struct Escape<'a> {
    bytes: &'a mut Vec<u8>,
    quotes: bool,
}

impl fmt::Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            match byte {
                b'"' | b'\\' if self.quotes => self.bytes.extend_from_slice(&[b'\\', byte]),
                b'\n' => self.bytes.extend_from_slice(b"\\n"),
                b'\r' => self.bytes.extend_from_slice(b"\\r"),
                b'\t' => self.bytes.extend_from_slice(b"\\t"),
                0..=0x1f => write!(self.bytes, "\\u{byte:04x}").map_err(|_| fmt::Error)?,
                _ => self.bytes.push(byte),
            }
        }
        Ok(())
    }
}

/// The fields of a record, encoded one after another as slog hands them out: last one first.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    /// Where in `bytes` each key and its value end.
    spans: Vec<(usize, usize)>,
}

struct Field<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

impl Fields {
    fn collect(&mut self, record: &Record<'_>, values: &OwnedKVList) {
        self.bytes.clear();
        self.spans.clear();
        // A field that cannot be encoded is left out; the line is worth more than the field.
        let _ = record.kv().serialize(record, self);
        let _ = values.serialize(record, self);
    }

    /// The logger's fields, outermost logger first, then the call's, as they were written.
    fn in_order(&self) -> impl Iterator<Item = Field<'_>> {
        (0..self.spans.len()).rev().filter_map(|position| {
            let start = position.checked_sub(1).and_then(|before| self.spans.get(before)).map_or(0, |span| span.1);
            let &(key_end, value_end) = self.spans.get(position)?;
            Some(Field { key: self.bytes.get(start..key_end)?, value: self.bytes.get(key_end..value_end)? })
        })
    }

    fn push(&mut self, key: Key, value: impl FnOnce(&mut Vec<u8>) -> slog::Result) -> slog::Result {
        let start = self.bytes.len();
        self.bytes.push(b'"');
        push_escaped(&mut self.bytes, format_args!("{key}"));
        self.bytes.push(b'"');
        let key_end = self.bytes.len();
        if let Err(error) = value(&mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        self.spans.push((key_end, self.bytes.len()));
        Ok(())
    }

    fn push_literal(&mut self, key: Key, value: impl fmt::Display) -> slog::Result {
        self.push(key, |bytes| write!(bytes, "{value}").map_err(slog::Error::from))
    }

    fn push_float(&mut self, key: Key, value: f64) -> slog::Result {
        if value.is_finite() {
            self.push_literal(key, value)
        } else {
            self.emit_arguments(key, &format_args!("{value}"))
        }
    }
}

macro_rules! literals {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(&mut self, key: Key, value: $type) -> slog::Result {
            self.push_literal(key, value)
        })*
    };
}

impl Serializer for Fields {
    literals!(
        emit_bool: bool, emit_u8: u8, emit_i8: i8, emit_u16: u16, emit_i16: i16, emit_u32: u32, emit_i32: i32,
        emit_u64: u64, emit_i64: i64, emit_u128: u128, emit_i128: i128, emit_usize: usize, emit_isize: isize
    );

    fn emit_f32(&mut self, key: Key, value: f32) -> slog::Result {
        self.push_float(key, f64::from(value))
    }

    fn emit_f64(&mut self, key: Key, value: f64) -> slog::Result {
        self.push_float(key, value)
    }

    fn emit_unit(&mut self, key: Key) -> slog::Result {
        self.push_literal(key, "null")
    }

    fn emit_none(&mut self, key: Key) -> slog::Result {
        self.push_literal(key, "null")
    }

    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.push(key, |bytes| {
            bytes.push(b'"');
            push_escaped(bytes, *value);
            bytes.push(b'"');
            Ok(())
        })
    }

    fn emit_serde(&mut self, key: Key, value: &dyn slog::SerdeValue) -> slog::Result {
        self.push(key, |bytes| serde_json::to_writer(bytes, value.as_serde()).map_err(|_| slog::Error::Other))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use slog::{b, o, record};

    use super::*;

    fn line(record: &Record<'_>) -> String {
        let mut line = String::new();
        let values: OwnedKVList = o!().into();
        with_line(LogFormat::Json, UNIX_EPOCH + Duration::new(1_704_207_845, 1_999), record, &values, |text| {
            line = text.to_owned();
        });
        line
    }

    #[test]
    fn every_kind_of_value_is_valid_json() {
        let text = line(&record!(
            Level::Critical,
            "",
            &format_args!("control \u{1} and ünïcode {}", '\t'),
            b!("none" => None::<u8>, "nan" => f64::NAN, "float" => 1.5, "yes" => true, "char" => 'x',
               "big" => u64::MAX, "negative" => -1)
        ));
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(parsed["level"], "fatal");
        assert_eq!(parsed["ts"], "2024-01-02T15:04:05.000001Z");
        assert_eq!(parsed["msg"], "control \u{1} and ünïcode \t");
        assert_eq!(parsed["none"], serde_json::Value::Null);
        assert_eq!(parsed["nan"], "NaN");
        assert_eq!(parsed["float"], 1.5);
        assert_eq!(parsed["yes"], true);
        assert_eq!(parsed["char"], "x");
        assert_eq!(parsed["big"], u64::MAX);
        assert_eq!(parsed["negative"], -1);
    }

    #[test]
    fn a_field_that_cannot_be_encoded_does_not_cost_the_line() {
        #[derive(Clone)]
        struct Broken;
        impl serde::Serialize for Broken {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("broken"))
            }
        }
        let text = line(&record!(Level::Info, "", &format_args!("m"), b!("broken" => slog::Serde(Broken))));
        assert!(text.ends_with("\"msg\":\"m\"}\n"), "{text}");
    }
}
