//! What each path answers, byte for byte.

use super::probe::Probe;
use super::*;
use actix_web::App;
use actix_web::http::Method;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct Answer {
    status: u16,
    headers: actix_web::http::header::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(app: &HttpApp, request: TestRequest) -> Answer {
    let service = init_service(App::new().configure(|services| app.configure(services))).await;
    let response = call_service(&service, request.to_request()).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = String::from_utf8(read_body(response).await.to_vec()).unwrap();
    Answer { status, headers, body }
}

async fn get(app: &HttpApp, path: &str) -> Answer {
    ask(app, TestRequest::get().uri(path)).await
}

fn client(probe: Probe) -> HttpApp {
    client_app(Arc::new(probe).client())
}

#[actix_web::test]
async fn version_names_what_the_cluster_agreed_on() {
    let answer = get(&client(Probe::default()), "/version").await;
    assert_eq!(answer.body, r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
    assert_eq!(answer.header("content-type"), "application/json");
    let answer = get(&client(Probe { undecided: true, ..Probe::default() }), "/version").await;
    assert_eq!(answer.body, r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#);
}

#[actix_web::test]
async fn only_get_is_allowed_where_nothing_is_taken() {
    let app = client(Probe::default());
    for path in ["/debug/vars", "/version", "/health", "/livez", "/readyz", "/readyz/non_learner"] {
        for method in [Method::POST, Method::HEAD, Method::PUT] {
            let answer = ask(&app, TestRequest::with_uri(path).method(method)).await;
            assert_eq!((answer.status, answer.header("allow")), (405, "GET"), "{path}");
            assert_eq!(answer.body, "Method Not Allowed\n");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
    }
}

#[actix_web::test]
async fn variables_are_shown_to_clients_and_not_to_those_who_gather_metrics() {
    let answer = get(&client(Probe::default()), "/debug/vars").await;
    assert_eq!(answer.body, "{\n\"file_descriptor_limit\": 1024\n}\n");
    assert_eq!(answer.header("content-type"), "application/json; charset=utf-8");
    for path in ["/debug/requests", "/debug/events", "/debug/pprof/"] {
        assert_eq!(get(&client(Probe::default()), path).await.status, 404, "{path}");
    }
    assert_eq!(get(&metrics_app(Arc::new(Probe::default()).client()), "/debug/vars").await.status, 404);
}

#[actix_web::test]
async fn metrics_are_packed_for_those_who_ask() {
    let app = client(Probe::default());
    let plain = get(&app, "/metrics").await;
    assert_eq!(plain.header("content-encoding"), "");
    let service = init_service(App::new().configure(|services| app.configure(services))).await;
    let request = TestRequest::get().uri("/metrics").insert_header(("accept-encoding", "deflate, gzip;q=0.5"));
    let response = call_service(&service, request.to_request()).await;
    assert_eq!(response.headers().get("content-encoding").map(|it| it.as_bytes()), Some(&b"gzip"[..]));
    let packed = read_body(response).await;
    let mut body = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed), &mut body).unwrap();
    assert_eq!(body, plain.body);
}

#[actix_web::test]
async fn a_healthy_member_says_so() {
    let probe = Arc::new(Probe::default());
    let answer = get(&client_app(probe.clone().client()), "/health").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"health":"true","reason":""}"#));
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(probe.healthy_answers.load(Ordering::Relaxed), 1);
    assert_eq!(probe.unhealthy_answers.load(Ordering::Relaxed), 0);
}

#[actix_web::test]
async fn health_names_the_first_fault_in_etcds_order() {
    let everything = || Probe {
        alarms: vec![AlarmType::Nospace],
        leaderless: true,
        read_error: Some("etcdserver: request timed out".to_owned()),
        ..Probe::default()
    };
    let app = client(everything());
    let answer = get(&app, "/health").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
    let answer = get(&app, "/health?exclude=NONSENSE&exclude=NOSPACE").await;
    assert_eq!(answer.body, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n");
    let app = client(Probe { leaderless: false, ..everything() });
    let answer = get(&app, "/health?exclude=NOSPACE").await;
    assert_eq!(answer.body, "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: request timed out\"}\n");
    let app = client(Probe { alarms: vec![AlarmType::Corrupt], ..Probe::default() });
    assert!(get(&app, "/health?exclude=NOSPACE").await.body.contains("ALARM CORRUPT"));
    assert_eq!(get(&app, "/health?exclude=CORRUPT").await.status, 200);
}

#[actix_web::test]
async fn serializable_health_needs_no_leader_and_only_true_means_it() {
    let app = client(Probe { leaderless: true, read_error: Some("no leader".to_owned()), ..Probe::default() });
    assert_eq!(get(&app, "/health?serializable=true").await.status, 200);
    assert_eq!(get(&app, "/health?serializable=1").await.status, 503);
    assert_eq!(get(&app, "/health?serializable=false&serializable=true").await.status, 503);
}

#[actix_web::test]
async fn a_read_that_never_ends_is_a_fault() {
    let probe = Arc::new(Probe { read_hangs: true, ..Probe::default() });
    let app = client_app(ClientHttp { read_timeout: Duration::from_millis(10), ..probe.client() });
    let answer = get(&app, "/health").await;
    assert_eq!(answer.body, "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: request timed out\"}\n");
}

#[actix_web::test]
async fn livez_asks_this_member_only() {
    let app = client(Probe {
        read_error: Some("no leader".to_owned()),
        alarms: vec![AlarmType::Nospace],
        learner: true,
        ..Probe::default()
    });
    let answer = get(&app, "/livez").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    let answer = get(&app, "/livez?verbose").await;
    assert_eq!(answer.body, "[+]serializable_read ok\nok\n");
}

#[actix_web::test]
async fn readyz_lists_what_failed() {
    let app = client(Probe { read_error: Some("no leader".to_owned()), learner: true, ..Probe::default() });
    let answer = get(&app, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "[+]data_corruption ok\n[+]serializable_read ok\n[-]linearizable_read failed: no leader\n\
         [-]non_learner failed: member is a learner\n"
    );
    let answer = get(&app, "/readyz?exclude=linearizable_read&exclude=non_learner&verbose").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("[+]non_learner excluded: ok\n"), "{}", answer.body);
    assert_eq!(get(&app, "/readyz/serializable_read").await.status, 200);
    assert_eq!(get(&app, "/readyz/linearizable_read").await.status, 503);
    assert_eq!(get(&app, "/readyz/nothing").await.status, 404);
}

#[actix_web::test]
async fn metrics_are_prometheus_text() {
    let app = client(Probe::default());
    let answer = get(&app, "/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(answer.body.starts_with("# TYPE etcd_server_has_leader gauge\n"));
}

#[actix_web::test]
async fn the_metrics_port_has_no_version() {
    let app = metrics_app(Arc::new(Probe::default()).client());
    assert_eq!(get(&app, "/metrics").await.status, 200);
    assert_eq!(get(&app, "/health").await.status, 200);
    let answer = get(&app, "/version").await;
    assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"));
}

#[actix_web::test]
async fn what_is_not_there_is_not_found_as_in_go() {
    let app = client(Probe::default());
    for path in ["/", "/nope", "/health/", "/v2/keys", "/v3", "/v3/kv/range"] {
        let answer = get(&app, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
}

#[actix_web::test]
async fn options_is_always_answered_with_the_cors_headers() {
    let app = client(Probe::default());
    for path in ["/version", "/nope", "/v3/kv/put"] {
        let answer = ask(&app, TestRequest::with_uri(path).method(Method::OPTIONS)).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("access-control-allow-methods"), "POST, GET, OPTIONS, PUT, DELETE");
        assert_eq!(answer.header("access-control-allow-headers"), "accept, content-type, authorization");
    }
}

#[actix_web::test]
async fn a_host_that_is_not_listed_is_misdirected() {
    let access = Access { hosts: BTreeSet::from(["good.example".to_owned()]), ..Access::default() };
    let app = client_app(ClientHttp { access, ..Arc::new(Probe::default()).client() });
    let with_host = |host: &'static str| TestRequest::get().uri("/version").insert_header(("host", host));
    assert_eq!(ask(&app, with_host("good.example:2379")).await.status, 200);
    let answer = ask(&app, with_host("evil.example:2379")).await;
    assert_eq!(answer.status, 421);
    assert!(answer.body.contains("CVE-2018-5702") && answer.body.contains("--host-whitelist"), "{}", answer.body);
}

#[actix_web::test]
async fn the_peer_port_lists_the_members() {
    let app = peer_app(PeerHttp { backend: Arc::new(Probe::default()) });
    let answer = get(&app, "/members").await;
    assert_eq!(answer.header("x-etcd-cluster-id"), "dc50b8daae93b3e0");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(
        answer.body,
        concat!(
            r#"[{"id":7383792418829112008,"peerURLs":["http://127.0.0.1:2380"],"name":"n1","#,
            r#""clientURLs":["http://127.0.0.1:2379"]},"#,
            r#"{"id":9,"peerURLs":["http://127.0.0.1:3380"],"isLearner":true}]"#
        )
    );
    assert_eq!(get(&app, "/version").await.status, 200);
    assert_eq!(get(&app, "/health").await.status, 404);
    assert_eq!(ask(&app, TestRequest::post().uri("/members")).await.status, 405);
}

#[actix_web::test]
async fn the_peer_port_says_whether_a_downgrade_is_under_way() {
    let app = peer_app(PeerHttp { backend: Arc::new(Probe::default()) });
    let answer = get(&app, "/downgrade/enabled").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "true"));
    assert_eq!(answer.header("content-type"), "text/plain");
    assert_eq!(answer.header("x-etcd-cluster-id"), "dc50b8daae93b3e0");
    assert_eq!(ask(&app, TestRequest::post().uri("/downgrade/enabled")).await.status, 405);
    let app = peer_app(PeerHttp { backend: Arc::new(Probe { leaderless: true, ..Probe::default() }) });
    let answer = get(&app, "/downgrade/enabled").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "failed linearized read: etcdserver: request timed out\n"));
}
