//! KV.RangeStream: a range in chunks, all of one revision.
//!
//! ```text
//!   cursor ──range_chunk──▶ chunk ──▶ chunk ──▶ last chunk: header, more, count
//! ```
//!
//! Between chunks no view is held, so that a slow reader does not keep compaction from deleting; a reader that compaction
//! overtakes is told so.

use crate::api::grpc::Admitted;
use crate::cast::{Cast, RequestError};
use crate::mvcc::RangeCursor;
use crate::state::View;
use castd_proto::etcdserverpb as pb;
use castd_proto::mvccpb::KeyValue;
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message as _;
use std::sync::Arc;
use tonic::Status;

/// The first chunk, in keys; the limit then doubles and halves with the size of the chunks.
const FIRST_CHUNK_KEYS: usize = 10;

struct Reading {
    /// Also keeps the request's span open as long as the client reads.
    admitted: Admitted,
    cast: Cast,
    /// `None` after the last chunk.
    cursor: Option<RangeCursor>,
    keys_max: usize,
}

/// # Errors
/// When the revision asked for cannot be read.
pub fn open(
    admitted: Admitted,
    view: Arc<View>,
    range: pb::RangeRequest,
    cast: Cast,
) -> Result<BoxStream<'static, Result<pb::RangeStreamResponse, Status>>, RequestError> {
    let cursor = Some(view.mvcc.range_cursor(&range)?);
    let reading = Reading { admitted, cast, cursor, keys_max: FIRST_CHUNK_KEYS };
    Ok(stream::unfold(reading, next_chunk).boxed())
}

async fn next_chunk(mut reading: Reading) -> Option<(Result<pb::RangeStreamResponse, Status>, Reading)> {
    let mut cursor = reading.cursor.take()?;
    let (view, keys_max) = (reading.cast.local_view(&reading.admitted.permit), reading.keys_max);
    let read = tokio::task::spawn_blocking(move || {
        let kvs = view.mvcc.range_chunk::<KeyValue>(&mut cursor, keys_max)?;
        Ok::<_, RequestError>((cursor, kvs))
    });
    let (cursor, kvs) = match read.await.unwrap_or(Err(RequestError::Stopped)) {
        Ok(read) => read,
        Err(error) => return Some((Err(error.into()), reading)),
    };
    let mut response = pb::RangeResponse { kvs, ..Default::default() };
    let (bytes, aim) = (response.encoded_len(), reading.cast.limits().request_bytes_max);
    if bytes < aim / 2 {
        reading.keys_max = reading.keys_max.saturating_mul(2);
    } else if bytes > aim * 2 {
        reading.keys_max = (reading.keys_max / 2).max(1);
    }
    if cursor.is_done() {
        response.header = Some(reading.cast.header(cursor.revision.0));
        response.more = cursor.more;
        response.count = cursor.count;
    } else {
        reading.cursor = Some(cursor);
    }
    Some((Ok(pb::RangeStreamResponse { range_response: Some(response) }), reading))
}
