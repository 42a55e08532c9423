//! Settings from a config file: through the `config` crate into values, then by the table into settings.
//!
//! As strict as Go's JSON decoder: no value is converted, the first misfit (by the order of keys) ends it. As lax, too:
//! keys nobody knows are skipped at every level, and the case of a key does not matter.

use std::io;

use config::{ConfigError, File, Map, Source, Value as FileValue, ValueKind};

use super::flag::{FileKey, Flag, Kind};
use super::go::{self, quote, system_text};
use super::settings::{Settings, Value, ValueError};
use super::table;
use super::yaml::{GoYaml, YamlError, kind_word};
use crate::membership::urls::{UrlError, UrlSet};

/// Why a config file was refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("open {path}: {}", system_text(error))]
    Open { path: String, error: io::Error },
    #[error("error converting YAML to JSON: yaml: invalid leading UTF-8 octet")]
    NotUtf8,
    #[error(transparent)]
    Yaml(#[from] YamlError),
    #[error(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go struct field {field} of type {expected}"
    )]
    Type { found: String, field: String, expected: &'static str },
    #[error("invalid peer-transport-security")]
    PeerSection,
    /// etcd writes this to stderr itself and not to its log.
    #[error("unexpected error setting up {flag}: {error}")]
    Urls { flag: &'static str, error: UrlError },
    /// etcd panics on it.
    #[error("new UniqueURLs should never fail: {0}")]
    Origins(UrlError),
    #[error(transparent)]
    Value(ValueError),
}

/// What a file says.
#[derive(Debug)]
pub struct FileSettings {
    pub settings: Settings,
    /// Keys with a value that set nothing: unknown ones, and those of flags that no file can set.
    pub unused: Vec<String>,
}

/// Reads a whole file.
///
/// # Errors
/// [`FileError`], in etcd's words.
pub fn read(path: &str, content: io::Result<Vec<u8>>) -> Result<FileSettings, FileError> {
    let bytes = content.map_err(|error| FileError::Open { path: path.to_owned(), error })?;
    let text = String::from_utf8(bytes).map_err(|_| FileError::NotUtf8)?;
    let entries = File::from_str(&text, GoYaml).collect().map_err(yaml_error)?;
    let mut read = FileSettings { settings: Settings::default(), unused: Vec::new() };
    fill(&mut read, &entries, &mut Vec::new())?;
    // Not a map, and not refused above: null.
    if entries.get(table::PEER_TLS).is_some_and(|section| section.kind == ValueKind::Nil) {
        return Err(FileError::PeerSection);
    }
    Ok(read)
}

fn yaml_error(error: ConfigError) -> FileError {
    let ConfigError::FileParse { cause, .. } = error else {
        return FileError::Yaml(YamlError::Syntax { line: None, text: error.to_string() });
    };
    match cause.downcast::<YamlError>() {
        Ok(error) => FileError::Yaml(*error),
        Err(other) => FileError::Yaml(YamlError::Syntax { line: None, text: other.to_string() }),
    }
}

/// Unused keys that are remembered; a file that is not a configuration at all has any number.
const UNUSED_MAX: usize = 100;

/// Go's types of the maps a file may have.
const SECTIONS: &[(&[&str], &str)] = &[
    (&[table::CLIENT_TLS], "embed.securityConfig"),
    (&[table::PEER_TLS], "embed.securityConfig"),
    (&["socket-options"], "transport.SocketOpts"),
    (&["discovery-config"], "v3discovery.DiscoveryConfig"),
    (&["discovery-config", "client"], "clientv3.ConfigSpec"),
    (&["discovery-config", "client", "secure"], "clientv3.SecureConfig"),
    (&["discovery-config", "client", "auth"], "clientv3.AuthConfig"),
];

fn section_type(path: &[&str]) -> Option<&'static str> {
    SECTIONS.iter().find(|(section, _)| *section == path).map(|(_, name)| *name)
}

