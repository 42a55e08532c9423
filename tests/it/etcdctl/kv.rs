//! put, get, del, txn, compaction.

use crate::harness::grpc::text;
use crate::harness::{Setup, for_each_backend};
use serde_json::json;

for_each_backend!(
    what_is_put_can_be_got_in_every_format,
    get_takes_ranges_orders_limits_and_revisions,
    del_counts_and_shows_what_it_deleted,
    txn_reads_its_blocks_and_prints_its_branch,
    compaction_is_reported_and_refused,
    values_come_from_standard_input_and_may_be_anything,
    mistakes_end_with_the_servers_text,
);

async fn what_is_put_can_be_got_in_every_format(setup: Setup) {
    let server = setup.start();
    server.etcdctl(&["put", "foo", "bar"]).prints("OK\n");
    server.etcdctl(&["put", "foo", "bar2", "--prev-kv"]).prints("OK\nfoo\nbar\n");
    server.etcdctl(&["get", "foo"]).prints("foo\nbar2\n");
    server.etcdctl(&["get", "foo", "--print-value-only"]).prints("bar2\n");
    server.etcdctl(&["get", "foo", "--hex"]).prints("\\x66\\x6f\\x6f\n\\x62\\x61\\x72\\x32\n");
    server.etcdctl(&["get", "foo", "--consistency=s"]).prints("foo\nbar2\n");
    server.etcdctl(&["get", "nothing"]).prints("");

    let got = server.etcdctl(&["get", "foo", "-w", "json"]).json();
    let header = got["header"].clone();
    assert!(header["cluster_id"].as_u64().is_some_and(|id| id > 0) && header["member_id"].as_u64().is_some());
    assert_eq!(header["revision"], 3);
    let expected = json!({
        "header": header,
        "kvs": [{"key": "Zm9v", "create_revision": 2, "mod_revision": 3, "version": 2, "value": "YmFyMg=="}],
        "count": 1,
    });
    assert_eq!(got, expected);

    let fields = server.etcdctl(&["get", "foo", "-w", "fields"]).ok();
    let (head, body) = fields.split_once("\"Key\"").expect("a key");
    assert!(head.contains("\"Revision\" : 3\n"), "{head}");
    let expected = [
        " : \"foo\"",
        "\"CreateRevision\" : 2",
        "\"ModRevision\" : 3",
        "\"Version\" : 2",
        "\"Value\" : \"bar2\"",
        "\"Lease\" : 0",
        "\"More\" : false",
        "\"Count\" : 1",
        "",
    ];
    assert_eq!(body, expected.join("\n"));

    // The format is found wanting only after the request has been answered.
    let answer = server.etcdctl(&["put", "a", "2", "-w", "table"]);
    assert_eq!((answer.code, answer.last_stderr_line()), (4, "Error: table not supported as output format"));
    server.etcdctl(&["get", "a"]).prints("a\n2\n");
}

async fn get_takes_ranges_orders_limits_and_revisions(setup: Setup) {
    let server = setup.start();
    for (key, value) in [("k1", "c"), ("k2", "a"), ("k3", "b"), ("l", "d"), ("k1", "z")] {
        server.etcdctl(&["put", key, value]).prints("OK\n");
    }
    for (arguments, expected) in [
        (&["k", "--prefix"][..], "k1\nz\nk2\na\nk3\nb\n"),
        (&["k1", "k3"], "k1\nz\nk2\na\n"),
        (&["k3", "--from-key"], "k3\nb\nl\nd\n"),
        (&["", "--prefix", "--keys-only"], "k1\n\nk2\n\nk3\n\nl\n\n"),
        (&["k", "--prefix", "--limit=2"], "k1\nz\nk2\na\n"),
        (&["k", "--prefix", "--order=DESCEND", "--print-value-only"], "b\na\nz\n"),
        (&["k", "--prefix", "--sort-by=VALUE", "--print-value-only"], "a\nb\nz\n"),
        (&["k", "--prefix", "--sort-by=MODIFY", "--order=DESCEND", "--limit=1"], "k1\nz\n"),
        (&["k", "--prefix", "--sort-by=CREATE", "--print-value-only"], "z\na\nb\n"),
        (&["k", "--prefix", "--sort-by=VERSION", "--order=DESCEND", "--limit=1", "--print-value-only"], "z\n"),
        (&["k1", "--rev=2"], "k1\nc\n"),
        (&["k", "--prefix", "--rev=3", "--print-value-only"], "c\na\n"),
    ] {
        let arguments: Vec<_> = ["get"].iter().chain(arguments).copied().collect();
        assert_eq!(server.etcdctl(&arguments).ok(), expected, "{arguments:?}");
    }
    let counted = server.etcdctl(&["get", "k", "--prefix", "--limit=1", "-w", "json"]).json();
    assert_eq!((&counted["count"], &counted["more"]), (&json!(3), &json!(true)));
    let future = server.etcdctl(&["get", "k1", "--rev=99"]);
    future.fails(1, &format!("Error: {}", text::FUTURE));
}

