//! The server that an example talks to: the one named by `CASTD_ENDPOINT`, or else a member inside the example itself,
//! with its data in memory and on free ports of the loopback interface.
//!
//! How the member is embedded is explained line by line in `examples/embedded.rs`.

use std::error::Error;
use std::net::TcpListener;

use castd::config::{Invocation, Surroundings, from_invocation};
use castd::member::Member;
use tempfile::TempDir;

pub struct Server {
    endpoint: String,
    /// The member, if it is ours, and the directory of its log.
    own: Option<(Member, TempDir)>,
}

impl Server {
    pub fn from_environment() -> Result<Server, Box<dyn Error>> {
        if let Ok(endpoint) = std::env::var("CASTD_ENDPOINT") {
            println!("using the server at {endpoint}");
            return Ok(Server { endpoint, own: None });
        }
        let directory = tempfile::tempdir()?;
        let (clients, peers) = (free_loopback_url()?, free_loopback_url()?);
        let arguments = [
            "castd".to_owned(),
            "--storage=memory".to_owned(),
            format!("--data-dir={}", directory.path().display()),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
        ];
        let surroundings =
            Surroundings { arguments: arguments.to_vec(), environment: Vec::new(), ..Surroundings::of_this_process() };
        let Invocation::Run(config, _) = from_invocation(&surroundings) else {
            return Err("the arguments of the embedded member are not accepted".into());
        };
        let member = Member::start(*config)?;
        let endpoint = member.client_url();
        println!("using a member of its own at {endpoint}; set CASTD_ENDPOINT to use another server");
        Ok(Server { endpoint, own: Some((member, directory)) })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn stop(self) {
        if let Some((member, _directory)) = self.own {
            member.stop();
        }
    }
}

/// A port that nobody uses now; the member will a moment later.
fn free_loopback_url() -> Result<String, std::io::Error> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    Ok(format!("http://127.0.0.1:{port}"))
}
