//! Keeps a line that comes again with each attempt from filling the log: the first, and then one in a while.

use std::collections::BTreeMap;
use std::time::Duration;

const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// Subjects remembered. Whoever invents more, such as ids of members, is not written down: so many lines in a while are all.
const SUBJECTS_MAX: usize = 256;

/// When each subject was last spoken of.
#[derive(Debug)]
pub struct Quiet<S> {
    spoken: BTreeMap<S, Duration>,
}

impl<S> Default for Quiet<S> {
    fn default() -> Self {
        Quiet { spoken: BTreeMap::new() }
    }
}

impl<S: Ord> Quiet<S> {
    /// Whether `subject` is worth a line now.
    pub fn may_say(&mut self, subject: S, now: Duration) -> bool {
        if self.spoken.get(&subject).is_some_and(|spoken| now < *spoken + REPEAT_AFTER) {
            return false;
        }
        if self.spoken.len() >= SUBJECTS_MAX {
            self.spoken.retain(|_, spoken| now < *spoken + REPEAT_AFTER);
            if self.spoken.len() >= SUBJECTS_MAX {
                return false;
            }
        }
        self.spoken.insert(subject, now);
        true
    }

    /// All is well again: the next time is news.
    pub fn forget(&mut self) {
        self.spoken.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_in_a_while_and_again_after_all_was_well() {
        let mut quiet = Quiet::default();
        let at = Duration::from_secs;
        assert!(quiet.may_say("refused", at(0)));
        assert!(!quiet.may_say("refused", at(29)));
        assert!(quiet.may_say("unreachable", at(29)), "another subject");
        assert!(quiet.may_say("refused", at(30)));
        quiet.forget();
        assert!(quiet.may_say("refused", at(31)));
    }

    #[test]
    fn whoever_invents_subjects_gets_so_many_lines_and_no_more() {
        let mut quiet = Quiet::default();
        let lines = |quiet: &mut Quiet<u64>, at| {
            let at = Duration::from_secs(at);
            (0..10_000).filter(|subject| quiet.may_say(subject + at.as_secs() * 10_000, at)).count()
        };
        assert_eq!(lines(&mut quiet, 0), SUBJECTS_MAX);
        assert_eq!(lines(&mut quiet, 29), 0);
        assert_eq!(lines(&mut quiet, 30), SUBJECTS_MAX);
    }
}
