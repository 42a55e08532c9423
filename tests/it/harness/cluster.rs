//! Several servers that are one cluster.

use super::network::{Flow, Network};
use super::places::free_port;
use super::server::{Server, Setup};
use super::{Api, wait_for};
use castd_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, StatusRequest, StatusResponse,
};
use std::net::TcpListener;
use std::time::Duration;
use tonic::{Code, Status};

/// For an election, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than those of lone members: an election that a busy machine causes would cost a test its writes.
const TIMING: [&str; 2] = ["--heartbeat-interval=50", "--election-timeout=500"];

/// The members, `m1` first. Those that were removed stay where they were.
pub struct Cluster {
    pub servers: Vec<Server>,
    setup: Setup,
    /// Between the members, if it can be cut. They are known there by their places.
    network: Option<Network>,
}

impl Cluster {
    /// So many new members, all serving.
    pub fn start(setup: &Setup, members: usize) -> Cluster {
        Cluster::start_with(setup, members, |_, setup| setup)
    }

    /// As [`Cluster::start`]; `change` may say how each one differs.
    pub fn start_with(setup: &Setup, members: usize, change: impl Fn(usize, Setup) -> Setup) -> Cluster {
        let mut cluster = Cluster::prepare(setup, members, change);
        cluster.servers.iter_mut().for_each(Server::spawn);
        cluster.servers.iter_mut().for_each(Server::wait_ready);
        cluster
    }

    /// As [`Cluster::start`]; the members can be cut off from each other. Within a runtime.
    pub fn start_apart(setup: &Setup, members: usize) -> Cluster {
        let network = Network::new();
        let mut cluster = Cluster::prepare(setup, members, |place, setup| {
            let proxy = free_port();
            let listener = TcpListener::bind(("127.0.0.1", proxy)).expect("it was free");
            network.serve(place, listener, setup.ports.peer);
            setup.behind(proxy)
        });
        for (place, server) in cluster.servers.iter_mut().enumerate() {
            server.spawn();
            network.member_runs(place, server.pid());
        }
        cluster.servers.iter_mut().for_each(Server::wait_ready);
        cluster.network = Some(network);
        cluster
    }

    /// Nothing that members say to this one arrives, nor what it says to them, until [`Cluster::mend`].
    pub fn cut_off(&self, place: usize) {
        let network = self.network.as_ref().expect("started apart");
        for other in (0..self.servers.len()).filter(|other| *other != place) {
            network.set((place, other), Flow::Held);
            network.set((other, place), Flow::Held);
        }
    }

    pub fn mend(&self) {
        self.network.as_ref().expect("started apart").mend();
    }

    /// Everything but starting them.
    pub fn prepare(setup: &Setup, members: usize, change: impl Fn(usize, Setup) -> Setup) -> Cluster {
        let setup = setup.clone().flags(TIMING);
        let setups: Vec<Setup> = (0..members).map(|place| change(place, next(&setup, place))).collect();
        let listed = setups.iter().map(Setup::listed).collect::<Vec<_>>().join(",");
        let servers = setups.into_iter().map(|setup| {
            let name = setup.name().to_owned();
            setup.member(&name, &listed, false).prepare()
        });
        Cluster { servers: servers.collect(), setup, network: None }
    }

    pub fn apis(&self) -> Vec<Api> {
        self.servers.iter().map(Server::api).collect()
    }

    /// A member that is to join; not yet known to the others, and not started.
    pub fn newcomer(&self) -> Setup {
        next(&self.setup, self.servers.len())
    }

    /// Adds a member through `api`, starts it, and answers its id.
    pub async fn grow(&mut self, api: &Api, is_learner: bool) -> u64 {
        let setup = self.newcomer();
        let (added, members) = add(api, &setup.peer_url(), is_learner).await;
        let mut server = setup.clone().member(setup.name(), listed(&members, &setup), true).prepare();
        server.spawn();
        if !is_learner {
            server.wait_ready();
        }
        self.servers.push(server);
        added
    }

    /// The place of the member that leads, once one does that a majority follows.
    pub async fn leader(&self) -> usize {
        let apis: Vec<(usize, Api)> =
            self.servers.iter().enumerate().filter(|(_, it)| it.is_running()).map(|(at, it)| (at, it.api())).collect();
        wait_for("a leader that the others follow", PATIENCE, async || {
            let mut statuses = Vec::new();
            for (place, api) in &apis {
                if let Ok(status) = api.status().await {
                    statuses.push((*place, status));
                }
            }
            let leads = |status: &StatusResponse| status.leader == status.header.as_ref().map_or(1, |it| it.member_id);
            let (place, leader) = statuses.iter().find(|(_, status)| leads(status))?;
            let follows =
                |status: &StatusResponse| status.leader == leader.leader && status.raft_term == leader.raft_term;
            (statuses.iter().filter(|(_, status)| follows(status)).count() * 2 > apis.len()).then_some(*place)
        })
        .await
    }

