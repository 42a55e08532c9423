//! The port through real sockets: tonic's client, hyper's HTTP/2 client, and HTTP/1.1 by hand.

use super::*;
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use castd_proto::health::health_check_response::ServingStatus;
use castd_proto::health::health_client::HealthClient;
use castd_proto::health::health_server::{Health, HealthServer};
use castd_proto::health::{HealthCheckRequest, HealthCheckResponse};
use futures_util::stream::BoxStream;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use slog::Discard;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

const GRACE: Duration = Duration::from_secs(10);

/// What a test waits for comes long before this.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it never happened")
}

/// Requests for `slow` wait here until the test lets them go on.
#[derive(Clone)]
struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Gate {
        Gate { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    async fn pass(&self) {
        self.arrived.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    async fn wait_for(&self, arrivals: u32) {
        soon(self.arrived.acquire_many(arrivals)).await.unwrap().forget();
    }

    fn let_pass(&self, requests: usize) {
        self.open.add_permits(requests);
    }
}

struct GatedHealth(Gate);

#[tonic::async_trait]
impl Health for GatedHealth {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.into_inner().service == "slow" {
            self.0.pass().await;
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: tonic::Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::pending())))
    }
}

struct Port {
    server: EdgeServer,
    gate: Gate,
    address: SocketAddr,
}

async fn start_with(adjust: impl FnOnce(&mut ListenSettings)) -> Port {
    let gate = Gate::new();
    let mut settings = ListenSettings::new("test", vec![bind("127.0.0.1:0".parse().unwrap(), false).unwrap()]);
    adjust(&mut settings);
    let routes = Routes::default().add_service(HealthServer::new(GatedHealth(gate.clone())));
    let for_app = gate.clone();
    let app = HttpApp::new(move |services| {
        let gate = for_app.clone();
        services
            .route("/echo", web::post().to(|body: Bytes| async { HttpResponse::Ok().body(body) }))
            .route("/echo", web::get().to(|| async { HttpResponse::Ok().body("hello") }))
            .route("/echo", web::head().to(|| async { HttpResponse::Ok().body("hello") }))
            .route(
                "/host",
                web::get().to(|request: actix_web::HttpRequest| async move {
                    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or("none");
                    HttpResponse::Ok().body(host.to_owned())
                }),
            )
            .route(
                "/slow",
                web::get().to(move || {
                    let gate = gate.clone();
                    async move {
                        gate.pass().await;
                        HttpResponse::Ok().body("done")
                    }
                }),
            )
            .route(
                "/stream",
                web::get().to(|| async {
                    let first = futures_util::stream::iter([Ok::<_, actix_web::Error>(Bytes::from_static(b"first"))]);
                    let chunks = futures_util::StreamExt::chain(first, futures_util::stream::pending());
                    HttpResponse::Ok().streaming(chunks)
                }),
            );
    });
    let server =
        EdgeServer::start(settings, Traffic::GrpcAndHttp(routes, app), Logger::root(Discard, o!())).await.unwrap();
    let address = server.local_addrs()[0].tcp().unwrap();
    Port { server, gate, address }
}

async fn start() -> Port {
    start_with(|_| {}).await
}

async fn grpc(address: SocketAddr) -> HealthClient<Channel> {
    soon(HealthClient::connect(format!("http://{address}"))).await.unwrap()
}

