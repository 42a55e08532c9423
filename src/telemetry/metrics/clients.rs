//! Which API versions clients speak, as they say in the `client-api-version` of each request.
//!
//! What they say is not ours to choose, so only so many different versions get rows, and only if they look like one; the
//! others count as `unknown`, like clients that say nothing. Looking up a known version takes no lock.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec, Registry};

use super::families::counters;

const VERSIONS_MAX: usize = 20;
const VERSION_BYTES_MAX: usize = 16;
const UNKNOWN: &str = "unknown";

pub struct ClientVersions {
    family: IntCounterVec,
    unknown: Rows,
    known: ArcSwap<HashMap<Box<str>, Arc<Rows>>>,
}

/// A row shows once its counter is made, so each is made when first needed.
#[derive(Default)]
struct Rows {
    unary: OnceLock<IntCounter>,
    stream: OnceLock<IntCounter>,
}

impl Rows {
    fn unary(&self, family: &IntCounterVec, version: &str) {
        self.unary.get_or_init(|| family.with_label_values(&["unary", version])).inc();
    }

    fn stream(&self, family: &IntCounterVec, version: &str) {
        self.stream.get_or_init(|| family.with_label_values(&["stream", version])).inc();
    }
}

impl ClientVersions {
    pub(super) fn register(registry: &Registry) -> Self {
        let family = counters(
            registry,
            "etcd_server_client_requests_total",
            "Requests by the API version of the client",
            &["type", "client_api_version"],
        );
        Self { family, unknown: Rows::default(), known: ArcSwap::default() }
    }

    /// A unary request arrived; `version` is what its metadata says.
    pub fn unary(&self, version: Option<&str>) {
        self.count(version, Rows::unary);
    }

    /// A stream was opened.
    pub fn stream(&self, version: Option<&str>) {
        self.count(version, Rows::stream);
    }

    fn count(&self, version: Option<&str>, count: fn(&Rows, &IntCounterVec, &str)) {
        let Some(version) = version else { return count(&self.unknown, &self.family, UNKNOWN) };
        if let Some(rows) = self.known.load().get(version) {
            return count(rows, &self.family, version);
        }
        self.admit(version);
        match self.known.load().get(version) {
            Some(rows) => count(rows, &self.family, version),
            None => count(&self.unknown, &self.family, UNKNOWN),
        }
    }

    /// Makes room for a version nobody said before, if it is to have any.
    fn admit(&self, version: &str) {
        let plausible = (1..=VERSION_BYTES_MAX).contains(&version.len())
            && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !plausible || self.known.load().len() >= VERSIONS_MAX {
            return;
        }
        let rows = Arc::new(Rows::default());
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            // Somebody else may have been faster; theirs stays.
            if known.len() < VERSIONS_MAX {
                known.entry(version.into()).or_insert_with(|| Arc::clone(&rows));
            }
            known
        });
    }
}
