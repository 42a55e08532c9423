//! Where Castd, which answers as etcd 3.7.1, means to differ from etcd 3.4.23. Each line of the script that may differ,
//! what 3.4 says there, what we say, and the fact behind it.

use crate::harness::Answer;

pub struct Delta {
    /// The line of the script.
    pub command: &'static str,
    /// Replaced in etcd's output …
    pub etcd: &'static str,
    /// … by this.
    pub castd: &'static str,
    /// Where it is written that etcd has changed it.
    pub reference: &'static str,
}

impl Delta {
    pub fn apply(&self, answer: &Answer) -> Answer {
        Answer { stdout: answer.stdout.replace(self.etcd, self.castd), ..answer.clone() }
    }
}

const VERSION: &str = "v3-api 3.12: Status reports the release whose API is spoken, 3.7.1";
const KEYS_ONLY: &str = "v3-api 3.3(10): since 3.7 keys_only is answered from the index, with lease 0";

const fn other(command: &'static str, etcd: &'static str, castd: &'static str, reference: &'static str) -> Delta {
    Delta { command, etcd, castd, reference }
}

pub const DELTAS: &[Delta] = &[
    other("endpoint status", "3.4.23", "3.7.1", VERSION),
    other("endpoint status -w json", "3.4.23", "3.7.1", VERSION),
    other("endpoint status -w fields", "3.4.23", "3.7.1", VERSION),
    other("endpoint status -w table", "3.4.23", "3.7.1", VERSION),
    other("endpoint status --cluster -w json", "3.4.23", "3.7.1", VERSION),
    other("endpoint status --cluster", "3.4.23", "3.7.1", VERSION),
    other("endpoint status --cluster -w fields", "3.4.23", "3.7.1", VERSION),
    other("endpoint status --cluster -w table", "3.4.23", "3.7.1", VERSION),
    other("@bare endpoint status --endpoints={endpoint},http://{endpoint} -w json", "3.4.23", "3.7.1", VERSION),
    other(
        "@bare endpoint status --endpoints=127.0.0.1:1,{endpoint} --command-timeout=200ms",
        "3.4.23",
        "3.7.1",
        VERSION,
    ),
    other("get leased --keys-only -w json", ",\"lease\":4660", "", KEYS_ONLY),
    other("get leased --keys-only -w fields", "\"Lease\" : 4660", "\"Lease\" : 0", KEYS_ONLY),
];