    /// The place of one that does not lead, and what it is asked by.
    pub async fn follower(&self) -> (usize, Api) {
        let place = (self.leader().await + 1) % self.servers.len();
        (place, self.servers[place].api())
    }

    /// The place of the member that leads, as `api` sees it.
    pub async fn leader_among(&self, api: &Api) -> usize {
        let members = wait_for("a leader", PATIENCE, async || {
            let leader = api.status().await.ok().filter(|status| status.leader != 0)?.leader;
            let request = MemberListRequest { linearizable: false };
            let members = api.cluster.clone().member_list(request).await.ok()?.into_inner().members;
            members.into_iter().find(|member| member.id == leader)
        });
        let name = members.await.name;
        self.servers.iter().position(|server| server.setup.name() == name).expect("one of them")
    }

    /// Waits until all that run have the same history, and compares it.
    pub async fn assert_equal(&self) {
        let running: Vec<Api> = self.servers.iter().filter(|it| it.is_running()).map(Server::api).collect();
        let first = running.first().expect("one runs");
        let revision = first.revision().await;
        let expected = first.hash_kv(revision).await.expect("hashed");
        for api in &running {
            // A linearizable read has applied all that was acknowledged before.
            let known = wait_for("a read", PATIENCE, async || api.range(super::grpc::range("?", "")).await.ok()).await;
            assert!(known.header.expect("a header").revision >= revision);
            let found = api.hash_kv(revision).await.expect("hashed");
            assert_eq!((found.hash, found.compact_revision), (expected.hash, expected.compact_revision));
        }
    }
}

fn next(setup: &Setup, place: usize) -> Setup {
    let setup = setup.clone().ports(super::server::Ports::free());
    setup.member(&format!("m{}", place + 1), "", false)
}

/// `--initial-cluster` as `etcdctl member add` prints it: the new one is called what it will call itself.
pub fn listed(members: &[Member], newcomer: &Setup) -> String {
    let name = |member: &Member| {
        let is_new = member.peer_urls.contains(&newcomer.peer_url());
        if is_new { newcomer.name().to_owned() } else { member.name.clone() }
    };
    let pairs = members.iter().flat_map(|member| {
        let name = name(member);
        member.peer_urls.iter().map(move |url| format!("{name}={url}"))
    });
    pairs.collect::<Vec<_>>().join(",")
}

/// Answers its id and all members. Etcd's checks want every member to have been connected for a while.
pub async fn add(api: &Api, peer_url: &str, is_learner: bool) -> (u64, Vec<Member>) {
    let answer = wait_for("a member is added", PATIENCE, async || {
        let request = MemberAddRequest { peer_urls: vec![peer_url.to_owned()], is_learner };
        unless_unhealthy(api.cluster.clone().member_add(request).await)
    });
    let answer = answer.await.into_inner();
    (answer.member.expect("who").id, answer.members)
}

fn unless_unhealthy<T>(answer: Result<T, Status>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) if error.code() == Code::Unavailable => None,
        Err(error) => panic!("{error:?}"),
    }
}

impl Api {
    pub async fn status(&self) -> Result<StatusResponse, Status> {
        self.maintenance.clone().status(StatusRequest {}).await.map(tonic::Response::into_inner)
    }

    pub async fn move_leader(&self, target_id: u64) -> Result<(), Status> {
        self.maintenance.clone().move_leader(MoveLeaderRequest { target_id }).await.map(drop)
    }

    /// Retried as long as the cluster is not healthy.
    pub async fn remove(&self, id: u64) {
        let request = async || unless_unhealthy(self.cluster.clone().member_remove(MemberRemoveRequest { id }).await);
        wait_for("a member is removed", PATIENCE, request).await;
    }

    pub async fn promote(&self, id: u64) -> Result<Vec<Member>, Status> {
        let answer = self.cluster.clone().member_promote(MemberPromoteRequest { id }).await;
        answer.map(|answer| answer.into_inner().members)
    }

    pub async fn update(&self, id: u64, peer_url: &str) -> Result<Vec<Member>, Status> {
        let request = MemberUpdateRequest { id, peer_urls: vec![peer_url.to_owned()] };
        self.cluster.clone().member_update(request).await.map(|answer| answer.into_inner().members)
    }

    pub async fn list_members(&self) -> Vec<Member> {
        let request = MemberListRequest { linearizable: true };
        self.cluster.clone().member_list(request).await.expect("listed").into_inner().members
    }
}
