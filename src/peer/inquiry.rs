//! Questions of a member that has not started yet to the peer ports of others, by plain HTTP, as etcd asks them.
//!
//! ```text
//!   GET /members  ─▶ who is in the cluster, under which ids        GET /version ─▶ what the cluster behaves like
//! ```
//! Redirects are not followed: a member asks whom it was told to ask.

use crate::ids::ClusterId;
use crate::membership::remote::RemoteCluster;
use crate::membership::urls::Url;
use crate::peer::dial::{DialError, connect};
use bytes::Bytes;
use castd_proto::etcdserverpb::Member;
use http::header::HOST;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::Duration;

/// A thousand members have a shorter list.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const CLUSTER_ID: &str = "X-Etcd-Cluster-ID";

#[derive(Debug, thiserror::Error)]
pub enum InquiryError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("{path} answers {status}")]
    Status { path: &'static str, status: StatusCode },
    #[error("{path} does not answer as a member does: {reason}")]
    Nonsense { path: &'static str, reason: String },
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
}

#[derive(Deserialize)]
struct MemberBody {
    id: u64,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    is_learner: bool,
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Vec<String>,
}

#[derive(Deserialize)]
struct VersionBody {
    etcdcluster: String,
}

/// The cluster as the member at `url` knows it.
///
/// # Errors
/// When nobody answers there in time, or not as a member does.
pub async fn members(url: &Url, timeout: Duration) -> Result<RemoteCluster, InquiryError> {
    let path = "/members";
    let (headers, body) = get(url, path, timeout).await?;
    let nonsense = |reason: String| InquiryError::Nonsense { path, reason };
    let id = headers.get(CLUSTER_ID).and_then(|id| u64::from_str_radix(id.to_str().ok()?, 16).ok());
    let id = id.ok_or_else(|| nonsense(format!("there is no {CLUSTER_ID}")))?;
    let listed: Vec<MemberBody> = serde_json::from_slice(&body).map_err(|error| nonsense(error.to_string()))?;
    let members = listed.into_iter().map(|MemberBody { id, peer_urls, is_learner, name, client_urls }| Member {
        id,
        name,
        peer_urls,
        client_urls,
        is_learner,
    });
    Ok(RemoteCluster { id: ClusterId(id), members: members.collect() })
}

/// The version that the cluster has agreed on, or whatever stands for none.
///
/// # Errors
/// As [`members`].
pub async fn cluster_version(url: &Url, timeout: Duration) -> Result<String, InquiryError> {
    let path = "/version";
    let (_, body) = get(url, path, timeout).await?;
    let version: Result<VersionBody, _> = serde_json::from_slice(&body);
    Ok(version.map_err(|error| InquiryError::Nonsense { path, reason: error.to_string() })?.etcdcluster)
}

async fn get(url: &Url, path: &'static str, timeout: Duration) -> Result<(HeaderMap, Bytes), InquiryError> {
    let asked = async {
        if url.scheme().is_tls() {
            return Err(DialError::Tls.into());
        }
        if url.scheme().is_unix() {
            return Err(DialError::Unix.into());
        }
        let stream = connect(url, timeout).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path).header(HOST, url.authority()).body(Empty::<Bytes>::new());
        let request = request.map_err(|_| DialError::BadUrl(url.to_string()))?;
        let answered = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            if head.status != StatusCode::OK {
                return Err(InquiryError::Status { path, status: head.status });
            }
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| InquiryError::Nonsense { path, reason: error.to_string() })?;
            Ok((head.headers, body.to_bytes()))
        };
        // The connection is driven for as long as the answer takes.
        let mut connection = std::pin::pin!(connection);
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => answer,
            ended = &mut connection => match ended {
                // What had come before the end is still there.
                Ok(()) => answered.await,
                Err(error) => Err(error.into()),
            },
        }
    };
    tokio::time::timeout(timeout, asked).await.unwrap_or(Err(InquiryError::TooSlow(timeout)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Answers one question.
    async fn server(answer: &'static str) -> Url {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("somebody asks");
            let mut asked = vec![0; 4096];
            let read = stream.read(&mut asked).await.expect("a question");
            assert!(asked[..read].ends_with(b"\r\n\r\n"));
            stream.write_all(answer.as_bytes()).await.expect("an answer");
        });
        Url::parse(&url).expect("a URL")
    }

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn members_and_their_cluster_are_read() {
        let url = server(
            "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: cdf818194e3a8c32\r\nConnection: close\r\n\r\n\
             [{\"id\":10276657743932975437,\"peerURLs\":[\"http://p:1\"],\"name\":\"m1\",\"clientURLs\":[\"http://c:1\"]},\
             {\"id\":2,\"peerURLs\":[\"http://q:1\"],\"isLearner\":true,\"more\":1}]",
        );
        let cluster = members(&url.await, SOON).await.expect("a cluster");
        assert_eq!(cluster.id.to_string(), "cdf818194e3a8c32");
        assert_eq!((cluster.members[0].id, cluster.members[0].name.as_str()), (0x8e9e_05c5_2164_694d, "m1"));
        assert!(cluster.members[1].is_learner && cluster.members[1].client_urls.is_empty());
    }

    #[tokio::test]
    async fn what_no_member_answers_is_an_error() {
        for (answer, complaint) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
                "/members does not answer as a member does: there is no X-Etcd-Cluster-ID",
            ),
            ("HTTP/1.1 302 Found\r\nLocation: http://h:1\r\nContent-Length: 0\r\n\r\n", "/members answers 302 Found"),
            ("nonsense\r\n\r\n", "no HTTP: invalid HTTP version parsed"),
        ] {
            let error = members(&server(answer).await, SOON).await.expect_err("no cluster").to_string();
            assert!(error.starts_with(complaint), "{error}");
        }
        let answer = "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: 1\r\nContent-Length: 1\r\n\r\n[";
        let error = members(&server(answer).await, SOON).await.expect_err("no cluster").to_string();
        assert!(error.contains("EOF"), "{error}");
    }

    #[tokio::test]
    async fn whoever_does_not_answer_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = Url::parse(&format!("http://{}", silent.local_addr().expect("bound"))).expect("a URL");
        let limit = Duration::from_millis(50);
        assert!(matches!(members(&url, limit).await, Err(InquiryError::TooSlow(found)) if found == limit));
    }
}
