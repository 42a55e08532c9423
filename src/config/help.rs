//! What `--help` and `--version` print.

use std::fmt::Write as _;

use super::flag::{Flag, Kind, Section};
use super::state::{State, state_of};
use super::table::{FLAGS, GATES, Stage};
use super::{CASTD_VERSION, ETCD_VERSION};

/// Printed to stderr after a flag that cannot be read, and by `--help`.
pub fn usage() -> &'static str {
    "Usage:

  castd [flags]
    Start a member.

  castd --version
    Show the versions of castd and of the etcd it stands in for.

  castd -h | --help
    Show all flags.

  castd --config-file PATH
    Take everything from a YAML or JSON file; all other flags and the environment are ignored then.
    Durations in it are integers, in nanoseconds.
"
}

pub(super) const SECTIONS: [(Section, &str); 10] = [
    (Section::Member, "Member"),
    (Section::Storage, "Storage"),
    (Section::Clustering, "Clustering"),
    (Section::Security, "Security"),
    (Section::Auth, "Auth"),
    (Section::Monitoring, "Profiling and Monitoring"),
    (Section::Logging, "Logging"),
    (Section::Tracing, "Distributed tracing"),
    (Section::Features, "Features"),
    (Section::Unsafe, "Unsafe feature"),
];

/// All flags, printed to stdout by `--help`.
pub fn flags_text() -> String {
    let mut out = String::new();
    for (section, title) in SECTIONS {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\n{title}:");
        for flag in FLAGS.iter().filter(|flag| flag.section == section) {
            let _ = writeln!(out, "  --{} '{}'\n    {}", flag.name, shown_default(flag), flag.help);
            let _ = match state_of(flag) {
                State::Works => Ok(()),
                State::WorksInPart(text) => writeln!(out, "    [in part] {text}."),
                State::WithoutEffect(text) => writeln!(out, "    [without effect] {text}."),
                State::Refused(text) => writeln!(out, "    [refused for now] {text}."),
                State::NoEffectYet(text) => writeln!(out, "    [no effect yet] {text}."),
            };
            if flag.kind == Kind::Gates {
                gate_lines().iter().for_each(|line| out.push_str(line));
            }
        }
    }
    out.push_str("\nThe unsafe flags may break what consensus guarantees.\n\n");
    out.push_str("A flag's environment variable is ETCD_ and its name in upper case: --data-dir is ETCD_DATA_DIR.\n");
    out
}

/// The gates in the order of their names, with the two that switch all of a stage.
fn gate_lines() -> Vec<String> {
    let line =
        |name: &str, stage: &str, default: bool| format!("    {name}=true|false ({stage} - default={default})\n");
    let mut lines = vec![line("AllAlpha", "ALPHA", false), line("AllBeta", "BETA", false)];
    lines.extend(GATES.iter().map(|(name, stage)| match stage {
        Stage::Alpha => line(name, "ALPHA", false),
        Stage::Beta => line(name, "BETA", true),
    }));
    lines.sort_unstable();
    lines
}

pub(super) fn shown_default(flag: &Flag) -> &'static str {
    match flag.name {
        "data-dir" => "${name}.etcd",
        _ => flag.default,
    }
}

/// Of the sources this was built from, where the build said so.
pub const GIT_SHA: &str = match option_env!("CASTD_GIT_SHA") {
    Some(sha) => sha,
    None => "Not provided",
};
/// What stands where etcd names its compiler.
pub const GO_VERSION: &str = concat!("none (rustc ", env!("CARGO_PKG_RUST_VERSION"), ")");

/// etcd's four lines, which scripts cut, and ours below.
pub fn version_text() -> String {
    let (os, architecture) = (std::env::consts::OS, go_architecture(std::env::consts::ARCH));
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {GIT_SHA}\nGo Version: {GO_VERSION}\nGo OS/Arch: {os}/{architecture}\n\
         castd Version: {CASTD_VERSION}\n",
    )
}

/// Go's name of a processor.
pub fn go_architecture(rust_name: &str) -> &str {
    match rust_name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_flag_of_the_table_once_with_its_default() {
        let text = flags_text();
        for flag in FLAGS {
            let line = format!("\n  --{} '{}'\n", flag.name, shown_default(flag));
            let times = text.matches(&line).count();
            assert_eq!(times, usize::from(flag.section != Section::Hidden), "{}", flag.name);
        }
        let listed = text.lines().filter(|line| line.starts_with("  --")).count();
        assert_eq!(listed, FLAGS.iter().filter(|flag| flag.section != Section::Hidden).count());
    }

    #[test]
    fn the_first_four_lines_of_the_version_are_etcds() {
        let text = version_text();
        let starts: Vec<&str> = text.lines().map(|line| line.split(": ").next().unwrap_or("")).collect();
        assert_eq!(starts, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "castd Version"]);
        assert!(text.starts_with("etcd Version: 3.7.1\n"));
    }
}
