//! Clients that change the cluster itself: its members, and how much of history there is.

use super::{Desk, Move, wire};
use crate::dice::Dice;
use crate::member::edge::{Answer, Ask, Call};
use crate::network;
use crate::seed::Plan;
use castd::cast::RequestError;
use castd::ids::MemberId;
use castd::mvcc::MvccError;
use castd::state::Outcome as Applied;
use castd_judge::history::{Compaction, CompactionOutcome, Micros};
use castd_proto::etcdserverpb as pb;
use std::time::Duration;

/// Voters that it wants at least and at most.
const VOTERS: std::ops::RangeInclusive<usize> = 1..=5;

/// Lets members join, vote, move and leave.
pub struct Reconfigurer {
    client: usize,
    number: u64,
    under_way: Option<u64>,
    /// As some member told it last.
    members: Vec<pb::Member>,
    must_list: bool,
    /// Members that nobody starts.
    nobodies: u64,
    dice: Dice,
}

impl Reconfigurer {
    pub fn new(client: usize, plan: &Plan) -> Self {
        let dice = Dice::new(plan.seed, "reconfigurer", client as u64);
        Reconfigurer { client, number: 0, under_way: None, members: Vec::new(), must_list: true, nobodies: 0, dice }
    }

    pub fn waiting(&self) -> Option<u64> {
        self.under_way
    }

    pub fn wake(&mut self, desk: &mut Desk<'_>) {
        if desk.is_stopping || self.under_way.is_some() {
            return;
        }
        self.number += 1;
        let number = self.number;
        if desk.plan.without_operations.contains(&(self.client, number)) {
            return desk.wake_after(Duration::from_millis(100));
        }
        self.must_list = !self.must_list;
        let ask = if self.must_list { self.change(desk) } else { Ask::ListMembers };
        self.under_way = Some(number);
        let place = desk.some_place(&mut self.dice);
        desk.ask(place, Call { client: self.client, number }, ask);
    }

    fn change(&mut self, desk: &Desk<'_>) -> Ask {
        let dice = &mut self.dice;
        let id = |member: &pb::Member| MemberId(member.id);
        let learners: Vec<&pb::Member> = self.members.iter().filter(|member| member.is_learner).collect();
        let voters: Vec<&pb::Member> = self.members.iter().filter(|member| !member.is_learner).collect();
        if let Some(learner) = learners.first() {
            // One that will never start is given up.
            let is_nobody = network::place_of(&learner.peer_urls).is_none();
            return match dice.below(10) {
                _ if is_nobody => Ask::RemoveMember { id: id(learner) },
                0 | 1 => Ask::RemoveMember { id: id(learner) },
                2..5 => update(learner, dice, desk),
                _ => Ask::Promote { id: id(learner) },
            };
        }
        let Some(some) = voters.get(dice.index(voters.len())) else { return Ask::ListMembers };
        let wants_more = voters.len() < desk.plan.storages.len().max(3);
        match dice.below(10) {
            0 => Ask::MoveLeader { to: id(some) },
            1 => update(some, dice, desk),
            2 => {
                self.nobodies += 1;
                Ask::AddMember { peer_url: network::url_of_nobody(self.nobodies), is_learner: true }
            }
            3..6 if voters.len() > *VOTERS.start() && !wants_more => Ask::RemoveMember { id: id(some) },
            _ if voters.len() < *VOTERS.end() => {
                let in_old_place = !desk.left_places.is_empty() && dice.chance(300);
                let place = if in_old_place { *dice.pick(desk.left_places) } else { desk.next_place };
                Ask::AddMember { peer_url: network::url(place, 0), is_learner: dice.chance(600) }
            }
            _ => Ask::RemoveMember { id: id(some) },
        }
    }

    pub fn answered(&mut self, number: u64, answer: Option<Answer>, desk: &mut Desk<'_>) {
        if self.under_way.take_if(|it| *it == number).is_none() {
            return;
        }
        let pause = self.dice.time(Duration::from_millis(10), Duration::from_millis(500));
        desk.wake_after(pause);
        let Some(Answer::Members { members, .. }) = answer else { return };
        *desk.answered += 1;
        for member in &members {
            if let (Some(_), Some(url)) = (network::place_of(&member.peer_urls), member.peer_urls.first()) {
                desk.moves.push(Move::Start { id: MemberId(member.id), url: url.clone() });
            }
        }
        self.members = members;
    }
}

/// It is reached under another name, or the same: as long as nobody has started it, the next one may get its old name.
fn update(member: &pb::Member, dice: &mut Dice, desk: &Desk<'_>) -> Ask {
    let place = network::place_of(&member.peer_urls).filter(|place| desk.places.contains(place));
    let peer_url = place.map_or_else(
        || member.peer_urls.first().cloned().unwrap_or_default(),
        |place| network::url(place, dice.below(5)),
    );
    Ask::UpdateMember { id: MemberId(member.id), peer_url }
}

/// Gives history up, up to some revision that is known.
pub struct Compactor {
    client: usize,
    number: u64,
    under_way: Option<(u64, i64, Micros)>,
    dice: Dice,
}

impl Compactor {
    pub fn new(client: usize, plan: &Plan) -> Self {
        Compactor { client, number: 0, under_way: None, dice: Dice::new(plan.seed, "compactor", client as u64) }
    }

    pub fn waiting(&self) -> Option<u64> {
        self.under_way.map(|(number, ..)| number)
    }

    pub fn wake(&mut self, desk: &mut Desk<'_>) {
        if desk.is_stopping || self.under_way.is_some() {
            return;
        }
        self.number += 1;
        let number = self.number;
        let dice = &mut self.dice;
        // Mostly some way back; sometimes all there is, and sometimes more than that.
        let back = match dice.below(10) {
            0 => -1,
            1 | 2 => 0,
            3..6 => dice.below(8) as i64,
            _ => dice.below(100) as i64,
        };
        let (revision, physical) = (*desk.newest - back, dice.chance(200));
        let place = desk.some_place(dice);
        if revision < 1 || desk.plan.without_operations.contains(&(self.client, number)) {
            return desk.wake_after(Duration::from_millis(200));
        }
        self.under_way = Some((number, revision, desk.micros()));
        let ask = Ask::Compact(pb::CompactionRequest { revision, physical });
        desk.ask(place, Call { client: self.client, number }, ask);
    }

    pub fn answered(&mut self, number: u64, answer: Option<Answer>, desk: &mut Desk<'_>) {
        let Some((_, revision, invoked)) = self.under_way.take_if(|(it, ..)| *it == number) else { return };
        let outcome = match answer {
            Some(Answer::Written(Applied::Compact(compacted))) => {
                let header = wire::revision(compacted.header.as_ref());
                assert!(header >= revision, "compacted to {revision}, and the store is at {header}");
                *desk.answered += 1;
                CompactionOutcome::Done
            }
            Some(Answer::Failed(RequestError::Mvcc(
                MvccError::Compacted { .. } | MvccError::FutureRevision { .. },
            ))) => CompactionOutcome::Refused,
            _ => CompactionOutcome::Unknown,
        };
        let returned = desk.micros();
        desk.history.compactions.push(Compaction { revision, invoked, returned, outcome });
        let pause = self.dice.time(Duration::from_millis(50), Duration::from_millis(1_200));
        desk.wake_after(pause);
    }
}
