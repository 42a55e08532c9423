//! A member's first start: who it is, in which cluster, and what its first log says.
//!
//! ```text
//!   --initial-cluster-state new       ids follow from --initial-cluster; the first log lists all members
//!                           existing  ids are those that the running cluster gave; the log is empty, and comes from there
//! ```
//! A new member of a new cluster also asks whether it has been there before: with its data gone it would forget what it
//! voted for.

use super::BootError;
use crate::cast::Identity;
use crate::config::{Config, ETCD_VERSION, InitialClusterState};
use crate::ids::MemberId;
use crate::membership::ids::initial_ids;
use crate::membership::remote::{MatchError, RemoteCluster};
use crate::membership::urls::{ClusterMap, Url};
use crate::peer::inquiry::{self, InquiryError};
use crate::raft::log::LogStore;
use crate::recovery;
use crate::telemetry::clock::Clock;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use slog::{Logger, info, warn};
use std::net::IpAddr;
use std::time::Duration;

/// For one member to say whether we have been there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// For one member to describe its cluster.
const DESCRIBED_WITHIN: Duration = Duration::from_secs(10);
/// A name that is not known yet is asked for again,
const LOOKUP_PAUSE: Duration = Duration::from_secs(1);
/// for so long in all.
pub(crate) const LOOKUPS_WITHIN: Duration = Duration::from_secs(30);
/// Clusters of a release before this one cannot be joined.
const OLDEST_VERSION: (u64, u64) = (3, 0);

/// What keeps a first start from going on, in etcd's words.
#[derive(Debug, thiserror::Error)]
pub enum FirstStartError {
    #[error("member {0} has already been bootstrapped")]
    AlreadyBootstrapped(MemberId),
    #[error("cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs")]
    NoClusterInfo,
    #[error("error validating peerURLs {cluster}: {reason}")]
    Mismatch { cluster: RemoteCluster, reason: MatchError },
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
    #[error("incompatible with current running cluster")]
    Incompatible,
    #[error("cannot ask other members: {0}")]
    Runtime(std::io::Error),
}

/// Who a member is, and whom it may talk to before its log tells.
pub struct FirstStart {
    pub identity: Identity,
    pub others: Vec<(MemberId, Vec<String>)>,
}

/// Finds out, and writes the first log.
///
/// # Errors
/// Every reason not to, with etcd's text.
pub fn first_start(
    config: &Config,
    log_store: &mut dyn LogStore,
    clock: Clock,
    log: &Logger,
) -> Result<FirstStart, BootError> {
    let until = clock.now() + LOOKUPS_WITHIN;
    let mut resolve = |host: &str| {
        let may_go_on = |error: &str| {
            warn!(log, "failed to resolve URL Host"; "host" => host, "retry-interval" => ?LOOKUP_PAUSE, "error" => error);
            clock.now() < until
        };
        resolve(host, may_go_on)
    };
    match config.initial_cluster_state {
        InitialClusterState::New => found(config, log_store, &mut resolve, log),
        InitialClusterState::Existing => join(config, log_store, &mut resolve, log),
    }
}

type Resolve<'a> = &'a mut dyn FnMut(&str) -> Result<IpAddr, String>;

fn found(
    config: &Config,
    log_store: &mut dyn LogStore,
    resolve: Resolve<'_>,
    log: &Logger,
) -> Result<FirstStart, BootError> {
    let cluster = config.verify_new_cluster(resolve)?;
    let ids = initial_ids(&cluster, &config.initial_cluster_token);
    let identity = Identity { cluster: ids.cluster, member: ids.members[&config.name] };
    let others = urls_of_others(&cluster, &config.name);
    if let Some(running) = ask(&others, PROBE_TIMEOUT, log)?
        && running.has_started(identity.member)
    {
        return Err(FirstStartError::AlreadyBootstrapped(identity.member).into());
    }
    let mut members: Vec<_> = cluster
        .iter()
        .map(|(name, urls)| {
            let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            recovery::initial_member(ids.members[name], &urls)
        })
        .collect();
    // Every member writes the same log, whatever it calls the others.
    members.sort_by_key(|member| member.id);
    recovery::begin(log_store, &members)?;
    let others = members.into_iter().map(|member| (MemberId(member.id), member.peer_urls));
    let others = others.filter(|(id, _)| *id != identity.member).collect();
    Ok(FirstStart { identity, others })
}

fn join(
    config: &Config,
    log_store: &mut dyn LogStore,
    resolve: Resolve<'_>,
    log: &Logger,
) -> Result<FirstStart, BootError> {
    let listed = config.verify_join()?;
    let others = urls_of_others(&listed, &config.name);
    let cluster = ask(&others, DESCRIBED_WITHIN, log)?.ok_or(FirstStartError::NoClusterInfo)?;
    let names = match cluster.name_members(&listed, resolve) {
        Ok(names) => names,
        Err(reason) => return Err(FirstStartError::Mismatch { cluster, reason }.into()),
    };
    let learners = cluster.members.iter().filter(|member| member.is_learner).count();
    if u64::try_from(learners).is_ok_and(|learners| learners > config.max_learners) {
        return Err(FirstStartError::TooManyLearners.into());
    }
    let identity = Identity { cluster: cluster.id, member: names[&config.name] };
    let others: Vec<(MemberId, Vec<String>)> = cluster
        .members
        .into_iter()
        .map(|member| (MemberId(member.id), member.peer_urls))
        .filter(|(id, _)| *id != identity.member)
        .collect();
    check_versions(&others, log)?;
    recovery::begin_joining(log_store)?;
    info!(log, "joining an existing cluster"; "local-member-id" => %identity.member, "cluster-id" => %identity.cluster);
    Ok(FirstStart { identity, others })
}

