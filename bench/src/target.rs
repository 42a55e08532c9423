//! Whom the clients of a case talk to: a lone server, the leader of a cluster, or all its members in turn.

use crate::Error;
use crate::server::Server;
use std::time::Duration;

pub struct Target<'a> {
    /// Clients are spread over them. The first is the one for a lone writer.
    pub endpoints: Vec<&'a Server>,
    /// All that work, wherever the clients are.
    pub servers: &'a [Server],
}

impl<'a> Target<'a> {
    pub fn lone(server: &'a Server) -> Target<'a> {
        Target { endpoints: vec![server], servers: std::slice::from_ref(server) }
    }

    pub fn first(&self) -> Result<&'a Server, Error> {
        self.endpoints.first().copied().ok_or_else(|| "no endpoint".into())
    }

    /// Of all servers together.
    pub fn cpu(&self) -> Result<Duration, Error> {
        self.servers.iter().map(Server::cpu).sum()
    }
}
