//! The gateway over a WebSocket: each frame is a piece of the request's body, each line of the answer is a frame.
//!
//! The method is that of every call, POST, whatever the handshake's was. The connection is closed when the call has ended;
//! a client that closes it cancels the call.

use super::call::{Answer, AnswerBody, BodyBroken, Chunk, Running};
use super::headers::bearer_protocol;
use actix_web::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Session};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

/// Opens the socket and serves it beside the answer to the handshake.
///
/// # Errors
/// When the handshake is none.
pub fn serve(
    request: &HttpRequest,
    payload: web::Payload,
    frame_bytes_max: usize,
    begin: impl FnOnce() -> (mpsc::Sender<Chunk>, Running),
) -> Result<HttpResponse, actix_web::Error> {
    let (mut response, session, messages) = actix_ws::handle(request, payload)?;
    if bearer_protocol(request.headers()).is_some() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    let messages =
        messages.max_frame_size(frame_bytes_max).aggregate_continuations().max_continuation_size(frame_bytes_max);
    let (chunks, running) = begin();
    actix_web::rt::spawn(async move {
        // Side by side: a call that waits for its client to read must not keep it from being heard.
        let reason = tokio::select! {
            reason = read(messages, chunks, session.clone()) => reason,
            () = write(running, session.clone()) => Some(CloseCode::Normal.into()),
        };
        let _ = session.close(reason).await;
    });
    Ok(response)
}

/// Passes frames on until the client has gone. Answers how to say goodbye.
async fn read(
    mut messages: AggregatedMessageStream,
    chunks: mpsc::Sender<Chunk>,
    mut session: Session,
) -> Option<CloseReason> {
    while let Some(message) = messages.next().await {
        let chunk = match message {
            Ok(AggregatedMessage::Text(text)) => text.into_bytes(),
            Ok(AggregatedMessage::Binary(bytes)) => bytes,
            Ok(AggregatedMessage::Ping(bytes)) => {
                if session.pong(&bytes).await.is_err() {
                    return None;
                }
                continue;
            }
            Ok(AggregatedMessage::Pong(_)) => continue,
            Ok(AggregatedMessage::Close(reason)) => return reason,
            Err(_) => {
                let _ = chunks.send(Err(BodyBroken)).await;
                return Some(CloseCode::Protocol.into());
            }
        };
        if chunks.send(Ok(chunk)).await.is_err() {
            // The call has all it wants; what it answers is being written.
            std::future::pending::<()>().await;
        }
    }
    None
}

async fn write(running: Running, mut session: Session) {
    let Running { answer, task: _task } = running;
    let Ok(Answer { body, .. }) = answer.await else { return };
    match body {
        AnswerBody::Whole(json) => {
            let _ = session.text(line(&json)).await;
        }
        AnswerBody::Lines(mut lines) => {
            while let Some(json) = lines.recv().await {
                if session.text(line(&json)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Without its line break. The codec has written it as UTF-8.
fn line(json: &Bytes) -> String {
    String::from_utf8_lossy(json.strip_suffix(b"\n").unwrap_or(json)).into_owned()
}
