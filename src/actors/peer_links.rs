//! The links to the other members.
//!
//! ```text
//!   RaftNode ──Send──▶ PeerLinks ┄┄▶ peers          (a lone member has none)
//! ```
//!
//! Clusters come in a later release. Until then there is nobody to send to: messages are counted and dropped, which raft
//! treats as a lossy network.

use crate::ids::MemberId;
use crate::telemetry::metrics::Metrics;
use actix::{Actor, Context, Handler, Message};

/// Command: carry these raft messages to the members that they name. May drop any of them: raft repeats what matters.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Send {
    pub messages: Vec<raft::eraftpb::Message>,
}

pub struct PeerLinks {
    metrics: Metrics,
}

impl PeerLinks {
    pub fn new(metrics: Metrics) -> Self {
        PeerLinks { metrics }
    }
}

impl Actor for PeerLinks {
    type Context = Context<Self>;
}

impl Handler<Send> for PeerLinks {
    type Result = ();

    fn handle(&mut self, send: Send, _: &mut Self::Context) {
        for message in send.messages {
            let to = MemberId(message.to).to_string();
            self.metrics.network.peer_sent_failures.with_label_values(&[to.as_str()]).inc();
        }
    }
}
