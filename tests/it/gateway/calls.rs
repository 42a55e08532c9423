//! Calls of one request and one answer.

use super::{call, refused};
use crate::harness::curl::{Http, curl};
use crate::harness::http::http_request;
use crate::harness::{Setup, for_each_backend, http_get};
use castd_proto::Rpc;
use serde_json::json;

for_each_backend!(
    castd: keys_are_put_read_and_deleted,
    a_txn_compares_and_takes_a_branch,
    a_lease_lives_and_ends,
    errors_have_codes_texts_and_statuses,
    every_rpc_is_answered_under_every_prefix,
    headers_reach_the_call,
    a_gateway_that_is_off_is_not_there,
    browsers_are_answered_as_configured,
);

async fn keys_are_put_read_and_deleted(setup: Setup) {
    let server = setup.start();
    for http in Http::BOTH {
        let key = if http == Http::One { "b25l" } else { "dHdv" };
        let put = call(&server, http, "/v3/kv/put", &json!({ "key": key, "value": "djE=" }));
        let created: i64 = put["header"]["revision"].as_str().expect("a string").parse().expect("of digits");
        let put = call(&server, http, "/v3/kv/put", &json!({ "key": key, "value": "djI", "prevKv": true }));
        assert_eq!(put["prev_kv"]["value"], "djE=");
        let range = call(&server, http, "/v3/kv/range", &json!({ "key": key }));
        let kv = json!({
            "key": key, "value": "djI=", "version": "2",
            "create_revision": created.to_string(), "mod_revision": (created + 1).to_string(),
        });
        assert_eq!((&range["kvs"], &range["count"]), (&json!([kv]), &json!("1")));
        let old = call(&server, http, "/v3/kv/range", &json!({ "key": key, "revision": created }));
        assert_eq!(old["kvs"][0]["value"], "djE=");
        let all = json!({ "key": "AA==", "range_end": "AA", "count_only": true });
        assert_eq!(call(&server, http, "/v3/kv/range", &all)["count"], "1");
        let deleted = call(&server, http, "/v3/kv/deleterange", &json!({ "key": key, "prev_kv": true }));
        assert_eq!((&deleted["deleted"], &deleted["prev_kvs"][0]["value"]), (&json!("1"), &json!("djI=")));
        // Nothing is left, and nothing is what defaults look like.
        let range = call(&server, http, "/v3/kv/range", &json!({ "key": key }));
        assert_eq!(range, json!({ "header": range["header"] }));
    }
    call(&server, Http::One, "/v3/kv/compaction", &json!({ "revision": "3", "physical": true }));
    let answer = curl(&server, Http::One, "/v3/kv/range", r#"{"key":"b25l","revision":"2"}"#, &[]);
    refused(&answer, 400, 11, "etcdserver: mvcc: required revision has been compacted");
}

async fn a_txn_compares_and_takes_a_branch(setup: Setup) {
    let server = setup.start();
    let txn = json!({
        "compare": [{ "target": "VERSION", "key": "YQ==", "version": "0", "result": "EQUAL" }],
        "success": [{ "request_put": { "key": "YQ==", "value": "MQ==" } }],
        "failure": [
            { "request_range": { "key": "YQ==" } },
            { "request_txn": { "success": [{ "request_delete_range": { "key": "YQ==" } }] } },
        ],
    });
    for http in Http::BOTH {
        let first = call(&server, http, "/v3/kv/txn", &txn);
        assert_eq!(first["succeeded"], true);
        assert!(first["responses"][0]["response_put"]["header"]["revision"].is_string(), "{first}");
        let second = call(&server, http, "/v3/kv/txn", &txn);
        assert_eq!(second.get("succeeded"), None);
        assert_eq!(second["responses"][0]["response_range"]["kvs"][0]["value"], "MQ==");
        let nested = &second["responses"][1]["response_txn"];
        assert_eq!(nested["responses"][0]["response_delete_range"]["deleted"], "1", "{second}");
    }
    let twice = json!({ "success": [
        { "request_put": { "key": "YQ==" } }, { "request_put": { "key": "YQ==" } },
    ] });
    let answer = curl(&server, Http::Two, "/v3/kv/txn", &twice.to_string(), &[]);
    refused(&answer, 400, 3, "etcdserver: duplicate key given in txn request");
    // Go's names are not the mapping's, so these operations are empty.
    let answer = curl(&server, Http::One, "/v3/kv/txn", r#"{"success":[{"Request":{"RequestPut":{}}}]}"#, &[]);
    refused(&answer, 400, 3, "etcdserver: key not found");
}

async fn a_lease_lives_and_ends(setup: Setup) {
    let server = setup.start();
    for (http, id) in Http::BOTH.into_iter().zip([7_i64, i64::MAX]) {
        let text = id.to_string();
        let granted = call(&server, http, "/v3/lease/grant", &json!({ "ID": id, "TTL": "600" }));
        assert_eq!((&granted["ID"], &granted["TTL"]), (&json!(text), &json!("600")));
        call(&server, http, "/v3/kv/put", &json!({ "key": "bGVhc2Vk", "lease": text }));
        for path in ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"] {
            let left = call(&server, http, path, &json!({ "ID": text, "keys": true }));
            assert_eq!((&left["grantedTTL"], &left["keys"]), (&json!("600"), &json!(["bGVhc2Vk"])));
        }
        for path in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
            assert_eq!(call(&server, http, path, &json!({}))["leases"], json!([{ "ID": text }]));
        }
        call(&server, http, "/v3/kv/lease/revoke", &json!({ "ID": text }));
        let answer = curl(&server, http, "/v3/lease/revoke", &json!({ "ID": text }).to_string(), &[]);
        refused(&answer, 404, 5, "etcdserver: requested lease not found");
        assert_eq!(call(&server, http, "/v3/lease/timetolive", &json!({ "ID": text }))["TTL"], "-1");
    }
    let made_up = call(&server, Http::One, "/v3/lease/grant", &json!({ "TTL": 600 }));
    assert!(made_up["ID"].as_str().is_some_and(|id| id.parse::<i64>().is_ok_and(|id| id > 0)), "{made_up}");
}

