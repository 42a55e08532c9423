//! Reads a command line by the rules of Go's `flag` package.
//!
//! `-x` and `--x` are one; `--x=v` or `--x v`; a switch takes no word after it; the last one wins; `--` and the first
//! word without a dash end the flags. `clap` follows other rules and has other texts, so it is not used here.

use super::flag::{Flag, Kind};
use super::go::quote;
use super::settings::{Settings, ValueError};
use super::table;

/// Why a command line cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    #[error("invalid boolean value {} for -{flag}: {error}", quote(value))]
    BadSwitch { flag: String, value: String, error: ValueError },
    #[error("invalid value {} for flag -{flag}: {error}", quote(value))]
    BadValue { flag: String, value: String, error: ValueError },
}

/// What a readable command line says.
#[derive(Clone, Debug)]
pub enum CommandLine {
    /// `-h` or `--help` came before anything that could not be read.
    Help,
    /// The flags; and the first word that is none, if there is one.
    Flags { settings: Settings, left_over: Option<String> },
}

/// Reads the words after the program's name.
///
/// # Errors
/// At the first flag that is unknown or has a bad value.
pub fn read(words: &[String]) -> Result<CommandLine, CommandLineError> {
    let mut settings = Settings::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Ok(CommandLine::Flags { settings, left_over: Some(word.clone()) });
        };
        if body == "-" {
            return Ok(CommandLine::Flags { settings, left_over: words.next().cloned() });
        }
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with(['-', '=']) {
            return Err(CommandLineError::Syntax(word.clone()));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(flag) = table::find(name) else {
            return match name {
                "h" | "help" => Ok(CommandLine::Help),
                _ => Err(CommandLineError::Unknown(name.to_owned())),
            };
        };
        let value = match value {
            Some(value) => value,
            None if flag.is_switch() => "true",
            None => words.next().ok_or_else(|| CommandLineError::NoValue(name.to_owned()))?,
        };
        settings.set_text(flag, value).map_err(|error| bad_value(flag, value, error))?;
    }
    Ok(CommandLine::Flags { settings, left_over: None })
}

fn bad_value(flag: &Flag, value: &str, error: ValueError) -> CommandLineError {
    let (flag_name, value) = (flag.name.to_owned(), value.to_owned());
    match flag.kind {
        Kind::Bool => CommandLineError::BadSwitch { flag: flag_name, value, error },
        _ => CommandLineError::BadValue { flag: flag_name, value, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(|word| (*word).to_owned()).collect()
    }

    fn flags(line: &[&str]) -> (Settings, Option<String>) {
        match read(&words(line)) {
            Ok(CommandLine::Flags { settings, left_over }) => (settings, left_over),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    /// Each checked against etcd 3.4.23.
    #[test]
    fn what_cannot_be_read_is_refused_in_gos_words() {
        for (line, text) in [
            (&["--zz"][..], "flag provided but not defined: -zz"),
            (&["-zz=3"], "flag provided but not defined: -zz"),
            (&["---name"], "bad flag syntax: ---name"),
            (&["-=3"], "bad flag syntax: -=3"),
            (&["--=3"], "bad flag syntax: --=3"),
            (&["-name"], "flag needs an argument: -name"),
            (&["-heartbeat-interval", "abc"], "invalid value \"abc\" for flag -heartbeat-interval: parse error"),
            (&["--heartbeat-interval=-1"], "invalid value \"-1\" for flag -heartbeat-interval: parse error"),
            (&["--enable-v2=zz"], "invalid boolean value \"zz\" for -enable-v2: parse error"),
            (&["--pre-vote="], "invalid boolean value \"\" for -pre-vote: parse error"),
            (
                &["--initial-cluster-state", "zzz"],
                "invalid value \"zzz\" for flag -initial-cluster-state: invalid value",
            ),
            (
                &["--quota-backend-bytes", "99999999999999999999"],
                "invalid value \"99999999999999999999\" for flag -quota-backend-bytes: value out of range",
            ),
            (
                &["--grpc-keepalive-interval", "5x"],
                "invalid value \"5x\" for flag -grpc-keepalive-interval: parse error",
            ),
            (
                &["--max-concurrent-streams=abc"],
                "invalid value \"abc\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"abc\": invalid syntax",
            ),
            (
                &["--max-concurrent-streams=4294967296"],
                "invalid value \"4294967296\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"4294967296\": value out of range",
            ),
            (
                &["--listen-peer-urls", "http://localhost"],
                "invalid value \"http://localhost\" for flag -listen-peer-urls: URL address does not have the form \"host:port\": http://localhost",
            ),
            (
                &["--v2-deprecation=not-yet"],
                "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
            ),
            (
                &["--feature-gates=X=true"],
                "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X",
            ),
            (&["--cors", "x"], "invalid value \"x\" for flag -cors: URL scheme must be http, https, unix, or unixs: x"),
            (&["--storage", "bbolt"], "invalid value \"bbolt\" for flag -storage: invalid value"),
        ] {
            assert_eq!(read(&words(line)).map_err(|e| e.to_string()).err().as_deref(), Some(text), "{line:?}");
        }
    }

    #[test]
    fn one_dash_or_two_equals_or_next_word_and_the_last_one_wins() {
        let (settings, left_over) = flags(&[
            "-name",
            "a",
            "--name=b",
            "--data-dir",
            "--x",
            "-pre-vote=F",
            "--max-txn-ops=0x10",
            "--force",
            "--vv=7",
        ]);
        assert_eq!(left_over, None);
        assert_eq!(settings.text("name"), "b");
        assert_eq!(settings.text("data-dir"), "--x");
        assert!(!settings.bool("pre-vote"));
        assert_eq!(settings.unsigned("max-txn-ops"), 16);
        let (settings, _) = flags(&[
            "--cors=http://a:1,http://b:1",
            "--cors=http://c:1",
            "--host-whitelist=b,a,b",
            "--cipher-suites=y,x",
        ]);
        assert_eq!(settings.list("cors"), ["http://c:1"]);
        assert_eq!(settings.list("host-whitelist"), ["a", "b"]);
        assert_eq!(settings.list("cipher-suites"), ["y", "x"]);
    }

    #[test]
    fn a_switch_takes_no_word_after_it() {
        for (line, rest) in [
            (&["--pre-vote", "false"][..], Some("false")),
            (&["--", "--name"], Some("--name")),
            (&["--"], None),
            (&["-"], Some("-")),
            (&["extra", "--zz"], Some("extra")),
            (&[""], Some("")),
        ] {
            assert_eq!(flags(line).1.as_deref(), rest, "{line:?}");
        }
    }

    #[test]
    fn help_is_answered_unless_something_before_it_is_wrong() {
        assert!(matches!(read(&words(&["--name", "x", "-h", "--zz"])), Ok(CommandLine::Help)));
        assert!(matches!(read(&words(&["--help=1"])), Ok(CommandLine::Help)));
        assert!(read(&words(&["--zz", "-h"])).is_err());
    }

    proptest! {
        #[test]
        fn no_command_line_panics(line in proptest::collection::vec(any_word(), 0..6)) {
            let _ = read(&line);
        }
    }

    fn any_word() -> impl Strategy<Value = String> {
        let flag = (0..table::FLAGS.len()).prop_map(|i| format!("--{}", table::FLAGS[i].name));
        prop_oneof![
            flag.clone(),
            (flag, "\\PC{0,12}").prop_map(|(flag, value)| format!("{flag}={value}")),
            "-{0,3}[a-z=,:/0-9.]{0,12}",
            "\\PC{0,12}",
        ]
    }
}
