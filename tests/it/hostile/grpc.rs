//! gRPC calls that are too large, too deep, or not what they say they are.

use super::frames::{CONTINUATION, Connection, END_HEADERS, HEADERS, call, field, frame, message};
use super::{alone, besiege, connect, soon};
use crate::harness::Server;
use bytes::Bytes;
use castd_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request as Op};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tonic::{Code, Status};

const PUT: &str = "/etcdserverpb.KV/Put";
const TXN: &str = "/etcdserverpb.KV/Txn";
/// Encoded, a level is a tag and a length of up to three bytes, twice.
const LEVELS: usize = 10_000;

/// The status of a call whose body is these bytes, on a connection of its own.
async fn status(server: &Server, path: &str, headers: &[(&'static str, &[u8])], body: Vec<u8>) -> Status {
    let (mut sender, connection) =
        soon("HTTP/2", handshake(TokioExecutor::new(), TokioIo::new(connect(server).await))).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut request = Request::post(format!("http://{}{path}", server.endpoint()));
    request = request.header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value).expect("bytes that a header may have"));
    }
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let answer = match soon("an answer", sender.send_request(request)).await {
        Ok(answer) => answer,
        Err(error) => return Status::cancelled(format!("reset: {error:?}")),
    };
    let (head, body) = answer.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return status;
    }
    match soon("the end", body.collect()).await {
        Ok(body) => body.trailers().and_then(Status::from_header_map).unwrap_or(Status::unknown("no trailers")),
        Err(error) => Status::cancelled(format!("reset: {error:?}")),
    }
}

fn a_put() -> Vec<u8> {
    PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }.encode_to_vec()
}

#[test]
fn a_message_over_the_limit_is_refused_in_grpc_gos_words() {
    besiege(async |server: &Server| {
        for (bytes, length) in [(3_000_000, 3_000_000), (20, u32::MAX)] {
            let mut body = message(&vec![0; bytes]);
            body[1..5].copy_from_slice(&length.to_be_bytes());
            let status = status(server, PUT, &[], body).await;
            let text = format!("grpc: received message larger than max ({length} vs. 2097152)");
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, text.as_str()));
        }
    });
}

#[test]
fn a_message_that_ends_early_or_is_none_is_refused() {
    besiege(async |server: &Server| {
        let whole = message(&a_put());
        for body in [
            Vec::new(),
            whole[..3].to_vec(),
            whole[..whole.len() - 1].to_vec(),
            message(&[0xff; 40]),
            // A length that goes beyond the message, and one of ten bytes.
            message(&[0x0a, 0x7f, b'k']),
            message(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            let status = status(server, PUT, &[], body.clone()).await;
            assert!(
                matches!(status.code(), Code::Internal | Code::Unknown | Code::Unimplemented),
                "{body:x?}: {status:?}"
            );
        }
    });
}

#[test]
fn compression_that_nobody_agreed_on_is_refused() {
    besiege(async |server: &Server| {
        let mut compressed = message(&a_put());
        compressed[0] = 1;
        let refused = status(server, PUT, &[], compressed.clone()).await;
        assert_eq!(refused.code(), Code::Internal, "{refused:?}");
        for encoding in [&b"gzip"[..], b"snappy", b"\xff\xfe"] {
            let refused = status(server, PUT, &[("grpc-encoding", encoding)], compressed.clone()).await;
            assert_eq!(refused.code(), Code::Unimplemented, "{encoding:?}: {refused:?}");
        }
        compressed[0] = 0x77;
        let refused = status(server, PUT, &[], compressed).await;
        assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    });
}

#[test]
fn a_bomb_is_not_unpacked() {
    besiege(async |server: &Server| {
        // A thousandth of what it stands for: 1.5 MiB that would be a gigabyte and a half.
        let zeros = std::process::Command::new("sh")
            .args(["-c", "head -c 1500000000 /dev/zero | gzip -1"])
            .output()
            .expect("gzip is installed");
        let mut bomb = message(&zeros.stdout[..zeros.stdout.len().min(2_000_000)]);
        bomb[0] = 1;
        let refused = status(server, PUT, &[("grpc-encoding", b"gzip")], bomb).await;
        assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    });
}

/// Written from the inside out: prost itself would not write it without recursion.
fn nested(levels: usize) -> Vec<u8> {
    fn delimited(tag: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend_from_slice(inner);
        bytes
    }
    let put = RequestOp { request: Some(Op::RequestPut(PutRequest { key: "k".into(), ..Default::default() })) };
    let mut txn = TxnRequest { success: vec![put], ..Default::default() }.encode_to_vec();
    for _ in 1..levels {
        // RequestOp.request_txn, then TxnRequest.success.
        txn = delimited(0x12, &delimited(0x22, &txn));
    }
    txn
}

#[test]
fn a_transaction_ten_thousand_levels_deep_is_refused() {
    besiege(async |server: &Server| {
        let deep = status(server, TXN, &[], message(&nested(LEVELS))).await;
        assert_eq!(deep.code(), Code::Internal, "{deep:?}");
        assert!(deep.message().contains("recursion"), "{deep:?}");
        let shallow = status(server, TXN, &[], message(&nested(20))).await;
        assert_eq!(shallow.code(), Code::Ok, "{shallow:?}");
    });
}

#[test]
fn metadata_that_is_no_text_is_survived() {
    besiege(async |server: &Server| {
        let put = || message(&a_put());
        let refused = status(server, PUT, &[("client-api-version", b"\xff\xfe")], put()).await;
        let expected = (Code::InvalidArgument, "etcdserver: invalid client api version");
        assert_eq!((refused.code(), refused.message()), expected);
        for name in ["hasleader", "authorization", "token", "grpc-timeout", "traceparent", "user-agent", "x-bin"] {
            let status = status(server, PUT, &[(name, b"\xff\xfe\x80")], put()).await;
            assert!(status.code() != Code::Cancelled, "{name}: {status:?}");
        }
    });
}

#[test]
fn heads_beyond_sixteen_kibibytes_are_refused() {
    alone(
        |setup| setup,
        async |server: &Server| {
            for fields in [20, 1_000] {
                let mut connection = Connection::open(server).await;
                connection.send(&frame(HEADERS, 0, 1, &call(PUT))).await;
                let more = field("x-metadata", &[b'm'; 1_000]);
                for _ in 0..fields - 1 {
                    connection.send(&frame(CONTINUATION, 0, 1, &more)).await;
                }
                connection.send(&frame(CONTINUATION, END_HEADERS, 1, &more)).await;
                let outcome = connection.outcome(1).await;
                // 431, which is in no table of HPACK's, or the end of it.
                let answered = !outcome.heads.is_empty();
                assert!(answered || outcome.closed || outcome.reset.is_some(), "{fields} kB: {outcome:?}");
            }
        },
    );
}

#[test]
fn reflection_is_off() {
    alone(
        |setup| setup,
        async |server: &Server| {
            for version in ["v1", "v1alpha"] {
                let service = format!("grpc.reflection.{version}.ServerReflection");
                let path = format!("/{service}/ServerReflectionInfo");
                let status = status(server, &path, &[], message(&[0x3a, 0])).await;
                let text = format!("unknown service {service}");
                assert_eq!((status.code(), status.message()), (Code::Unimplemented, text.as_str()));
            }
        },
    );
}
