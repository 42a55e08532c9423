//! What has to hold before a change of the membership is proposed, as far as the member that takes the request can see:
//! `--strict-reconfig-check`, and whether a learner is ready to vote.
//!
//! ```text
//!   MemberAdd ──peer_urls, new_id──▶ Outlook::may_add ──▶ the log ──▶ Members::check
//! ```
//! A change must not leave the cluster without a majority of members that run. What every member decides alike is in
//! [`Members::check`]. Two changes that are each harmless may not be so together: a change names the index its checks
//! were made at, and is void when another one came first.

use super::MembershipError;
use super::ids::added_member_id;
use super::members::Members;
use super::urls::{Url, UrlError, UrlSet};
use crate::ids::{LogIndex, MemberId};
use castd_proto::etcdserverpb::Member;
use std::time::Duration;

/// A member counts as active when it has been connected for so long (etcd's `HealthInterval`).
pub const CONNECTED_MIN: Duration = Duration::from_secs(5);
/// A learner may vote once it has so much of the leader's log.
const READY_PERCENT: u128 = 90;

/// The peer URLs of a new member, in the order in which they are kept.
///
/// # Errors
/// [`MembershipError::BadUrls`] for none, and for one that no peer could be reached at.
pub fn peer_urls(given: &[String]) -> Result<UrlSet, MembershipError> {
    let urls: Result<Vec<Url>, UrlError> = given.iter().map(|url| Url::parse(url)).collect();
    let urls = urls.map_err(|_| MembershipError::BadUrls)?;
    if urls.is_empty() { Err(MembershipError::BadUrls) } else { Ok(UrlSet::from(urls)) }
}

/// The id of a new member. It is salted with the time in seconds; where that gives an id which is taken, as when a member
/// is removed and added again within a second, the next second's will do.
pub fn new_id(members: &Members, peer_urls: &UrlSet, unix_seconds: i64) -> MemberId {
    let mut seconds = unix_seconds;
    loop {
        let id = added_member_id(peer_urls, seconds);
        if members.is_free(id) {
            return id;
        }
        seconds = seconds.wrapping_add(1);
    }
}

/// How much of the leader's log a member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub matched: LogIndex,
    pub leader_matched: LogIndex,
}

impl Progress {
    pub fn is_in_sync(self) -> bool {
        u128::from(self.matched.0) * 100 >= u128::from(self.leader_matched.0) * READY_PERCENT
    }
}

/// The cluster as one member sees it.
pub struct Outlook<'a> {
    pub members: &'a Members,
    pub local: MemberId,
    /// `--strict-reconfig-check`.
    pub is_strict: bool,
    /// For how long a member has been connected without a break, `None` for one that is not. Never asked for the local one.
    pub connected_for: &'a dyn Fn(MemberId) -> Option<Duration>,
}

