//! What the gateway answers, over services that do what a test wants of them.

use super::*;
use actix_web::App;
use actix_web::body::MessageBody;
use actix_web::dev::ServiceResponse;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use castd_proto::etcdserverpb::watch_server::{Watch, WatchServer};
use castd_proto::etcdserverpb::{WatchRequest, WatchResponse, watch_request::RequestUnion};
use castd_proto::health::health_check_response::ServingStatus;
use castd_proto::health::health_server::{Health, HealthServer};
use castd_proto::health::{HealthCheckRequest, HealthCheckResponse};
use futures_util::future::poll_fn;
use futures_util::stream::BoxStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::{Code, Request, Response, Streaming};

const MESSAGE_BYTES_MAX: usize = 1_000;

/// Answers what the name of the asked service says.
#[derive(Clone, Default)]
struct Told {
    /// Metadata of the last call.
    metadata: Arc<Mutex<http::HeaderMap>>,
    /// One more for each open watch.
    open: Arc<()>,
}

#[tonic::async_trait]
impl Health for Told {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        *self.metadata.lock().unwrap() = request.metadata().clone().into_headers();
        match request.get_ref().service.as_str() {
            "never" => std::future::pending().await,
            "" => {
                let mut response = Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() });
                response.metadata_mut().insert("x-said", "something".parse().unwrap());
                Ok(response)
            }
            code => {
                let code = Code::from_bytes(code.as_bytes());
                Err(Status::new(code, format!("told to fail with {code:?}")))
            }
        }
    }

    /// Two messages; then, as told, an error or nothing more.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let message = |status: ServingStatus| Ok(HealthCheckResponse { status: status.into() });
        let messages = stream::iter([message(ServingStatus::Serving), message(ServingStatus::NotServing)]);
        Ok(Response::new(match service.as_str() {
            "at-once" => return Err(Status::not_found("not here")),
            "before-the-first" => stream::once(async { Err(Status::unauthenticated("who?")) }).boxed(),
            "in-the-middle" => messages.chain(stream::once(async { Err(Status::data_loss("oops")) })).boxed(),
            "for-ever" => messages.chain(stream::pending()).boxed(),
            _ => messages.boxed(),
        }))
    }
}

#[tonic::async_trait]
impl Watch for Told {
    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    /// Each request is answered with the watch id that it names; the end of the requests is not the end.
    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let open = self.open.clone();
        let answers = request.into_inner().map(|request| {
            let RequestUnion::CreateRequest(create) = request?.request_union.unwrap() else { panic!("not asked for") };
            Ok(WatchResponse { watch_id: create.watch_id, created: true, ..Default::default() })
        });
        let until_dropped = answers.chain(stream::pending()).inspect(move |_| drop(open.clone()));
        Ok(Response::new(until_dropped.boxed()))
    }
}

