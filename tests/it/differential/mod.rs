//! Scripts of etcdctl commands, each for etcd 3.4 and for Castd on each backend, at the same addresses one after the other.
//! What comes back must be the same but for `deltas.rs`: output, complaints, exit code.
//!
//! ```text
//!   scripts/*.txt ──▶ etcd  ──▶ answers ──blur──deltas──┐
//!          └────────▶ castd ──▶ answers ──blur──────────┴─▶ equal, and each delta was needed
//! ```
//! With `CASTD_TEST_SERVER` set etcd plays both parts; with `--nocapture`, too, its answers are seen, which is how scripts are written.

mod blur;
mod deltas;
mod script;
mod stage;

use crate::harness::server::Ports;
use crate::harness::{Backend, Place, Setup, block_on};
use deltas::{DELTAS, Delta};
use stage::{NO_ID, Transcript, play};
use std::collections::BTreeSet;

/// Fewer would not be the whole of etcdctl.
const COMMANDS_MIN: usize = 450;

struct Script {
    name: &'static str,
    text: &'static str,
    /// For both servers.
    flags: &'static [&'static str],
    /// To make Castd do what etcd cannot help doing.
    castd_flags: &'static [&'static str],
}

macro_rules! scripts {
    ($($name:ident $(both $flags:expr, castd $castd_flags:expr)?;)+) => {
        const SCRIPTS: &[Script] = &[$(Script {
            name: stringify!($name),
            text: include_str!(concat!("scripts/", stringify!($name), ".txt")),
            ..Script { name: "", text: "", flags: &[$($flags)?], castd_flags: &[$($castd_flags)?] }
        },)+];

        $(
            #[test]
            fn $name() {
                castd_answers_as_etcd_does_but_for_the_listed_deltas(stringify!($name));
            }
        )+
    };
}

scripts! {
    store;
    keys;
    watches;
    leases;
    queues;
    cluster;
    members;
    alarms both "--quota-backend-bytes=1000000", castd "--quota-auto-disarm=false";
    usage;
}

fn castd_answers_as_etcd_does_but_for_the_listed_deltas(name: &str) {
    let script = SCRIPTS.iter().find(|script| script.name == name).expect("it is in the list");
    let _place = Place::take();
    let ports = Ports::free();
    let with_flags = |setup: Setup, flags: &[&str]| {
        flags.iter().chain(script.flags).fold(setup.ports(ports), |setup, flag| setup.flag(*flag))
    };
    let as_etcd = || block_on(play(script.text, with_flags(Setup::etcd("etcd"), &[])));
    let etcd = as_etcd();
    let nameless = etcd.iter().find(|(_, answer)| answer.stdout.contains(NO_ID));
    assert!(nameless.is_none(), "the script expects an id where etcd has none: {nameless:?}");
    if std::env::var_os("CASTD_TEST_SERVER").is_some() {
        compare("etcd again", &etcd, &as_etcd(), &[]);
        return;
    }
    let deltas: Vec<_> = DELTAS.iter().filter(|delta| delta.script == name).collect();
    for backend in Backend::ALL {
        let castd = block_on(play(script.text, with_flags(Setup::castd(*backend), script.castd_flags)));
        compare(backend.name(), &etcd, &castd, &deltas);
    }
}

fn compare(name: &str, etcd: &Transcript, castd: &Transcript, deltas: &[&Delta]) {
    assert_eq!(etcd.len(), castd.len());
    let mut needed = BTreeSet::new();
    let mut differences = String::new();
    for ((line, theirs), (_, ours)) in etcd.iter().zip(castd) {
        if theirs == ours {
            continue;
        }
        let mut expected = theirs.clone();
        for (number, delta) in deltas.iter().enumerate().filter(|(_, delta)| delta.command == line) {
            let changed = delta.apply(&expected);
            if changed != expected {
                needed.insert(number);
            }
            expected = changed;
        }
        if &expected != ours {
            differences += &format!("\n=== {line}\n--- etcd, with deltas\n{expected:?}\n--- {name}\n{ours:?}\n");
        }
    }
    for (_, delta) in deltas.iter().enumerate().filter(|(number, _)| !needed.contains(number)) {
        differences += &format!("\n=== a delta that never occurs: {} ({})\n", delta.command, delta.reference);
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn every_command_is_played_and_every_delta_belongs_to_a_line() {
    let scripts: Vec<_> = SCRIPTS.iter().map(|script| (script.name, script::steps(script.text))).collect();
    let steps = scripts.iter().flat_map(|(_, steps)| steps);
    let commands = steps.filter(|(_, step)| matches!(step, script::Step::Command(_))).count();
    assert!(commands >= COMMANDS_MIN, "only {commands} commands");
    for delta in DELTAS {
        let steps = scripts.iter().filter(|(name, _)| *name == delta.script).flat_map(|(_, steps)| steps);
        assert!(steps.into_iter().any(|(line, _)| line == delta.command), "{} has no {}", delta.script, delta.command);
    }
}
