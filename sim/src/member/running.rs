//! A process: its actors, their mailboxes, and what they share. All of it dies with it.

use super::applier::Applier;
use super::compactor::Compactor;
use super::edge::Edge;
use super::lease_keeper::LeaseKeeper;
use super::log_writer::LogWriter;
use super::mail::{
    Actor, Job, Mail, Out, ToApplier, ToCompactor, ToLeaseKeeper, ToPeerLinks, ToRaftNode, ToSnapshotter, ToWatchHub,
};
use super::peer_links::PeerLinks;
use super::raft_node::RaftNode;
use super::snapshotter::{self, Snapshotter};
use super::watch_hub::{self, WatchHub};
use super::{Around, Fatal, Shared};
use crate::dice::Dice;
use crate::trace::Line;
use castd::raft::node::TICK;
use std::collections::VecDeque;
use std::time::Duration;

/// How often each actor is told the time, as `castd::wiring` has it.
const TICKS: [(Actor, Duration); 7] = [
    (Actor::RaftNode, TICK),
    (Actor::Applier, TICK),
    (Actor::Compactor, TICK),
    (Actor::LeaseKeeper, Duration::from_millis(500)),
    (Actor::WatchHub, Duration::from_millis(100)),
    (Actor::PeerLinks, Duration::from_millis(500)),
    (Actor::Snapshotter, Duration::from_secs(1)),
];
/// Missed ticks that are made up for at once.
const CATCH_UP_MAX: u32 = 10;

pub struct Actors {
    pub raft_node: RaftNode,
    pub log_writer: LogWriter,
    pub applier: Applier,
    pub watch_hub: WatchHub,
    pub lease_keeper: LeaseKeeper,
    pub peer_links: PeerLinks,
    pub snapshotter: Snapshotter,
    pub compactor: Compactor,
    pub edge: Edge,
}

impl Actors {
    pub(super) fn handle(&mut self, mail: Mail, around: &mut Around<'_>) -> Result<(), Fatal> {
        match mail {
            Mail::RaftNode(mail) => self.raft_node.handle(mail, around)?,
            Mail::LogWriter(mail) => self.log_writer.handle(mail, around)?,
            Mail::Applier(mail) => self.applier.handle(mail, around)?,
            Mail::WatchHub(mail) => self.watch_hub.handle(mail, around),
            Mail::LeaseKeeper(mail) => self.lease_keeper.handle(mail, around),
            Mail::PeerLinks(mail) => self.peer_links.handle(mail, around),
            Mail::Snapshotter(mail) => self.snapshotter.handle(mail, around),
            Mail::Compactor(mail) => self.compactor.handle(mail, around),
        }
        Ok(())
    }

