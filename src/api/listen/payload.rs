//! The body of an HTTP request on its way to the application: counted while it is incomplete, and not waited for for ever.
//! How much of it an application takes is the application's affair (`PayloadConfig`).

use super::waiting::{Charge, Waiting};
use actix_http::Payload;
use actix_http::error::PayloadError;
use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Why a body is not waited for any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Impatience {
    #[error("request body came too slowly")]
    TooSlow,
    #[error("too many requests")]
    Evicted,
}

/// A body with its charge and its deadline.
pub(super) struct Timed<B> {
    body: B,
    charge: Charge,
    deadline: Pin<Box<Sleep>>,
}

impl<B> Timed<B> {
    pub(super) fn new(body: B, waiting: &Arc<Waiting>, timeout: Duration) -> Timed<B> {
        Timed { body, charge: Charge::new(waiting), deadline: Box::pin(sleep(timeout)) }
    }

    /// Nothing has come. Ready when nothing will be waited for.
    fn poll_impatience(&mut self, cx: &mut Context<'_>) -> Poll<Impatience> {
        self.charge.wake_when_evicted(cx);
        if self.charge.is_evicted() {
            return Poll::Ready(Impatience::Evicted);
        }
        self.deadline.as_mut().poll(cx).map(|()| Impatience::TooSlow)
    }
}

/// Of HTTP/1.1, as actix gives it.
impl Stream for Timed<Payload> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                this.charge.add(bytes.len());
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(ended) => {
                this.charge.release();
                Poll::Ready(ended)
            }
            Poll::Pending => {
                this.poll_impatience(cx).map(|reason| Some(Err(PayloadError::Io(io::Error::other(reason)))))
            }
        }
    }
}

/// Of HTTP/2, as hyper gives it.
impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Timed<B> {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.charge.add(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended) => Poll::Ready(ended.map(|ended| ended.map_err(Into::into))),
            Poll::Pending => this.poll_impatience(cx).map(|reason| Some(Err(reason.into()))),
        }
    }
}
