//! All is mended: a write commits soon, all members come to have the same, watchers are told everything, leases end; and then
//! what clients saw is judged.

use super::World;
use crate::check;
use crate::clients::{Client, wire};
use crate::member::Fate;
use crate::member::edge::Call;
use castd::ids::MemberId;
use castd_judge::history::{Op, Operation, Outcome, Request};
use std::time::Duration;

/// Until a write commits, in election time-outs.
const ELECTIONS_MAX: u32 = 10;
/// Until everything else has come to pass. A snapshot that could not be written is tried again after ten seconds, and one
/// leader after another may find that out.
const CONVERGED_WITHIN: Duration = Duration::from_secs(60);
/// They are looked at every half second, and a revoke that was lost is sent again after three.
const LEASES_LATE_BY: Duration = Duration::from_secs(4);
/// Who writes without waiting for an answer.
const PROBER: usize = usize::MAX;

impl World {
    pub(super) fn finish(&mut self) {
        // Members that were added, and that nobody has started yet, may be needed for a majority.
        self.start_missing();
        self.mend_everything();
        self.find_damage();
        self.expect_progress();
        self.expect("members whose disks are damaged have been replaced", |world| world.lost.is_empty());
        self.is_stopping = true;
        let stopped = self.now;
        self.expect("all requests are answered or given up", World::is_quiet);
        self.expect("members that were removed have gone", World::have_departed);
        self.expect("all members have the same", World::has_converged);
        self.expect_leases_to_end(stopped);
        self.watch_until = self.checks.newest_revision();
        self.expect("watchers have been told everything", |world| {
            world.clients.iter().all(|client| client.is_idle(world.watch_until))
        });
        self.expect("all members have the same", World::has_converged);
        self.compare();
        for client in &mut self.clients {
            client.finish(&mut self.history);
        }
        self.history.compactions.append(&mut self.checks.own_compactions);
        let judged = check::judge(&self.plan, &self.history, &self.checks.log, &mut self.checks.summary);
        if let Err(violation) = judged {
            panic!("{violation}");
        }
    }

    fn start_missing(&mut self) {
        let views = self.members.iter().filter_map(|member| Some(&member.running.as_ref()?.shared.view));
        let Some(view) = views.max_by_key(|view| view.applied) else { return };
        let listed: Vec<_> = view
            .members
            .list()
            .filter_map(|member| Some((MemberId(member.id), member.peer_urls.first()?.clone())))
            .collect();
        for (id, url) in listed {
            self.start_member(id, url);
        }
    }

    /// A write is asked of each member again and again, until one of them has done it.
    fn expect_progress(&mut self) {
        let mended = self.now;
        let within = self.settings.election_timeout * ELECTIONS_MAX * 11 / 10;
        let committed = self.checks.newest_revision();
        loop {
            for place in 0..self.members.len() {
                if self.members[place].running.is_none() {
                    continue;
                }
                self.unheard += 1;
                let number = self.unheard;
                self.write_unheard(place, "probe".to_owned(), format!("probe.{number}"), number);
            }
            self.go_on_until(self.now + self.settings.election_timeout / 4);
            let is_done = self
                .checks
                .log
                .range(committed + 1..)
                .any(|(_, events)| events.iter().any(|event| event.key() == "probe"));
            if is_done {
                break;
            }
            assert!(
                self.now < mended + within,
                "nothing was written within {ELECTIONS_MAX} election time-outs{}",
                self.state()
            );
        }
        let took = (self.now - mended).as_millis() as u64;
        self.checks.summary.add_count("milliseconds until a write was done again", took);
    }

    /// A write whose answer nobody hears. What comes of it, the log will show.
    pub(super) fn write_unheard(&mut self, place: usize, key: String, value: String, number: u64) {
        let request = Request::plain(Op::Put { key, value, lease: 0 });
        let call = Call { client: PROBER, number };
        self.asked(place, call, wire::ask(&request));
        let (invoked, returned) = (self.now.as_micros() as u64, 0);
        let outcome = Outcome::Unknown("nobody heard".to_owned());
        self.history.operations.push(Operation { client: PROBER, invoked, returned, request, outcome });
    }