async fn errors_have_codes_texts_and_statuses(setup: Setup) {
    let server = setup.start();
    for http in Http::BOTH {
        let post = |path, body| curl(&server, http, path, body, &[]);
        // An empty body is an empty message.
        refused(&post("/v3/kv/range", ""), 400, 3, "etcdserver: key is not provided");
        refused(&post("/v3/kv/range", r#"{"key":"YQ==","revision":9}"#), 400, 11, {
            "etcdserver: mvcc: required revision is a future revision"
        });
        refused(&post("/v3/kv/put", r#"{"key":"YQ==","lease":"77"}"#), 404, 5, "etcdserver: requested lease not found");
        refused(&post("/v3/nothing", "{}"), 404, 5, "Not Found");
        for method in ["GET", "PUT", "DELETE"] {
            let answer = curl(&server, http, "/v3/kv/range", "{}", &["--request", method]);
            refused(&answer, 501, 12, "Method Not Allowed");
        }
        let answer = post("/v3/kv/range", r#"{"key":"not base64!"}"#);
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(3)), "{}", answer.body);
        let answer = post("/v3/kv/range", "{bad");
        refused(&answer, 400, 3, "key must be a string at line 1 column 2");
        // What follows the first object is ignored.
        assert_eq!(post("/v3/kv/range", r#"{"key":"YQ=="} {bad"#).status, 200);
    }
}

/// Whatever the services say to an empty message, it is not that there is no such path.
async fn every_rpc_is_answered_under_every_prefix(setup: Setup) {
    let server = setup.start();
    for (place, rpc) in Rpc::ALL.iter().enumerate() {
        for path in rpc.http_paths() {
            let prefixes = ["/v3/", "/v3beta/", "/v3alpha/"];
            let path = path.replacen("/v3/", prefixes[place % 3], 1);
            // Those that wait for something are not waited for.
            let answer = curl(&server, Http::BOTH[place % 2], &path, "", &["--header", "Grpc-Timeout: 500m"]);
            assert!(!answer.body.contains("Not Found") && !answer.body.contains("unknown"), "{path}: {}", answer.body);
            assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        }
    }
}

async fn headers_reach_the_call(setup: Setup) {
    let server = setup.start();
    for http in Http::BOTH {
        let with = |header| curl(&server, http, "/v3/kv/range", r#"{"key":"YQ=="}"#, &["--header", header]);
        assert_eq!(with("Grpc-Metadata-HasLeader: true").status, 200);
        refused(&with("Grpc-Timeout: never"), 400, 3, "invalid grpc-timeout: \"never\"");
        refused(&with("Grpc-Timeout: 0n"), 504, 4, "context deadline exceeded");
        assert_eq!(with("Content-Type: application/x-www-form-urlencoded").status, 200);
        assert_eq!(with("Grpc-Metadata-Client-Api-Version: 3.9").status, 200);
    }
    let metrics = http_get(server.setup.ports.client, "/metrics").expect("answered").body;
    assert!(metrics.contains(r#"client_api_version="3.9""#), "{metrics}");
}

async fn a_gateway_that_is_off_is_not_there(setup: Setup) {
    let server = setup.flag("--enable-grpc-gateway=false").start();
    for http in Http::BOTH {
        for path in ["/v3/kv/range", "/v3beta/kv/range", "/v3/"] {
            let answer = curl(&server, http, path, "{}", &[]);
            assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
        }
    }
}

async fn browsers_are_answered_as_configured(setup: Setup) {
    let server = setup.flags(["--cors=https://a.example:8443", "--host-whitelist=127.0.0.1"]).start();
    let origin = "access-control-allow-origin";
    for http in Http::BOTH {
        let ask = |arguments: &[&str]| curl(&server, http, "/v3/kv/range", r#"{"key":"YQ=="}"#, arguments);
        let answer = ask(&["--header", "Origin: https://a.example:8443"]);
        assert_eq!((answer.status, answer.header(origin)), (200, Some("https://a.example:8443")));
        let answer = ask(&["--header", "Origin: https://b.example:8443"]);
        assert_eq!((answer.status, answer.header(origin)), (200, None));
        let answer = ask(&["--request", "OPTIONS", "--header", "Origin: https://a.example:8443"]);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST, GET, OPTIONS, PUT, DELETE"));
        let answer = ask(&["--header", "Host: evil.example"]);
        assert_eq!(answer.status, 421, "{}", answer.body);
    }
    // Also where it is not a POST.
    let answer = http_request(server.setup.ports.client, "OPTIONS", "/v3/watch").expect("answered");
    assert_eq!(answer.status, 200);
}
