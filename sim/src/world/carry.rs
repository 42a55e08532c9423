//! What members want done: mail, work that takes time, answers; and what becomes of a process.

use super::{Event, World};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::disk::Storage;
use crate::member::edge::{Answer, Origin};
use crate::member::mail::Out;
use crate::member::watch_hub::Shown;
use crate::member::{Fate, Member};
use crate::network;
use crate::trace::Line;
use castd::ids::MemberId;
use std::time::Duration;

impl World {
    pub(super) fn carry_out(&mut self, place: usize, outs: Vec<Out>) {
        let boot = self.members[place].boots;
        for out in outs {
            match out {
                Out::Mail(mail) => {
                    let actor = mail.to();
                    if self.members[place].running.as_mut().is_some_and(|running| running.deliver(mail)) {
                        self.schedule_turn(place, actor);
                    }
                }
                Out::Later { after, job } => self.put(after, Event::Done { place, boot, job }),
                Out::Edge { after, ticket, news } => self.put(after, Event::Edge { place, boot, ticket, news }),
                Out::Answer { call, answer } => {
                    let after = self.dice.latency(self.plan.transit);
                    self.put(after, Event::Answered { call, answer });
                }
                Out::Envelope { to, attempt, lane, envelope } => self.send(place, to, attempt, lane, envelope),
                Out::Dial { peer, attempt, after, urls } => {
                    let after = after + self.dice.latency(self.plan.transit);
                    self.put(after, Event::Dial { place, boot, peer, attempt, urls });
                }
                Out::HangUp { peer, attempt } => {
                    if let Some(to) = self.place_of_member(peer) {
                        self.network.close((place, to), attempt);
                    }
                }
                Out::Carry { parcel } => {
                    let after = self.dice.latency(self.plan.transit * 20);
                    self.put(after, Event::Carried { place, boot, parcel, is_again: false });
                }
                Out::AskPeer { to, ticket, ask } => {
                    let Some(to) = self.place_of_member(to).filter(|to| !self.network.is_cut((place, *to))) else {
                        continue;
                    };
                    let after = self.dice.latency(self.plan.transit);
                    self.put(after, Event::PeerAsked { place: to, from: place, boot, ticket, ask });
                }
                Out::AnswerPeer { origin, answer } => {
                    let Origin::Peer { from, boot, ticket } = origin else { continue };
                    let Some(to) = self.place_of_member(from).filter(|to| !self.network.is_cut((place, *to))) else {
                        continue;
                    };
                    let after = self.dice.latency(self.plan.transit);
                    self.put(after, Event::PeerAnswered { place: to, boot, ticket, answer });
                }
                Out::Pump { after, stream } => self.put(after, Event::Pump { place, boot, stream }),
                Out::Show { client, session, shown } => self.show(client, session, shown),
                Out::Depart => return self.depart(place),
            }
        }
    }

