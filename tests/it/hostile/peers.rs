//! Whoever reaches the peer port and is no peer.

use super::frames::{Connection, END_HEADERS, HEADERS, SETTINGS, call, frame, message};
use super::{besiege, besiege_within, connect_to, converse, rest};
use crate::harness::{Server, http_get};
use bytes::Bytes;
use castd_proto::castdpb::peer_link_client::PeerLinkClient;
use castd_proto::castdpb::{PeerEnvelope, PeerIdentity};
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const STREAM: &str = "/castdpb.PeerLink/Stream";
/// Twice what may be incomplete on a port: a buffer that grows is there twice for a moment.
const MEMORY_MAX: u64 = 512 << 20;

#[test]
fn what_is_no_protocol_is_hung_up_on_and_half_open_connections_are_closed() {
    besiege(async |server: &Server| {
        let port = server.setup.ports.peer;
        for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], &[0xff; 4_096], b"raft\r\n\r\n", b"\0\0\0\0\0\0\0\0\0"] {
            let answer = converse(port, nonsense).await;
            let text = String::from_utf8_lossy(&answer);
            assert!(answer.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
        }
        let mut idle: Vec<TcpStream> = Vec::new();
        for beginning in ["", "PRI * HT", "GET /members HT"] {
            for _ in 0..200 {
                let mut stream = connect_to(port).await;
                stream.write_all(beginning.as_bytes()).await.expect("taken");
                idle.push(stream);
            }
        }
        // These speak the protocol, and then not even answer a ping.
        for _ in 0..200 {
            let mut stream = connect_to(port).await;
            let beginning = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
            stream.write_all(&beginning).await.expect("taken");
            idle.push(stream);
        }
        // One that opens a stream and says nothing in it.
        let mut silent = Connection(connect_to(port).await);
        silent.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        silent.send(&[frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 1, &call(STREAM))].concat()).await;
        assert_eq!(http_get(port, "/members").expect("peers are answered meanwhile").status, 200);
        let started = Instant::now();
        idle.push(silent.0);
        for mut stream in idle {
            rest(&mut stream).await;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    });
}

/// The largest envelope has 64 MiB. All of it announced and an eighth sent, a hundred times, would be 800 MiB.
#[test]
fn half_a_message_costs_what_has_come_of_it_and_all_of_them_have_one_limit() {
    besiege_within(MEMORY_MAX, async |server: &Server| {
        let begun = |announced: u32| {
            let mut begun = message(&vec![0; 8 << 20]);
            begun[1..5].copy_from_slice(&announced.to_be_bytes());
            Bytes::from(begun)
        };
        let (possible, impossible) = (begun(60 << 20), begun(200 << 20));
        let (mut attackers, mut connections) = (tokio::task::JoinSet::new(), Vec::new());
        for number in 0..100 {
            let io = TokioIo::new(connect_to(server.setup.ports.peer).await);
            let (mut sender, connection) = handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            connections.push(tokio::spawn(connection));
            let begun = if number % 10 == 0 { &impossible } else { &possible };
            let parts = stream::iter([Ok::<_, Infallible>(Frame::data(begun.clone()))]).chain(stream::pending());
            let request = Request::post(format!("{}{STREAM}", server.setup.peer_url()));
            let request = request.header("content-type", "application/grpc").header("te", "trailers");
            let request = request.body(BoxBody::new(StreamBody::new(parts))).expect("a request");
            attackers.spawn(async move {
                // The head comes at once; what becomes of the message stands at its end.
                let answer =
                    tokio::time::timeout(Duration::from_secs(10), sender.send_request(request)).await.ok()?.ok()?;
                let end = tokio::time::timeout(Duration::from_secs(10), http_body_util::BodyExt::collect(answer)).await;
                end.ok().map(|_| ())
            });
        }
        let ended = attackers.join_all().await.into_iter().flatten().count();
        assert!((10..100).contains(&ended), "{ended} were refused");
    });
}

/// It knows the cluster's id, which anybody is told, and claims to be a member that joined a moment ago: ten thousand times.
#[test]
fn members_that_somebody_makes_up_cost_nothing() {
    besiege(async |server: &Server| {
        let status = server.api().status().await.expect("answered").header.expect("a header");
        let channel = tonic::transport::Channel::from_shared(server.setup.peer_url()).expect("a URL");
        let channel = channel.connect().await.expect("a port");
        let mut opened = Vec::new();
        for from in 1_000..11_000 {
            let identity = PeerIdentity {
                cluster_id: status.cluster_id,
                from,
                to: status.member_id,
                server_version: "3.7.1".to_owned(),
            };
            let peer_urls = vec!["http://127.0.0.1:9".to_owned()];
            let hello = PeerEnvelope { identity: Some(identity), peer_urls, sent_at_nanos: 1, ..Default::default() };
            let envelopes = tokio_stream::iter([hello]).chain(tokio_stream::pending());
            let mut answers =
                PeerLinkClient::new(channel.clone()).stream(envelopes).await.expect("a stream").into_inner();
            match answers.message().await {
                Ok(_) => opened.push(answers),
                Err(refused) => assert_eq!(refused.message(), "error sender not found"),
            }
        }
        assert!(opened.len() <= 64, "{} of them are in", opened.len());
        let page = http_get(server.setup.ports.client, "/metrics").expect("answered").body;
        let series = page.lines().filter(|line| line.starts_with("etcd_network_peer_") || line.contains("_peers{"));
        assert!(series.count() < 16 * 40, "{page}");
        let log = server.log().lines().count();
        assert!(log < 1_000, "{log} lines in the log");
        assert_eq!(server.api().list_members().await.len(), 1);
    });
}
