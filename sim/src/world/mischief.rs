//! Faults begin, and end.

use super::{Event, World};
use crate::disk::{Moment, Trap, Trouble};
use crate::faults::{Fault, FaultKind};
use crate::member::Fate;
use crate::member::mail::Job;
use crate::network::{Way, Weather};
use crate::trace::Line;
use std::sync::Arc;
use std::time::Duration;

/// What has to be undone.
pub(super) enum Ongoing {
    Cut(Vec<Way>),
    Weather(Fault),
    Flapping(Vec<Way>),
    Slow(Way),
    Disk(usize, Trouble),
}

/// Keys that are written by those who write to a leader that is forsaken.
const FORSAKEN_KEYS: u64 = 3;

impl World {
    /// Those that belong to the cluster, as far as they have come.
    fn present(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|place| self.members[*place].fate == Fate::Belongs).collect()
    }

    fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|place| self.members[*place].running.is_some()).collect()
    }

    /// Who leads, as far as it knows itself.
    pub(super) fn leader(&self) -> Option<usize> {
        let status = |place: &usize| self.members[*place].running.as_ref().map(|running| running.shared.status);
        let leaders = self.running().into_iter().filter(|place| status(place).is_some_and(|it| it.is_leader));
        leaders.max_by_key(|place| status(place).map(|it| it.term))
    }

    pub(super) fn fault_begins(&mut self, number: usize) {
        let fault = self.plan.faults[number];
        if self.is_stopping {
            return;
        }
        if !self.break_something(number, fault) {
            return;
        }
        self.checks.summary.fault(fault.kind);
        let (what, nanos) = (fault.kind.name(), fault.lasts.as_nanos() as u64);
        self.trace.note(self.now, None, Line::Fault { what, who: fault.who % 1_000, nanos });
    }

    /// Whether anything came of it.
    fn break_something(&mut self, number: usize, fault: Fault) -> bool {
        let Fault { lasts, kind, who, strength, .. } = fault;
        let (present, running) = (self.present(), self.running());
        let some = |places: &[usize]| (!places.is_empty()).then(|| places[who as usize % places.len()]);
        match kind {
            FaultKind::Crash => some(&running).is_some_and(|place| self.crash(place, lasts)),
            FaultKind::CrashBusy => {
                let mut count = 0;
                for place in running.into_iter().filter(|place| who >> (place % 60) & 1 == 1) {
                    self.members[place].disk.fuse.blow_after(u64::from(strength) % 3, who >> 32 & 1 == 1);
                    count += 1;
                }
                count > 0
            }
            FaultKind::CrashSeveral => {
                let all = strength < 300;
                let chosen = running.iter().filter(|place| all || who >> (*place % 60) & 1 == 1);
                let chosen: Vec<usize> = chosen.copied().collect();
                let spread = Duration::from_millis(u64::from(strength) / 10);
                let mut count = 0;
                for (turn, place) in (0..).zip(chosen) {
                    count += u32::from(self.crash(place, lasts + spread * turn));
                }
                count > 0
            }
            FaultKind::CrashAtStep => {
                let Some(place) = some(&running) else { return false };
                self.members[place].disk.fuse.blow_after(u64::from(strength) % 60, who >> 32 & 1 == 1);
                true
            }
            FaultKind::CrashAtInstall => self.set_traps(Moment::Install, u64::from(strength) % 12, fault),
            FaultKind::CrashAtVote => self.set_traps(Moment::Vote, u64::from(strength) % 2, fault),
            FaultKind::CrashAtCandidacy => self.set_traps(Moment::Candidacy, u64::from(strength) % 3, fault),
            FaultKind::CrashAtConfChange => self.set_traps(Moment::ConfChange, u64::from(strength) % 4, fault),
            FaultKind::Kill => some(&running).is_some_and(|place| self.kill(place, lasts)),
            FaultKind::Pause => {
                let Some(place) = self.leader().filter(|_| strength < 500).or(some(&running)) else { return false };
                // Often for longer than leases last.
                let lasts = if who >> 32 & 1 == 1 { lasts * 4 } else { lasts };
                // What was put off until then cannot be called back when all is mended.
                let until = self.now + lasts.min(Duration::from_secs(5));
                self.members[place].paused_until = until.min(self.plan.faults_end);
                true
            }
            FaultKind::LeaderSleeps => {
                let Some(place) = self.leader() else { return false };
                let until = self.now + Duration::from_millis(500 + u64::from(strength) * 4);
                self.members[place].paused_until = until.min(self.plan.faults_end);
                true
            }
            FaultKind::SlowDisk => {
                let Some(place) = some(&present) else { return false };
                let until = (self.now + lasts).min(self.plan.faults_end);
                self.members[place].slow_disk = (10 + strength / 10, until);
                true
            }
            FaultKind::StuckDisk => {
                let Some(place) = self.leader().filter(|_| strength < 500).or(some(&running)) else { return false };
                let lasts = lasts.max(self.settings.election_timeout * 2);
                self.members[place].stuck_until = Some((self.now + lasts).min(self.plan.faults_end));
                true
            }
            FaultKind::Split => {
                let is_here = |place: &usize| who >> (place % 60) & 1 == 1;
                let (here, there): (Vec<usize>, Vec<usize>) = present.into_iter().partition(is_here);
                let ways = here.iter().flat_map(|a| there.iter().flat_map(move |b| [(*a, *b), (*b, *a)]));
                self.cut(number, ways.collect(), lasts)
            }
            FaultKind::OneWay => {
                let Some(place) = some(&running) else { return false };
                let others = present.into_iter().filter(|other| *other != place);
                let ways = others.map(|other| if strength < 500 { (place, other) } else { (other, place) });
                self.cut(number, ways.collect(), lasts)
            }
            FaultKind::LeaderAlone => {
                let Some(leader) = self.leader() else { return false };
                let others = present.into_iter().filter(|other| *other != leader);
                let ways = others.flat_map(|other| match strength {
                    0..600 => vec![(leader, other), (other, leader)],
                    600..800 => vec![(leader, other)],
                    _ => vec![(other, leader)],
                });
                self.cut(number, ways.collect(), lasts)
            }
            FaultKind::LeaderForsaken => {
                let Some(leader) = self.leader() else { return false };
                let others = present.into_iter().filter(|other| *other != leader);
                let ways = others.flat_map(|other| [(leader, other), (other, leader)]).collect();
                // Long enough for another one to be elected.
                let lasts = lasts.max(self.settings.election_timeout * (2 + strength % 4));
                let is_cut = self.cut(number, ways, lasts);
                if is_cut {
                    self.write_in_vain(leader, 20 + u64::from(strength) / 5);
                }
                is_cut
            }
            FaultKind::Flapping => {
                let Some(place) = self.leader().filter(|_| strength < 500).or(some(&running)) else { return false };
                let others = present.into_iter().filter(|other| *other != place);
                let ways: Vec<Way> = others.flat_map(|other| [(place, other), (other, place)]).collect();
                if ways.is_empty() {
                    return false;
                }
                self.ongoing.insert(number, Ongoing::Flapping(ways));
                self.put(Duration::ZERO, Event::Flap { fault: number, is_cut: true });
                self.put(lasts * 3, Event::FaultEnds { fault: number });
                true
            }
            FaultKind::Bridge => {
                let Some(a) = some(&present) else { return false };
                let others: Vec<usize> = present.into_iter().filter(|other| *other != a).collect();
                if others.is_empty() {
                    return false;
                }
                let b = others[(who >> 32) as usize % others.len()];
                self.cut(number, vec![(a, b), (b, a)], lasts)
            }
            FaultKind::Loss | FaultKind::Duplication | FaultKind::Delay => {
                self.ongoing.insert(number, Ongoing::Weather(fault));
                self.put(lasts * 2, Event::FaultEnds { fault: number });
                self.change_weather();
                true
            }
            FaultKind::SlowWay => {
                let Some(leader) = self.leader().or(some(&running)) else { return false };
                let others: Vec<usize> = present.into_iter().filter(|other| *other != leader).collect();
                let Some(other) = others.get(who as usize % others.len().max(1)).copied() else { return false };
                let way = if strength < 800 { (leader, other) } else { (other, leader) };
                let late = Duration::from_millis(200 + (who >> 32) % 900);
                self.network.slow_down(way, late);
                self.ongoing.insert(number, Ongoing::Slow(way));
                self.put(lasts * 3 + late * 2, Event::FaultEnds { fault: number });
                true
            }
            FaultKind::LinkBreaks => {
                let connections: Vec<_> = self.network.connections().collect();
                if connections.is_empty() {
                    return false;
                }
                let (way, connection) = connections[who as usize % connections.len()];
                self.notice(way, connection.attempt, false);
                true
            }
            FaultKind::DateJump => {
                let Some(place) = some(&present) else { return false };
                let secs = i64::from(strength) * 172 - 86_400;
                self.members[place].clock.jump_date(secs);
                true
            }
            FaultKind::ClockRate => {
                let Some(place) = some(&present) else { return false };
                let error = self.plan.clock_error;
                let fast_by = error * (i64::from(strength) - 500) / 500;
                self.members[place].clock.set_rate(self.now, fast_by);
                true
            }
            FaultKind::StalledWatcher => {
                let streams: Vec<_> = self.streams.values().copied().collect();
                let Some((place, boot, stream)) = streams.get(who as usize % streams.len().max(1)).copied() else {
                    return false;
                };
                if !self.is_running(place, boot) {
                    return false;
                }
                let until = self.now + lasts * 2;
                let running = self.members[place].running.as_mut();
                let Some(stream) = running.and_then(|it| it.shared.streams.get_mut(&stream)) else { return false };
                stream.stalled_until = until;
                true
            }
            FaultKind::ReadErrors => self.trouble(number, some(&running), Trouble::Read, lasts),
            FaultKind::WriteErrors => self.trouble(number, some(&running), Trouble::Write, lasts),
            FaultKind::SyncErrors => self.trouble(number, some(&running), Trouble::Sync, lasts),
            FaultKind::DiskFull => self.trouble(number, some(&running), Trouble::Full, lasts),
            FaultKind::BitFlip => {
                let Some(place) = some(&running).filter(|place| self.may_be_damaged(*place)) else { return false };
                let is_flipped = self.members[place].disk.flip_a_bit();
                // Found at once, or when it happens to be read.
                if is_flipped && strength < 500 {
                    self.crash(place, lasts);
                }
                is_flipped
            }
            FaultKind::MisdirectedWrite => {
                let Some(place) = some(&running).filter(|place| self.may_be_damaged(*place)) else { return false };
                self.members[place].disk.fuse.blow_after(10 + u64::from(strength) % 200, who >> 32 & 1 == 1);
                self.members[place].disk.misdirect_a_write()
            }
            FaultKind::HeldView => {
                let Some(place) = some(&running) else { return false };
                let Some(running) = &self.members[place].running else { return false };
                let (view, boot) = (Arc::clone(&running.shared.view), running.boot);
                self.put(lasts, Event::Done { place, boot, job: Job::HoldView { view } });
                true
            }
        }
    }

    fn trouble(&mut self, number: usize, place: Option<usize>, trouble: Trouble, lasts: Duration) -> bool {
        let Some(place) = place.filter(|place| self.members[*place].disk.has_files()) else { return false };
        self.members[place].disk.fuse.begin_trouble(trouble);
        self.ongoing.insert(number, Ongoing::Disk(place, trouble));
        self.put(lasts, Event::FaultEnds { fault: number });
        true
    }

    /// A majority has to keep what it has.
    fn may_be_damaged(&self, place: usize) -> bool {
        let bad = self.members.iter().filter(|member| member.disk.is_endangered() && member.fate == Fate::Belongs);
        let bad = bad.count() + self.lost.len();
        let disk = &self.members[place].disk;
        disk.has_files() && !disk.is_endangered() && bad < (self.plan.storages.len() - 1) / 2
    }

    fn set_traps(&mut self, moment: Moment, steps: u64, fault: Fault) -> bool {
        let trap = Trap { moment, steps, is_last_done: fault.who >> 32 & 1 == 1 };
        self.members.iter_mut().for_each(|member| member.disk.trap = Some(trap));
        true
    }

    fn cut(&mut self, number: usize, ways: Vec<Way>, lasts: Duration) -> bool {
        if ways.is_empty() {
            return false;
        }
        self.network.cut(&ways);
        self.let_cuts_be_noticed();
        self.ongoing.insert(number, Ongoing::Cut(ways));
        self.put(lasts, Event::FaultEnds { fault: number });
        true
    }

    /// Writes that nobody waits for: whether they are done, the log will show.
    fn write_in_vain(&mut self, place: usize, count: u64) {
        for _ in 0..count {
            self.unheard += 1;
            let number = self.unheard;
            let (key, value) = (format!("kv/vain{}", number % FORSAKEN_KEYS), format!("vain.{number}"));
            self.write_unheard(place, key, value, number);
        }
    }

    pub(super) fn flap(&mut self, number: usize, is_cut: bool) {
        let Some(Ongoing::Flapping(ways)) = self.ongoing.get(&number) else { return };
        let ways = ways.clone();
        if is_cut {
            self.network.cut(&ways);
            self.let_cuts_be_noticed();
        } else {
            self.network.mend(&ways);
        }
        let election = self.settings.election_timeout;
        let after = self.network_dice.time(election / 10, election * 2);
        self.put(after, Event::Flap { fault: number, is_cut: !is_cut });
    }

    pub(super) fn fault_ends(&mut self, number: usize) {
        let Some(ongoing) = self.ongoing.remove(&number) else { return };
        self.trace.note(self.now, None, Line::FaultEnds { what: self.plan.faults[number].kind.name() });
        match ongoing {
            Ongoing::Cut(ways) => self.network.mend(&ways),
            // Whether it is cut at the moment is known by who is cut.
            Ongoing::Flapping(ways) => {
                if ways.first().is_some_and(|way| self.network.is_cut(*way)) {
                    self.network.mend(&ways);
                }
            }
            Ongoing::Weather(_) => self.change_weather(),
            Ongoing::Slow(way) => self.network.speed_up(way),
            Ongoing::Disk(place, trouble) => self.members[place].disk.fuse.end_trouble(trouble),
        }
    }

    /// As bad as the worst of what goes on.
    fn change_weather(&mut self) {
        let mut weather = Weather {
            loss: self.plan.loss,
            duplication: self.plan.duplication,
            transit: self.plan.transit,
            reorders: self.plan.reorders,
        };
        for ongoing in self.ongoing.values() {
            let Ongoing::Weather(fault) = ongoing else { continue };
            match fault.kind {
                FaultKind::Loss => weather.loss = weather.loss.max(fault.strength),
                FaultKind::Duplication => weather.duplication = weather.duplication.max(fault.strength),
                _ => {
                    weather.transit *= 2 + fault.strength / 20;
                    weather.reorders = true;
                }
            }
        }
        // Up to some seconds for the latest.
        weather.transit = weather.transit.min(Duration::from_millis(50));
        self.network.weather = weather;
    }

    /// Nothing is broken any more.
    pub(super) fn mend_everything(&mut self) {
        self.trace.note(self.now, None, Line::Mended);
        self.ongoing.clear();
        self.network.mend_all();
        let transit = self.plan.transit.min(Duration::from_millis(1));
        self.network.weather = Weather { loss: 0, duplication: 0, transit, reorders: false };
        for place in 0..self.members.len() {
            let member = &mut self.members[place];
            member.paused_until = Duration::ZERO;
            member.slow_disk = (1, Duration::ZERO);
            member.stuck_until = None;
            member.disk.fuse.replace();
            member.disk.trap = None;
            if let Some(running) = &mut member.running {
                running.shared.streams.values_mut().for_each(|stream| stream.stalled_until = Duration::ZERO);
            }
            self.boot(place);
        }
    }
}
