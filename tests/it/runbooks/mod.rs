//! `docs/operations.md`, typed in as it stands there: by bash, on four machines in one, with the real castd and etcdctl.
//!
//! ```text
//!   document.rs   the blocks of the page
//!   machine.rs    a shell that takes them
//!   stage.rs      the machines of one runbook, and the values of the page's variables
//!   changes.rs    what operators do: start, grow, shrink, move, restart
//!   losses.rs     what happens to them: machines, disks, quorum, everything; and backups
//! ```
//! What a block is to bring about, the tests check. That none is left out: a runbook of the page without a test, a test
//! without its runbook, and a test that ends before its runbook does fail.

mod changes;
mod document;
mod losses;
mod machine;
mod stage;

use std::collections::BTreeSet;

/// Makes of each `fn runbook(&Setup)` one test for each of its backends, and a list of all.
macro_rules! runbooks {
    ($($module:ident::$runbook:ident: $($backend:ident)+;)+) => {
        /// As on the page.
        const TESTED: &[&str] = &[$(stringify!($runbook)),+];

        $(mod $runbook { $(super::runbooks!(@ $module $runbook $backend);)+ })+
    };
    (@ $module:ident $runbook:ident rocksdb) => { runbooks!(@@ $module $runbook rocksdb Rocksdb "rocksdb"); };
    (@ $module:ident $runbook:ident sled) => { runbooks!(@@ $module $runbook sled Sled "sled"); };
    (@ $module:ident $runbook:ident memory) => {
        #[test]
        fn memory() {
            use crate::harness::{Backend, run_castd};
            run_castd(Backend::Memory, async |setup| super::$module::$runbook(&setup));
        }
    };
    (@@ $module:ident $runbook:ident $test:ident $backend:ident $feature:literal) => {
        #[cfg(feature = $feature)]
        #[test]
        fn $test() {
            use crate::harness::{Backend, run_castd};
            run_castd(Backend::$backend, async |setup| super::$module::$runbook(&setup));
        }
    };
}
use runbooks;

runbooks! {
    changes::start: rocksdb sled memory;
    changes::health: rocksdb;
    changes::grow: rocksdb sled memory;
    changes::shrink: rocksdb;
    changes::move_member: rocksdb;
    changes::restart: rocksdb sled memory;
    losses::replace_machine: rocksdb;
    losses::replace_disk: rocksdb sled memory;
    losses::lost_quorum: rocksdb sled memory;
    losses::backup: rocksdb;
    losses::restore: rocksdb sled memory;
    losses::corrupt: rocksdb sled;
}

#[test]
fn every_runbook_of_the_page_is_tested() {
    let on_the_page: BTreeSet<String> = document::blocks().into_iter().map(|block| block.runbook).collect();
    // `join` is a part of several.
    let parts = [document::SETTINGS, stage::JOIN];
    let tested = TESTED.iter().map(|name| name.replace('_', "-")).chain(parts.map(str::to_owned));
    assert_eq!(tested.collect::<BTreeSet<String>>(), on_the_page);
}