async fn del_counts_and_shows_what_it_deleted(setup: Setup) {
    let server = setup.start();
    for key in ["a", "b1", "b2", "c", "d"] {
        server.etcdctl(&["put", key, "v"]).prints("OK\n");
    }
    server.etcdctl(&["del", "b", "--prefix", "--prev-kv"]).prints("2\nb1\nv\nb2\nv\n");
    server.etcdctl(&["del", "b", "--prefix"]).prints("0\n");
    server.etcdctl(&["del", "c", "d"]).prints("1\n");
    server.etcdctl(&["del", "b", "--from-key"]).prints("1\n");
    let deleted = server.etcdctl(&["del", "a", "-w", "json"]).json();
    assert_eq!((&deleted["deleted"], &deleted["header"]["revision"]), (&json!(1), &json!(10)));
    server.etcdctl(&["del", "", "--prefix"]).prints("0\n");
}

async fn txn_reads_its_blocks_and_prints_its_branch(setup: Setup) {
    let server = setup.start();
    server.etcdctl(&["put", "foo", "bar"]).prints("OK\n");
    let input = "ver(\"foo\") > \"0\"\n\nget foo\nput x 1\ndel y\n\nget nothing\n\n";
    server.etcdctl_reading(&["txn"], input).prints("SUCCESS\n\nfoo\nbar\n\nOK\n\n0\n");
    for (compare, holds) in [
        ("value(\"foo\") = \"bar\"", true),
        ("val(\"foo\") != \"bar\"", false),
        ("create(\"foo\") = \"2\"", true),
        ("mod(\"foo\") < \"2\"", false),
        ("ver(\"none\") = \"0\"", true),
        ("value(\"none\") != \"bar\"", false),
    ] {
        let input = format!("{compare}\n\nput yes 1\n\nput no 1\n\n");
        let expected = if holds { "SUCCESS\n\nOK\n" } else { "FAILURE\n\nOK\n" };
        assert_eq!(server.etcdctl_reading(&["txn"], &input).ok(), expected, "{compare}");
    }
    let answer = server.etcdctl_reading(&["txn", "-w", "json"], "\nput a 1\nget a\n\n\n").json();
    assert_eq!(answer["succeeded"], true);
    assert_eq!(answer["responses"][0]["Response"]["ResponsePut"]["header"]["revision"], 10);
    assert_eq!(answer["responses"][1]["Response"]["ResponseRange"]["kvs"][0]["value"], "MQ==");
    let twice = server.etcdctl_reading(&["txn"], "\nput a 1\nput a 2\n\n\n");
    twice.fails(1, &format!("Error: {}", text::DUPLICATE_KEY));
}

async fn compaction_is_reported_and_refused(setup: Setup) {
    let server = setup.start();
    for value in ["1", "2", "3", "4"] {
        server.etcdctl(&["put", "k", value]).prints("OK\n");
    }
    server.etcdctl(&["compaction", "3"]).prints("compacted revision 3\n");
    server.etcdctl(&["compaction", "--physical", "4"]).prints("compacted revision 4\n");
    server.etcdctl(&["compaction", "3"]).fails(1, &format!("Error: {}", text::COMPACTED));
    server.etcdctl(&["compaction", "9"]).fails(1, &format!("Error: {}", text::FUTURE));
    server.etcdctl(&["get", "k", "--rev=3"]).fails(1, &format!("Error: {}", text::COMPACTED));
    server.etcdctl(&["get", "k", "--rev=4"]).prints("k\n3\n");
}

async fn values_come_from_standard_input_and_may_be_anything(setup: Setup) {
    let server = setup.start();
    server.etcdctl_reading(&["put", "k"], "two\nlines\n").prints("OK\n");
    server.etcdctl(&["get", "k", "--print-value-only"]).prints("two\nlines\n\n");
    server.etcdctl(&["put", "--", "-k", "-v"]).prints("OK\n");
    server.etcdctl(&["get", "--", "-k"]).prints("-k\n-v\n");
    server.etcdctl(&["put", "ключ", "значение ☃"]).prints("OK\n");
    server.etcdctl(&["get", "ключ"]).prints("ключ\nзначение ☃\n");
    let large = "v".repeat(1_000_000);
    server.etcdctl_reading(&["put", "large"], &large).prints("OK\n");
    server.etcdctl(&["get", "large", "--print-value-only"]).prints(&(large + "\n"));
}

async fn mistakes_end_with_the_servers_text(setup: Setup) {
    let server = setup.start();
    server.etcdctl(&["put", "", "v"]).fails(1, &format!("Error: {}", text::EMPTY_KEY));
    server.etcdctl(&["put", "k", "--ignore-value"]).fails(1, &format!("Error: {}", text::KEY_NOT_FOUND));
    server.etcdctl(&["put", "k", "v", "--lease=123"]).fails(1, &format!("Error: {}", text::LEASE_NOT_FOUND));
    let too_large = server.etcdctl_reading(&["put", "k"], &"v".repeat(1_600_000));
    too_large.fails(1, &format!("Error: {}", text::TOO_LARGE));
    server.etcdctl(&["get", ""]).fails(1, &format!("Error: {}", text::EMPTY_KEY));
}
