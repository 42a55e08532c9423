//! SIGTERM while clients are busy: who is answered, who is told, who has to go.

use crate::fsync::{delay_fsync, strace_works};
use crate::harness::grpc::watch;
use crate::harness::{Backend, Place, Server, Setup, block_on, http_get, wait_until};
use castd_proto::etcdserverpb::LeaseKeepAliveRequest;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

/// 5 s and two election time-outs, with the timing of these tests.
const GRACE: Duration = Duration::from_millis(5_200);
const SOON: Duration = Duration::from_secs(3);

fn alone(case: impl AsyncFnOnce(Server)) {
    let _place = Place::take();
    block_on(case(Setup::castd(Backend::Memory).start()));
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.endpoint()).await.expect("accepted")
}

/// A request that never ends.
async fn half_a_request(server: &Server) -> TcpStream {
    let mut stream = connect(server).await;
    let head = b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head).await.expect("taken");
    // gRPC, too: a call that says nothing.
    stream
}

fn is_refused(server: &Server) -> bool {
    std::net::TcpStream::connect(server.endpoint()).is_err()
}

#[test]
fn streams_are_told_that_the_server_stops_and_it_waits_for_nobody() {
    alone(async |mut server: Server| {
        let api = server.api();
        let mut watching = api.watch_stream();
        watching.create(watch("k", "")).await;
        let lease = api.grant(7, 100).await.expect("granted").id;
        let asking = tokio_stream::StreamExt::chain(
            tokio_stream::once(LeaseKeepAliveRequest { id: lease }),
            tokio_stream::pending(),
        );
        let mut renewals = api.lease.clone().lease_keep_alive(asking).await.expect("opened").into_inner();
        renewals.message().await.expect("an answer").expect("an answer");
        let mut idle = connect(&server).await;
        idle.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
        assert_ne!(idle.read(&mut [0; 1_000]).await.expect("an answer"), 0);

        let started = Instant::now();
        server.signal(Signal::TERM);
        for status in [watching.try_next().await.err(), renewals.message().await.err()] {
            let status = status.expect("an end with a reason");
            assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
        }
        assert_eq!(idle.read(&mut [0; 1_000]).await.expect("closed in order"), 0);
        assert_eq!(server.wait_exit().signal(), Some(15));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    });
}

#[test]
fn a_request_under_way_is_answered_while_new_connections_are_refused() {
    if !strace_works() {
        println!("skipped: strace may not trace here");
        return;
    }
    alone(async |mut server: Server| {
        let api = server.api();
        api.put("k", "1").await;
        let mut tracer = delay_fsync(&server, Duration::from_secs(2));
        let putting = tokio::spawn({
            let api = api.clone();
            async move { api.put("k", "2").await }
        });
        // It has reached the log before the signal, or it could be refused.
        let log = server.directory().join("strace.log");
        wait_until("the put waits for the disk", SOON, || std::fs::metadata(&log).is_ok_and(|log| log.len() > 0));
        server.signal(Signal::TERM);
        wait_until("new connections are refused", SOON, || is_refused(&server));
        assert_eq!(putting.await.expect("answered"), 3);
        assert_eq!(server.wait_exit().signal(), Some(15));
        tracer.wait().expect("strace ends with its tracee");
    });
}

#[test]
fn a_request_that_never_ends_is_waited_for_as_long_as_any_request_may_take() {
    alone(async |mut server: Server| {
        let mut half = half_a_request(&server).await;
        http_get(server.setup.ports.client, "/health").expect("answered");
        let started = Instant::now();
        server.signal(Signal::TERM);
        wait_until("new connections are refused", SOON, || is_refused(&server));
        assert_eq!(server.wait_exit().signal(), Some(15));
        let took = started.elapsed();
        assert!(took >= GRACE - Duration::from_millis(200) && took < GRACE + SOON, "{took:?}");
        let _ = half.read(&mut [0; 100]).await;
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    alone(async |mut server: Server| {
        let revision = server.api().put("k", "1").await;
        let _half = half_a_request(&server).await;
        http_get(server.setup.ports.client, "/health").expect("answered");
        server.signal(Signal::TERM);
        wait_until("new connections are refused", SOON, || is_refused(&server));
        let started = Instant::now();
        server.signal(Signal::INT);
        assert_eq!(server.wait_exit().signal(), Some(2));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        assert!(server.log().contains("received signal; ending at once"));
        server.restart();
        assert_eq!(server.api().revision().await, revision);
    });
}

#[test]
fn a_signal_that_comes_before_it_serves_ends_it_at_once() {
    alone(async |server: Server| {
        // Another one on the same data directory waits for it, for ten seconds.
        let setup = Setup::castd(Backend::Memory);
        let log = server.directory().join("other.log");
        let mut command = setup.command(&server.data_dir());
        let mut child = command.stderr(std::fs::File::create(&log).expect("a file")).spawn().expect("it runs");
        wait_until("it waits", SOON, || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("flocked")));
        let started = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
        assert_eq!(child.wait().expect("it ends").signal(), Some(15));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    });
}
