//! Three servers that are one cluster, on this machine.

use crate::Error;
use crate::server::{POLL, Program, Server, now};
use crate::target::Target;
use castd_proto::etcdserverpb::StatusResponse;
use std::time::Duration;

const MEMBERS: usize = 3;
/// For an election, or for a member that has been away.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub servers: Vec<Server>,
}

/// Where the clients go. A lone writer goes to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Leader,
    AllInTurn,
}

impl Cluster {
    pub async fn start(program: &Program) -> Result<Cluster, Error> {
        let cluster = Cluster { servers: Server::start_all(program, MEMBERS).await? };
        cluster.leader().await?;
        Ok(cluster)
    }

    pub fn stop(self) -> Result<(), Error> {
        Server::stop_all(self.servers)
    }

    /// The place of the member that leads, once all members follow it.
    pub async fn leader(&self) -> Result<usize, Error> {
        Ok(self.agreed().await?.0)
    }

    /// Who leads, once all members follow it, and how far each had come a moment before.
    async fn agreed(&self) -> Result<(usize, Vec<StatusResponse>), Error> {
        let started = now();
        loop {
            let mut statuses = Vec::new();
            for server in &self.servers {
                statuses.extend(server.status().await);
            }
            let own = |status: &StatusResponse| status.header.as_ref().map_or(0, |header| header.member_id);
            let leader = statuses.iter().position(|status| status.leader != 0 && own(status) == status.leader);
            if let Some(place) = leader
                && statuses.len() == MEMBERS
                && statuses.iter().all(|status| (status.leader, status.raft_term) == leads(&statuses[place]))
            {
                return Ok((place, statuses));
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("no leader that all members follow within {PATIENCE:?}").into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Until every member has applied what was committed when this was called.
    pub async fn wait_until_equal(&self) -> Result<(), Error> {
        let (place, statuses) = self.agreed().await?;
        let committed = statuses[place].raft_index;
        let started = now();
        loop {
            let (_, statuses) = self.agreed().await?;
            if statuses.iter().all(|status| status.raft_applied_index >= committed) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("a member has not caught up within {PATIENCE:?}").into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn target(&self, way: Way) -> Result<Target<'_>, Error> {
        let leader = self.leader().await?;
        let all = self.servers.iter().cycle().skip(leader);
        let endpoints = all.take(if way == Way::Leader { 1 } else { MEMBERS }).collect();
        Ok(Target { endpoints, servers: &self.servers })
    }
}

fn leads(status: &StatusResponse) -> (u64, u64) {
    (status.leader, status.raft_term)
}
