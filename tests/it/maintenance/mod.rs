//! What an operator asks of a member: a snapshot, its space back, hashes, another leader, a downgrade.

mod defragment;
mod downgrade;
mod hash;
mod leadership;
mod snapshot;
mod snapshot_clients;

use crate::harness::Server;
use crate::harness::grpc::Api;
use castd_proto::etcdserverpb as pb;

/// A few thousand revisions: keys that come and go, leases, some of it compacted.
async fn fill(api: &Api, rounds: i64) {
    api.grant(77, 3_600).await.expect("granted");
    for round in 0..rounds {
        api.put_with(pb::PutRequest {
            key: format!("key{:03}", round % 300).into(),
            value: vec![round as u8; 700].into(),
            lease: if round % 5 == 0 { 77 } else { 0 },
            ..Default::default()
        })
        .await
        .expect("a put succeeds");
        if round % 50 == 49 {
            api.delete(&format!("key{:03}", round % 300), "").await.expect("deleted");
        }
    }
}

/// The log is written by a thread of its own.
fn wait_for_log(server: &Server, text: &str) {
    crate::harness::wait_until(text, std::time::Duration::from_secs(20), || server.log().contains(text));
}

/// One metric, as `/metrics` shows it.
fn metric(server: &Server, name: &str) -> f64 {
    let page = crate::harness::http_get(server.setup.ports.client, "/metrics").expect("answered").body;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("there is no {name}"))
}
