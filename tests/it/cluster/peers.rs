//! What members say to each other: who is let in and who is not, and what there is to see of it.

use crate::harness::grpc::put;
use crate::harness::{Api, Backend, Cluster, Place, Server, Setup, block_on, http_get, wait_for};
use castd_proto::castdpb::peer_link_client::PeerLinkClient;
use castd_proto::castdpb::{PeerEnvelope, PeerIdentity, PeerStateHashRequest};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(30);

/// The lines of a log with that message.
fn lines(server: &Server, message: &str) -> Vec<serde_json::Value> {
    let log = server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["msg"] == message).collect()
}

async fn says(server: &Server, message: &str) -> serde_json::Value {
    wait_for(message, PATIENCE, async || lines(server, message).pop()).await
}

async fn ids(api: &Api) -> (u64, u64) {
    let header = api.status().await.expect("answered").header.expect("a header");
    (header.cluster_id, header.member_id)
}

/// Series of a page, by name and labels.
fn metrics(server: &Server) -> BTreeMap<String, f64> {
    let page = http_get(server.setup.ports.client, "/metrics").expect("answered").body;
    let series = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    series.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

fn alone_in_its_place(case: impl AsyncFnOnce(Setup)) {
    let _place = Place::take();
    block_on(case(Setup::castd(Backend::Memory)));
}

/// As a copy of the flags of one cluster into those of another does it.
#[test]
fn members_with_another_token_are_another_cluster_and_both_ends_say_so() {
    alone_in_its_place(async |setup| {
        let cluster = Cluster::start(&setup, 1);
        let here = &cluster.servers[0];
        let stranger = cluster.newcomer().flag("--initial-cluster-token=another");
        let both = format!("{},{}", here.setup.listed(), stranger.listed());
        let mut stranger = stranger.clone().member(stranger.name(), both, false).prepare();
        stranger.spawn();
        let told = says(&stranger, "request sent was ignored by remote peer due to cluster ID mismatch").await;
        let refused = says(here, "request cluster ID mismatch").await;
        let (cluster_id, member_id) = ids(&here.api()).await;
        assert_eq!(refused["local-member-cluster-id"], format!("{cluster_id:x}"));
        assert_eq!(refused["local-member-id"], format!("{member_id:x}"));
        assert_eq!(refused["remote-peer-cluster-id"], told["local-member-cluster-id"]);
        assert_eq!(refused["remote-peer-id"], told["local-member-id"]);
        assert_ne!(told["local-member-cluster-id"], refused["local-member-cluster-id"]);
        // One of them goes on, the other waits for a majority that does not come.
        here.api().put("k", "v").await;
        assert_eq!(here.api().list_members().await.len(), 1);
        assert!(stranger.is_running() && !stranger.is_healthy());
        assert!(!metrics(here).keys().any(|name| name.starts_with("etcd_network_known_peers")), "it is no peer");
    });
}

struct Impostor {
    client: PeerLinkClient<Channel>,
    identity: PeerIdentity,
}

impl Impostor {
    /// Says of itself that it is `from`.
    async fn of(server: &Server, from: u64) -> Impostor {
        let (cluster_id, to) = ids(&server.api()).await;
        let channel = Channel::from_shared(server.setup.peer_url()).expect("a URL").connect().await.expect("a port");
        let identity = PeerIdentity { cluster_id, from, to, server_version: "3.7.1".to_owned() };
        Impostor { client: PeerLinkClient::new(channel), identity }
    }

    /// What both kinds of calls are answered.
    async fn refusal(&mut self, change: impl Fn(&mut PeerIdentity)) -> Status {
        let mut identity = self.identity.clone();
        change(&mut identity);
        let identity = Some(identity);
        let envelope = PeerEnvelope { identity: identity.clone(), sent_at_nanos: 1, ..PeerEnvelope::default() };
        let answers = self.client.stream(tokio_stream::iter([envelope])).await.expect("the answer is in the stream");
        let in_stream = answers.into_inner().message().await.expect_err("it is refused");
        let asked = self
            .client
            .state_hash(PeerStateHashRequest { identity, ..Default::default() })
            .await
            .expect_err("it is refused");
        assert_eq!((in_stream.code(), in_stream.message()), (asked.code(), asked.message()));
        asked
    }
}

#[test]
fn whoever_is_not_let_in_is_told_why_and_the_log_has_etcds_line() {
    alone_in_its_place(async |setup| {
        let cluster = Cluster::start(&setup, 1);
        let server = &cluster.servers[0];
        let mut impostor = Impostor::of(server, 0xbad).await;
        let before = server.api().list_members().await;
        type Change = fn(&mut PeerIdentity);
        let cases: [(Change, Code, &str, &str); 5] = [
            (|it| it.cluster_id = 7, Code::FailedPrecondition, "cluster ID mismatch", "request cluster ID mismatch"),
            (
                |it| it.server_version = "4.0.0".to_owned(),
                Code::FailedPrecondition,
                "incompatible version",
                "failed version compatibility check",
            ),
            (|it| it.to = 7, Code::FailedPrecondition, "to field mismatch", "ignored streaming request; ID mismatch"),
            (|_| {}, Code::NotFound, "error sender not found", "failed to find remote peer in cluster"),
            (|it| it.from = it.to, Code::NotFound, "error sender not found", "failed to find remote peer in cluster"),
        ];
        for (change, code, text, line) in cases {
            let status = impostor.refusal(change).await;
            assert_eq!((status.code(), status.message()), (code, text));
            let said = says(server, line).await;
            assert_eq!(said["level"], "warn", "{said}");
            assert!(said["error"].is_string() && said["remote-peer-id"].is_string(), "{said}");
        }
        assert_eq!(server.api().list_members().await, before);
        server.api().put("k", "v").await;
    });
}

/// As joining members, `etcdctl` of old and operators ask for it.
#[test]
fn the_peer_port_says_which_release_it_is_and_who_belongs_to_the_cluster() {
    alone_in_its_place(async |setup| {
        let cluster = Cluster::start(&setup, 3);
        let expected = cluster.servers[0].api().list_members().await;
        let (cluster_id, _) = ids(&cluster.servers[0].api()).await;
        for server in &cluster.servers {
            let port = server.setup.ports.peer;
            let version = http_get(port, "/version").expect("answered");
            assert_eq!((version.status, &version.json()["etcdserver"]), (200, &"3.7.1".into()));
            assert_eq!(version.json()["etcdcluster"], "3.7.0");
            let members = http_get(port, "/members").expect("answered");
            assert_eq!(members.header("x-etcd-cluster-id"), Some(format!("{cluster_id:x}").as_str()));
            let told = members.json();
            assert_eq!(told.as_array().expect("a list").len(), 3);
            for (told, member) in told.as_array().expect("a list").iter().zip(&expected) {
                assert_eq!((told["id"].as_u64(), &told["name"]), (Some(member.id), &member.name.clone().into()));
                assert_eq!(told["peerURLs"], serde_json::json!(member.peer_urls));
                assert_eq!(told["clientURLs"], serde_json::json!(member.client_urls));
            }
            for path in ["/health", "/metrics", "/v3/kv/range", "/nothing"] {
                assert_eq!(http_get(port, path).expect("answered").status, 404, "{path}");
            }
        }
    });
}

#[test]
fn each_link_is_measured() {
    alone_in_its_place(async |setup| {
        let mut cluster = Cluster::start(&setup, 3);
        let leader = cluster.leader().await;
        let (other, gone) = ((leader + 1) % 3, (leader + 2) % 3);
        let mut names = Vec::new();
        for api in cluster.apis() {
            names.push(format!("{:x}", ids(&api).await.1));
        }
        cluster.servers[other].api().put("k", "v").await;
        let network = |name: &str, labels: String| format!("etcd_network_{name}{{{labels}}}");
        let link = |at: usize, to: usize| format!("Local=\"{}\",Remote=\"{}\"", names[at], names[to]);
        for (at, server) in cluster.servers.iter().enumerate() {
            for to in (0..3).filter(|to| *to != at) {
                let (to_peer, from_peer) = (format!("To=\"{}\"", names[to]), format!("From=\"{}\"", names[to]));
                let all_are_there = async || {
                    let page = metrics(server);
                    let value = |name: &str, labels: &str| page.get(&network(name, labels.to_owned())).copied();
                    let is_counted = |name: &str, labels: &str| value(name, labels).is_some_and(|value| value > 0.0);
                    (value("known_peers", &link(at, to)) == Some(1.0)
                        && value("active_peers", &link(at, to)) == Some(1.0)
                        && value("disconnected_peers_total", &link(at, to)) == Some(0.0)
                        && is_counted("peer_sent_bytes_total", &to_peer)
                        && value("peer_sent_failures_total", &to_peer).is_some()
                        && is_counted("peer_received_bytes_total", &from_peer)
                        && is_counted("peer_round_trip_time_seconds_count", &to_peer)
                        && value("peer_round_trip_time_seconds_sum", &to_peer).is_some_and(|sum| sum < 60.0))
                    .then_some(())
                };
                wait_for("both links are measured", PATIENCE, all_are_there).await;
            }
        }
        // One goes: it is seen, said and counted.
        cluster.servers[gone].kill();
        let server = &cluster.servers[leader];
        let is_seen = async || {
            let page = metrics(server);
            (page[&network("active_peers", link(leader, gone))] == 0.0
                && page[&network("disconnected_peers_total", link(leader, gone))] >= 1.0
                && page[&network("peer_sent_failures_total", format!("To=\"{}\"", names[gone]))] > 0.0)
                .then_some(())
        };
        wait_for("it is seen to be away", PATIENCE, is_seen).await;
        says(server, "peer became inactive (message send to peer failed)").await;
        says(server, "lost TCP streaming connection with remote peer").await;
        cluster.servers[gone].restart();
        let server = &cluster.servers[leader];
        let is_back = async || (metrics(server)[&network("active_peers", link(leader, gone))] == 1.0).then_some(());
        wait_for("it is back", PATIENCE, is_back).await;
        // And who is removed is not spoken of any more.
        let id = u64::from_str_radix(&names[gone], 16).expect("an id");
        cluster.servers[other].api().remove(id).await;
        assert_eq!(cluster.servers[gone].wait_exit().code(), Some(0));
        let server = &cluster.servers[leader];
        let is_forgotten = async || (!metrics(server).keys().any(|name| name.contains(&names[gone]))).then_some(());
        wait_for("it is forgotten", PATIENCE, is_forgotten).await;
    });
}

#[test]
fn a_leader_that_sends_its_heartbeats_late_says_so() {
    alone_in_its_place(async |setup| {
        let mut cluster = Cluster::start(&setup, 3);
        let is_counted = async |server: &Server| metrics(server)["etcd_server_heartbeat_send_failures_total"] > 0.0;
        for _ in 0..50 {
            let leader = cluster.leader().await;
            let server = &mut cluster.servers[leader];
            // Less than an election time-out; three intervals of heartbeats.
            server.signal(Signal::STOP);
            tokio::time::sleep(Duration::from_millis(250)).await;
            server.signal(Signal::CONT);
            server.api().put_with(put("k", "v")).await.ok();
            if is_counted(server).await {
                let line = "leader failed to send out heartbeat on time; took too long, leader is overloaded likely \
                            from slow disk";
                let line = says(server, line).await;
                assert_eq!(
                    (&line["heartbeat-interval"], &line["expected-duration"]),
                    (&"50ms".into(), &"100ms".into())
                );
                return;
            }
        }
        panic!("nobody counts late heartbeats");
    });
}
