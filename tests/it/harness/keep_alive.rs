//! One LeaseKeepAlive stream.

use super::Api;
use castd_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub struct KeepAlive {
    pub requests: mpsc::Sender<LeaseKeepAliveRequest>,
    pub answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    /// Opens a stream with a first request, which etcd waits for.
    pub async fn open(api: &Api, id: i64) -> Self {
        let (requests, receiver) = mpsc::channel(1_024);
        requests.send(LeaseKeepAliveRequest { id }).await.expect("open");
        let answers = api.lease.clone().lease_keep_alive(ReceiverStream::new(receiver)).await.expect("a stream opens");
        KeepAlive { requests, answers: answers.into_inner() }
    }

    pub async fn send(&self, id: i64) {
        self.requests.send(LeaseKeepAliveRequest { id }).await.expect("open");
    }

    pub async fn answer(&mut self) -> (i64, i64) {
        self.try_answer().await.expect("goes on")
    }

    /// The lease and its time to live.
    pub async fn try_answer(&mut self) -> Result<(i64, i64), Status> {
        let answer = self.answers.message().await?.expect("an answer");
        assert!(answer.header.expect("a header").revision > 0);
        Ok((answer.id, answer.ttl))
    }
}

impl Api {
    /// The time to live that one keep alive of a lease is answered with; 0 if there is no such lease.
    pub async fn keep_alive(&self, id: i64) -> Result<i64, Status> {
        let requests = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
        let mut answers = self.lease.clone().lease_keep_alive(requests).await?.into_inner();
        Ok(answers.message().await?.expect("an answer").ttl)
    }
}
