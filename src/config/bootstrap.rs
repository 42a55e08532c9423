//! Whether the initial cluster in the configuration can be founded. Asked only by a member that has no data yet.

use std::net::IpAddr;

use super::go::quote;
use super::typed::Config;
use crate::membership::urls::{ClusterMap, UrlError, UrlSet, same_places};

/// Why a member cannot start from its configuration; logged by etcd as `discovery failed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    #[error("error setting up initial cluster: {0}")]
    InitialCluster(#[from] UrlError),
    #[error("couldn't find local name {} in the initial cluster configuration", quote(.0))]
    NoLocalName(String),
    #[error("--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={advertised} ({reason})")]
    NotAdvertised { missing: String, advertised: String, reason: String },
    #[error("--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={cluster}")]
    NotInCluster { missing: String, cluster: String },
    #[error("failed to resolve {advertised} to match --initial-cluster={cluster} ({reason})")]
    Unresolved { advertised: String, cluster: String, reason: String },
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    #[error("initial cluster unset and no discovery endpoints found")]
    Unset,
    #[error("discovery URL should not be set when joining existing initial cluster")]
    DiscoveryWhenJoining,
}

impl BootstrapError {
    /// What etcd suggests, as log lines, when it says `failed to start` instead of `discovery failed`.
    pub fn hints(&self, config: &Config) -> Vec<&'static str> {
        let text = self.to_string();
        if !(text.contains("include") && text.contains("--initial-cluster")) {
            return Vec::new();
        }
        let mut hints = Vec::new();
        let is_default = config.initial_cluster == config.initial_cluster_from_name();
        if is_default {
            hints.push("forgot to set --initial-cluster?");
        }
        if config.initial_advertise_peer_urls.to_string() == super::table::DEFAULT_PEER_URL {
            hints.push("forgot to set --initial-advertise-peer-urls?");
        }
        if is_default && config.discovery.endpoints.is_empty() {
            hints.push("V3 discovery settings (i.e., --discovery-token, --discovery-endpoints) are not set");
        }
        hints
    }
}

impl Config {
    /// `--initial-cluster`, taken apart.
    ///
    /// # Errors
    /// A URL in it is refused.
    pub fn initial_cluster_map(&self) -> Result<ClusterMap, BootstrapError> {
        Ok(ClusterMap::parse(&self.initial_cluster)?)
    }

    /// The `--initial-cluster` of a member of this name that is alone.
    pub fn initial_cluster_from_name(&self) -> String {
        from_name(&self.name, &self.initial_advertise_peer_urls)
    }

    /// etcd's checks before a new cluster is founded, in etcd's order.
    ///
    /// `resolve` gives the first address of a host name; it is asked only where texts differ. etcd asks again each
    /// second for 30 seconds: that is up to the caller.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub fn verify_new_cluster(
        &self,
        resolve: &mut dyn FnMut(&str) -> Result<IpAddr, String>,
    ) -> Result<ClusterMap, BootstrapError> {
        let cluster = self.initial_cluster_map()?;
        verify_member(&cluster, &self.name, &self.initial_advertise_peer_urls, resolve)?;
        if cluster.to_string().is_empty() && self.discovery.endpoints.is_empty() {
            return Err(BootstrapError::Unset);
        }
        Ok(cluster)
    }

    /// etcd's checks before it asks the members of an existing cluster.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub fn verify_join(&self) -> Result<ClusterMap, BootstrapError> {
        let cluster = self.initial_cluster_map()?;
        if cluster.get(&self.name).is_none() {
            return Err(BootstrapError::NoLocalName(self.name.clone()));
        }
        if cluster.has_duplicate_url() {
            return Err(BootstrapError::DuplicateUrl(cluster.to_string()));
        }
        if !self.discovery.endpoints.is_empty() {
            return Err(BootstrapError::DiscoveryWhenJoining);
        }
        Ok(cluster)
    }
}

