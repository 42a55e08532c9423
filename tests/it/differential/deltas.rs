//! Where Castd, which answers as etcd 3.7.1, means to differ from etcd 3.4.23. Each line of a script that may differ, what
//! 3.4 says there, what we say, and the fact behind it.

use crate::harness::Answer;

pub struct Delta {
    pub script: &'static str,
    /// The line of it.
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

const VERSION: &str = "Status reports the release whose API is spoken, 3.7.1";
const KEYS_ONLY: &str = "since 3.7 keys_only is answered from the index, with lease 0";
const ALARM_HEADER: &str = "3.4 answers alarms without a header";
const LEARNER_STAYS: &str = "since 3.5.31 and 3.6.12 MemberUpdate does not make a voter of a learner";

const fn other(
    script: &'static str,
    command: &'static str,
    etcd: &'static str,
    castd: &'static str,
    reference: &'static str,
) -> Delta {
    Delta { script, command, etcd, castd, reference }
}

const fn version(script: &'static str, command: &'static str) -> Delta {
    other(script, command, "3.4.23", "3.7.1", VERSION)
}

pub const DELTAS: &[Delta] = &[
    version("store", "endpoint status"),
    version("store", "endpoint status -w json"),
    version("store", "endpoint status -w fields"),
    version("store", "endpoint status -w table"),
    version("store", "endpoint status --cluster -w json"),
    version("cluster", "endpoint status --cluster"),
    version("cluster", "endpoint status --cluster -w fields"),
    version("cluster", "endpoint status --cluster -w table"),
    version("members", "endpoint status -w json"),
    version("usage", "@bare endpoint status --endpoints={endpoint},http://{endpoint} -w json"),
    version("usage", "@bare endpoint status --endpoints=127.0.0.1:1,{endpoint} --command-timeout=200ms"),
    version("alarms", "endpoint status"),
    version("alarms", "endpoint status -w json"),
    version("alarms", "endpoint status -w fields"),
    version("alarms", "endpoint status -w table"),
    other(
        "alarms",
        "alarm list -w json",
        "{\"alarms\"",
        "{\"header\":{\"cluster_id\":<cluster>,\"member_id\":<member>,\"revision\":3,\"raft_term\":2},\"alarms\"",
        ALARM_HEADER,
    ),
    other(
        "cluster",
        "alarm list -w json",
        "{}",
        "{\"header\":{\"cluster_id\":<cluster>,\"member_id\":<member>,\"revision\":1,\"raft_term\":2}}",
        ALARM_HEADER,
    ),
    other(
        "members",
        "member update {N2} --peer-urls=http://127.0.0.1:4 -w json",
        "\"ID\":<N2>,",
        "\"ID\":<N2>,\"isLearner\":true,",
        LEARNER_STAYS,
    ),
    other(
        "members",
        "member list # updated",
        "http://127.0.0.1:4, , false",
        "http://127.0.0.1:4, , true",
        LEARNER_STAYS,
    ),
    other("store", "get leased --keys-only -w json", ",\"lease\":4660", "", KEYS_ONLY),
    other("store", "get leased --keys-only -w fields", "\"Lease\" : 4660", "\"Lease\" : 0", KEYS_ONLY),
];
