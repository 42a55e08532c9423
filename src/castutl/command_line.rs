//! What was asked for, or why it cannot be: in the words of cobra, which etcd's tools are made with.

use super::restore::RestoreSettings;
use super::status::Format;
use crate::config::go::{self, quote};
use crate::storage::StorageKind;
use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};
use std::ffi::OsString;
use std::path::PathBuf;

pub(super) const EXIT_ERROR: u8 = 1;
pub(super) const EXIT_BAD_FEATURE: u8 = 4;
pub(super) const EXIT_BAD_ARGUMENTS: u8 = 128;

const NAME: &str = "castutl";

pub(super) enum Command {
    Restore(RestoreSettings),
    Status { file: PathBuf, format: Format },
    Save,
    Version,
}

pub(super) enum Parsed {
    Command(Box<Command>),
    Help(String),
    Failed { code: u8, text: String },
}

type Refused = (u8, String);

pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Parsed {
    let mut root = root();
    let parsed = match root.try_get_matches_from_mut(arguments) {
        Ok(matches) => command(&matches),
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) =>
        {
            return Parsed::Help(error.to_string());
        }
        Err(error) => Err((EXIT_ERROR, complaint(&error))),
    };
    match parsed {
        Ok(command) => Parsed::Command(Box::new(command)),
        Err((code, text)) => Parsed::Failed { code, text },
    }
}

fn root() -> clap::Command {
    let group = |name: &'static str| {
        clap::Command::new(name).arg_required_else_help(true).subcommand_required(true).disable_help_subcommand(true)
    };
    let write_out = Arg::new("write-out").short('w').long("write-out").global(true).default_value("simple");
    group(NAME)
        .about("Works on castd's files, offline")
        .args_override_self(true)
        .arg(write_out.help("set the output format (simple, json, fields, table)"))
        .subcommand(clap::Command::new("version").about("Prints the version of castutl"))
        .subcommand(
            group("snapshot")
                .about("Manages snapshots that clients saved of castd")
                .subcommand(restore())
                .subcommand(clap::Command::new("status").about("Gets snapshot status of a given file").arg(files()))
                .subcommand(clap::Command::new("save").hide(true).arg(files())),
        )
}

fn restore() -> clap::Command {
    let text = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("TEXT").default_value(default).help(help)
    };
    let switch = |name: &'static str, help: &'static str| {
        let arg = Arg::new(name).long(name).value_name("BOOL").help(help);
        arg.num_args(0..=1).require_equals(true).default_value("false").default_missing_value("true")
    };
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("PATH").value_parser(OsStringValueParser::new()).help(help)
    };
    clap::Command::new("restore")
        .about("Restores a snapshot to the data directory of a member of a new cluster")
        .args_override_self(true)
        .arg(files())
        .arg(path("data-dir", "Path to the output data directory; NAME.etcd if none given"))
        .arg(path("wal-dir", "Path to the output log directory (use --data-dir if none given)"))
        .arg(text("name", "default", "Human-readable name for this member"))
        .arg(text("initial-cluster", "default=http://localhost:2380", "Initial cluster configuration for restore bootstrap"))
        .arg(text("initial-cluster-token", "etcd-cluster", "Initial cluster token for the cluster during restore bootstrap"))
        .arg(text(
            "initial-advertise-peer-urls",
            "http://localhost:2380",
            "List of this member's peer URLs to advertise to the rest of the cluster",
        ))
        .arg(switch("skip-hash-check", "Ignore snapshot integrity hash value (required if copied from data directory)"))
        .arg(text("bump-revision", "0", "How much to increase the latest revision after restore"))
        .arg(switch(
            "mark-compacted",
            "Mark the latest revision after restore as the point of scheduled compaction (required if --bump-revision > 0, \
             disallowed otherwise)",
        ))
        .arg(text("storage", StorageKind::default().name(), "What the member is to keep its data in: rocksdb, sled or memory"))
        .arg(text("initial-memory-map-size", "0", "Of etcd's database; without effect"))
}

/// How many there have to be is checked later, with etcd's text.
fn files() -> Arg {
    Arg::new("file")
        .num_args(0..)
        .action(ArgAction::Append)
        .value_parser(OsStringValueParser::new())
        .value_name("FILENAME")
}