/// Of all members but the one called `own`.
fn urls_of_others(cluster: &ClusterMap, own: &str) -> Vec<Url> {
    cluster.iter().filter(|(name, _)| *name != own).flat_map(|(_, urls)| urls.iter().cloned()).collect()
}

/// The cluster as the first of `urls` describes it that answers. All are asked at once: members that are founding it
/// together do not answer yet, and would each be waited for.
fn ask(urls: &[Url], timeout: Duration, log: &Logger) -> Result<Option<RemoteCluster>, FirstStartError> {
    if urls.is_empty() {
        return Ok(None);
    }
    asking(async {
        let question = async |url| (url, inquiry::members(url, timeout).await);
        let mut answers: FuturesUnordered<_> = urls.iter().map(question).collect();
        while let Some((url, answer)) = answers.next().await {
            match answer {
                Ok(cluster) => return Some(cluster),
                Err(error) => tell_unanswered(log, "failed to get cluster response", url, &error),
            }
        }
        None
    })
}

/// etcd's window: not before 3.0, not after this release. Members that do not answer do not count, but one has to.
fn check_versions(others: &[(MemberId, Vec<String>)], log: &Logger) -> Result<(), FirstStartError> {
    let own = version(ETCD_VERSION).unwrap_or(OLDEST_VERSION);
    let mut is_known = false;
    for (id, urls) in others {
        let answer = asking(async {
            for url in urls.iter().filter_map(|url| Url::parse(url).ok()) {
                match inquiry::cluster_version(&url, DESCRIBED_WITHIN).await {
                    Ok(version) => return Some(version),
                    Err(error) => tell_unanswered(log, "failed to get version", &url, &error),
                }
            }
            None
        })?;
        let Some(found) = answer.as_deref().and_then(version) else { continue };
        let complaint = match found {
            found if found < OLDEST_VERSION => "cluster version of remote member is not compatible; too low",
            found if found > own => "cluster version of remote member is not compatible; too high",
            _ => {
                is_known = true;
                continue;
            }
        };
        warn!(log, "{complaint}"; "remote-member-id" => %id, "remote-member-cluster-version" => answer,
            "minimum-cluster-version-supported" => format!("{}.{}", OLDEST_VERSION.0, OLDEST_VERSION.1));
        return Err(FirstStartError::Incompatible);
    }
    if is_known { Ok(()) } else { Err(FirstStartError::Incompatible) }
}

/// Major and minor.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn tell_unanswered(log: &Logger, text: &'static str, url: &Url, error: &InquiryError) {
    warn!(log, "{text}"; "address" => %url, "error" => %error);
}

fn asking<T>(question: impl Future<Output = T>) -> Result<T, FirstStartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(FirstStartError::Runtime)?.block_on(question))
}

/// As etcd does, again and again as long as it may: the other machine's name may come with it.
pub(crate) fn resolve(host: &str, may_go_on: impl Fn(&str) -> bool) -> Result<IpAddr, String> {
    use std::net::ToSocketAddrs as _;
    loop {
        let looked_up = (host, 0).to_socket_addrs().map_err(|error| error.to_string());
        let found = looked_up.and_then(|mut found| {
            found.next().map(|address| address.ip()).ok_or_else(|| format!("{host} has no address"))
        });
        match &found {
            Err(error) if may_go_on(error) => {}
            _ => return found,
        }
        std::thread::sleep(LOOKUP_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_as_long_as_there_is_time() {
        let asked = std::cell::Cell::new(0);
        let may_go_on = |_: &str| {
            asked.set(asked.get() + 1);
            asked.get() < 2
        };
        assert!(resolve("name.invalid", may_go_on).is_err());
        assert_eq!(asked.get(), 2);
        assert_eq!(resolve("127.0.0.1", |_| false), Ok(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn one_that_does_not_answer_keeps_nobody_from_it() {
        use std::io::{Read as _, Write as _};
        let listener = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = |listener: &std::net::TcpListener| {
            Url::parse(&format!("http://{}", listener.local_addr().expect("bound"))).expect("a URL")
        };
        let (silent, member) = (listener(), listener());
        let urls = [url(&silent), url(&member)];
        let (ended, silence) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let (mut stream, _) = member.accept().expect("somebody asks");
            let read = stream.read(&mut [0; 4096]).expect("a question");
            assert!(read > 0);
            let answer = "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: 1\r\nContent-Length: 2\r\n\r\n[]";
            stream.write_all(answer.as_bytes()).expect("an answer");
            let _ = silence.recv();
        });
        // For ever, as far as a test is concerned.
        let cluster = ask(&urls, Duration::from_secs(3600), &Logger::root(slog::Discard, slog::o!()));
        assert_eq!(cluster.expect("a runtime").expect("an answer").id.0, 1);
        drop(ended);
    }

    #[test]
    fn of_a_version_its_first_two_numbers_count() {
        assert_eq!((version("3.7.1"), version("3.7"), version("not_decided")), (Some((3, 7)), Some((3, 7)), None));
    }
}
