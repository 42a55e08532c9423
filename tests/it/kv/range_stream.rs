//! RangeStream (3.7): a large range in pieces that together are the answer of the unary Range.

use crate::harness::grpc::{range, text};
use crate::harness::{Api, Setup, for_each_backend, refused};
use castd_proto::etcdserverpb::{RangeRequest, RangeResponse};
use tonic::{Code, Status};

for_each_backend!(castd:
    the_pieces_of_a_stream_make_the_unary_answer,
    a_stream_shows_the_store_as_it_was_when_the_stream_began,
    a_stream_refuses_orders_and_revision_filters,
);

async fn stream(api: &Api, request: RangeRequest) -> Result<Vec<RangeResponse>, Status> {
    let mut pieces = Vec::new();
    let mut answer = api.kv.clone().range_stream(request).await?.into_inner();
    while let Some(piece) = answer.message().await? {
        pieces.push(piece.range_response.expect("each piece carries a range response"));
    }
    Ok(pieces)
}

async fn fill(api: &Api, keys: usize, value_bytes: usize) {
    let value = "v".repeat(value_bytes);
    for index in 0..keys {
        api.put(&format!("k{index:04}"), &value).await;
    }
}

async fn the_pieces_of_a_stream_make_the_unary_answer(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    fill(&api, 300, 100).await;
    let questions = [
        range("k", "l"),
        RangeRequest { limit: 37, ..range("k", "l") },
        RangeRequest { keys_only: true, ..range("k01", "\0") },
        RangeRequest { count_only: true, ..range("k", "l") },
        RangeRequest { revision: 150, serializable: true, ..range("k", "l") },
        RangeRequest { sort_order: 1, ..range("k", "l") },
        range("k0007", ""),
        range("nothing", ""),
    ];
    for question in questions {
        let unary = api.range(question.clone()).await.expect("a range succeeds");
        let pieces = stream(&api, question.clone()).await.expect("a stream succeeds");
        let (last, before) = pieces.split_last().expect("at least one piece");
        for piece in before {
            assert!(piece.header.is_none() && piece.count == 0 && !piece.more, "{piece:?}");
        }
        assert_eq!(last.header, unary.header, "{question:?}");
        assert_eq!((last.more, last.count), (unary.more, unary.count), "{question:?}");
        let kvs: Vec<_> = pieces.iter().flat_map(|piece| piece.kvs.iter().cloned()).collect();
        assert_eq!(kvs, unary.kvs, "{question:?}");
        assert!(pieces[0].kvs.len() <= 10, "the first piece is small");
        if kvs.len() < 2 || question.count_only {
            assert_eq!(pieces.len(), 1, "{question:?}");
        }
    }
}

async fn a_stream_shows_the_store_as_it_was_when_the_stream_began(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    fill(&api, 200, 20_000).await;
    let revision = api.revision().await;
    let mut answer = api.kv.clone().range_stream(range("k", "l")).await.expect("a stream opens").into_inner();
    let mut first = answer.message().await.expect("goes on").expect("a piece").range_response.expect("a response");
    api.delete("k", "l").await.expect("deleted");
    let mut found = std::mem::take(&mut first.kvs).len();
    let mut header = first.header;
    while let Some(piece) = answer.message().await.expect("goes on") {
        let piece = piece.range_response.expect("a response");
        found += piece.kvs.len();
        header = piece.header.or(header);
    }
    assert_eq!((found, header.expect("the last piece has a header").revision), (200, revision));
}

async fn a_stream_refuses_orders_and_revision_filters(setup: Setup) {
    let server = setup.start();
    let api = server.api();
    fill(&api, 3, 10).await;
    for (sort_order, sort_target) in [(2, 0), (1, 1), (1, 4), (2, 3)] {
        let request = RangeRequest { sort_order, sort_target, ..range("k", "l") };
        refused(stream(&api, request).await, Code::Unimplemented, "RangeStream does not support custom sort orders");
    }
    for request in [
        RangeRequest { min_mod_revision: 1, ..range("k", "l") },
        RangeRequest { max_create_revision: 9, ..range("k", "l") },
    ] {
        refused(stream(&api, request).await, Code::Unimplemented, "RangeStream does not support revision filters");
    }
    refused(stream(&api, range("", "")).await, Code::InvalidArgument, text::EMPTY_KEY);
    refused(stream(&api, RangeRequest { revision: 99, ..range("k", "l") }).await, Code::OutOfRange, text::FUTURE);
    api.compact(3, true).await.expect("compacted");
    refused(stream(&api, RangeRequest { revision: 2, ..range("k", "l") }).await, Code::OutOfRange, text::COMPACTED);
}
