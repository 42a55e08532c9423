//! Settings from `ETCD_…` variables, for the flags the command line leaves alone.

use std::collections::BTreeSet;

use super::flag::Flag;
use super::go::quote;
use super::gone;
use super::note::{Level, Note};
use super::settings::{Settings, ValueError};
use super::table;

pub const CONFIG_FILE_VARIABLE: &str = "ETCD_CONFIG_FILE";
/// Set by container images, and never meant for the flag.
const VERSION_VARIABLE: &str = "ETCD_VERSION";
const PREFIX: &str = "ETCD_";

/// Variables that etcd reads without a flag, and what castd makes of them.
const OF_NO_FLAG: &[(&str, &str)] = &[
    (ARCHITECTURE_VARIABLE, "it is for processors that etcd is not released for"),
    ("ETCD_VERIFY", "castd's self checks are not switched by a variable"),
    ("ETCD_CLIENT_DEBUG", "castd has no embedded client"),
];
/// Says that castd may run on a processor that etcd is not released for.
pub const ARCHITECTURE_VARIABLE: &str = "ETCD_UNSUPPORTED_ARCH";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error("invalid value {} for {variable}: {error}", quote(value))]
    BadValue { variable: String, value: String, error: ValueError },
    /// The note about it is the last one, and fatal.
    #[error("conflicting environment variable {0}")]
    Conflict(String),
}