impl Outlook<'_> {
    /// # Errors
    /// [`MembershipError::NotEnoughStarted`], [`MembershipError::Unhealthy`].
    pub fn may_add(&self, is_learner: bool) -> Result<(), MembershipError> {
        if !self.is_strict {
            return Ok(());
        }
        let (voters, started) = self.count(|_| true);
        // A lone member may always get company: that is how a cluster of one becomes one of three.
        let is_first_company = voters == 1 && started == 1;
        if !is_learner && !is_first_company && started < quorum(voters + 1) {
            return Err(MembershipError::NotEnoughStarted);
        }
        // The new member counts as one that is down.
        if voters > 1 && self.active() < quorum(voters + 1) {
            return Err(MembershipError::Unhealthy);
        }
        Ok(())
    }

    /// # Errors
    /// [`MembershipError::NotEnoughStarted`], [`MembershipError::Unhealthy`].
    pub fn may_remove(&self, id: MemberId) -> Result<(), MembershipError> {
        if !self.is_strict || self.members.get(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        let (voters, started) = self.count(|member| member.id != id.0);
        if started < quorum(voters) {
            return Err(MembershipError::NotEnoughStarted);
        }
        // One that is down is no part of the majority that runs.
        if id != self.local && (self.connected_for)(id).is_none() {
            return Ok(());
        }
        let (all, _) = self.count(|_| true);
        if self.active().saturating_sub(1) < quorum(all.saturating_sub(1)) {
            return Err(MembershipError::Unhealthy);
        }
        Ok(())
    }

    /// `progress` is what the leader knows of the member, `None` for one it does not know.
    ///
    /// # Errors
    /// [`MembershipError::NotFound`], [`MembershipError::LearnerNotReady`], [`MembershipError::NotEnoughStarted`].
    pub fn may_promote(&self, progress: Option<Progress>) -> Result<(), MembershipError> {
        if !progress.ok_or(MembershipError::NotFound)?.is_in_sync() {
            return Err(MembershipError::LearnerNotReady);
        }
        let (voters, started) = self.count(|_| true);
        if self.is_strict && started + 1 < quorum(voters + 1) {
            return Err(MembershipError::NotEnoughStarted);
        }
        Ok(())
    }

    /// Voters that `counts`, and how many of them have started.
    fn count(&self, counts: impl Fn(&Member) -> bool) -> (usize, usize) {
        let voters = self.members.voters().filter(|member| counts(member));
        voters.fold((0, 0), |(all, started), member| (all + 1, started + usize::from(has_started(member))))
    }

    /// Voters that have been connected for long enough, this member among them.
    fn active(&self) -> usize {
        let is_active = |id| id == self.local || (self.connected_for)(id).is_some_and(|time| time > CONNECTED_MIN);
        self.members.voters().filter(|member| is_active(MemberId(member.id))).count()
    }
}

