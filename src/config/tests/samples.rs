//! The files in `config/` against the table, and etcd's own sample.

use std::collections::BTreeSet;

use config::{File, Map, Source as _, Value, ValueKind};

use super::{config as from_flags, from_file, run};
use crate::config::settings::default_of;
use crate::config::yaml::GoYaml;
use crate::config::{Config, Level, Severity, environment, file, table};

const ALL_KEYS: &str = include_str!("../../../config/castd.conf.yml");
const SINGLE: &str = include_str!("../../../config/single.yml");
const THREE_MEMBERS: &str = include_str!("../../../config/three-members.yml");
const VARIABLES: &str = include_str!("../../../config/castd.env");
const OF_ETCD: &str = include_str!("etcd-sample-keys.yml");

/// The sample with the keys that stand behind a `#` as well; prose has a space there.
fn with_commented_keys() -> String {
    let uncommented = |line: &str| match line.trim_start().strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => line.replacen('#', "", 1),
        _ => line.to_owned(),
    };
    ALL_KEYS.lines().map(|line| uncommented(line) + "\n").collect()
}

fn key_paths(entries: &Map<String, Value>, above: &[String], paths: &mut Vec<String>) {
    for (key, value) in entries {
        let path = [above, std::slice::from_ref(key)].concat();
        match &value.kind {
            ValueKind::Table(inner) => key_paths(inner, &path, paths),
            _ => paths.push(path.join(".")),
        }
    }
}

#[test]
fn the_sample_has_every_key_of_the_table_and_no_other() {
    let entries = File::from_str(&with_commented_keys(), GoYaml).collect().expect("valid YAML");
    let mut found = Vec::new();
    key_paths(&entries, &[], &mut found);
    let found: BTreeSet<String> = found.into_iter().collect();
    let settable = table::settings().filter_map(|flag| flag.file_path()).map(|path| path.join("."));
    assert_eq!(found, settable.collect::<BTreeSet<String>>());
    for flag in table::FLAGS.iter().filter(|flag| flag.file_path().is_none() && !flag.help.is_empty()) {
        let named = ALL_KEYS.lines().take_while(|line| line.starts_with('#')).any(|line| line.contains(flag.name));
        assert!(named, "the head of the sample does not say that --{} is for command lines", flag.name);
    }
}

#[test]
fn every_key_of_the_sample_is_at_its_default_and_says_what_it_takes() {
    let sample = with_commented_keys();
    let settings = file::read("sample", Ok(sample.clone().into_bytes())).expect("readable").settings;
    for flag in table::settings().filter(|flag| flag.file_path().is_some()) {
        assert!(settings.is_set(flag.name) || *settings.value(flag.name) == default_of(flag), "{}", flag.name);
        assert_eq!(*settings.value(flag.name), default_of(flag), "{}", flag.name);
    }
    let (mut comment, mut path, mut checked) = ("", Vec::new(), 0);
    for line in sample.lines() {
        let indent = line.len() - line.trim_start().len();
        match line.trim_start().split_once(':') {
            Some((key, value)) if !key.contains([' ', '#']) => {
                path.truncate(indent / 2);
                path.push(key);
                if !value.is_empty() {
                    let flag = table::settings().find(|flag| flag.file_path().is_some_and(|of_flag| of_flag == path));
                    let kind = flag.unwrap_or_else(|| panic!("{path:?} is no key")).file_type_in_words();
                    assert!(comment.ends_with(&format!("({kind})")), "{path:?} is a {kind}: {comment}");
                    checked += 1;
                }
            }
            _ => comment = line,
        }
    }
    assert_eq!(checked, table::settings().filter(|flag| flag.file_path().is_some()).count());
}

#[test]
fn the_sample_started_unchanged_is_castd_without_flags() {
    let (sample, notes) = run(&["--config-file=c"], &[], Some(ALL_KEYS));
    assert_eq!(sample, from_flags(&[]));
    assert_eq!(sample.not_yet(), []);
    let (_, without) = run(&[], &[], None);
    let warnings = |notes: &[crate::config::Note]| -> Vec<String> {
        notes.iter().filter(|note| note.level > Level::Info).map(|note| note.message.clone()).collect()
    };
    assert_eq!(warnings(&notes), warnings(&without));
}

#[test]
fn the_sample_of_one_member_is_a_named_member() {
    let sample = from_file(SINGLE);
    assert_eq!(sample, from_flags(&["--name=single"]));
    assert!(file::read("single", Ok(SINGLE.into())).expect("readable").unused.is_empty());
}

#[test]
fn the_sample_of_three_members_has_three_members() {
    let config = from_file(THREE_MEMBERS);
    let cluster = config.verify_new_cluster(&mut |host| Err(format!("{host} is a name"))).expect("a good cluster");
    assert_eq!(cluster.len(), 3);
    assert_eq!(config.initial_cluster_token, "production-1");
    assert!(file::read("three", Ok(THREE_MEMBERS.into())).expect("readable").unused.is_empty());
}

#[test]
fn the_sample_of_variables_is_the_sample_of_one_member() {
    let lines = VARIABLES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let variables: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once('=')).collect();
    let (config, notes) = run(&[], &variables, None);
    let single = from_file(SINGLE);
    assert_eq!(Config { data_dir: single.data_dir.clone(), ..config }, single);
    let used = "recognized and used environment variable";
    assert_eq!(notes.iter().filter(|note| note.message == used).count(), variables.len());
    // All the same settings, told in two ways.
    let keys = SINGLE.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    assert_eq!(keys.count(), variables.len());
    assert!(variables.iter().all(|(name, _)| *name != environment::CONFIG_FILE_VARIABLE));
}

#[test]
fn etcds_sample_file_starts() {
    let (config, notes) = run(&["--config-file=c"], &[], Some(OF_ETCD));
    assert_eq!(config.logging.outputs, ["stderr"]);
    assert_eq!(config.cipher_suites.len(), 2);
    assert!(config.not_yet().iter().all(|missing| missing.severity != Severity::Refuse), "{:?}", config.not_yet());
    let dead = notes.iter().find(|note| note.message.contains("set nothing")).expect("dead keys are named");
    assert!(format!("{dead:?}").contains("proxy-read-timeout"));
}
