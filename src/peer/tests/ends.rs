//! One member's end of the links: its PeerLinks, its peer port, and a probe in the place of RaftNode.

use crate::actors::Tick;
use crate::actors::peer_links::{Forward, LinkChanged, Links, MembershipChanged, PeerLinks, Send};
use crate::actors::raft_node::{Forwarded, PeerUnreachable, Step};
use crate::api::http::HttpApp;
use crate::api::listen::{EdgeServer, ListenSettings, Listener, Routes, Traffic};
use crate::cast::{Identity, Published};
use crate::ids::{ClusterId, LogIndex, MemberId, Term};
use crate::membership::members::{MemberRow, Members};
use crate::peer::calls::PeerCalls;
use crate::peer::courier::Courier;
use crate::peer::handlers::Handlers;
use crate::peer::reception::Reception;
use crate::peer::roster::{Connections, Roster};
use crate::peer::service::{Inbound, InboundRoom, PeerService, Receivers};
use crate::peer::{FRAME_BYTES_MAX, PeerSettings};
use crate::raft::forwarded::ForwardedProposal;
use crate::raft::node::Status;
use crate::snapshot::SnapshotStore;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::{Metrics, MetricsLevel};
use actix::{Actor, Addr, Context, Handler, System};
use castd_proto::etcdserverpb::Member;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub const CLUSTER: ClusterId = ClusterId(7);

/// What a test waits for comes long before this.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it never happened")
}

pub enum Received {
    Step { messages: Vec<Message>, at: Duration, room: InboundRoom },
    Forwarded { from: MemberId, requests: Vec<ForwardedProposal> },
    Unreachable(MemberId),
}

struct Probe {
    received: mpsc::UnboundedSender<Received>,
    clock: Clock,
}

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<Step> for Probe {
    type Result = ();

    fn handle(&mut self, step: Step, _: &mut Self::Context) {
        let at = self.clock.now();
        let _ = self.received.send(Received::Step { messages: step.messages, at, room: step.room });
    }
}

impl Handler<Forwarded> for Probe {
    type Result = ();

    fn handle(&mut self, forwarded: Forwarded, _: &mut Self::Context) {
        let _ = self.received.send(Received::Forwarded { from: forwarded.from, requests: forwarded.requests });
    }
}

impl Handler<PeerUnreachable> for Probe {
    type Result = ();

    fn handle(&mut self, event: PeerUnreachable, _: &mut Self::Context) {
        let _ = self.received.send(Received::Unreachable(event.peer));
    }
}

/// Tests read the published table.
impl Handler<LinkChanged> for Probe {
    type Result = ();

    fn handle(&mut self, _: LinkChanged, _: &mut Self::Context) {}
}

pub fn settings(identity: Identity) -> PeerSettings {
    PeerSettings {
        identity,
        advertised_urls: Vec::new(),
        election_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(5),
        frame_bytes_max: FRAME_BYTES_MAX,
    }
}

pub struct End {
    member: MemberId,
    system: System,
    links: Addr<PeerLinks>,
    port: EdgeServer,
    received: mpsc::UnboundedReceiver<Received>,
    roster: Published<Roster>,
    stopping: CancellationToken,
    /// As the log would have it.
    known: Vec<(MemberId, Vec<String>)>,
    removed_members: Vec<MemberId>,
    pub removed: CancellationToken,
    pub connections: Published<Connections>,
    pub metrics: Metrics,
    pub clock: Clock,
    /// As RaftNode would publish it.
    pub status: Published<Status>,
    pub snapshots: tempfile::TempDir,
}