fn fill(
    read: &mut FileSettings,
    entries: &Map<String, FileValue>,
    path: &mut Vec<&'static str>,
) -> Result<(), FileError> {
    let mut keys: Vec<&String> = entries.keys().collect();
    keys.sort_unstable();
    for key in keys {
        let Some(value) = entries.get(key).map(|value| &value.kind) else { continue };
        let lower = key.to_lowercase();
        if let Some(section) = SECTIONS.iter().find_map(|(section, _)| {
            let (name, above) = section.split_last()?;
            (*name == lower && above == path.as_slice()).then_some(*name)
        }) {
            path.push(section);
            match value {
                ValueKind::Table(inner) => fill(read, inner, path)?,
                ValueKind::Nil => {}
                other => {
                    let expected = section_type(path).unwrap_or_default();
                    path.pop();
                    return Err(misfit(other, path, section, expected));
                }
            }
            path.pop();
        } else if let Some(flag) = flag_at(path, &lower) {
            if let Some(value) = decode(flag, value, path, &lower)? {
                read.settings.set_value(flag, value);
            }
        } else if *value != ValueKind::Nil && read.unused.len() < UNUSED_MAX {
            let mut words = path.clone();
            words.push(key);
            read.unused.push(words.join("."));
        }
    }
    Ok(())
}

fn flag_at(path: &[&str], key: &str) -> Option<&'static Flag> {
    table::settings().find(|flag| match flag.file {
        FileKey::Same => path.is_empty() && flag.name == key,
        FileKey::Nested(keys) => keys.split_last().is_some_and(|(last, above)| *last == key && above == path),
        FileKey::None => false,
    })
}

/// Null, and an empty text where a list of URLs belongs, leave the default.
fn decode(flag: &'static Flag, value: &ValueKind, path: &[&str], key: &str) -> Result<Option<Value>, FileError> {
    let expected = flag.file_type();
    let misfit = |found: &ValueKind, expected| Err(misfit(found, path, key, expected));
    let value = match (value, flag.kind) {
        (ValueKind::Nil, _) => return Ok(None),
        (ValueKind::Boolean(value), Kind::Bool) => Value::Bool(*value),
        (_, Kind::Uint | Kind::Uint64 | Kind::Uint32) => match integer(value) {
            Some(number) if flag.kind == Kind::Uint32 && number > i128::from(u32::MAX) => {
                return misfit(value, expected);
            }
            Some(number) => match u64::try_from(number) {
                Ok(number) => Value::Unsigned(number),
                Err(_) => return misfit(value, expected),
            },
            None => return misfit(value, expected),
        },
        (_, Kind::Int | Kind::Int64 | Kind::Duration) => match integer(value).map(i64::try_from) {
            Some(Ok(nanos)) if flag.kind == Kind::Duration => Value::Duration(nanos),
            Some(Ok(number)) => Value::Signed(number),
            Some(Err(_)) | None => return misfit(value, expected),
        },
        (ValueKind::Array(items), _) if flag.is_file_list() => {
            let mut list = Vec::with_capacity(items.len());
            for item in items {
                match &item.kind {
                    ValueKind::String(item) => list.push(item.clone()),
                    ValueKind::Nil => list.push(String::new()),
                    other => return misfit(other, "string"),
                }
            }
            Value::List(list)
        }
        (ValueKind::String(text), kind) if expected == "string" => {
            if text.is_empty() && matches!(kind, Kind::Urls | Kind::Origins | Kind::Set | Kind::Choice(_)) {
                return Ok(None);
            }
            from_text(flag, text)?
        }
        _ => return misfit(value, expected),
    };
    Ok(Some(value))
}

fn from_text(flag: &'static Flag, text: &str) -> Result<Value, FileError> {
    let empty = Value::Text(String::new());
    match flag.kind {
        Kind::Urls => {
            let urls = UrlSet::parse(text).map_err(|error| FileError::Urls { flag: name_in_error(flag), error })?;
            Ok(Value::Urls(urls))
        }
        // Checked later, with a text of its own.
        Kind::Choice(_) | Kind::Choices(_) => Ok(Value::Text(text.to_owned())),
        Kind::Origins => match super::settings::parse(flag, text, &empty) {
            Err(ValueError::Url(error)) => Err(FileError::Origins(error)),
            other => other.map_err(FileError::Value),
        },
        _ => super::settings::parse(flag, text, &empty).map_err(FileError::Value),
    }
}

