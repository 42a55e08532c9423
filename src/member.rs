//! One member, from a configuration to open ports, and back down. What `main` runs, and what another program embeds.
//!
//! ```text
//!   ports (bound) ──▶ boot (disk) ──▶ wiring (actors) ──▶ peer port (open) ──▶ published ──▶ client ports (open), ready
//! ```

use crate::actors::applier;
use crate::actors::auditor;
use crate::actors::compactor;
use crate::actors::snapshotter::Defragment;
use crate::api::grpc::{Edge, EdgeSettings, SNAPSHOTS_MAX, Serving};
use crate::api::http::{Access, ClientHttp, Gateway, PeerHttp, client_app, metrics_app, peer_app};
use crate::api::listen::Routes;
use crate::api::member_http::MemberHttp;
use crate::boot::{self, Boot, BootError};
use crate::cast::{Cast, Identity, Limits, RequestError};
use crate::compaction::pace;
use crate::config::{CASTD_VERSION, CLUSTER_VERSION, Config, ETCD_VERSION};
use crate::consistency::answers::HashAnswers;
use crate::consistency::initial::{self, InitialCheckError};
use crate::handover::{Patience, hand_over};
use crate::membership::urls::UrlSet;
use crate::peer::handlers::Handlers;
use crate::peer::service::PeerService;
use crate::peer::{PeerSettings, frame_bytes_max};
use crate::ports::{BoundPorts, Ports, PortsError, Served};
use crate::process::descriptor_limit;
use crate::quota::Quota;
use crate::storage::DataDir;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::{Build, Metrics, RequestKind};
use crate::telemetry::trace::{SpanContext, TraceError, Tracing};
use crate::wiring::{self, Placement, Running, Started, Surroundings};
use castd_proto::castdpb::{ClusterVersion, MemberAttributes, raft_request::Op};
use slog::{Logger, error, info, o, warn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

/// How long work that has no client any more may take to finish.
const THREADS_GRACE: Duration = Duration::from_secs(5);
/// Before this member tries again to make itself known.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// Threads that read what peers send.
const PEER_THREADS: usize = 2;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Ports(#[from] PortsError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("the member could not make itself known: {0}")]
    Publish(#[from] RequestError),
    #[error(transparent)]
    InitialCheck(#[from] InitialCheckError),
    /// Found out while it waited for a leader.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
}

/// A running member.
pub struct Member {
    runtime: Runtime,
    /// Of the peer port: what clients ask for must not hold up heartbeats.
    peer_runtime: Runtime,
    ports: Ports,
    /// How long requests in flight may take once the member is told to stop, as long as etcd gives them; and leadership to
    /// move to another member before that.
    patience: Patience,
    running: Running,
    stopping: CancellationToken,
    /// Given when no client waits for peers any more.
    stopping_peers: CancellationToken,
    removed: CancellationToken,
    tracing: Tracing,
    cast: Cast,
    clock: Clock,
    /// With the fields that the lines about the end have.
    log: Logger,
    /// Its lock is held until the very end.
    data_dir: Arc<DataDir>,
}

impl Member {
    /// Starts a member inside this program, without logging. Blocks until it serves clients.
    ///
    /// # Errors
    /// Everything that keeps a member from starting, with a text that says what to do.
    pub fn start(config: Config) -> Result<Member, StartError> {
        Self::start_logged(&config, &Logger::root(slog::Discard, o!()))
    }

    /// As [`Member::start`], with a log.
    ///
    /// # Errors
    /// As [`Member::start`].
    pub fn start_logged(config: &Config, log: &Logger) -> Result<Member, StartError> {
        let clock = Clock::start();
        // Ports first: a start that fails because one is taken must not have touched the disk.
        let bound = BoundPorts::bind(config, descriptor_limit())?;
        let tracing = Tracing::start(&config.tracing, log)?;
        let metrics = Metrics::new(config.metrics);

        let Boot { cores, identity, others, data_dir, is_new } = boot::boot(config, clock, log)?;
        let storage = config.storage.to_string();
        metrics.identify(identity.member, ETCD_VERSION, Build { version: CASTD_VERSION, storage: &storage });
        for (gate, stage, on) in config.feature_gates.all() {
            metrics.server.feature_enabled.with_label_values(&[gate, stage]).set(i64::from(on));
        }
        let quota = Quota::new(config.quota_backend_bytes);
        metrics.server.quota_backend_bytes.set(quota.reported());
        let limited =
            if config.quota_backend_bytes.is_some() { "enabled backend quota" } else { "disabled backend quota" };
        info!(log, "{limited}"; "quota-size-bytes" => quota.reported(), "quota-auto-disarm" => config.quota_auto_disarm);
        let limits = Limits {
            request_bytes_max: config.max_request_bytes as usize,
            txn_ops_max: config.max_txn_ops as usize,
            quota,
        };
        let around = Surroundings {
            clock,
            metrics: metrics.clone(),
            log: log.clone(),
            identity,
            limits,
            applier: applier::Settings {
                slow_apply: config.warning_apply_duration,
                report_entries: config.snapshot_count,
                member: identity.member,
                quota,
                auto_disarm: config.quota_auto_disarm,
            },
            compactor: compactor::Settings {
                keep: config.auto_compaction,
                pace: pace::Settings {
                    rows_max: config.compaction_batch_limit as usize,
                    sleep: config.compaction_sleep_interval,
                },
            },
            auditor: auditor::Settings {
                identity,
                history_every: (!config.corrupt_check_time.is_zero()).then_some(config.corrupt_check_time),
                compactions_every: config
                    .feature_gates
                    .is_on("CompactHashCheck")
                    .then_some(config.compact_hash_check_time),
                patience: config.request_timeout(),
            },
            peers: peer_settings(config, identity),
            others,
            request_timeout: config.request_timeout(),
        };
        let frame_bytes_max = around.peers.frame_bytes_max;
        info!(log, "starting etcd server"; "local-member-id" => %identity.member,
            "local-server-version" => ETCD_VERSION, "cluster-id" => %identity.cluster,
            "cluster-version" => cores.machine.view().cluster_version.unwrap_or_else(|| "to_be_decided".to_owned()));
        let Started { cast, mut running, inbound, reception, removed } =
            wiring::start(cores, around, Placement::Spread).map_err(StartError::Thread)?;

        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.thread_name("edge").enable_all().build().map_err(StartError::Thread)?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let builder = builder.thread_name("peers").worker_threads(PEER_THREADS).enable_all();
        let peer_runtime = builder.build().map_err(StartError::Thread)?;
        let (stopping, stopping_peers) = (CancellationToken::new(), CancellationToken::new());
        let hashes = HashAnswers::new(cast.clone(), clock, metrics.clone());
        let edge = Edge {
            cast: cast.clone(),
            hashes: hashes.clone(),
            tracer: tracing.tracer(),
            metrics: metrics.clone(),
            settings: EdgeSettings {
                election_timeout: config.election_timeout,
                request_timeout: config.request_timeout(),
                is_reconfig_strict: config.strict_reconfig_check,
                learners_max: u32::try_from(config.max_learners).unwrap_or(u32::MAX),
                stops_serving_on_defragment: config.feature_gates.is_on("StopGRPCServiceOnDefrag"),
                slow_request: config.warning_unary_request_duration,
                slow_read: config.warning_apply_duration,
            },
            serving: Serving::default(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            clock,
            stopping: stopping.clone(),
            log: log.new(o!("part" => "edge")),
        };
        // Once peers are answered: members that start together compare their data with one another, too.
        let ready = async {
            if !is_new && config.feature_gates.is_on("InitialCorruptCheck") {
                let checked = initial::check(&cast, config.request_timeout(), log).await;
                checked.inspect_err(|error| error!(log, "checkInitialHashKV failed"; "error" => %error))?;
            }
            info!(log, "now serving peer/client/metrics"; "local-member-id" => %identity.member,
                "initial-advertise-peer-urls" => urls(&config.initial_advertise_peer_urls),
                "listen-peer-urls" => urls(&config.listen_peer_urls),
                "advertise-client-urls" => urls(&config.advertise_client_urls),
                "listen-client-urls" => urls(&config.listen_client_urls),
                "listen-metrics-urls" => urls(&config.listen_metrics_urls));
            tokio::select! {
                published = publish(config, &cast, &metrics, clock, log) => published?,
                () = removed.cancelled() => return Err(StartError::Removed),
            }
            defragment_if_due(config, &cast, log);
            Ok(())
        };
        let http = Arc::new(MemberHttp::new(cast.clone(), metrics.clone()));
        // The gateway's calls run on this runtime.
        let gateway = runtime.block_on(async {
            config.enable_grpc_gateway.then(|| Gateway::new(edge.routes(), edge.receive_bytes_max()))
        });
        let client_http = ClientHttp {
            backend: http.clone(),
            access: Access { origins: config.cors.clone(), hosts: config.host_whitelist.clone() },
            read_timeout: config.request_timeout(),
            gateway,
            log: log.clone(),
        };
        let leader_calls = Arc::new(edge.clone());
        let handlers = Handlers {
            snapshots: Some(reception),
            leases: Some(leader_calls.clone()),
            promotion: Some(leader_calls),
            hashes: Some(Arc::new(hashes)),
        };
        let peers = PeerService::server(inbound, handlers, stopping_peers.clone(), frame_bytes_max);
        let served = Served {
            routes: edge.routes(),
            peer_routes: Routes::default().add_service(peers),
            metrics_http: metrics_app(client_http.clone()),
            client_http: client_app(client_http),
            peer_http: peer_app(PeerHttp { backend: http }),
        };
        let ports = match runtime.block_on(bound.open::<StartError>(config, served, ready, &peer_runtime, log)) {
            Ok(ports) => ports,
            Err(error) => {
                // The process may go on, and what the actors own does not like to be left behind when it ends.
                stopping.cancel();
                stopping_peers.cancel();
                runtime.shutdown_timeout(THREADS_GRACE);
                peer_runtime.shutdown_timeout(THREADS_GRACE);
                running.stop();
                return Err(error);
            }
        };
        Ok(Member {
            runtime,
            peer_runtime,
            ports,
            patience: Patience { election_timeout: config.election_timeout, all: config.request_timeout() },
            clock,
            running,
            stopping,
            stopping_peers,
            removed,
            tracing,
            log: log.new(o!("name" => config.name.clone(), "data-dir" => config.data_dir.display().to_string(),
                "advertise-peer-urls" => urls(&config.initial_advertise_peer_urls),
                "advertise-client-urls" => urls(&config.advertise_client_urls))),
            cast,
            data_dir,
        })
    }

    /// Where clients connect by TCP.
    pub fn client_addresses(&self) -> Vec<SocketAddr> {
        self.ports.client_addresses()
    }

    /// Of the first client port, `http://127.0.0.1:2379`.
    pub fn client_url(&self) -> String {
        self.client_addresses().first().map(|address| format!("http://{address}")).unwrap_or_default()
    }

    /// Calls `then`, once, when this member has been removed from its cluster: nothing is left for it to do.
    pub fn when_removed(&self, then: impl FnOnce() + Send + 'static) {
        let removed = self.removed.clone();
        self.runtime.spawn(async move {
            removed.cancelled().await;
            then();
        });
    }

    /// Hands leadership over, lets requests in flight finish, ends all threads, and makes the backend durable, so that the next start has nothing
    /// to replay.
    pub fn stop(self) {
        let Member { runtime, peer_runtime, ports, patience, mut running, stopping, stopping_peers, tracing, .. } =
            self;
        let Member { cast, clock, log, removed, data_dir, .. } = self;
        info!(log, "closing etcd server");
        runtime.block_on(hand_over(&cast, patience, clock, &log));
        let published = cast.published_view();
        drop(cast);
        stopping.cancel();
        if removed.is_cancelled() {
            // Nobody answers it any more, so what its clients wait for does not come: they are told at once.
            running.stop();
        }
        runtime.block_on(ports.stop(patience.all, stopping_peers));
        runtime.shutdown_timeout(THREADS_GRACE);
        peer_runtime.shutdown_timeout(THREADS_GRACE);
        running.stop();
        let backend = Arc::clone(published.load().backend());
        drop(published);
        // Nothing is lost if this fails: the log has it, and the next start replays it.
        match data_dir.close_backend(backend) {
            Ok(true) => {}
            Ok(false) => warn!(log, "the backend is still read and cannot be closed; the next start rebuilds it"),
            Err(error) => warn!(log, "the backend could not be closed"; "error" => %error),
        }
        tracing.shutdown();
        info!(log, "closed etcd server");
    }
}

fn peer_settings(config: &Config, identity: Identity) -> PeerSettings {
    PeerSettings {
        identity,
        advertised_urls: config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect(),
        election_timeout: config.election_timeout,
        read_timeout: config.peer_read_timeout,
        write_timeout: config.peer_write_timeout,
        frame_bytes_max: frame_bytes_max(config),
    }
}

/// Says who this member is, through the log, as soon as there is a leader; and, the first time, which release the cluster
/// speaks.
async fn publish(
    config: &Config,
    cast: &Cast,
    metrics: &Metrics,
    clock: Clock,
    log: &Logger,
) -> Result<(), StartError> {
    let client_urls = config.advertise_client_urls.iter().map(ToString::to_string).collect();
    let attributes = MemberAttributes { member_id: cast.identity().member.0, name: config.name.clone(), client_urls };
    let described = format!("{{Name:{} ClientURLs:[{}]}}", attributes.name, attributes.client_urls.join(" "));
    let started = clock.now();
    replicate_until_done(cast, Op::MemberAttributes(attributes), log).await?;
    let took = clock.now().saturating_sub(started);
    metrics.requests.served(RequestKind::ClusterMemberAttrSet, true, took);
    info!(log, "published local member to cluster through raft"; "local-member-id" => %cast.identity().member,
        "local-member-attributes" => described, "cluster-id" => %cast.identity().cluster,
        "publish-timeout" => ?config.request_timeout());
    if cast.own_view().cluster_version.is_none() {
        let version = ClusterVersion { version: CLUSTER_VERSION.to_owned() };
        let started = clock.now();
        replicate_until_done(cast, Op::ClusterVersion(version), log).await?;
        let took = clock.now().saturating_sub(started);
        metrics.requests.served(RequestKind::ClusterVersionSet, true, took);
        let version = CLUSTER_VERSION.trim_end_matches(".0");
        info!(log, "set initial cluster version"; "cluster-id" => %cast.identity().cluster,
            "local-member-id" => %cast.identity().member, "cluster-version" => version);
        info!(log, "enabled capabilities for version"; "cluster-version" => version);
        info!(log, "cluster version is updated"; "cluster-version" => version);
    }
    metrics.set_cluster_version(CLUSTER_VERSION.trim_end_matches(".0"));
    Ok(())
}

fn urls(urls: &UrlSet) -> slog::Serde<Vec<String>> {
    slog::Serde(urls.iter().map(ToString::to_string).collect())
}

/// Replaying a long log may take longer than a request may wait.
async fn replicate_until_done(cast: &Cast, op: Op, log: &Logger) -> Result<(), StartError> {
    loop {
        match cast.replicate_own(op.clone()).await {
            Ok(_) => return Ok(()),
            // A snapshot may have taken the place of the entry that said what became of it.
            Err(error @ (RequestError::Raft(_) | RequestError::Repeated | RequestError::TooManyRequests)) => {
                warn!(log, "failed to publish local member to cluster through raft"; "error" => %error);
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// `--bootstrap-defrag-threshold-megabytes`. Beside the start, which does not wait for it.
fn defragment_if_due(config: &Config, cast: &Cast, log: &Logger) {
    let threshold_bytes = config.bootstrap_defrag_threshold_megabytes.saturating_mul(1 << 20);
    if threshold_bytes == 0 {
        return;
    }
    let size = cast.own_view().engine_size();
    if size.allocated_bytes.saturating_sub(size.in_use_bytes) < threshold_bytes {
        info!(log, "Skipping defragmentation"; "reason" => "less can be given back than the threshold",
            "current-db-size-bytes" => size.allocated_bytes, "current-db-size-in-use-bytes" => size.in_use_bytes,
            "bootstrap-defrag-threshold-bytes" => threshold_bytes);
        return;
    }
    let (reply, _) = oneshot::channel();
    cast.own_snapshotter().do_send(Defragment { reply, span: SpanContext::default() });
}