impl End {
    pub async fn start(member: MemberId, clock: Clock) -> End {
        let identity = Identity { cluster: CLUSTER, member };
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let metrics = Metrics::new(MetricsLevel::Basic);
        let (roster, connections) = (Published::new(Roster::default()), Published::new(Connections::default()));
        let (removed, stopping) = (CancellationToken::new(), CancellationToken::new());
        let (sender, received) = mpsc::unbounded_channel();

        let (ready, system) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runner = System::new();
            ready.send(System::current()).expect("the test waits for it");
            runner.run().expect("it runs");
        });
        let system = system.recv().expect("a system");
        let probe = Probe::start_in_arbiter(&system.arbiter().clone(), move |_| Probe { received: sender, clock });

        let listen = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listen.local_addr().expect("bound");
        let links = Links {
            unreachable: probe.clone().recipient(),
            link_changed: probe.clone().recipient(),
            snapshots: None,
            begins_link: None,
            roster: roster.clone(),
            connections: connections.clone(),
            removed: removed.clone(),
        };
        let settings = PeerSettings { advertised_urls: vec![format!("http://{address}")], ..settings(identity) };
        let peer_links = PeerLinks::new(settings, links, clock, metrics.clone(), log.clone());
        let links = PeerLinks::start_in_arbiter(&system.arbiter().clone(), move |_| peer_links);

        let receivers = Receivers {
            step: probe.clone().recipient(),
            forwarded: probe.recipient(),
            introduced: links.clone().recipient(),
        };
        let following =
            Status { term: Term(2), leader: None, is_leader: false, is_learner: false, committed: LogIndex(3) };
        let (status, snapshots) = (Published::new(following), tempfile::tempdir().expect("a directory"));
        let store = SnapshotStore::open(snapshots.path()).expect("an empty directory");
        let step = receivers.step.clone();
        let own_status = status.clone();
        let reception = Reception::new(identity, store, own_status, step, true, clock, metrics.clone(), log.clone());
        let handlers = Handlers { snapshots: Some(Arc::new(reception)), ..Handlers::default() };
        let inbound = Inbound::new(identity, roster.clone(), receivers, clock, metrics.clone(), log.clone());
        let service = PeerService::server(Arc::new(inbound), handlers, stopping.clone(), FRAME_BYTES_MAX);
        let port = EdgeServer::start(
            ListenSettings::new("peer", vec![Listener::Tcp(listen)]),
            Traffic::GrpcAndHttp(Routes::default().add_service(service), HttpApp::new(|_| {})),
            log,
        );
        let port = port.await.expect("a port");
        let (known, removed_members) = Default::default();
        let end = End {
            member,
            system,
            links,
            port,
            received,
            roster,
            stopping,
            known,
            removed_members,
            removed,
            connections,
            metrics,
            clock,
            status,
            snapshots,
        };
        end.ticks();
        end
    }

    /// As the ticker's thread does.
    fn ticks(&self) {
        let (links, clock, stopping) = (self.links.clone(), self.clock, self.stopping.clone());
        tokio::spawn(stopping.run_until_cancelled_owned(async move {
            let mut interval = tokio::time::interval(Duration::from_millis(50));
            loop {
                interval.tick().await;
                links.do_send(Tick { now: clock.now() });
            }
        }));
    }

    pub fn address(&self) -> SocketAddr {
        self.port.local_addrs()[0].tcp().expect("a TCP port")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// It leads, in `term`.
    pub fn leads(&self, term: u64) {
        let status = *self.status.load();
        self.status.store(Status { term: Term(term), is_leader: true, leader: Some(self.member), ..status });
    }

    pub fn courier(&self, silence_max: Duration) -> Courier {
        Courier {
            own: Identity { cluster: CLUSTER, member: self.member },
            roster: self.roster.clone(),
            status: self.status.clone(),
            open_timeout: Duration::from_secs(5),
            silence_max,
            pause_after_failure: Duration::ZERO,
            clock: self.clock,
            metrics: self.metrics.clone(),
            log: slog::Logger::root(slog::Discard, slog::o!()),
        }
    }

    /// Names of what lies in `snap/`.
    pub fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.snapshots.path()).expect("it is there");
        let mut names: Vec<_> =
            files.map(|file| file.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn calls(&self) -> PeerCalls {
        let own = Identity { cluster: CLUSTER, member: self.member };
        PeerCalls::new(own, self.roster.clone(), Duration::from_secs(5))
    }

    /// The log says that these are the members.
    pub fn knows(&mut self, members: &[(MemberId, Vec<String>)]) {
        self.known = members.to_vec();
        self.tell_members();
    }

    pub fn removes(&mut self, member: MemberId) {
        self.known.retain(|(id, _)| *id != member);
        self.removed_members.push(member);
        self.tell_members();
    }

    fn tell_members(&self) {
        let removed = self.removed_members.iter().copied().map(MemberRow::Removed);
        let members = Members::restore(cluster_of(&self.known).rows().chain(removed), LogIndex(9));
        self.links.do_send(MembershipChanged { members: Arc::new(members) });
    }

    pub async fn knows_removed(&self, member: MemberId) {
        soon(async {
            while !self.roster.load().is_removed(member) {
                tokio::task::yield_now().await
            }
        })
        .await;
    }

    pub fn send(&self, messages: Vec<Message>) {
        self.links.do_send(Send { messages });
    }

    pub fn forward(&self, to: MemberId, requests: Vec<ForwardedProposal>) {
        self.links.do_send(Forward { to, requests });
    }

    pub async fn next(&mut self) -> Received {
        self.received.recv().await.expect("the probe lives as long as the system")
    }

    pub fn nothing_came(&mut self) -> bool {
        self.received.try_recv().is_err()
    }

    /// The urgent lane is open.
    pub async fn is_connected_to(&mut self, peer: MemberId) {
        soon(async {
            while self.connections.load().since(peer).is_none() {
                pause().await
            }
        })
        .await;
    }

    pub async fn is_not_connected_to(&mut self, peer: MemberId) {
        soon(async {
            while self.connections.load().since(peer).is_some() {
                pause().await
            }
        })
        .await;
    }

    pub async fn is_told_unreachable(&mut self, peer: MemberId) {
        soon(async {
            loop {
                if matches!(self.next().await, Received::Unreachable(it) if it == peer) {
                    return;
                }
            }
        })
        .await;
    }

    /// Sends `message` until `to` has received it, as raft does: the lane that it takes may not be open yet.
    pub async fn until_carried(&self, to: &mut End, message: Message) {
        soon(async {
            loop {
                self.send(vec![message.clone()]);
                let came = tokio::time::timeout(Duration::from_millis(20), to.next()).await;
                if let Ok(Received::Step { messages, .. }) = came
                    && messages.contains(&message)
                {
                    break;
                }
            }
            // The rest of what was repeated is on its way.
            while tokio::time::timeout(Duration::from_millis(50), to.next()).await.is_ok() {}
        })
        .await;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.system.stop();
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub fn cluster_of(members: &[(MemberId, Vec<String>)]) -> Members {
    let member = |(id, urls): &(MemberId, Vec<String>)| {
        MemberRow::Set(Member { id: id.0, peer_urls: urls.clone(), ..Member::default() })
    };
    Members::restore(members.iter().map(member), LogIndex(9))
}

fn message(kind: MessageType, from: MemberId, to: MemberId) -> Message {
    let mut message = Message { from: from.0, to: to.0, term: 1, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// One entry of `bytes` after `index`.
pub fn append(from: MemberId, to: MemberId, index: u64, bytes: usize) -> Message {
    let entry = Entry { index: index + 1, term: 1, data: vec![7; bytes].into(), ..Entry::default() };
    let mut message = Message { index, log_term: index.min(1), ..message(MessageType::MsgAppend, from, to) };
    message.set_entries(vec![entry].into());
    message
}

/// Carries the time in its commit index.
pub fn heartbeat(from: MemberId, to: MemberId, now: Duration) -> Message {
    Message { commit: now.as_nanos() as u64, ..message(MessageType::MsgHeartbeat, from, to) }
}

pub fn forwarded(sequence: u64) -> ForwardedProposal {
    ForwardedProposal { boot: 1, sequence, kind: EntryType::EntryNormal, data: "request".into() }
}