    /// Goes on until it holds.
    fn expect(&mut self, what: &str, holds: impl Fn(&World) -> bool) {
        let until = self.now + CONVERGED_WITHIN;
        while !holds(self) {
            assert!(self.now < until, "in vain: {what}{}", self.state());
            // Not together with anybody's ticks.
            self.go_on_until(self.now + Duration::from_micros(53_713));
        }
    }

    /// Nobody keeps them alive any more, and nobody new can be elected: a lease ends when its time is over, by the leader's
    /// clock, which is as wrong as it may be; and a leader that was elected last gives the time of an election on top.
    fn expect_leases_to_end(&mut self, stopped: Duration) {
        let ttl = Duration::from_secs(*self.plan.clients.ttl.end());
        let slow = 1.0 / (1.0 - self.plan.clock_error as f64 / 1e6);
        let until = self.now.max(stopped + (ttl + 2 * self.settings.election_timeout).mul_f64(slow)) + LEASES_LATE_BY;
        while !self.has_no_leases() {
            assert!(self.now < until, "leases that nobody keeps alive have not ended{}", self.state());
            self.go_on_until(self.now + Duration::from_millis(101));
        }
    }

    fn is_quiet(&self) -> bool {
        let mut clients = self.clients.iter().filter(|client| !matches!(client, Client::Watcher(_)));
        let mut running = self.members.iter().filter_map(|member| member.running.as_ref());
        clients.all(|client| client.is_idle(0)) && running.all(|running| running.actors.edge.waiting() == 0)
    }

    fn have_departed(&self) -> bool {
        let mut belongs = self.members.iter().filter(|member| member.fate == Fate::Belongs);
        belongs.all(|member| !self.checks.removed.contains(&member.id))
    }

    fn has_converged(&self) -> bool {
        let mut views = self.members.iter().filter(|member| member.fate == Fate::Belongs).map(|member| {
            let running = member.running.as_ref()?;
            let is_at_rest = running.mail_waiting() == 0 && !running.actors.applier.is_installing();
            (is_at_rest && running.shared.status.leader.is_some()).then_some(running.shared.view.applied)
        });
        let first = views.next().flatten();
        first.is_some() && views.all(|applied| applied == first)
    }

    fn has_no_leases(&self) -> bool {
        let mut running = self.members.iter().filter_map(|member| member.running.as_ref());
        running.all(|running| running.shared.view.leases.is_empty())
    }

    /// To the last row.
    fn compare(&mut self) {
        let mut hashes = Vec::new();
        for member in &self.members {
            let Some(running) = &member.running else { continue };
            let view = &running.shared.view;
            let rows = castd::state::hash(view).expect("the store can be read");
            hashes.push((view.applied, view.state_hash, rows, view.conf_state.clone()));
            let keeper = &running.actors.lease_keeper.core;
            assert_eq!(keeper.len(), view.leases.len(), "member {}: its keeper has other leases", member.id);
            let status = running.shared.status;
            assert_eq!(status.is_learner, view.conf_state.learners.contains(&member.id.0), "member {}", member.id);
        }
        assert!(hashes.windows(2).all(|two| two[0] == two[1]), "members differ: {hashes:?}");
        let leaders = self.members.iter().filter_map(|member| member.running.as_ref());
        let leaders = leaders.filter(|running| running.shared.status.is_leader).count();
        assert_eq!(leaders, 1, "{}", self.state());
    }

    /// For whoever reads a failure.
    fn state(&self) -> String {
        let mut text = String::new();
        for (place, member) in self.members.iter().enumerate() {
            text += &format!("\n  {} ({:?}, {:?}):", member.id, member.fate, member.disk.storage);
            let Some(running) = &member.running else { continue };
            let view = &running.shared.view;
            text += &format!(
                " {:?}, applied {}, voters {:?}, learners {:?}, mail {}, requests {}, links {:?}",
                running.shared.status,
                view.applied,
                view.conf_state.voters,
                view.conf_state.learners,
                running.mail_waiting(),
                running.actors.edge.waiting(),
                self.network
                    .connections()
                    .filter(|((from, _), _)| *from == place)
                    .map(|((_, to), _)| to)
                    .collect::<Vec<_>>(),
            );
        }
        for (number, client) in self.clients.iter().enumerate() {
            text += &format!("\n  client {number}: {}", client.describe());
        }
        text
    }
}
