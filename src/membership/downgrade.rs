//! Downgrades, as far as a cluster agrees on one: which release may be gone back to, and that it is being done.
//!
//! A job is part of the replicated state: `downgrade enable` begins it, `downgrade cancel` ends it. In etcd it lowers the
//! cluster version and the format of the data, member by member, until each can be replaced by a member of the release
//! before. Castd's data has one format, which no release of etcd reads, so that neither is ever lowered here.

use std::fmt;

/// Why a downgrade cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DowngradeError {
    #[error("the target is not a version like 3.6 or 3.6.0")]
    BadFormat,
    #[error("the cluster has not agreed on a version yet")]
    NoClusterVersion,
    #[error("a cluster goes back by one minor release and no other way")]
    BadTarget,
    #[error("a downgrade is under way")]
    InProcess,
}

/// A release, without its patch level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    major: u64,
    minor: u64,
}

impl Release {
    /// `3.6`, `3.6.1`, `3.6.1-rc.1+build`: of a full version everything behind the minor is left out.
    ///
    /// # Errors
    /// [`DowngradeError::BadFormat`].
    pub fn parse(text: &str) -> Result<Self, DowngradeError> {
        let (version, metadata) = text.split_once('+').map_or((text, None), |(version, rest)| (version, Some(rest)));
        let (numbers, pre_release) =
            version.split_once('-').map_or((version, None), |(numbers, rest)| (numbers, Some(rest)));
        let suffixes = || metadata.iter().chain(&pre_release);
        let is_identifier = |text: &str| {
            text.split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
        };
        let mut parts = numbers.split('.').map(number);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(_)), None)
                if suffixes().all(|text| is_identifier(text)) =>
            {
                Ok(Release { major, minor })
            }
            (Some(Some(major)), Some(Some(minor)), None, None) if suffixes().next().is_none() => {
                Ok(Release { major, minor })
            }
            _ => Err(DowngradeError::BadFormat),
        }
    }

    /// The one a cluster of this release may go back to.
    fn before(self) -> Option<Release> {
        Some(Release { minor: self.minor.checked_sub(1)?, ..self })
    }
}

/// Digits and nothing else: no sign, no blank.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// As a cluster version, `3.6.0`.
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

/// Whether a cluster at `cluster_version`, going back to `under_way` already or not at all, may go back to `target`.
///
/// # Errors
/// The first of these that is true: no cluster version, another target than the release before, one under way.
pub fn check(cluster_version: Option<&str>, under_way: Option<&str>, target: Release) -> Result<(), DowngradeError> {
    let current = Release::parse(cluster_version.ok_or(DowngradeError::NoClusterVersion)?)?;
    if current.before() != Some(target) {
        return Err(DowngradeError::BadTarget);
    }
    if under_way.is_some() { Err(DowngradeError::InProcess) } else { Ok(()) }
}

/// Major and minor of a cluster version, as answers to a downgrade have it: `3.7`.
pub fn short(cluster_version: &str) -> String {
    Release::parse(cluster_version)
        .map_or_else(|_| cluster_version.to_owned(), |it| format!("{}.{}", it.major, it.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_minor_release_or_a_full_version() {
        for text in ["3.6", "3.6.0", "3.6.17", "3.6.1-rc.1", "3.6.1+build.5", "3.6.1-a-b+c"] {
            assert_eq!(Release::parse(text).map(|release| release.to_string()), Ok("3.6.0".to_owned()), "{text}");
        }
        let bad = [
            "",
            "3",
            "v3.6",
            "3.6.",
            "3.6.x",
            "3..6",
            "3.6.0.0",
            "+3.6",
            "3.6-rc",
            "3.6.0-",
            "3.6.0-a..b",
            " 3.6",
            "3.-6",
            "three",
            "3.99999999999999999999",
            "3.6\n",
        ];
        for text in bad {
            assert_eq!(Release::parse(text), Err(DowngradeError::BadFormat), "{text:?}");
        }
    }

    #[test]
    fn a_cluster_goes_back_by_one_minor_release_once() {
        let check = |cluster, under_way, target| check(cluster, under_way, Release::parse(target).expect("a version"));
        assert_eq!(check(Some("3.7.0"), None, "3.6"), Ok(()));
        for target in ["3.7", "3.8", "3.5", "2.6", "4.6"] {
            assert_eq!(check(Some("3.7.0"), None, target), Err(DowngradeError::BadTarget), "{target}");
        }
        assert_eq!(check(None, None, "3.6"), Err(DowngradeError::NoClusterVersion));
        assert_eq!(check(Some("3.7.0"), Some("3.6.0"), "3.6"), Err(DowngradeError::InProcess));
        assert_eq!(check(Some("3.7.0"), Some("3.6.0"), "3.5"), Err(DowngradeError::BadTarget));
        assert_eq!(check(Some("3.0.0"), None, "3.0"), Err(DowngradeError::BadTarget));
        assert_eq!(short("3.7.0"), "3.7");
    }
}
