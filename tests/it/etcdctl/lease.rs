//! lease grant, revoke, timetolive, list, keep-alive.

use crate::harness::{Setup, for_each_backend};
use serde_json::json;

for_each_backend!(
    leases_are_granted_shown_listed_and_revoked,
    keep_alive_goes_on_until_the_lease_is_gone,
    leases_that_are_not_are_told_apart_from_errors,
);

/// The hex id in `lease 694d… granted with TTL(600s)`.
fn granted_id(stdout: &str, ttl: u32) -> String {
    let id = stdout.strip_prefix("lease ").and_then(|rest| rest.strip_suffix(&format!(" granted with TTL({ttl}s)\n")));
    id.unwrap_or_else(|| panic!("{stdout}")).to_owned()
}

async fn leases_are_granted_shown_listed_and_revoked(setup: Setup) {
    let server = setup.start();
    let id = granted_id(&server.etcdctl(&["lease", "grant", "600"]).ok(), 600);
    assert_eq!(id.len(), 16, "{id}");
    server.etcdctl(&["put", "lk", "v", &format!("--lease={id}")]).prints("OK\n");
    server.etcdctl(&["put", "lk", "w", "--ignore-lease"]).prints("OK\n");
    let shown = server.etcdctl(&["lease", "timetolive", &id, "--keys"]).ok();
    assert!(shown.starts_with(&format!("lease {id} granted with TTL(600s), remaining(59")), "{shown}");
    assert!(shown.ends_with("s), attached keys([lk])\n"), "{shown}");
    let shown = server.etcdctl(&["lease", "timetolive", &id, "--keys", "-w", "json"]).json();
    assert_eq!((&shown["granted-ttl"], &shown["keys"]), (&json!(600), &json!(["bGs="])));
    server.etcdctl(&["lease", "list"]).prints(&format!("found 1 leases\n{id}\n"));
    let got = server.etcdctl(&["get", "lk", "-w", "json"]).json();
    assert_eq!(got["kvs"][0]["lease"].as_i64(), i64::from_str_radix(&id, 16).ok());
    server.etcdctl(&["lease", "revoke", &id]).prints(&format!("lease {id} revoked\n"));
    server.etcdctl(&["get", "lk"]).prints("");
    server.etcdctl(&["lease", "list"]).prints("found 0 leases\n");
}

async fn keep_alive_goes_on_until_the_lease_is_gone(setup: Setup) {
    let server = setup.start();
    let id = granted_id(&server.etcdctl(&["lease", "grant", "3"]).ok(), 3);
    server.etcdctl(&["lease", "keep-alive", "--once", &id]).prints(&format!("lease {id} keepalived with TTL(3)\n"));
    let mut keeping = server.etcdctl_running(&["lease", "keep-alive", &id]);
    let kept = format!("lease {id} keepalived with TTL(3)");
    keeping.prints(&[&kept, &kept]);
    server.etcdctl(&["lease", "revoke", &id]).prints(&format!("lease {id} revoked\n"));
    let mut line = keeping.line();
    while line.as_deref() == Some(&kept) {
        line = keeping.line();
    }
    assert_eq!(line, Some(format!("lease {id} expired or revoked.")));
    assert_eq!(keeping.wait(), 0);
}

async fn leases_that_are_not_are_told_apart_from_errors(setup: Setup) {
    let server = setup.start();
    server.etcdctl(&["lease", "timetolive", "1234"]).prints("lease 0000000000001234 already expired\n");
    let revoked = server.etcdctl(&["lease", "revoke", "1234"]);
    revoked.fails(1, "Error: failed to revoke lease (etcdserver: requested lease not found)");
    let granted = server.etcdctl(&["lease", "grant", "9000000001"]);
    granted.fails(1, "Error: failed to grant lease (etcdserver: too large lease TTL)");
    granted_id(&server.etcdctl(&["lease", "grant", "0"]).ok(), 1);
    server.etcdctl_running(&["lease", "keep-alive", "1234"]).prints(&["lease 0000000000001234 expired or revoked."]);
}
