//! The client port spoken to by curl and by those who gather metrics, over HTTP/1.1 and HTTP/2.

use crate::harness::http::{HttpAnswer, http_request, http2_get};
use crate::harness::{Setup, for_each_backend, http_get};

for_each_backend!(
    the_version_is_told_over_both_http,
    health_is_told_over_both_http,
    metrics_are_told_over_both_http,
    other_paths_are_not_found,
    both_http_and_grpc_share_the_port_at_once,
);

/// etcd 3.4 takes all of HTTP/2 without TLS for gRPC.
fn over_both(setup: &Setup, path: &str) -> Vec<HttpAnswer> {
    let mut answers = vec![http_get(setup.ports.client, path).expect("answered")];
    if !setup.is_etcd() {
        answers.push(http2_get(setup.ports.client, path));
    }
    answers
}

async fn the_version_is_told_over_both_http(setup: Setup) {
    let server = setup.start();
    let expected = if server.setup.is_etcd() {
        r#"{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}"#
    } else {
        r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#
    };
    // etcd decides on the cluster's version a moment after it has begun to serve.
    crate::harness::wait_until("the cluster's version is decided", std::time::Duration::from_secs(10), || {
        !http_get(server.setup.ports.client, "/version").expect("answered").body.contains("not_decided")
    });
    for answer in over_both(&server.setup, "/version") {
        assert_eq!((answer.status, answer.body.as_str()), (200, expected));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let answer = http_request(server.setup.ports.client, "POST", "/version").expect("answered");
    assert_eq!((answer.status, answer.body.trim_end()), (405, "Method Not Allowed"));
    assert_eq!(answer.header("allow"), Some("GET"));
}

async fn health_is_told_over_both_http(setup: Setup) {
    let server = setup.start();
    let expected = if server.setup.is_etcd() { r#"{"health":"true"}"# } else { r#"{"health":"true","reason":""}"# };
    for path in ["/health", "/health?serializable=true", "/health?exclude=NOSPACE&exclude=CORRUPT"] {
        for answer in over_both(&server.setup, path) {
            assert_eq!((answer.status, answer.body.trim_end()), (200, expected), "{path}");
        }
    }
    let answer = http_request(server.setup.ports.client, "PUT", "/health").expect("answered");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
}

async fn metrics_are_told_over_both_http(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    for _ in 0..7 {
        api.put("k", "v").await;
    }
    for answer in over_both(&server.setup, "/metrics") {
        assert_eq!(answer.status, 200);
        let content_type = answer.header("content-type").unwrap_or_default();
        assert!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
        let value = |name: &str| {
            let line = answer.body.lines().find(|line| line.split([' ', '{']).next() == Some(name));
            let line = line.unwrap_or_else(|| panic!("{name} is not among the metrics:\n{}", answer.body));
            line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
        };
        assert_eq!(value("etcd_server_has_leader"), 1.0);
        assert_eq!(value("etcd_server_is_leader"), 1.0);
        assert!(value("etcd_server_proposals_committed_total") >= 7.0);
        assert!(value("etcd_server_proposals_applied_total") >= 7.0);
        assert_eq!(value("etcd_debugging_mvcc_keys_total"), 1.0);
        assert!(value("etcd_mvcc_put_total") >= 7.0);
        assert!(value("process_resident_memory_bytes") > 0.0);
        assert!(value("etcd_server_version") == 1.0);
    }
}

async fn other_paths_are_not_found(setup: Setup) {
    let server = setup.start();
    for path in ["/", "/nothing", "/v4/kv/range", "/metrics/more"] {
        for answer in over_both(&server.setup, path) {
            assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
        }
    }
}

async fn both_http_and_grpc_share_the_port_at_once(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    let port = server.setup.ports.client;
    let http2 = !server.setup.is_etcd();
    let asking = tokio::task::spawn_blocking(move || {
        for _ in 0..50 {
            assert_eq!(http_get(port, "/health").expect("answered").status, 200);
        }
        for _ in 0..if http2 { 5 } else { 0 } {
            assert_eq!(http2_get(port, "/version").status, 200);
        }
    });
    for round in 0..200 {
        api.put("k", &format!("{round}")).await;
    }
    asking.await.expect("all answered");
}
