//! Clients: what they do gets to members, and what members say gets to them.

use super::{Event, World};
use crate::clients::{Client, Desk, Move};
use crate::member::Fate;
use crate::member::edge::{Answer, Ask, Call};
use crate::member::mail::ToWatchHub;
use crate::member::watch_hub::{Shown, Stream};
use crate::trace::Line;
use castd::watch::{NewWatch, StreamId};
use castd_proto::etcdserverpb::WatchCreateRequest;

impl World {
    /// A client does something, and what it does is done.
    pub(super) fn client(&mut self, number: usize, act: impl FnOnce(&mut Client, &mut Desk<'_>)) {
        let mut moves = std::mem::take(&mut self.moves);
        let (places, left_places): (Vec<usize>, Vec<usize>) =
            (0..self.members.len()).partition(|place| self.members[*place].fate == Fate::Belongs);
        let Some(client) = self.clients.get_mut(number) else { return };
        let mut desk = Desk {
            now: self.now,
            plan: &self.plan,
            history: &mut self.history,
            moves: &mut moves,
            places: &places,
            next_place: self.members.len(),
            left_places: &left_places,
            is_stopping: self.is_stopping,
            watch_until: self.watch_until,
            newest: &mut self.newest,
            answered: &mut self.answered,
        };
        act(client, &mut desk);
        for made in moves.drain(..) {
            self.make_move(number, made);
        }
        self.moves = moves;
    }

    fn make_move(&mut self, client: usize, made: Move) {
        let late = self.dice.latency(self.plan.transit);
        match made {
            Move::Ask { place, call, ask } => {
                self.checks.summary.asked(ask.name());
                self.trace.note(self.now, None, Line::Asked { client, call: call.number, what: ask.name() });
                self.put(late, Event::Asked { place, call, ask });
            }
            Move::Wake { at } => self.queue.put(at, Event::Wake { client }),
            Move::GiveUp { at, call } => self.queue.put(at, Event::GiveUp { call }),
            Move::Watch { place, session, create, fragment_bytes } => {
                self.checks.summary.asked("Watch");
                self.put(late, Event::Watch { place, client, session, create, fragment_bytes });
            }
            Move::AskProgress { place, session } => self.put(late, Event::AskProgress { place, client, session }),
            Move::Unwatch { place, session } => self.put(late, Event::Unwatch { place, client, session }),
            Move::Start { id, url } => self.start_member(id, url),
        }
    }

    pub(super) fn asked(&mut self, place: usize, call: Call, ask: Ask) {
        if self.members.get(place).is_none_or(|member| member.running.is_none()) {
            let after = self.dice.latency(self.plan.transit);
            return self.put(after, Event::Answered { call, answer: Answer::Broken });
        }
        self.act(place, |actors, around| {
            actors.edge.start(call, ask, around);
            Ok(())
        });
    }

    /// `None` if it has waited long enough.
    pub(super) fn answer(&mut self, call: Call, answer: Option<Answer>) {
        let waits = self.clients.get(call.client).is_some_and(|client| client.waits_for(call));
        if !waits {
            return;
        }
        let line = match &answer {
            Some(answer) => Line::Answered { client: call.client, call: call.number, what: answer_name(answer) },
            None => Line::GivenUp { client: call.client, call: call.number },
        };
        self.trace.note(self.now, None, line);
        self.client(call.client, |client, desk| client.answered(call, answer, desk));
    }

    pub(super) fn show(&mut self, client: usize, session: u64, shown: Vec<Shown>) {
        let events = shown.len();
        let line = Line::Told { client, events, revision: self.newest };
        self.trace.note(self.now, None, line);
        let last = self.shown_last.entry((client, session)).or_default();
        let at = (self.now + self.dice.latency(self.plan.transit)).max(*last);
        *last = at;
        self.queue.put(at, Event::Shown { client, session, shown });
    }

    pub(super) fn watch(
        &mut self,
        place: usize,
        client: usize,
        session: u64,
        create: &WatchCreateRequest,
        fragment_bytes: usize,
    ) {
        let is_there = self.members.get(place).is_some_and(|member| member.running.is_some());
        if !is_there {
            return self.show(client, session, vec![Shown::Ended]);
        }
        self.next_stream += 1;
        let (stream, boot) = (StreamId(self.next_stream), self.members[place].boots);
        self.streams.insert((client, session), (place, boot, stream));
        let watch = NewWatch::from_request(create).expect("watchers ask for what there can be");
        self.act(place, |_, around| {
            around.shared.streams.insert(stream, Stream::new(client, session, fragment_bytes));
            around.mail(ToWatchHub::OpenStream { stream });
            around.mail(ToWatchHub::OpenWatch { stream, watch });
            Ok(())
        });
    }

    fn stream_of(&self, client: usize, session: u64) -> Option<(usize, StreamId)> {
        let (place, boot, stream) = self.streams.get(&(client, session)).copied()?;
        self.is_running(place, boot).then_some((place, stream))
    }

    pub(super) fn ask_progress(&mut self, _: usize, client: usize, session: u64) {
        if let Some((place, stream)) = self.stream_of(client, session) {
            self.act(place, |_, around| {
                around.mail(ToWatchHub::RequestProgress { stream });
                Ok(())
            });
        }
    }

    /// The client has gone; some cancel their watch first.
    pub(super) fn unwatch(&mut self, _: usize, client: usize, session: u64) {
        if let Some((place, stream)) = self.stream_of(client, session) {
            let cancels = self.dice.chance(500);
            self.act(place, |_, around| {
                if cancels {
                    around.mail(ToWatchHub::CancelWatch { stream, watch_id: 0 });
                }
                around.mail(ToWatchHub::CloseStream { stream });
                Ok(())
            });
        }
        self.streams.remove(&(client, session));
        self.shown_last.remove(&(client, session));
    }
}

fn answer_name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Range(_) => "Range",
        Answer::Txn(_) => "Txn",
        Answer::Written(_) => "Written",
        Answer::Kept { .. } => "Kept",
        Answer::Members { .. } => "Members",
        Answer::Moved => "Moved",
        Answer::Failed(_) => "Failed",
        Answer::Broken => "Broken",
    }
}