/// etcd names the wrong flag here, and scripts look for it.
fn name_in_error(flag: &'static Flag) -> &'static str {
    if flag.name == "advertise-client-urls" { "advertise-peer-urls" } else { flag.name }
}

fn integer(value: &ValueKind) -> Option<i128> {
    match value {
        ValueKind::I64(number) => Some(i128::from(*number)),
        ValueKind::U64(number) => Some(i128::from(*number)),
        // JSON does not tell 1e3 from 1000.
        ValueKind::Float(number) if number.fract() == 0.0 && number.abs() < 1e21 => format!("{number:.0}").parse().ok(),
        _ => None,
    }
}

fn misfit(found: &ValueKind, path: &[&str], key: &str, expected: &'static str) -> FileError {
    let is_number_type = matches!(expected, "uint" | "uint64" | "uint32" | "int" | "int64" | "time.Duration");
    let found = match found {
        ValueKind::I64(number) if is_number_type => format!("number {number}"),
        ValueKind::U64(number) if is_number_type => format!("number {number}"),
        ValueKind::Float(number) if is_number_type => format!("number {}", go::json_float(*number)),
        other => kind_word(other).to_owned(),
    };
    // Go names the innermost struct and the whole path.
    let holder = section_type(path).and_then(|name| name.split('.').next_back()).unwrap_or("configYAML");
    let mut field = vec![holder];
    field.extend(path);
    field.push(key);
    FileError::Type { found, field: field.join("."), expected }
}

/// A command line refuses a word that is none of a flag's at once; a file's is found later, with this text.
pub fn refused_choice(flag: &Flag, word: &str) -> Option<String> {
    match flag.kind {
        Kind::Choice(words) if !words.contains(&word) => {
            Some(format!("unexpected {} {} (must be one of: {})", flag.name, quote(word), words.join(", ")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(text: &str) -> Settings {
        read("c.yml", Ok(text.as_bytes().to_vec())).expect(text).settings
    }

    fn refusal(text: &str) -> String {
        match read("c.yml", Ok(text.as_bytes().to_vec())) {
            Ok(_) => "taken".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Each that 3.4 has a key for checked against etcd 3.4.23.
    #[test]
    fn a_value_of_another_type_is_refused_in_gos_words() {
        for (text, found, field, expected) in [
            ("name: 77", "number", "configYAML.name", "string"),
            ("Name: 77", "number", "configYAML.name", "string"),
            ("name: [a]", "array", "configYAML.name", "string"),
            ("name: {a: b}", "object", "configYAML.name", "string"),
            ("name: on", "bool", "configYAML.name", "string"),
            ("auto-compaction-retention: 1", "number", "configYAML.auto-compaction-retention", "string"),
            (
                "zz: 1\nname: 7\nauto-compaction-retention: 1",
                "number",
                "configYAML.auto-compaction-retention",
                "string",
            ),
            ("snapshot-count: 1.5", "number 1.5", "configYAML.snapshot-count", "uint64"),
            ("snapshot-count: -1", "number -1", "configYAML.snapshot-count", "uint64"),
            ("snapshot-count: \"5\"", "string", "configYAML.snapshot-count", "uint64"),
            ("max-txn-ops: 12345678901234567890123", "number 1.2345678901234568e+22", "configYAML.max-txn-ops", "uint"),
            ("max-concurrent-streams: 4294967296", "number 4294967296", "configYAML.max-concurrent-streams", "uint32"),
            ("pre-vote: \"yes\"", "string", "configYAML.pre-vote", "bool"),
            ("pre-vote: 1", "number", "configYAML.pre-vote", "bool"),
            ("grpc-keepalive-interval: 10m", "string", "configYAML.grpc-keepalive-interval", "time.Duration"),
            ("grpc-keepalive-interval: 1.5", "number 1.5", "configYAML.grpc-keepalive-interval", "time.Duration"),
            ("election-timeout: 1:30", "string", "configYAML.election-timeout", "uint"),
            ("log-outputs: x", "string", "configYAML.log-outputs", "[]string"),
            ("log-outputs: [1]", "number", "configYAML.log-outputs", "string"),
            ("cipher-suites: x", "string", "configYAML.cipher-suites", "[]string"),
            ("host-whitelist: [x]", "array", "configYAML.host-whitelist", "string"),
            ("client-transport-security: x", "string", "configYAML.client-transport-security", "embed.securityConfig"),
            ("peer-transport-security: [x]", "array", "configYAML.peer-transport-security", "embed.securityConfig"),
            (
                "client-transport-security: {cert-file: 1}",
                "number",
                "securityConfig.client-transport-security.cert-file",
                "string",
            ),
            (
                "discovery-config: {client: {secure: {cert: 1}}}",
                "number",
                "SecureConfig.discovery-config.client.secure.cert",
                "string",
            ),
        ] {
            let prefix = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";
            assert_eq!(
                refusal(text),
                format!("{prefix} {found} into Go struct field {field} of type {expected}"),
                "{text}"
            );
        }
    }

    #[test]
    fn other_refusals_are_in_etcds_words() {
        for (text, error) in [
            (
                "listen-peer-urls: x",
                "unexpected error setting up listen-peer-urls: URL scheme must be http, https, unix, or unixs: x",
            ),
            (
                "advertise-client-urls: x",
                "unexpected error setting up advertise-peer-urls: URL scheme must be http, https, unix, or unixs: x",
            ),
            ("peer-transport-security:", "invalid peer-transport-security"),
            ("feature-gates: X=true", "unrecognized feature gate: X"),
            ("{", "error converting YAML to JSON: yaml: line 1: did not find expected node content"),
        ] {
            assert_eq!(refusal(text), error, "{text}");
        }
        let missing = read("/nope", Err(io::Error::from_raw_os_error(2)));
        assert_eq!(missing.map_err(|e| e.to_string()).err().as_deref(), Some("open /nope: no such file or directory"));
        let binary = read("c", Ok(vec![0xff, 0xfe]));
        assert!(binary.is_err());
    }

    #[test]
    fn keys_nobody_knows_null_and_empty_lists_of_urls_change_nothing() {
        let settings = from(
            "zz: 1\nproxy: 'off'\ndata-dir:\ncors:\nlisten-peer-urls: ''\nclient-transport-security: {zz: 5}\ncert-file: x\n\
             raft-read-timeout: x\ndiscovery-fallback: 'proxy'\nversion: 3\ninitial-cluster-state: ''\n",
        );
        let untouched = Settings::default();
        for flag in table::settings() {
            assert_eq!(settings.value(flag.name), untouched.value(flag.name), "{}", flag.name);
        }
    }

    #[test]
    fn keys_that_set_nothing_are_remembered_unless_they_are_empty() {
        let text = "ZZ: 1\nproxy: 'off'\ndiscovery:\nname: x\nraft-read-timeout: 5\n\
                    client-transport-security: {zz: 5, cert-file: a}\nsocket-options: {reuse-port: false}\n";
        let read = read("c.yml", Ok(text.as_bytes().to_vec())).expect("valid");
        assert_eq!(read.unused, ["ZZ", "client-transport-security.zz", "proxy", "raft-read-timeout"]);
    }

    #[test]
    fn values_reach_their_flags() {
        let settings = from(
            "NAME: m1\nsnapshot-count: 1e3\nwatch-progress-notify-interval: 600000000000\nlog-outputs: [stderr, a.log]\n\
             listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:0\nhost-whitelist: b,a\nstorage: sled\n\
             peer-transport-security: {allowed-cn: [a, b], client-cert-auth: on}\nsocket-options: {reuse-port: true}\n\
             discovery-config: {token: t, client: {endpoints: [e], dial-timeout: 5, max-recv-bytes: 7}}\n\
             client-transport-security: {allowed-cn: [c]}\n",
        );
        assert_eq!(settings.text("name"), "m1");
        assert_eq!(settings.unsigned("snapshot-count"), 1000);
        assert_eq!(settings.nanos("watch-progress-notify-interval"), 600_000_000_000);
        assert_eq!(settings.list("log-outputs"), ["stderr", "a.log"]);
        assert_eq!(settings.urls("listen-client-urls").to_string(), "http://127.0.0.1:0,http://127.0.0.1:1");
        assert_eq!(settings.list("host-whitelist"), ["a", "b"]);
        assert_eq!(settings.text("storage"), "sled");
        assert_eq!(settings.list("peer-cert-allowed-cn"), ["a", "b"]);
        assert!(settings.bool("peer-client-cert-auth") && settings.bool("socket-reuse-port"));
        assert_eq!(settings.text("discovery-token"), "t");
        assert_eq!(settings.nanos("discovery-dial-timeout"), 5);
        assert_eq!(settings.list("client-transport-security.allowed-cn"), ["c"]);
        assert_eq!(settings.signed("discovery-config.client.max-recv-bytes"), 7);
    }

    proptest! {
        #[test]
        fn no_file_panics(entries in proptest::collection::vec((0..table::FLAGS.len(), "[0-9a-z\\[\\]{}:,.'\"\\-]{0,10}"), 0..6)) {
            let text: String =
                entries.into_iter().map(|(i, value)| format!("{}: {value}\n", table::FLAGS[i].name)).collect();
            let _ = read("c.yml", Ok(text.into_bytes()));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read("c.yml", Ok(bytes));
        }
    }
}