fn command(matches: &ArgMatches) -> Result<Command, Refused> {
    match matches.subcommand() {
        Some(("snapshot", snapshot)) => match snapshot.subcommand() {
            Some(("restore", restore)) => restore_settings(restore).map(Command::Restore),
            Some(("status", status)) => {
                let format = write_out(status)?;
                Ok(Command::Status { file: file(status, "snapshot status")?, format })
            }
            _ => Ok(Command::Save),
        },
        _ => Ok(Command::Version),
    }
}

fn restore_settings(matches: &ArgMatches) -> Result<RestoreSettings, Refused> {
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let path = |name: &str| matches.get_one::<OsString>(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let switch = |name: &'static str| {
        let given = text(name);
        go::parse_bool(&given).ok_or_else(|| invalid(&given, name, "ParseBool", "invalid syntax"))
    };
    let number = |name: &'static str| {
        let given = text(name);
        go::parse_uint(&given).map_err(|error| {
            let reason = match error {
                go::NumberError::Syntax => "invalid syntax",
                go::NumberError::Range => "value out of range",
            };
            invalid(&given, name, "ParseUint", reason)
        })
    };
    let (skip_hash_check, mark_compacted) = (switch("skip-hash-check")?, switch("mark-compacted")?);
    let bump = number("bump-revision")?;
    number("initial-memory-map-size")?;
    let storage = text("storage").parse().map_err(|error| (EXIT_ERROR, format!("{error}")))?;
    let file = file(matches, "snapshot restore")?;
    if (bump > 0) != mark_compacted {
        return Err((EXIT_BAD_ARGUMENTS, "--mark-compacted required if --revision-bump > 0".to_owned()));
    }
    let name = text("name");
    Ok(RestoreSettings {
        file,
        data_dir: path("data-dir").unwrap_or_else(|| format!("{name}.etcd").into()),
        wal_dir: path("wal-dir"),
        name,
        initial_cluster: text("initial-cluster"),
        initial_cluster_token: text("initial-cluster-token"),
        peer_urls: text("initial-advertise-peer-urls"),
        skip_hash_check,
        bump: (bump > 0).then_some(bump),
        storage,
    })
}

fn file(matches: &ArgMatches, command: &str) -> Result<PathBuf, Refused> {
    let mut files = matches.get_many::<OsString>("file").into_iter().flatten();
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(PathBuf::from(file)),
        _ => Err((EXIT_BAD_ARGUMENTS, format!("{command} requires exactly one argument"))),
    }
}

fn write_out(matches: &ArgMatches) -> Result<Format, Refused> {
    match matches.get_one::<String>("write-out").map_or("simple", String::as_str) {
        "simple" => Ok(Format::Simple),
        "json" => Ok(Format::Json),
        "fields" => Ok(Format::Fields),
        "table" => Ok(Format::Table),
        "protobuf" => Err((EXIT_BAD_FEATURE, "protobuf not supported as output format".to_owned())),
        _ => Err((EXIT_BAD_FEATURE, "unsupported output format".to_owned())),
    }
}

fn invalid(given: &str, flag: &str, function: &str, reason: &str) -> Refused {
    let given = quote(given);
    let text = format!("invalid argument {given} for \"--{flag}\" flag: strconv.{function}: parsing {given}: {reason}");
    (EXIT_ERROR, text)
}