/// Applies the environment to what the command line left unset, telling `notes` about every variable that begins with
/// `ETCD_`. An empty value is none, except that it still conflicts with a flag, as in etcd.
///
/// # Errors
/// A variable beside its flag; a value that cannot be read (of several, the last by the flag's name).
pub fn apply(
    settings: &mut Settings,
    environment: &[(String, String)],
    notes: &mut Vec<Note>,
) -> Result<(), EnvironmentError> {
    let value_of = |variable: &str| {
        environment.iter().find(|(name, value)| name == variable && !value.is_empty()).map(|(_, value)| value.as_str())
    };
    if let Some(value) = value_of(VERSION_VARIABLE) {
        let note = Note::new(Level::Warn, "cannot set special environment variable");
        notes.push(note.with("key", VERSION_VARIABLE).with("value", value));
    }
    let mut flags: Vec<&'static Flag> = table::FLAGS.iter().collect();
    flags.sort_unstable_by_key(|flag| flag.name);
    let (mut used, mut shadowed) = (BTreeSet::new(), BTreeSet::new());
    let mut outcome = Ok(());
    for flag in flags {
        let variable = flag.environment_variable();
        if settings.is_set(flag.name) {
            shadowed.insert(variable);
            continue;
        }
        if variable == VERSION_VARIABLE {
            continue;
        }
        let Some(value) = value_of(&variable) else { continue };
        match settings.set_text(flag, value) {
            Ok(()) => {
                let note = Note::new(Level::Info, "recognized and used environment variable");
                notes.push(note.with("variable-name", variable.as_str()).with("variable-value", value));
            }
            Err(error) => {
                let value = value.to_owned();
                outcome = Err(EnvironmentError::BadValue { variable: variable.clone(), value, error });
            }
        }
        used.insert(variable);
    }
    for (name, value) in environment {
        if used.contains(name) || name == VERSION_VARIABLE {
            continue;
        }
        if shadowed.contains(name) {
            // The doubled parenthesis is etcd's.
            let text = "conflicting environment variable is shadowed by corresponding command-line flag \
                        (either unset environment variable or disable flag))";
            notes.push(Note::new(Level::Fatal, text).with("environment-variable", name.as_str()));
            return Err(EnvironmentError::Conflict(name.clone()));
        }
        if let Some((_, reason)) = OF_NO_FLAG.iter().find(|(known, _)| known == name) {
            let note = Note::new(Level::Info, "environment variable has no effect");
            notes.push(note.with("environment-variable", format!("{name}={value}")).with("reason", *reason));
        } else if name.starts_with(PREFIX) {
            let note = Note::new(Level::Warn, "unrecognized environment variable");
            let note = note.with("environment-variable", format!("{name}={value}"));
            notes.push(match gone::advice_on_variable(name) {
                Some(advice) => note.with("advice", advice),
                None => note,
            });
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn applied(pairs: &[(&str, &str)]) -> (Settings, Vec<Note>, Result<(), EnvironmentError>) {
        let (mut settings, mut notes) = (Settings::default(), Vec::new());
        let outcome = apply(&mut settings, &env(pairs), &mut notes);
        (settings, notes, outcome)
    }

    #[test]
    fn variables_are_used_or_complained_about() {
        let (settings, notes, outcome) =
            applied(&[("HOME", "/"), ("ETCD_FOO", "1"), ("ETCD_NAME", "q"), ("ETCD_VERSION", "3"), ("ETCD_ZZ", "")]);
        assert_eq!(outcome, Ok(()));
        assert_eq!(settings.text("name"), "q");
        assert!(!settings.bool("version"));
        let warn = |text: &str| Note::new(Level::Warn, text);
        assert_eq!(
            notes,
            [
                warn("cannot set special environment variable").with("key", "ETCD_VERSION").with("value", "3"),
                Note::new(Level::Info, "recognized and used environment variable")
                    .with("variable-name", "ETCD_NAME")
                    .with("variable-value", "q"),
                warn("unrecognized environment variable").with("environment-variable", "ETCD_FOO=1"),
                warn("unrecognized environment variable").with("environment-variable", "ETCD_ZZ="),
            ]
        );
    }

    #[test]
    fn a_variable_of_an_older_release_is_advised_on_and_one_of_no_flag_explained() {
        let (_, notes, _) = applied(&[("ETCD_EXPERIMENTAL_MAX_LEARNERS", "1"), ("ETCD_VERIFY", "all")]);
        assert_eq!(
            notes,
            [
                Note::new(Level::Warn, "unrecognized environment variable")
                    .with("environment-variable", "ETCD_EXPERIMENTAL_MAX_LEARNERS=1")
                    .with("advice", "--experimental-max-learners is now --max-learners"),
                Note::new(Level::Info, "environment variable has no effect")
                    .with("environment-variable", "ETCD_VERIFY=all")
                    .with("reason", "castd's self checks are not switched by a variable"),
            ]
        );
    }

    #[test]
    fn a_bad_value_is_refused_in_gos_words_but_an_empty_one_is_none() {
        let (_, _, outcome) = applied(&[("ETCD_HEARTBEAT_INTERVAL", "xx"), ("ETCD_MAX_TXN_OPS", "")]);
        let text = outcome.map_err(|e| e.to_string());
        assert_eq!(text, Err("invalid value \"xx\" for ETCD_HEARTBEAT_INTERVAL: parse error".to_owned()));
    }

    #[test]
    fn a_variable_beside_its_flag_is_fatal_even_when_empty() {
        for value in ["q", ""] {
            let (mut settings, mut notes) = (Settings::default(), Vec::new());
            let name = table::find("name").expect("in the table");
            settings.set_text(name, "x").expect("valid");
            let outcome = apply(&mut settings, &env(&[("ETCD_NAME", value)]), &mut notes);
            assert_eq!(outcome, Err(EnvironmentError::Conflict("ETCD_NAME".to_owned())));
            let last = notes.last().expect("a note");
            assert_eq!(
                last.message,
                "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                 environment variable or disable flag))"
            );
            assert_eq!((last.level, &last.fields[0]), (Level::Fatal, &("environment-variable", "ETCD_NAME".into())));
        }
    }

    proptest! {
        #[test]
        fn no_environment_panics(values in proptest::collection::vec((0..table::FLAGS.len(), "\\PC{0,16}"), 0..6)) {
            let environment: Vec<(String, String)> =
                values.into_iter().map(|(i, value)| (table::FLAGS[i].environment_variable(), value)).collect();
            let _ = apply(&mut Settings::default(), &environment, &mut Vec::new());
        }
    }
}