    pub(super) fn place_of_member(&self, id: MemberId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    /// Clients and other members notice that the process has gone.
    pub(super) fn broken_off(&mut self, place: usize) {
        let Some(running) = &self.members[place].running else { return };
        let boot = running.boot;
        let calls: Vec<_> = running.actors.edge.calls().collect();
        for call in calls {
            let after = self.dice.latency(self.plan.transit * 4);
            self.put(after, Event::Answered { call, answer: Answer::Broken });
        }
        let streams: Vec<_> =
            self.streams.iter().filter(|(_, at)| (at.0, at.1) == (place, boot)).map(|(stream, _)| *stream).collect();
        for (client, session) in streams {
            self.show(client, session, vec![Shown::Ended]);
        }
        let connections: Vec<_> =
            self.network.connections().filter(|((from, to), _)| *from == place || *to == place).collect();
        for (way, connection) in connections {
            if way.0 == place {
                self.network.close(way, connection.attempt);
            } else {
                // The machine that goes on says so; one without power does not.
                let silence = self.settings.election_timeout.max(Duration::from_secs(1));
                let limit = if self.dice.chance(300) { silence } else { silence / 100 };
                let after = self.dice.time(Duration::ZERO, limit);
                self.put(after, Event::Notice { way, attempt: connection.attempt, only_if_cut: false });
            }
        }
    }

    /// The power of one member goes.
    pub(super) fn crash(&mut self, place: usize, down: Duration) -> bool {
        if self.members[place].running.is_none() {
            return false;
        }
        self.broken_off(place);
        let lost = self.members[place].crash(&mut self.disk_dice);
        let line = Line::Crashes { writes_lost: lost.writes, batches_lost: lost.batches };
        self.trace.note(self.now, Some(self.members[place].id), line);
        let summary = &mut self.checks.summary;
        summary.count("a member crashed");
        summary.add_count("log writes lost in a crash", lost.writes);
        summary.add_count("store batches lost in a crash", lost.batches);
        summary.add_count("sectors were lost", lost.sectors.lost);
        summary.add_count("sectors were torn", lost.sectors.torn);
        summary.add_count("sectors were zeroed", lost.sectors.zeroed);
        self.put(down, Event::Boot { place });
        true
    }

    /// Its disk has gone in the middle of something.
    pub(super) fn crash_at_step(&mut self, place: usize) {
        // Some are back before others have noticed.
        let longest = *self.dice.pick(&[1, 5, 50, 300]);
        let down = self.dice.time(Duration::from_micros(50), Duration::from_millis(longest));
        if !self.crash(place, down) {
            // In the middle of a start.
            self.members[place].crash(&mut self.disk_dice);
            self.put(down, Event::Boot { place });
        }
        self.checks.summary.count("a member crashed at a step of its disk");
    }

    /// The process ends, and its machine goes on.
    pub(super) fn kill(&mut self, place: usize, down: Duration) -> bool {
        if self.members[place].running.is_none() {
            return false;
        }
        self.broken_off(place);
        self.members[place].kill();
        self.put(down, Event::Boot { place });
        true
    }

    /// It was removed, and knows it.
    fn depart(&mut self, place: usize) {
        let id = self.members[place].id;
        assert!(self.checks.removed.contains(&id), "{id} departs, and nobody has removed it");
        self.broken_off(place);
        self.trace.note(self.now, Some(id), Line::Departs);
        self.members[place].kill();
        self.members[place].fate = Fate::Departed;
        self.checks.summary.count("a removed member departed");
    }

    /// A member was added: its process is started, once.
    pub(super) fn start_member(&mut self, id: MemberId, url: String) {
        let Some(place) = network::place_of(std::slice::from_ref(&url)) else { return };
        let is_free = self.members.get(place).map_or(place == self.members.len(), |it| it.fate == Fate::Departed);
        if !is_free || self.place_of_member(id).is_some() || self.checks.removed.contains(&id) {
            return;
        }
        // It learns of the cluster from whoever is up.
        let views = self.members.iter().filter_map(|member| member.running.as_ref());
        let newest = views.map(|running| &running.shared.view).max_by_key(|view| view.applied);
        let Some(view) = newest.filter(|view| view.members.get(id).is_some()) else { return };
        let others: Vec<_> = view
            .members
            .list()
            .filter(|member| member.id != id.0)
            .map(|member| (MemberId(member.id), member.peer_urls.clone()))
            .collect();
        let dice = &mut Dice::new(self.plan.seed, "joining", place as u64);
        let storage = *dice.pick(&[Storage::Trusted, Storage::Doubted, Storage::Memory]);
        let error = self.plan.clock_error;
        let clock = Clock::new(dice.between(0, 2 * error.unsigned_abs()) as i64 - error);
        let mut member = Member::join(id, url, storage, clock, others, &self.plan);
        self.checks.summary.count("a member joined");
        match self.members.get_mut(place) {
            Some(departed) => {
                // What is still to happen in the old process does not happen in the new one.
                member.boots = departed.boots;
                *departed = member;
                self.checks.summary.count("a member joined where another one had been");
            }
            None => {
                self.members.push(member);
                self.put(Duration::ZERO, Event::WriteBack { place });
            }
        }
        let after = dice.time(Duration::ZERO, Duration::from_millis(200));
        self.put(after, Event::Boot { place });
    }

    /// A store writes to its disk by itself, now and then.
    pub(super) fn write_back(&mut self, place: usize) {
        self.members[place].disk.write_back(&mut self.disk_dice);
        if self.members[place].running.is_some() {
            self.with(place, |member, _| Ok(member.disk.purge()?));
        }
        let (done, broken_snapshots) = self.members[place].disk.take_done();
        let summary = &mut self.checks.summary;
        summary.add_count("files of a log were deleted", done.log_files_deleted);
        summary.add_count("files of a log were used again", done.log_files_reused);
        summary.add_count("snapshots were found damaged", broken_snapshots);
        summary.add_count("writes were misdirected", done.misdirected);
        let after = self.disk_dice.time(Duration::from_millis(50), Duration::from_secs(2));
        self.put(after, Event::WriteBack { place });
    }
}
