//! Where Castd, which answers as etcd 3.7.1, means to differ from etcd 3.4.23. Each line of the script that may differ,
//! what 3.4 says there, what we say, and the fact behind it.

use crate::harness::Answer;

pub struct Delta {
    /// The line of the script.
    pub command: &'static str,
    /// Replaced in etcd's answer …
    pub etcd: &'static str,
    /// … by this.
    pub castd: &'static str,
    /// A change of exit code and complaint along with it.
    pub succeeds: bool,
    /// Where etcd changed it, as its release notes and sources have it.
    pub reference: &'static str,
}

impl Delta {
    pub fn apply(&self, answer: &Answer) -> Answer {
        let stdout = if self.etcd.is_empty() && self.succeeds {
            self.castd.to_owned()
        } else {
            answer.stdout.replace(self.etcd, self.castd)
        };
        match self.succeeds {
            true => Answer { stdout, stderr: String::new(), code: 0 },
            false => Answer { stdout, ..answer.clone() },
        }
    }
}

const VERSION: &str = "v3-api 3.12: Status reports the release whose API is spoken, 3.7.1";
const KEYS_ONLY: &str = "v3-api 3.3(10): since 3.7 keys_only is answered from the index, with lease 0";

const fn other(command: &'static str, etcd: &'static str, castd: &'static str, reference: &'static str) -> Delta {
    Delta { command, etcd, castd, succeeds: false, reference }
}

pub const DELTAS: &[Delta] = &[
    other("endpoint status", "3.4.23", "3.7.1", VERSION),
    other("endpoint status -w json", "3.4.23", "3.7.1", VERSION),
    other("endpoint status -w fields", "3.4.23", "3.7.1", VERSION),
    other("endpoint status -w table", "3.4.23", "3.7.1", VERSION),
    other("get leased --keys-only -w json", ",\"lease\":4660", "", KEYS_ONLY),
    other("get leased --keys-only -w fields", "\"Lease\" : 4660", "\"Lease\" : 0", KEYS_ONLY),
];
