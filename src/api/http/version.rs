//! `/version`: which API the member speaks, and what the cluster has agreed on.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, Resource, web};
use serde::Serialize;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// etcd's API version that we implement.
    pub server: String,
    /// None until the members have agreed.
    pub cluster: Option<String>,
    /// None until the members have agreed.
    pub storage: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    etcdserver: &'a str,
    etcdcluster: &'a str,
    storage: &'a str,
}

pub(super) fn resource(version: Arc<dyn Fn() -> VersionInfo + Send + Sync>) -> Resource {
    super::get_only(
        "/version",
        web::get().to(move || {
            let version = version();
            async move { answer(&version) }
        }),
    )
}

fn answer(version: &VersionInfo) -> HttpResponse {
    super::json(
        StatusCode::OK,
        &Body {
            etcdserver: &version.server,
            etcdcluster: version.cluster.as_deref().unwrap_or("not_decided"),
            storage: version.storage.as_deref().unwrap_or("unknown"),
        },
    )
}
