//! The HTTP of the peer port: who is in the cluster, for members that join it and for tools.

use super::version::{self, VersionInfo};
use super::{HttpApp, get_only, json, not_found, plain_error};
use crate::ids::{ClusterId, MemberId};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::{HttpResponse, web};
use futures_util::future::BoxFuture;
use serde::Serialize;
use std::sync::Arc;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// What the peer port's HTTP may ask the member.
pub trait PeerHttpBackend: Send + Sync + 'static {
    fn version(&self) -> VersionInfo;
    fn cluster_id(&self) -> ClusterId;
    /// As applied, in the order of their ids.
    fn members(&self) -> Vec<PeerMember>;
    /// Whether a downgrade is under way, as of now or later. The error is the text a client would get.
    fn downgrade_enabled(&self) -> BoxFuture<'static, Result<bool, String>>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMember {
    pub id: MemberId,
    pub peer_urls: Vec<String>,
    pub is_learner: bool,
    /// Empty until the member has started.
    pub name: String,
    /// Empty until the member has started.
    pub client_urls: Vec<String>,
}

/// A member as etcd writes it: what is empty is left out.
#[derive(Serialize)]
struct Body {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    client_urls: Vec<String>,
}

impl From<PeerMember> for Body {
    fn from(member: PeerMember) -> Body {
        let PeerMember { id, peer_urls, is_learner, name, client_urls } = member;
        Body { id: id.0, peer_urls, is_learner, name, client_urls }
    }
}

#[derive(Clone)]
pub struct PeerHttp {
    pub backend: Arc<dyn PeerHttpBackend>,
}

pub fn peer_app(http: PeerHttp) -> HttpApp {
    HttpApp::new(move |services| {
        let (for_version, for_members) = (http.backend.clone(), http.backend.clone());
        services.service(version::resource(Arc::new(move || for_version.version())));
        services.service(get_only(
            "/members",
            web::get().to(move || {
                let members: Vec<Body> = for_members.members().into_iter().map(Body::from).collect();
                let response = with_cluster_id(json(StatusCode::OK, &members), for_members.cluster_id());
                async move { response }
            }),
        ));
        let backend = http.backend.clone();
        services.service(get_only("/downgrade/enabled", web::get().to(move || downgrade_enabled(backend.clone()))));
        services.default_service(web::to(not_found));
    })
}

/// Members of the release before ask for this when they start.
async fn downgrade_enabled(backend: Arc<dyn PeerHttpBackend>) -> HttpResponse {
    let response = match backend.downgrade_enabled().await {
        Ok(enabled) => HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/plain")).body(enabled.to_string()),
        Err(error) => plain_error(StatusCode::INTERNAL_SERVER_ERROR, format!("failed linearized read: {error}")),
    };
    with_cluster_id(response, backend.cluster_id())
}

fn with_cluster_id(mut response: HttpResponse, id: ClusterId) -> HttpResponse {
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(CLUSTER_ID, id);
    }
    response
}
