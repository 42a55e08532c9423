//! What the HTTP ports may know of this member, answered from the cast.

use crate::api::http::{Consistency, HttpBackend, PeerHttpBackend, PeerMember, VersionInfo};
use crate::api::permit::{Caller, authorize};
use crate::api::status::Wire;
use crate::cast::{Cast, RequestError};
use crate::config::{ETCD_VERSION, STORAGE_VERSION};
use crate::ids::{ClusterId, MemberId};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::SpanContext;
use castd_proto::Rpc;
use castd_proto::etcdserverpb::{AlarmType, RangeRequest};
use futures_util::future::BoxFuture;

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

    fn count_health_check(&self, healthy: bool) {
        let health = &self.metrics.health;
        if healthy { health.success.inc() } else { health.failures.inc() }
    }

    /// Gauges of what nobody counts as it happens are read when somebody asks.
    fn metrics(&self) -> String {
        let view = self.cast.own_view();
        let (mvcc, size) = (&self.metrics.mvcc, view.size());
        mvcc.keys.set(i64::try_from(view.mvcc.keys()).unwrap_or(i64::MAX));
        mvcc.current_revision.set(view.mvcc.revision().0);
        mvcc.compact_revision.set(view.mvcc.compact_revision().0);
        mvcc.db_size.set(i64::try_from(size.db_size).unwrap_or(i64::MAX));
        mvcc.db_size_in_use.set(i64::try_from(size.in_use).unwrap_or(i64::MAX));
        mvcc.storage_allocated.set(i64::try_from(view.allocated_bytes()).unwrap_or(i64::MAX));
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
