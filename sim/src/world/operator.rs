//! Whoever runs the cluster: a disk that answers with errors is tried again, and a member whose disk is damaged is replaced, as
//! the runbooks say.
//!
//! ```text
//!   the start refuses ─▶ remove the member ─▶ add another one ─▶ start that with an empty disk
//! ```

use super::{Event, World};
use crate::member::Fate;
use crate::member::edge::{Ask, Call};
use crate::network;
use crate::trace::Line;
use castd::ids::MemberId;
use std::time::Duration;

/// Whose requests nobody waits for.
const OPERATOR: usize = usize::MAX - 1;
/// The name of a member that takes another one's place.
const NEW_NAME: u64 = 7;
const LOOKS_EVERY: Duration = Duration::from_millis(300);

impl World {
    /// A process has ended because of its disk, running or at its start.
    pub(super) fn disk_failed(&mut self, place: usize) {
        self.broken_off(place);
        self.members[place].kill();
        let (id, has_refused) = (self.members[place].id, self.members[place].disk.has_refused());
        self.trace.note(self.now, Some(id), if has_refused { Line::Refuses } else { Line::DiskFails });
        if has_refused {
            self.checks.summary.count("a damaged member refused to start");
            self.members[place].fate = Fate::Departed;
            self.lost.insert(id, network::url(place, NEW_NAME + self.members[place].boots));
            return self.put(LOOKS_EVERY, Event::Operator { lost: id });
        }
        self.checks.summary.count("a member ended because of its disk");
        let after = self.disk_dice.time(Duration::from_millis(20), Duration::from_millis(500));
        self.put(after, Event::Boot { place });
    }

    /// Does what is to be done next, until another one is in its place.
    pub(super) fn operate(&mut self, lost: MemberId) {
        let Some(url) = self.lost.get(&lost).cloned() else { return };
        self.put(LOOKS_EVERY, Event::Operator { lost });
        let up: Vec<usize> = (0..self.members.len()).filter(|place| self.members[*place].running.is_some()).collect();
        let views = up.iter().filter_map(|place| Some(&self.members[*place].running.as_ref()?.shared.view));
        let Some(view) = views.max_by_key(|view| view.applied) else { return };
        let successor = view.members.list().find(|member| member.peer_urls.contains(&url)).map(|it| MemberId(it.id));
        let ask = if view.members.get(lost).is_some() {
            Ask::RemoveMember { id: lost }
        } else if let Some(id) = successor {
            self.start_member(id, url);
            if let Some(place) = self.place_of_member(id) {
                self.lost.remove(&lost);
                self.trace.note(self.now, Some(id), Line::Replaced { place });
                self.checks.summary.count("a damaged member was replaced");
            }
            return;
        } else {
            Ask::AddMember { peer_url: url, is_learner: false }
        };
        self.operated += 1;
        let asked = up[self.disk_dice.index(up.len())];
        self.asked(asked, Call { client: OPERATOR, number: self.operated }, ask);
    }

    /// At the end, damage that nobody has come across is looked for: every such disk is read from its platter.
    pub(super) fn find_damage(&mut self) {
        for place in 0..self.members.len() {
            let member = &self.members[place];
            if member.disk.is_damaged() && member.fate == Fate::Belongs && !self.crash(place, Duration::ZERO) {
                self.boot(place);
            }
        }
        self.go_on_until(self.now + Duration::from_millis(1));
        for member in self.members.iter().filter(|member| member.fate == Fate::Belongs && member.running.is_some()) {
            member.disk.forgive();
        }
    }
}
