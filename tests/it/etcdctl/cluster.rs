//! endpoint status, health and hashkv; member list; version.

use crate::harness::{Setup, for_each_backend};
use serde_json::json;

for_each_backend!(
    endpoints_may_be_urls,
    a_member_is_listed_in_every_format,
    an_endpoint_tells_its_status_and_health,
    hashes_are_told
);

async fn a_member_is_listed_in_every_format(setup: Setup) {
    let server = setup.start();
    let (peer, client) = (server.setup.peer_url(), server.setup.client_url());
    let listed = server.etcdctl(&["member", "list", "-w", "json"]).json();
    let id = listed["members"][0]["ID"].as_u64().expect("an id");
    let member = json!({"ID": id, "name": "m1", "peerURLs": [peer], "clientURLs": [client]});
    assert_eq!(listed["members"], json!([member]));
    server.etcdctl(&["member", "list"]).prints(&format!("{id:x}, started, m1, {peer}, {client}, false\n"));
    let table = server.etcdctl(&["member", "list", "-w", "table"]).ok();
    assert!(table.contains(&format!("| {id:x} | started |   m1 | {peer} | {client} |      false |")), "{table}");
    let fields = server.etcdctl(&["member", "list", "-w", "fields"]).ok();
    assert!(fields.contains(&format!("\"ID\" : {id}\n\"Name\" : \"m1\"\n\"PeerURL\" : \"{peer}\"\n")), "{fields}");
}

async fn an_endpoint_tells_its_status_and_health(setup: Setup) {
    let version = if setup.is_etcd() { "3.4.23" } else { "3.7.1" };
    let server = setup.start();
    let status = server.etcdctl(&["endpoint", "status"]).ok();
    let columns: Vec<_> = status.trim_end_matches('\n').split(", ").collect();
    assert_eq!(columns.len(), 10, "{status}");
    assert_eq!((columns[0], columns[2]), (server.endpoint().as_str(), version));
    assert_eq!((columns[4], columns[5], columns[9]), ("true", "false", ""));
    let status = server.etcdctl(&["endpoint", "status", "-w", "json"]).json();
    assert_eq!(status[0]["Status"]["leader"], status[0]["Status"]["header"]["member_id"]);
    server.etcdctl(&["endpoint", "status", "-w", "table"]).ok();
    server.etcdctl(&["endpoint", "status", "-w", "fields"]).ok();

    let healthy = server.etcdctl(&["endpoint", "health"]);
    assert_eq!(healthy.code, 0, "{healthy:?}");
    let line = format!("{} is healthy: successfully committed proposal: took = ", server.endpoint());
    assert!(healthy.stderr.contains(&line), "{healthy:?}");
    let healthy = server.etcdctl(&["endpoint", "health", "--cluster", "-w", "json"]).json();
    assert_eq!((&healthy[0]["endpoint"], &healthy[0]["health"]), (&json!(server.setup.client_url()), &json!(true)));
}

async fn hashes_are_told(setup: Setup) {
    let server = setup.start();
    server.etcdctl(&["put", "a", "1"]).prints("OK\n");
    server.etcdctl(&["endpoint", "hashkv"]).prints(&format!("{}, 2587454935\n", server.endpoint()));
    server.etcdctl(&["put", "b", "2"]).prints("OK\n");
    server.etcdctl(&["endpoint", "hashkv", "--rev=2"]).prints(&format!("{}, 2587454935\n", server.endpoint()));
}

/// Old Go clients put the URL as it is into the request's authority, which is none.
async fn endpoints_may_be_urls(setup: Setup) {
    let server = setup.start();
    let url = server.setup.client_url();
    let at_url = |arguments: &[&str]| crate::harness::ctl::etcdctl(&url, arguments, None);
    at_url(&["put", "k", "v"]).prints("OK\n");
    at_url(&["get", "k"]).prints("k\nv\n");
    assert!(at_url(&["endpoint", "status"]).ok().starts_with(&format!("{url}, ")));
    assert!(at_url(&["endpoint", "hashkv"]).ok().starts_with(&format!("{url}, ")));
    assert_eq!(at_url(&["endpoint", "health"]).code, 0);
    assert!(server.etcdctl(&["endpoint", "status", "--cluster"]).ok().starts_with(&format!("{url}, ")));
}