    /// What an actor does when its mailbox is empty.
    pub(super) fn close_batch(&mut self, actor: Actor, around: &mut Around<'_>) -> Result<(), Fatal> {
        match actor {
            Actor::RaftNode => self.raft_node.close_batch(around),
            Actor::LogWriter => self.log_writer.close_batch(around)?,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn done(&mut self, job: Job, around: &mut Around<'_>) -> Result<(), Fatal> {
        match job {
            Job::SyncLog => self.log_writer.synced(around)?,
            Job::Flush => {
                around.disk.store().flush()?;
                around.checks.summary.count("a store was flushed");
                around.note(Line::Flushed { applied: self.applier.machine.applied().0 });
                around.mail(ToSnapshotter::Flushed);
            }
            Job::TakeSnapshot { view } => {
                let file = around.disk.take_snapshot(&view, around.settings.cluster)?;
                around.checks.summary.count("a snapshot was taken");
                around.note(Line::SnapshotTaken { index: file.position.index.0 });
                around.mail(ToSnapshotter::SnapshotTaken { position: file.position });
            }
            Job::PrepareSnapshot { view, to, index_min } => {
                let prepared = snapshotter::prepare(&view, to, index_min, around)?;
                around.mail(ToSnapshotter::Prepared { prepared });
            }
            Job::Fill { position } => {
                let machine = around.disk.replace_store(position)?;
                around.checks.summary.count("a snapshot was installed");
                self.applier.exchange(machine, around)?;
            }
            Job::CatchUp { cohort } => {
                let batch = watch_hub::catch_up(&cohort, around)?;
                around.mail(ToWatchHub::CaughtUp { batch });
            }
            Job::Tidy => {
                // A backend that is trusted needs none beside it.
                if !around.disk.storage.keeps_snapshot() {
                    around.disk.keep_snapshots(0, around.shared.view.applied)?;
                }
            }
            Job::HoldView { view } => drop(view),
        }
        Ok(())
    }
}

pub struct Running {
    pub boot: u64,
    /// What the clock showed at the start.
    pub(super) started: Duration,
    pub actors: Actors,
    pub shared: Shared,
    mailboxes: [VecDeque<Mail>; Actor::ALL.len()],
    /// It will get a turn, or tells the rest of what it has to tell.
    is_due: [bool; Actor::ALL.len()],
    ticks_due: [Duration; TICKS.len()],
}

impl Running {
    pub fn new(boot: u64, started: Duration, actors: Actors, shared: Shared) -> Self {
        let ticks_due = TICKS.map(|(_, every)| every);
        let (mailboxes, is_due) = Default::default();
        Running { boot, started, actors, shared, mailboxes, is_due, ticks_due }
    }

    /// Puts a message into its mailbox. Answers whether its actor is to get a turn.
    pub fn deliver(&mut self, mail: Mail) -> bool {
        let actor = mail.to();
        self.mailboxes[actor as usize].push_back(mail);
        self.wake(actor)
    }

    /// Whether the actor is to get a turn: it has mail, and is neither waiting for one nor for its disk.
    pub fn wake(&mut self, actor: Actor) -> bool {
        let is_busy = actor == Actor::LogWriter && self.actors.log_writer.is_busy();
        let is_due = &mut self.is_due[actor as usize];
        if *is_due || is_busy || self.mailboxes[actor as usize].is_empty() {
            return false;
        }
        *is_due = true;
        true
    }

    /// The actor's turn is over.
    pub fn rest(&mut self, actor: Actor) {
        self.is_due[actor as usize] = false;
    }

    /// What the actor takes in one turn, and whether nothing is left.
    pub(super) fn take_mail(&mut self, actor: Actor, dice: &mut Dice) -> (Vec<Mail>, bool) {
        let mailbox = &mut self.mailboxes[actor as usize];
        // Mostly all of it; or less, and then more comes before its batch is closed.
        let taken = if dice.chance(800) { mailbox.len() } else { dice.index(mailbox.len() + 1).max(1) };
        let mails = mailbox.drain(..taken.min(mailbox.len())).collect();
        (mails, mailbox.is_empty())
    }

    pub fn mail_waiting(&self) -> usize {
        self.mailboxes.iter().map(VecDeque::len).sum()
    }

    pub(super) fn tick(&mut self, now: Duration, out: &mut Vec<Out>) {
        for ((actor, every), due) in TICKS.into_iter().zip(&mut self.ticks_due) {
            let mut sent = 0;
            while *due <= now {
                if sent < CATCH_UP_MAX {
                    out.push(Out::Mail(tick_for(actor, now)));
                    sent += 1;
                }
                *due += every;
            }
        }
    }
}

fn tick_for(actor: Actor, now: Duration) -> Mail {
    match actor {
        Actor::RaftNode => ToRaftNode::Tick { now }.into(),
        Actor::Applier => ToApplier::Tick { now }.into(),
        Actor::WatchHub => ToWatchHub::Tick { now }.into(),
        Actor::LeaseKeeper => ToLeaseKeeper::Tick { now }.into(),
        Actor::PeerLinks => ToPeerLinks::Tick { now }.into(),
        Actor::Snapshotter => ToSnapshotter::Tick { now }.into(),
        Actor::Compactor => ToCompactor::Tick { now }.into(),
        Actor::LogWriter => unreachable!("it keeps no time"),
    }
}
