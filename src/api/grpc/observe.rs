//! v3electionpb.Election/Observe: what each leader proclaims, as long as the client listens.
//!
//! ```text
//!   look at a view ──▶ watch the leader's key ──put──▶ tell
//!        ▲                    └──deleted, or compacted──┐
//!        └──────────────────────────────────────────────┘
//! ```
//! A client that does not read is not told, and costs what its queue at the hub may hold.

use crate::api::grpc::Edge;
use crate::api::grpc::long_call::LongCall;
use crate::api::grpc::own_watch::{Happened, OwnWatch};
use crate::api::grpc::session::Caller;
use crate::cast::RequestError;
use crate::ids::Revision;
use crate::queue::{Following, Heard, News, Queue, QueueError};
use crate::state::View;
use crate::watch::{Delivery, Filters};
use castd_proto::Rpc;
use castd_proto::v3electionpb::{LeaderRequest, LeaderResponse};
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message;
use std::collections::VecDeque;
use std::future::poll_fn;
use tonic::{Request, Response, Status};

/// # Errors
/// As [`Edge::admit`].
pub fn open(
    edge: &Edge,
    request: Request<LeaderRequest>,
) -> Result<Response<BoxStream<'static, Result<LeaderResponse, Status>>>, Status> {
    let (metadata, _, request) = request.into_parts();
    let call = LongCall::begin(edge, Rpc::ElectionObserve, &metadata)?;
    call.received(request.encoded_len());
    let caller = Caller::new(edge, &call.admitted);
    let following = Following::new(Queue::new(&request.name));
    let observer = Observer { caller, following, watch: None, news: VecDeque::new() };
    Ok(Response::new(stream::unfold((call, observer), next).boxed()))
}

async fn next((mut call, mut observer): Parts) -> Option<(Result<LeaderResponse, Status>, Parts)> {
    if call.is_over() {
        return None;
    }
    let answer = tokio::select! {
        biased;
        status = poll_fn(|context| call.poll_end(context)) => Err(status),
        news = observer.next() => match news {
            Ok(news) => {
                let header = observer.caller.header(news.revision);
                let answer = LeaderResponse { header: Some(header), kv: Some(news.kv) };
                call.sent(answer.encoded_len());
                Ok(answer)
            }
            Err(RequestError::Stopped) => Err(call.fail(RequestError::Stopped)),
            // Whatever it was, this is all that etcd's clients hear of it.
            Err(_) => Err(call.fail(RequestError::from(QueueError::ObserveEnded))),
        },
    };
    Some((answer, (call, observer)))
}

type Parts = (LongCall, Observer);

struct Observer {
    caller: Caller,
    following: Following,
    /// `None`: a view has to be looked at first.
    watch: Option<OwnWatch>,
    news: VecDeque<News>,
}

impl Observer {
    async fn next(&mut self) -> Result<News, RequestError> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            match &mut self.watch {
                None => self.look().await?,
                Some(watch) => match watch.next().await? {
                    Happened::Compacted => self.watch = None,
                    Happened::Events { delivery, revision } => self.take(&delivery, revision).await?,
                },
            }
        }
    }

    async fn look(&mut self) -> Result<(), RequestError> {
        let queue = self.following.queue().clone();
        let read = move |view: &View| Ok(queue.first(&view.mvcc)?);
        let (first, revision) = self.caller.look(self.following.queue(), read).await?;
        self.news.extend(self.following.find(first, revision));
        self.watch_from(Revision(revision.0 + 1)).await
    }

    async fn take(&mut self, delivery: &Delivery, revision: Revision) -> Result<(), RequestError> {
        for event in delivery.events() {
            match self.following.hear(event, revision) {
                Heard::Nothing => {}
                Heard::Proclaimed(news) => self.news.push_back(news),
                // What follows is in the next watch.
                Heard::Elected(news) => {
                    let next = Revision(news.kv.mod_revision + 1);
                    self.news.push_back(news);
                    return self.watch_from(next).await;
                }
                Heard::Gone => {
                    self.watch = None;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn watch_from(&mut self, from: Revision) -> Result<(), RequestError> {
        let watch = self.caller.watch([self.following.selector()], from, Filters::default()).await?;
        self.watch = Some(watch);
        Ok(())
    }
}