impl Told {
    fn gateway(&self) -> Gateway {
        let health = HealthServer::new(self.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Gateway::new(
            Routes::default().add_service(health).add_service(WatchServer::new(self.clone())),
            MESSAGE_BYTES_MAX,
        )
    }
}

struct Heard {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Heard {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn respond(gateway: &Gateway, request: TestRequest) -> ServiceResponse<impl MessageBody + use<>> {
    let app = init_service(App::new().configure(|services| configure(services, gateway))).await;
    call_service(&app, request.to_request()).await
}

async fn ask(gateway: &Gateway, request: TestRequest) -> Heard {
    let response = respond(gateway, request).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = String::from_utf8(read_body(response).await.to_vec()).unwrap();
    Heard { status, headers, body }
}

fn post(path: &str, body: impl Into<bytes::Bytes>) -> TestRequest {
    TestRequest::post().uri(path).set_payload(body.into())
}

async fn check(gateway: &Gateway, body: &str) -> Heard {
    ask(gateway, post("/v3/health/check", body.to_owned())).await
}

#[actix_web::test]
async fn every_rpc_is_served_at_each_of_its_paths_under_each_prefix() {
    // Without services, so that what is said comes from behind the gateway, and names the service.
    let gateway = Gateway::new(Routes::default(), MESSAGE_BYTES_MAX);
    for rpc in Rpc::ALL {
        for path in rpc.http_paths() {
            for prefix in ["/v3/", "/v3beta/", "/v3alpha/"] {
                let path = path.replacen("/v3/", prefix, 1);
                let answer = ask(&gateway, post(&path, "{}")).await;
                assert_eq!(answer.status, 501, "{path}: {}", answer.body);
                let service = format!("unknown service {}", rpc.service());
                assert!(answer.body.contains(&service), "{path}: {}", answer.body);
            }
        }
    }
}

#[actix_web::test]
async fn what_is_not_served_says_so_in_json() {
    let gateway = Told::default().gateway();
    for path in ["/v3/", "/v3/nope", "/v3/kv/range/", "/v3beta/v3beta/kv/range", "/v3//kv/range"] {
        let answer = ask(&gateway, post(path, "{}")).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, r#"{"code":5,"message":"Not Found"}"#), "{path}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = ask(&gateway, TestRequest::with_uri("/v3/watch").method(method)).await;
        assert_eq!((answer.status, answer.body.as_str()), (501, r#"{"code":12,"message":"Method Not Allowed"}"#));
    }
}

#[actix_web::test]
async fn an_answer_is_json_with_the_metadata_of_the_call() {
    let told = Told::default();
    let request = post("/v3/health/check", "{}").insert_header(("Grpc-Metadata-HasLeader", "true"));
    let answer = ask(&told.gateway(), request.insert_header(("content-type", "x/y"))).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"SERVING"}"#));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("grpc-metadata-content-type"), "application/grpc");
    assert_eq!(answer.header("grpc-metadata-x-said"), "something");
    assert!(answer.headers.iter().all(|(name, _)| !name.as_str().starts_with("grpc-metadata-grpc")));
    let metadata = told.metadata.lock().unwrap().clone();
    assert_eq!(metadata["hasleader"], "true");
    assert_eq!(metadata["grpcgateway-content-type"], "x/y");
}

#[actix_web::test]
async fn an_empty_body_is_an_empty_message_and_the_rest_of_one_is_nobodys() {
    let gateway = Told::default().gateway();
    for body in ["", " \n", "{}", "{}{\"service\":\"5\"}", "{} nonsense", "{\"service\":null}]"] {
        assert_eq!(check(&gateway, body).await.status, 200, "{body}");
    }
}

#[actix_web::test]
async fn errors_have_the_http_status_of_their_code() {
    let gateway = Told::default().gateway();
    let statuses = [499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
    for (code, expected) in (1..).zip(statuses) {
        let answer = check(&gateway, &format!(r#"{{"service":"{code}"}}"#)).await;
        let message = format!("told to fail with {:?}", Code::from_i32(code));
        assert_eq!(answer.status, expected, "{code}");
        assert_eq!(answer.body, format!(r#"{{"code":{code},"message":"{message}"}}"#));
        let challenge = if code == 16 { message.as_str() } else { "" };
        assert_eq!(answer.header("www-authenticate"), challenge);
    }
}

#[actix_web::test]
async fn malformed_json_is_an_invalid_argument() {
    let gateway = Told::default().gateway();
    for (body, complaint) in [
        ("[1]", "a JSON object is expected, not '['"),
        ("null", "a JSON object is expected, not 'n'"),
        ("{bad", "key must be a string at line 1 column 2"),
        ("{\"service\":", "EOF while parsing"),
        ("{\"service\":1}", "a string for \\\"service\\\""),
    ] {
        let answer = check(&gateway, body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        assert!(
            answer.body.starts_with(r#"{"code":3,"message":""#) && answer.body.contains(complaint),
            "{}",
            answer.body
        );
    }
}

#[actix_web::test]
async fn what_is_too_large_is_refused_as_grpc_does() {
    let gateway = Told::default().gateway();
    let of = |bytes: usize| format!(r#"{{"service":"{}"}}"#, "x".repeat(bytes));
    // Not too large, but no service that is known.
    assert_eq!(check(&gateway, &of(900)).await.status, 500);
    let answer = check(&gateway, &of(MESSAGE_BYTES_MAX)).await;
    assert_eq!(answer.status, 429);
    let text = "grpc: received message larger than max (1003 vs. 1000)";
    assert_eq!(answer.body, format!(r#"{{"code":8,"message":"{text}"}}"#));
    // Text is not read to its end to find out.
    let answer = check(&gateway, &of(MESSAGE_BYTES_MAX * JSON_PER_MESSAGE)).await;
    assert_eq!(answer.status, 429);
    assert!(answer.body.contains("larger than max (") && answer.body.contains(" vs. 1000)"), "{}", answer.body);
}

#[actix_web::test]
async fn a_deadline_ends_a_call() {
    let gateway = Told::default().gateway();
    let ask =
        |path, body: &'static str, timeout| ask(&gateway, post(path, body).insert_header(("Grpc-Timeout", timeout)));
    let answer = ask("/v3/health/check", r#"{"service":"never"}"#, "10m").await;
    assert_eq!((answer.status, answer.body.as_str()), (504, r#"{"code":4,"message":"context deadline exceeded"}"#));
    let answer = ask("/v3/health/watch", r#"{"service":"for-ever"}"#, "300m").await;
    assert_eq!(answer.status, 200);
    let last = answer.body.lines().last();
    assert_eq!(last, Some(r#"{"error":{"code":4,"message":"context deadline exceeded"}}"#), "{}", answer.body);
    let answer = ask("/v3/health/check", "{}", "soon").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, r#"{"code":3,"message":"invalid grpc-timeout: \"soon\""}"#)
    );
}

#[actix_web::test]
async fn a_stream_is_one_line_for_each_message() {
    let gateway = Told::default().gateway();
    let watch = |service: &str| ask(&gateway, post("/v3/health/watch", format!(r#"{{"service":"{service}"}}"#)));
    let messages = "{\"result\":{\"status\":\"SERVING\"}}\n{\"result\":{\"status\":\"NOT_SERVING\"}}\n";
    let answer = watch("").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, messages));
    assert_eq!(answer.header("grpc-metadata-content-type"), "application/grpc");
    // Before the first line an error has a status of its own, and none of the metadata.
    let answer = watch("at-once").await;
    let expected = "{\"error\":{\"code\":5,\"message\":\"not here\"}}\n";
    assert_eq!((answer.status, answer.body.as_str()), (404, expected));
    let answer = watch("before-the-first").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, "who?"));
    let answer = watch("in-the-middle").await;
    let expected = format!("{messages}{{\"error\":{{\"code\":15,\"message\":\"oops\"}}}}\n");
    assert_eq!((answer.status, answer.body), (200, expected));
}

#[actix_web::test]
async fn a_stream_of_objects_is_read_as_it_comes_and_its_end_is_not_the_end() {
    let gateway = Told::default().gateway();
    let body = r#"{"create_request":{"watch_id":7}} {"create_request":{"watch_id":"8"}}"#;
    let response = respond(&gateway, post("/v3/watch", body)).await;
    assert_eq!(response.status(), 200);
    let mut body = Box::pin(response.into_body());
    let mut lines = String::new();
    while lines.lines().count() < 2 {
        let chunk = poll_fn(|context| body.as_mut().poll_next(context)).await.unwrap();
        lines += std::str::from_utf8(&chunk.unwrap_or_else(|_| panic!("a chunk"))).unwrap();
    }
    assert_eq!(
        lines,
        "{\"result\":{\"watch_id\":\"7\",\"created\":true}}\n{\"result\":{\"watch_id\":\"8\",\"created\":true}}\n"
    );
    let more = tokio::time::timeout(Duration::from_millis(20), poll_fn(|context| body.as_mut().poll_next(context)));
    assert!(more.await.is_err(), "it goes on");
}

#[actix_web::test]
async fn a_malformed_object_ends_a_stream_with_an_error() {
    let gateway = Told::default().gateway();
    let answer = ask(&gateway, post("/v3/watch", "nonsense")).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body, "{\"error\":{\"code\":3,\"message\":\"a JSON object is expected, not 'n'\"}}\n");
    let answer = ask(&gateway, post("/v3/watch", r#"{"create_request":{"watch_id":7}}{"create_request":7}"#)).await;
    let last = answer.body.lines().last().unwrap();
    assert!(last.starts_with(r#"{"error":{"code":3,"message":"invalid type: integer `7`"#), "{}", answer.body);
}

#[actix_web::test]
async fn a_client_that_goes_takes_its_call_with_it() {
    let told = Told::default();
    let gateway = told.gateway();
    let idle = Arc::strong_count(&told.open);
    let response = respond(&gateway, post("/v3/watch", r#"{"create_request":{}}"#)).await;
    assert_eq!(response.status(), 200);
    let open = Arc::strong_count(&told.open);
    assert_eq!(open, idle + 1);
    drop(response);
    while Arc::strong_count(&told.open) > idle {
        tokio::task::yield_now().await;
    }
}