/// etcd's checks of one member of a cluster to be founded: it is in it, once, and says the same of itself.
///
/// # Errors
/// [`BootstrapError`].
pub fn verify_member(
    cluster: &ClusterMap,
    name: &str,
    advertised: &UrlSet,
    resolve: &mut dyn FnMut(&str) -> Result<IpAddr, String>,
) -> Result<(), BootstrapError> {
    let own = cluster.get(name).ok_or_else(|| BootstrapError::NoLocalName(name.to_owned()))?;
    verify_advertised(name, advertised, own, resolve)?;
    if cluster.has_duplicate_url() {
        return Err(BootstrapError::DuplicateUrl(cluster.to_string()));
    }
    Ok(())
}

fn verify_advertised(
    name: &str,
    advertised: &UrlSet,
    own: &UrlSet,
    resolve: &mut dyn FnMut(&str) -> Result<IpAddr, String>,
) -> Result<(), BootstrapError> {
    let Err(reason) = same_places(advertised, own, resolve) else { return Ok(()) };
    let missing_from = |from: &UrlSet, all: &UrlSet| -> Vec<String> {
        let has = from.texts();
        let mut missing: Vec<String> =
            all.texts().into_iter().filter(|url| !has.contains(url)).map(str::to_owned).collect();
        missing.dedup();
        missing
    };
    let cluster = from_name(name, advertised);
    let missing = missing_from(advertised, own);
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(|url| format!("{name}={url}")).collect();
        let (missing, advertised) = (missing.join(","), advertised.to_string());
        return Err(BootstrapError::NotAdvertised { missing, advertised, reason });
    }
    let missing = missing_from(own, advertised);
    if !missing.is_empty() {
        return Err(BootstrapError::NotInCluster { missing: missing.join(","), cluster });
    }
    Err(BootstrapError::Unresolved { advertised: advertised.to_string(), cluster, reason })
}

pub(super) fn from_name(name: &str, peer_urls: &UrlSet) -> String {
    let name = if name.is_empty() { super::table::DEFAULT_NAME } else { name };
    let pairs: Vec<String> = peer_urls.iter().map(|url| format!("{name}={url}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    fn outcome(line: &[&str]) -> Result<usize, String> {
        let mut dns = |host: &str| match host {
            "node1" => Ok(IpAddr::from([10, 0, 0, 1])),
            _ => Err(format!("lookup {host}: no such host")),
        };
        config(line).verify_new_cluster(&mut dns).map(|cluster| cluster.len()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_cluster_that_cannot_be_founded_is_refused_in_etcds_words() {
        let own = "--initial-advertise-peer-urls=http://10.0.0.1:1";
        for (line, text) in [
            (
                &["--name=n9", "--initial-cluster=n1=http://h:1"][..],
                "couldn't find local name \"n9\" in the initial cluster configuration",
            ),
            (
                &["--name=n9", "--initial-cluster=n9"],
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
            ),
            (
                &["--name=n2", own, "--initial-cluster=n2=http://10.0.0.2:1"],
                "--initial-cluster has n2=http://10.0.0.2:1 but missing from --initial-advertise-peer-urls=http://10.0.0.1:1 (resolved urls: \"http://10.0.0.1:1\" != \"http://10.0.0.2:1\")",
            ),
            (
                &[
                    "--name=n2",
                    "--initial-advertise-peer-urls=http://h:1,http://h:2",
                    "--initial-cluster=n2=http://h:1",
                ],
                "--initial-advertise-peer-urls has http://h:2 but missing from --initial-cluster=n2=http://h:1,n2=http://h:2",
            ),
            (
                &["--name=n2", own, "--initial-cluster=n2=http://10.0.0.1:1,n3=http://10.0.0.1:1"],
                "initial cluster n2=http://10.0.0.1:1,n3=http://10.0.0.1:1 has duplicate url",
            ),
        ] {
            assert_eq!(outcome(line), Err(text.to_owned()), "{line:?}");
        }
        assert_eq!(outcome(&["--name=n1", own, "--initial-cluster=n1=http://node1:1,n2=http://node2:1"]), Ok(2));
        assert_eq!(outcome(&["--name=m"]), Ok(1));
        assert_eq!(outcome(&[]), Ok(1));
    }
}
