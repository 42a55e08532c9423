//! What is to happen, in virtual time: the only source of order in a world.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

struct Due<E> {
    at: Duration,
    /// Of two at one moment the one that was put in first comes first.
    number: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    /// The heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

pub struct Queue<E> {
    due: BinaryHeap<Due<E>>,
    put: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Queue { due: BinaryHeap::new(), put: 0 }
    }
}

impl<E> Queue<E> {
    pub fn put(&mut self, at: Duration, event: E) {
        self.put += 1;
        self.due.push(Due { at, number: self.put, event });
    }

    pub fn take(&mut self) -> Option<(Duration, E)> {
        self.due.pop().map(|due| (due.at, due.event))
    }

    pub fn next_at(&self) -> Option<Duration> {
        self.due.peek().map(|due| due.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_of_equals_what_was_put_in_first() {
        let mut queue = Queue::default();
        for (at, event) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c'), (1, 'x')] {
            queue.put(Duration::from_secs(at), event);
        }
        let order: String = std::iter::from_fn(|| queue.take()).map(|(_, event)| event).collect();
        assert_eq!(order, "axbcd");
    }
}
