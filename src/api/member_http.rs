//! What the HTTP ports may know of this member, answered from the cast.

use crate::api::http::{Consistency, DebugVars, HttpBackend, PeerHttpBackend, PeerMember, VersionInfo};
use crate::api::permit::{Caller, authorize};
use crate::api::status::Wire;
use crate::cast::{Cast, RequestError};
use crate::config::{ETCD_VERSION, STORAGE_VERSION};
use crate::ids::{ClusterId, MemberId};
use crate::telemetry::metrics::{Metrics, process};
use crate::telemetry::trace::SpanContext;
use castd_proto::Rpc;
use castd_proto::etcdserverpb::{AlarmType, RangeRequest};
use futures_util::future::BoxFuture;
use serde_json::json;

pub struct MemberHttp {
    cast: Cast,
    metrics: Metrics,
}

impl MemberHttp {
    pub fn new(cast: Cast, metrics: Metrics) -> Self {
        MemberHttp { cast, metrics }
    }

    fn versions(&self) -> VersionInfo {
        let cluster = self.cast.own_view().cluster_version.clone();
        VersionInfo {
            server: ETCD_VERSION.to_owned(),
            storage: cluster.as_ref().map(|_| STORAGE_VERSION.to_owned()),
            cluster,
        }
    }
}

impl HttpBackend for MemberHttp {
    fn version(&self) -> VersionInfo {
        self.versions()
    }

    /// A kind that this release does not know counts as "unknown".
    fn alarms(&self) -> Vec<AlarmType> {
        let view = self.cast.own_view();
        view.alarms.iter().map(|alarm| AlarmType::try_from(alarm.kind).unwrap_or(AlarmType::None)).collect()
    }

    fn has_leader(&self) -> bool {
        self.cast.status().leader.is_some()
    }

    fn is_learner(&self) -> bool {
        let view = self.cast.own_view();
        view.members.get(self.cast.identity().member).is_some_and(|member| member.is_learner)
    }

    fn read_one_key(&self, consistency: Consistency) -> BoxFuture<'static, Result<(), String>> {
        let cast = self.cast.clone();
        Box::pin(async move {
            let read = async {
                let permit = authorize(&Caller::Anonymous, Rpc::KvRange)?;
                let view = match consistency {
                    Consistency::Serializable => cast.local_view(&permit),
                    Consistency::Linearizable => cast.linearizable_view(&permit, SpanContext::default()).await?,
                };
                let one =
                    RangeRequest { key: b"\0".as_slice().into(), keys_only: true, limit: 1, ..Default::default() };
                view.mvcc.range(&one)?;
                Ok::<(), RequestError>(())
            };
            read.await.map_err(|error| Wire::from(&error).message)
        })
    }

    fn count_check(&self, kind: &str, name: &str, healthy: bool) {
        let health = &self.metrics.health;
        health.check.with_label_values(&[kind, name]).set(i64::from(healthy));
        health.checks.with_label_values(&[kind, name, if healthy { "success" } else { "error" }]).inc();
    }

    fn count_health_check(&self, healthy: bool) {
        let health = &self.metrics.health;
        if healthy { health.success.inc() } else { health.failures.inc() }
    }

    fn debug_vars(&self) -> DebugVars {
        let (status, view) = (self.cast.status(), self.cast.own_view());
        let id = self.cast.identity().member.to_string();
        let mut raft = json!({
            "id": &id,
            "term": status.term.0,
            "commit": status.committed.0,
            "applied": view.applied.0,
            "lead": status.leader.map_or_else(|| "0".to_owned(), |leader| leader.to_string()),
            "raftState": if status.is_leader { "StateLeader" } else { "StateFollower" },
            "progress": {},
        });
        if status.is_leader && view.conf_state.voters.len() == 1 {
            // Alone, what is committed is what is in the own log.
            let (matched, next) = (status.committed.0, status.committed.0 + 1);
            raft["progress"] = json!({ id: { "match": matched, "next": next, "state": "StateReplicate" } });
        }
        let memory = process::memory();
        let vars = [
            ("cmdline", json!(std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect::<Vec<_>>())),
            ("file_descriptor_limit", json!(process::descriptors_max())),
            (
                "memstats",
                json!({
                    "Sys": memory.resident_bytes,
                    "HeapInuse": memory.anonymous_bytes,
                    "StackInuse": memory.stack_bytes,
                }),
            ),
            ("raft.status", raft),
        ];
        vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Gauges of what nobody counts as it happens are read when somebody asks.
    fn metrics(&self) -> String {
        let view = self.cast.own_view();
        let (mvcc, size) = (&self.metrics.mvcc, view.size());
        self.metrics.server.is_learner.set(i64::from(self.is_learner()));
        // Not counting the published one.
        mvcc.db_open_read_transactions.set(view.mvcc.pinned().saturating_sub(1) as i64);
        mvcc.keys.set(i64::try_from(view.mvcc.keys()).unwrap_or(i64::MAX));
        mvcc.current_revision.set(view.mvcc.revision().0);
        mvcc.compact_revision.set(view.mvcc.compact_revision().0);
        mvcc.db_size.set(i64::try_from(size.db_size).unwrap_or(i64::MAX));
        mvcc.db_size_in_use.set(i64::try_from(size.in_use).unwrap_or(i64::MAX));
        mvcc.storage_allocated.set(i64::try_from(view.engine_size().allocated_bytes).unwrap_or(i64::MAX));
        self.metrics.render()
    }
}

impl PeerHttpBackend for MemberHttp {
    fn version(&self) -> VersionInfo {
        self.versions()
    }

    fn cluster_id(&self) -> ClusterId {
        self.cast.identity().cluster
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>> {
        let cast = self.cast.clone();
        Box::pin(async move {
            let read = async {
                let permit = authorize(&Caller::Anonymous, Rpc::MaintenanceDowngrade)?;
                let view = cast.linearizable_view(&permit, SpanContext::default()).await?;
                Ok::<bool, RequestError>(view.downgrade.is_some())
            };
            read.await.map_err(|error| Wire::from(&error).message)
        })
    }

    fn members(&self) -> Vec<PeerMember> {
        let view = self.cast.own_view();
        let members = view.members.list().map(|member| PeerMember {
            id: MemberId(member.id),
            peer_urls: member.peer_urls.clone(),
            is_learner: member.is_learner,
            name: member.name.clone(),
            client_urls: member.client_urls.clone(),
        });
        members.collect()
    }
}