/// clap's errors as cobra puts them.
fn complaint(error: &clap::Error) -> String {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = said(ContextKind::InvalidArg).unwrap_or_default();
    // `--data-dir <PATH>`
    let flag = argument.split([' ', '=', '[']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with("--") => format!("unknown flag: {flag}"),
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            format!(
                "unknown shorthand flag: {} in {flag}",
                flag.get(1..2).map(|c| format!("'{c}'")).unwrap_or_default()
            )
        }
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => {
            let command = said(ContextKind::InvalidSubcommand).unwrap_or(argument);
            format!("unknown command {} for {}", quote(command), quote(NAME))
        }
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("flag needs an argument: {flag}")
        }
        _ => error.to_string().trim_start_matches("error: ").trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Refused> {
        let words = std::iter::once(NAME).chain(line.split(' ').filter(|word| !word.is_empty()));
        match parse(words.map(OsString::from)) {
            Parsed::Command(command) => Ok(*command),
            Parsed::Help(text) => Err((0, text)),
            Parsed::Failed { code, text } => Err((code, text)),
        }
    }

    fn restored(line: &str) -> RestoreSettings {
        match parsed(&format!("snapshot restore {line}")) {
            Ok(Command::Restore(settings)) => settings,
            Ok(_) => panic!("another command: {line}"),
            Err(refused) => panic!("{refused:?}"),
        }
    }

    #[test]
    fn flags_stand_where_cobra_takes_them_and_have_its_defaults() {
        let settings = restored("f");
        assert_eq!((settings.file, settings.data_dir, settings.wal_dir), ("f".into(), "default.etcd".into(), None));
        assert_eq!((settings.name.as_str(), settings.initial_cluster_token.as_str()), ("default", "etcd-cluster"));
        assert_eq!(settings.initial_cluster, "default=http://localhost:2380");
        assert_eq!((settings.peer_urls.as_str(), settings.storage), ("http://localhost:2380", StorageKind::default()));
        assert!(!settings.skip_hash_check && settings.bump.is_none());
        let settings = restored("--name a --name=m1 f --data-dir d --wal-dir=w --skip-hash-check --storage memory");
        assert_eq!((settings.file, settings.name.as_str()), ("f".into(), "m1"));
        assert_eq!((settings.data_dir, settings.wal_dir), ("d".into(), Some("w".into())));
        assert!(settings.skip_hash_check && settings.storage == StorageKind::Memory);
        assert_eq!(restored("f --name m1 --data-dir=").data_dir, PathBuf::from("m1.etcd"));
        assert_eq!(restored("--skip-hash-check=false --mark-compacted --bump-revision=0x10 f").bump, Some(16));
        assert!(matches!(parsed("snapshot status f -w json"), Ok(Command::Status { format: Format::Json, .. })));
        assert!(matches!(
            parsed("--write-out=table snapshot status f"),
            Ok(Command::Status { format: Format::Table, .. })
        ));
        assert!(matches!(parsed("version"), Ok(Command::Version)));
    }

    #[test]
    fn what_cannot_be_understood_is_refused_in_etcds_words() {
        for (line, code, text) in [
            ("snapshot restore", 128, "snapshot restore requires exactly one argument"),
            ("snapshot restore a b", 128, "snapshot restore requires exactly one argument"),
            ("snapshot status", 128, "snapshot status requires exactly one argument"),
            ("snapshot restore f --bump-revision 5", 128, "--mark-compacted required if --revision-bump > 0"),
            ("snapshot restore f --mark-compacted", 128, "--mark-compacted required if --revision-bump > 0"),
            ("snapshot restore f --nonsense", 1, "unknown flag: --nonsense"),
            ("snapshot restore f --nonsense=3", 1, "unknown flag: --nonsense"),
            ("snapshot restore f -x", 1, "unknown shorthand flag: 'x' in -x"),
            ("snapshot restore f --data-dir", 1, "flag needs an argument: --data-dir"),
            ("nonsense", 1, "unknown command \"nonsense\" for \"castutl\""),
            ("snapshot nonsense", 1, "unknown command \"nonsense\" for \"castutl\""),
            ("snapshot status f -w yaml", 4, "unsupported output format"),
            ("snapshot status f -w protobuf", 4, "protobuf not supported as output format"),
            (
                "snapshot restore f --skip-hash-check=maybe",
                1,
                "invalid argument \"maybe\" for \"--skip-hash-check\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (
                "snapshot restore f --bump-revision=-1",
                1,
                "invalid argument \"-1\" for \"--bump-revision\" flag: strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            ("snapshot restore f --storage=bbolt", 1, "unknown storage \"bbolt\": choose one of rocksdb, sled, memory"),
        ] {
            assert_eq!(parsed(line).err(), Some((code, text.to_owned())), "{line}");
        }
    }

    #[test]
    fn help_is_no_failure() {
        for line in ["", "snapshot", "--help", "snapshot restore --help"] {
            let help = parsed(line).err().unwrap_or_default();
            assert!(help.0 == 0 && help.1.contains("Usage: castutl"), "{line}: {help:?}");
        }
        let help = parsed("snapshot restore --help").err().unwrap_or_default().1;
        assert!(help.contains("--bump-revision") && help.contains("[default: rocksdb]"), "{help}");
    }
}
