//! What goes wrong, and when: drawn from the seed before the world begins, so that a fault can be left out without changing
//! the others.

use crate::dice::Dice;
use std::time::Duration;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultKind {
            $($(#[$doc])* $name,)*
        }

        impl FaultKind {
            pub const ALL: &[FaultKind] = &[$(FaultKind::$name,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(FaultKind::$name => stringify!($name),)*
                }
            }
        }
    };
}

kinds! {
    /// The power of one member goes.
    Crash,
    /// Of some, or all, at the same time.
    CrashSeveral,
    /// Of one, at one of the next steps of its disk,
    CrashAtStep,
    /// and of some, each at its very next ones: in the middle of a write.
    CrashBusy,
    /// Of whoever installs a snapshot next, in the middle of that,
    CrashAtInstall,
    /// of whoever votes next, before that is on disk,
    CrashAtVote,
    /// of whoever stands for election next,
    CrashAtCandidacy,
    /// and of whoever writes a change of the membership.
    CrashAtConfChange,
    /// One process ends, and its machine goes on.
    Kill,
    /// One process stands still.
    Pause,
    /// The leader does, for about as long as leases last.
    LeaderSleeps,
    /// One disk takes a hundred times as long.
    SlowDisk,
    /// One disk does not answer for longer than an election takes.
    StuckDisk,
    /// Two groups of members do not hear each other.
    Split,
    /// One member is not heard by the others, or does not hear them.
    OneWay,
    /// The leader is cut off, in both directions or in one.
    LeaderAlone,
    /// So it is, with many writes that it has taken, and nobody else knows of.
    LeaderForsaken,
    /// A cut that comes and goes.
    Flapping,
    /// Two members do not reach each other; all others reach both.
    Bridge,
    /// Packets get lost,
    Loss,
    /// come twice,
    Duplication,
    /// or late, overtaken by others.
    Delay,
    /// From one member to another one all is late, by about as long as a read waits before it is asked again.
    SlowWay,
    /// A connection breaks, and is opened anew.
    LinkBreaks,
    /// The date of one member jumps.
    DateJump,
    /// The clock of one member goes at another rate from now on.
    ClockRate,
    /// A client takes nothing from its stream for a while.
    StalledWatcher,
    /// A disk cannot read for a while,
    ReadErrors,
    /// write,
    WriteErrors,
    /// sync, and forgets what it was to sync,
    SyncErrors,
    /// or take more.
    DiskFull,
    /// A bit that was synced turns over,
    BitFlip,
    /// or a sector is written where another one is. Both of a minority at a time.
    MisdirectedWrite,
    /// Somebody holds an old view, so that compaction cannot delete what it sees.
    HeldView,
}

impl FaultKind {
    /// Of the files of a disk.
    pub fn is_of_disk(self) -> bool {
        use FaultKind::{DiskFull, ReadErrors, SyncErrors, WriteErrors};
        self.is_damage() || matches!(self, ReadErrors | WriteErrors | SyncErrors | DiskFull)
    }

    /// After which a member has to be replaced.
    pub fn is_damage(self) -> bool {
        matches!(self, FaultKind::BitFlip | FaultKind::MisdirectedWrite)
    }
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub at: Duration,
    pub lasts: Duration,
    pub kind: FaultKind,
    /// Decides who, once it is known who there is.
    pub who: u64,
    /// Thousandths, or whatever else the kind makes of it.
    pub strength: u32,
}

/// `kinds` in a random order of time, on average one each `pause`.
pub fn schedule(
    dice: &mut Dice,
    kinds: &[FaultKind],
    from: Duration,
    until: Duration,
    pause: Duration,
    election: Duration,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = from;
    while !kinds.is_empty() {
        at += dice.time(pause / 8, pause * 2);
        if at >= until {
            break;
        }
        let kind = *dice.pick(kinds);
        // Around the time in which elections happen is where it is interesting.
        let lasts = match dice.below(10) {
            0..4 => dice.time(election / 10, election),
            4..8 => dice.time(election, election * 4),
            _ => dice.time(election * 4, election * 15),
        };
        let strength = match kind {
            FaultKind::Loss => dice.between(5, 300),
            FaultKind::Duplication => dice.between(5, 500),
            _ => dice.between(0, 1_000),
        };
        faults.push(Fault { at, lasts, kind, who: dice.number(), strength: strength as u32 });
    }
    faults
}