fn asking(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn connect(address: SocketAddr) -> TcpStream {
    soon(TcpStream::connect(address)).await.unwrap()
}

/// One request, and all that comes back until the server closes.
async fn http1(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

/// Up to the end, or to a reset, which a closed socket with unread bytes sends.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = soon(stream.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// A request on a connection that is used again, and its answer.
async fn hello(stream: &mut TcpStream) {
    stream.write_all(b"GET /echo HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let read = soon(stream.read_buf(&mut answer)).await.unwrap();
        assert_ne!(read, 0, "closed after {}", String::from_utf8_lossy(&answer));
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
}

async fn http2(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let io = TokioIo::new(connect(address).await);
    let (sender, connection) = soon(handshake(TokioExecutor::new(), io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn h2_request(method: Method, address: SocketAddr, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(format!("http://{address}{path}")).body(Full::new(body)).unwrap()
}

async fn text(response: http::Response<hyper::body::Incoming>) -> String {
    let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test]
async fn one_port_answers_grpc_and_both_versions_of_http() {
    let Port { server, address, .. } = start().await;
    let answer = soon(grpc(address).await.check(asking(""))).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);

    let answer = http1(address, &get("/echo")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(answer.contains("Content-Length: 5\r\n"), "{answer}");

    let request = h2_request(Method::POST, address, "/echo", Bytes::from_static(b"over h2"));
    let answer = soon(http2(address).await.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-length"], "7");
    assert!(answer.headers().contains_key("date"));
    assert_eq!(text(answer).await, "over h2");
    server.stop(GRACE).await;
}

#[tokio::test]
async fn an_unknown_service_is_named_in_the_answer() {
    let Port { server, address, .. } = start().await;
    let mut grpc = tonic::client::Grpc::new(
        soon(Channel::from_shared(format!("http://{address}")).unwrap().connect()).await.unwrap(),
    );
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = "/castd.Nowhere/Call".parse().unwrap();
    let error = soon(grpc.unary(tonic::Request::new(asking("")), path, codec)).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unimplemented, "unknown service castd.Nowhere"));
    server.stop(GRACE).await;
}

#[tokio::test]
async fn a_head_request_over_http2_has_a_length_and_no_body() {
    let Port { server, address, .. } = start().await;
    let request = h2_request(Method::HEAD, address, "/echo", Bytes::new());
    let answer = soon(http2(address).await.send_request(request)).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "5");
    assert_eq!(text(answer).await, "");
    server.stop(GRACE).await;
}

#[tokio::test]
async fn the_authority_of_an_http2_request_is_its_host() {
    let Port { server, address, .. } = start().await;
    let request = h2_request(Method::GET, address, "/host", Bytes::new());
    let answer = soon(http2(address).await.send_request(request)).await.unwrap();
    assert_eq!(text(answer).await, address.to_string());
    server.stop(GRACE).await;
}

/// The body of the answer to a request whose header block, with `:method`, `:scheme` and `:path` before it, ends so.
async fn host_of(stream: &mut TcpStream, id: u8, authority: &[u8]) -> String {
    let block = [b"\x82\x86\x04\x05/host", authority].concat();
    let length = u8::try_from(block.len()).unwrap();
    stream.write_all(&[&[0, 0, length, 1, 5, 0, 0, 0, id], &*block].concat()).await.unwrap();
    loop {
        let mut header = [0; 9];
        soon(stream.read_exact(&mut header)).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        soon(stream.read_exact(&mut payload)).await.unwrap();
        match header[3] {
            0 if !payload.is_empty() => return String::from_utf8(payload).unwrap(),
            3 | 7 => panic!("refused: {header:x?} {payload:x?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_authority_that_is_none_is_let_in_and_remembered_by_both_sides() {
    let Port { server, address, .. } = start().await;
    let mut stream = connect(address).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert_eq!(host_of(&mut stream, 1, b"\x41\x15http://127.0.0.1:2379").await, "http---127.0.0.1:2379");
    // What etcdctl 3.4 wrote for `http://127.0.0.1:24481`.
    let huffman = b"\x41\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x09\xa6\x9e\x0f";
    assert_eq!(host_of(&mut stream, 3, huffman).await, "httpB--127.0.0.1:24481");
    // From the tables: the latest field, and the one before.
    assert_eq!(host_of(&mut stream, 5, b"\xbe").await, "httpB--127.0.0.1:24481");
    assert_eq!(host_of(&mut stream, 7, b"\xbf").await, "http---127.0.0.1:2379");
    drop(stream);
    server.stop(GRACE).await;
}

#[tokio::test]
async fn a_streamed_answer_arrives_before_it_has_ended() {
    let Port { server, address, .. } = start().await;
    let request = h2_request(Method::GET, address, "/stream", Bytes::new());
    let mut answer = soon(http2(address).await.send_request(request)).await.unwrap();
    let first = soon(answer.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    drop(answer);
    // Nothing is left to wait for.
    soon(server.stop(GRACE)).await;
}

#[tokio::test]
async fn a_body_is_taken_up_to_the_limit_and_refused_above() {
    let Port { server, address, .. } = start_with(|settings| settings.request_body_bytes_max = 1_000).await;
    for (bytes, expected) in [(1_000, StatusCode::OK), (1_001, StatusCode::PAYLOAD_TOO_LARGE)] {
        let body = "x".repeat(bytes);
        let request =
            format!("POST /echo HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n{body}");
        let answer = http1(address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {}", expected.as_u16())), "{bytes}: {answer}");
        let request = h2_request(Method::POST, address, "/echo", Bytes::from(body));
        let answer = soon(http2(address).await.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), expected);
    }
    server.stop(GRACE).await;
}

#[tokio::test]
async fn a_preface_may_come_byte_by_byte() {
    let Port { server, address, .. } = start().await;
    let mut stream = connect(address).await;
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // An empty SETTINGS frame, which the server answers with its own.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let mut header = [0; 9];
    soon(stream.read_exact(&mut header)).await.unwrap();
    assert_eq!(header[3], 4);
    drop(stream);
    server.stop(GRACE).await;
}

#[tokio::test]
async fn a_request_that_only_begins_like_a_preface_is_http1() {
    let Port { server, address, .. } = start().await;
    let answer = http1(address, "PRI * HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    server.stop(GRACE).await;
}

#[tokio::test]
async fn a_connection_that_does_not_say_what_it_speaks_is_closed() {
    let Port { server, address, .. } =
        start_with(|settings| settings.handshake_timeout = Duration::from_millis(50)).await;
    for beginning in ["", "PRI"] {
        let mut stream = connect(address).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        assert_eq!(read_all(&mut stream).await, "");
    }
    // A head that never ends is the HTTP/1.1 side of the same.
    let mut stream = connect(address).await;
    stream.write_all(b"GET /echo HTTP/1.1\r\nHost:").await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 408"));
    server.stop(GRACE).await;
}

#[tokio::test]
async fn silent_connections_do_not_block_others() {
    let Port { server, address, .. } = start_with(|settings| settings.handshakes_max = 2).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(connect(address).await);
    }
    let answer = http1(address, &get("/echo")).await;
    assert!(answer.ends_with("hello"), "{answer}");
    // The oldest had to go, the newest may still speak.
    assert_eq!(read_all(&mut silent[0]).await, "");
    let newest = silent.last_mut().unwrap();
    newest.write_all(get("/echo").as_bytes()).await.unwrap();
    assert!(read_all(newest).await.ends_with("hello"));
    server.stop(GRACE).await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let Port { server, address, .. } = start_with(|settings| settings.connections = Arc::new(Semaphore::new(1))).await;
    let mut first = connect(address).await;
    hello(&mut first).await;
    let mut second = connect(address).await;
    second.write_all(get("/echo").as_bytes()).await.unwrap();
    // The server goes on with the first, and only with the first.
    hello(&mut first).await;
    assert_eq!(second.try_read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    assert!(read_all(&mut second).await.ends_with("hello"));
    server.stop(GRACE).await;
}

#[tokio::test]
async fn a_socket_that_is_already_bound_is_served() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let port = start_with(|settings| settings.listen = vec![socket.into()]).await;
    assert_eq!(port.address, address);
    assert!(http1(address, &get("/echo")).await.ends_with("hello"));
    port.server.stop(GRACE).await;
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_takes_nothing_new() {
    let Port { server, gate, address } = start().await;
    let mut client = grpc(address).await;
    let over_grpc = tokio::spawn(async move { client.check(asking("slow")).await });
    let over_http1 = tokio::spawn(async move { http1(address, &get("/slow")).await });
    let mut sender = http2(address).await;
    let request = h2_request(Method::GET, address, "/slow", Bytes::new());
    let over_http2 = tokio::spawn(async move { text(sender.send_request(request).await.unwrap()).await });
    let mut idle = connect(address).await;
    hello(&mut idle).await;
    gate.wait_for(3).await;

    let stopped = tokio::spawn(server.stop(GRACE));
    // An idle connection is told at once.
    assert_eq!(read_all(&mut idle).await, "");
    // The port is free while requests are still being answered.
    soon(async {
        while bind(address, false).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!stopped.is_finished());
    gate.let_pass(3);
    soon(over_grpc).await.unwrap().unwrap();
    assert!(soon(over_http1).await.unwrap().ends_with("done"));
    assert_eq!(soon(over_http2).await.unwrap(), "done");
    soon(stopped).await.unwrap();
}

#[tokio::test]
async fn stopping_waits_no_longer_than_the_grace() {
    let Port { server, gate, address } = start().await;
    let mut client = grpc(address).await;
    let mut watch = soon(client.watch(asking(""))).await.unwrap().into_inner();
    let over_http1 = tokio::spawn(async move { http1(address, &get("/slow")).await });
    gate.wait_for(1).await;
    soon(server.stop(Duration::from_millis(50))).await;
    assert!(soon(watch.message()).await.is_err());
    assert_eq!(soon(over_http1).await.unwrap(), "");
}

#[tokio::test]
async fn a_server_that_is_dropped_closes_its_port() {
    let Port { server, address, .. } = start().await;
    let mut idle = connect(address).await;
    drop(server);
    assert_eq!(read_all(&mut idle).await, "");
}
