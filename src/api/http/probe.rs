//! A member that answers what a test told it to.

use super::DebugVars;
use super::{Access, ClientHttp, Consistency, HttpBackend, PeerHttpBackend, PeerMember, VersionInfo};
use crate::ids::{ClusterId, MemberId};
use castd_proto::etcdserverpb::AlarmType;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Healthy by default.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    pub(crate) alarms: Vec<AlarmType>,
    pub(crate) leaderless: bool,
    pub(crate) learner: bool,
    pub(crate) undecided: bool,
    /// What a linearizable read fails with.
    pub(crate) read_error: Option<String>,
    /// Linearizable reads never end.
    pub(crate) read_hangs: bool,
    pub(crate) healthy_answers: AtomicUsize,
    pub(crate) unhealthy_answers: AtomicUsize,
}

impl Probe {
    pub(crate) fn client(self: Arc<Self>) -> ClientHttp {
        ClientHttp {
            backend: self,
            access: Access::default(),
            read_timeout: Duration::from_secs(5),
            gateway: None,
            log: slog::Logger::root(slog::Discard, slog::o!()),
        }
    }
}

impl HttpBackend for Probe {
    fn version(&self) -> VersionInfo {
        let decided = (!self.undecided).then(|| "3.7.0".to_owned());
        VersionInfo { server: "3.7.1".to_owned(), cluster: decided.clone(), storage: decided }
    }

    fn alarms(&self) -> Vec<AlarmType> {
        self.alarms.clone()
    }

    fn has_leader(&self) -> bool {
        !self.leaderless
    }

    fn is_learner(&self) -> bool {
        self.learner
    }

    fn read_one_key(&self, consistency: Consistency) -> BoxFuture<'static, Result<(), String>> {
        match (consistency, &self.read_error) {
            (Consistency::Linearizable, _) if self.read_hangs => Box::pin(std::future::pending()),
            (Consistency::Linearizable, Some(error)) => Box::pin(std::future::ready(Err(error.clone()))),
            _ => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn count_health_check(&self, healthy: bool) {
        let counter = if healthy { &self.healthy_answers } else { &self.unhealthy_answers };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count_check(&self, _: &str, _: &str, _: bool) {}

    fn debug_vars(&self) -> DebugVars {
        [("file_descriptor_limit".to_owned(), serde_json::Value::from(1024))].into_iter().collect()
    }

    fn metrics(&self) -> String {
        "# TYPE etcd_server_has_leader gauge\netcd_server_has_leader 1\n".to_owned()
    }
}

impl PeerHttpBackend for Probe {
    fn version(&self) -> VersionInfo {
        HttpBackend::version(self)
    }

    fn cluster_id(&self) -> ClusterId {
        ClusterId(0xdc50_b8da_ae93_b3e0)
    }

    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>> {
        let answer = if !self.leaderless { Ok(true) } else { Err("etcdserver: request timed out".to_owned()) };
        Box::pin(std::future::ready(answer))
    }

    fn members(&self) -> Vec<PeerMember> {
        let url = |port: u16| vec![format!("http://127.0.0.1:{port}")];
        vec![
            PeerMember {
                id: MemberId(7_383_792_418_829_112_008),
                peer_urls: url(2380),
                is_learner: false,
                name: "n1".to_owned(),
                client_urls: url(2379),
            },
            PeerMember {
                id: MemberId(9),
                peer_urls: url(3380),
                is_learner: true,
                name: String::new(),
                client_urls: Vec::new(),
            },
        ]
    }
}
