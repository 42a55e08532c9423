//! A rolling restart, as for a new release: one member after the other is told to stop, and started again. Nobody may
//! lose anything by it, and whoever is not served is told to come back.

use crate::cluster::Cluster;
use crate::load::Load;
use crate::run;

const RESTARTS: usize = 9;
/// What tonic's client says, under several codes, of a connection that ended, where Go's says `Unavailable`. No server sends any.
const CONNECTION_ENDED: [&str; 3] = [": transport error", ": operation was canceled", ": h2 protocol error"];
/// Of requests, each time: less would not be under load.
const ANSWERED_BETWEEN: usize = 200;
const CLIENTS: usize = 8;
const LEASES: usize = 2;

#[test]
fn a_rolling_restart_loses_nothing_and_says_come_back() {
    run(async {
        let mut cluster = Cluster::start(&["rocksdb", "sled", "memory"], &[]).await;
        let load = Load::start(&cluster, CLIENTS, LEASES, 5);
        for restart in 0..RESTARTS {
            let before = load.answered();
            cluster.members[restart % 3].terminate();
            while load.answered() < before + ANSWERED_BETWEEN {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            cluster.members[restart % 3].spawn();
            cluster.wait_healthy().await;
        }
        let verdict = load.end(&mut cluster).await;
        println!("{verdict:#?}");
        assert!(verdict.operations.answered > RESTARTS * ANSWERED_BETWEEN);
        // A lease that ran out is no failure.
        let is_expected = |said: &&String| {
            said.starts_with("Unavailable: ")
                || said.contains("requested lease not found")
                || CONNECTION_ENDED.iter().any(|text| said.contains(text))
        };
        let others: Vec<_> = verdict.errors.keys().filter(|said| !is_expected(said)).collect();
        assert!(others.is_empty(), "{others:?} of {:?}", verdict.errors);
    });
}