/// A member gives itself a name when it starts.
fn has_started(member: &Member) -> bool {
    !member.name.is_empty()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::members::MemberRow;
    use MembershipError::{LearnerNotReady, NotEnoughStarted, NotFound, Unhealthy};

    /// One letter a member, ids from 1: a voter that runs (`V`) or has gone (`v`), a voter (`n`) or learner (`l`) that never
    /// started, a learner that runs (`L`).
    fn members(letters: &str) -> Members {
        let rows = letters.chars().zip(1..).map(|(letter, id)| {
            let name = if "nl".contains(letter) { String::new() } else { format!("m{id}") };
            MemberRow::Set(Member { id, name, is_learner: "lL".contains(letter), ..Default::default() })
        });
        Members::restore(rows, LogIndex(1))
    }

    fn with_outlook<T>(letters: &str, is_strict: bool, ask: impl FnOnce(Outlook<'_>) -> T) -> T {
        let members = members(letters);
        let connected_for = |id: MemberId| {
            let letter = letters.chars().nth(id.0 as usize - 1)?;
            "VL".contains(letter).then_some(Duration::from_secs(6))
        };
        ask(Outlook { members: &members, local: MemberId(1), is_strict, connected_for: &connected_for })
    }

    #[test]
    fn a_voter_is_added_only_while_a_majority_of_the_larger_cluster_runs() {
        for (letters, voter, learner) in [
            ("V", Ok(()), Ok(())),
            ("VL", Ok(()), Ok(())),
            ("Vl", Ok(()), Ok(())),
            ("Vn", Err(NotEnoughStarted), Err(Unhealthy)),
            ("VV", Ok(()), Ok(())),
            ("Vv", Err(Unhealthy), Err(Unhealthy)),
            ("VVn", Err(NotEnoughStarted), Err(Unhealthy)),
            ("VVV", Ok(()), Ok(())),
            ("VVv", Err(Unhealthy), Err(Unhealthy)),
            ("VVVv", Ok(()), Ok(())),
            ("VVVvv", Err(Unhealthy), Err(Unhealthy)),
            ("VVVVv", Ok(()), Ok(())),
        ] {
            assert_eq!(with_outlook(letters, true, |outlook| outlook.may_add(false)), voter, "{letters}");
            assert_eq!(with_outlook(letters, true, |outlook| outlook.may_add(true)), learner, "{letters}, a learner");
            assert_eq!(with_outlook(letters, false, |outlook| outlook.may_add(false)), Ok(()), "{letters}, not strict");
        }
    }

    #[test]
    fn a_voter_is_removed_only_if_a_majority_of_the_rest_runs() {
        for (letters, id, expected) in [
            ("V", 1, Err(NotEnoughStarted)),
            ("V", 7, Ok(())),
            ("Vl", 2, Ok(())),
            ("Vl", 1, Err(NotEnoughStarted)),
            ("Vn", 2, Ok(())),
            ("Vn", 1, Err(NotEnoughStarted)),
            ("VV", 1, Ok(())),
            ("VV", 2, Ok(())),
            ("Vv", 1, Err(Unhealthy)),
            ("Vv", 2, Ok(())),
            ("VVn", 3, Ok(())),
            ("VVn", 2, Err(NotEnoughStarted)),
            ("VVv", 3, Ok(())),
            ("VVv", 2, Err(Unhealthy)),
            ("VVV", 2, Ok(())),
            ("VVVv", 2, Ok(())),
            ("VVVvv", 2, Err(Unhealthy)),
            ("VVVvv", 5, Ok(())),
        ] {
            let may = |is_strict| with_outlook(letters, is_strict, |outlook| outlook.may_remove(MemberId(id)));
            assert_eq!(may(true), expected, "{id} of {letters}");
            assert_eq!(may(false), Ok(()), "{id} of {letters}, not strict");
        }
    }

    #[test]
    fn a_learner_votes_only_when_it_has_the_log_and_a_majority_has_started() {
        let progress = |matched, leader_matched| {
            Some(Progress { matched: LogIndex(matched), leader_matched: LogIndex(leader_matched) })
        };
        for (letters, progress, expected) in [
            ("Vl", None, Err(NotFound)),
            ("Vl", progress(0, 100), Err(LearnerNotReady)),
            ("VL", progress(89, 100), Err(LearnerNotReady)),
            ("VL", progress(90, 100), Ok(())),
            ("VL", progress(u64::MAX, u64::MAX), Ok(())),
            ("VnnL", progress(100, 100), Err(NotEnoughStarted)),
            ("VVnL", progress(100, 100), Ok(())),
        ] {
            assert_eq!(with_outlook(letters, true, |outlook| outlook.may_promote(progress)), expected, "{letters}");
        }
        let lax = with_outlook("VnnL", false, |outlook| outlook.may_promote(progress(100, 100)));
        assert_eq!(lax, Ok(()), "not strict");
        let lax = with_outlook("VnnL", false, |outlook| outlook.may_promote(progress(1, 100)));
        assert_eq!(lax, Err(LearnerNotReady), "being in sync is never a matter of strictness");
    }

    #[test]
    fn a_connection_counts_only_after_a_while() {
        let members = members("VV");
        for (seconds, expected) in [(4, Err(Unhealthy)), (5, Err(Unhealthy)), (6, Ok(()))] {
            let connected_for = |_| Some(Duration::from_secs(seconds));
            let local = MemberId(1);
            let outlook = Outlook { members: &members, local, is_strict: true, connected_for: &connected_for };
            assert_eq!(outlook.may_add(false), expected, "after {seconds} s");
        }
    }

    #[test]
    fn peer_urls_are_checked_and_sorted() {
        let urls = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            peer_urls(&given).map(|urls| urls.to_string())
        };
        assert_eq!(urls(&["http://b:1", "http://a:1"]).as_deref(), Ok("http://a:1,http://b:1"));
        for bad in [&[][..], &[""], &["ftp://a:1"], &["http://a"], &["http://a:1/p"], &["http://a:1", "x"], &["\0"]] {
            assert_eq!(urls(bad), Err(MembershipError::BadUrls), "{bad:?}");
        }
    }

    #[test]
    fn a_new_member_gets_an_id_that_was_never_taken() {
        let urls = UrlSet::parse("http://10.0.1.13:2380").expect("valid");
        let at = 1_700_000_000;
        let taken = added_member_id(&urls, at);
        let removed = added_member_id(&urls, at + 1);
        let here = Member { id: taken.0, ..Default::default() };
        let table = Members::restore([MemberRow::Set(here), MemberRow::Removed(removed)], LogIndex(1));
        assert_eq!(new_id(&Members::default(), &urls, at), taken);
        assert_eq!(new_id(&table, &urls, at), added_member_id(&urls, at + 2));
    }
}
