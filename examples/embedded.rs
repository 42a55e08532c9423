//! A member inside another program: no second process to install, start and watch over.
//!
//! ```text
//!   this program ──Member::start(config)──▶ the member's own threads: actors, log, storage, client port
//!        │                                             ▲
//!        └── etcd-client ── http://127.0.0.1:… ────────┘
//! ```
//! The member is the whole server, with its log on disk and its client port open, for this program's own client as for
//! any other. This one is backed by memory, and still a restart loses nothing: the raft log is the durable truth, and what
//! was in memory is built again from it.
//!
//! ```text
//!   cargo run --release --example embedded
//! ```

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;

use castd::config::{Config, Invocation, Surroundings, from_invocation};
use castd::member::Member;
use etcd_client::{Client, GetOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let data = tempfile::tempdir()?;
    // `start` and `stop` block, as opening a file does; they are called from ordinary code, not from an async task.
    let runtime = tokio::runtime::Runtime::new()?;
    let configuration = configuration(data.path())?;

    let member = Member::start(configuration.clone())?;
    println!("started a member at {}", member.client_url());
    let revision = runtime.block_on(use_it(&member.client_url()))?;
    member.stop();
    println!("stopped at revision {revision}");

    // Another start on the same directory is the same member: same ids, same data, same revision.
    let member = Member::start(configuration)?;
    println!("started it again at {}", member.client_url());
    let revision_after = runtime.block_on(check_it(&member.client_url()))?;
    member.stop();
    assert_eq!(revision_after, revision, "the restart moved the revision");
    println!("ok");
    Ok(())
}

/// The same flags as on castd's command line, checked and filled in by the same code. The environment is left empty on
/// purpose: an `ETCD_NAME` meant for another program must not reach this one.
fn configuration(data: &Path) -> Result<Config, Box<dyn Error>> {
    let (clients, peers) = (free_loopback_url()?, free_loopback_url()?);
    let arguments = [
        "castd".to_owned(),
        "--name=inside".to_owned(),
        "--storage=memory".to_owned(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=inside={peers}"),
    ];
    let surroundings =
        Surroundings { arguments: arguments.to_vec(), environment: Vec::new(), ..Surroundings::of_this_process() };
    match from_invocation(&surroundings) {
        // The notes are what the configuration has to say to a log; this program keeps none.
        Invocation::Run(config, _notes) => Ok(*config),
        refused => Err(format!("the configuration is not accepted: {refused:?}").into()),
    }
}

/// A port that nobody uses now; the member will a moment later.
fn free_loopback_url() -> Result<String, std::io::Error> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    Ok(format!("http://127.0.0.1:{port}"))
}

/// Writes through the network as any client would, and returns the revision reached.
async fn use_it(endpoint: &str) -> Result<i64, Box<dyn Error>> {
    let mut client = Client::connect([endpoint], None).await?;
    for number in 1..=10 {
        client.put(format!("numbers/{number:02}"), (number * number).to_string(), None).await?;
    }
    let deleted = client.delete("numbers/10", None).await?;
    assert_eq!(deleted.deleted(), 1);
    let revision = deleted.header().ok_or("an answer without header")?.revision();
    println!("wrote 10 keys and deleted one");
    Ok(revision)
}

/// Reads what [`use_it`] left, and returns the revision.
async fn check_it(endpoint: &str) -> Result<i64, Box<dyn Error>> {
    let mut client = Client::connect([endpoint], None).await?;
    let answer = client.get("numbers/", Some(GetOptions::new().with_prefix())).await?;
    let mut found = Vec::new();
    for pair in answer.kvs() {
        found.push(format!("{}={}", pair.key_str()?, pair.value_str()?));
    }
    let expected: Vec<String> = (1..=9).map(|number| format!("numbers/{number:02}={}", number * number)).collect();
    assert_eq!(found, expected);
    println!("found {} keys again, none lost, none too many", found.len());
    Ok(answer.header().ok_or("an answer without header")?.revision())
}
