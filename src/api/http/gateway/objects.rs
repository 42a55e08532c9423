//! The JSON objects of a request body, one after the other, as its chunks arrive.
//!
//! ```text
//!   {"create_reque | st":{}} {"cancel_ | …        chunks
//!   └──── first object ────┘ └─ second …          objects
//! ```
//! It looks only for the end of each object, each byte once, so that a body of one-byte chunks costs no more than one of one
//! chunk. What is in an object is the business of the codec. What is held is bounded twice: for each object, and, for
//! what clients of the whole port have begun and not finished, by a budget that all share.

use bytes::{Buf as _, Bytes, BytesMut};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A body of this size may be held by every connection; what is larger is taken from the budget.
const FREE_BYTES: usize = 64 << 10;
/// What the budget is counted in.
const BUDGET_STEP_BYTES: usize = 64 << 10;

/// Memory for unfinished objects, of all requests of a port.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    pub fn new(bytes: usize) -> Budget {
        Budget(Arc::new(Semaphore::new((bytes / BUDGET_STEP_BYTES).min(Semaphore::MAX_PERMITS))))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("a JSON object is expected, not {0:?}")]
    NotAnObject(char),
    #[error("an object of more than {limit} bytes of JSON")]
    TooLarge { limit: usize },
    #[error("the gateway holds too many unfinished requests; try again")]
    Exhausted,
}

#[derive(Debug)]
pub struct Objects {
    buffer: BytesMut,
    /// So much of `buffer` has been looked at.
    scanned: usize,
    /// Brackets that are open, of either kind.
    open: usize,
    in_string: bool,
    escaped: bool,
    object_bytes_max: usize,
    budget: Budget,
    held: Vec<OwnedSemaphorePermit>,
}

impl Objects {
    pub fn new(object_bytes_max: usize, budget: Budget) -> Objects {
        Objects {
            buffer: BytesMut::new(),
            scanned: 0,
            open: 0,
            in_string: false,
            escaped: false,
            object_bytes_max,
            budget,
            held: Vec::new(),
        }
    }

    /// Takes a chunk.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ObjectError> {
        let bytes = self.buffer.len() + chunk.len();
        let steps = bytes.saturating_sub(FREE_BYTES).div_ceil(BUDGET_STEP_BYTES);
        while self.held.len() < steps {
            let step = self.budget.0.clone().try_acquire_owned().map_err(|_| ObjectError::Exhausted)?;
            self.held.push(step);
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// The next object that is complete.
    ///
    /// # Errors
    /// When what comes next cannot become one.
    pub fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        if self.open == 0 {
            let blanks = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.buffer.advance(blanks);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => return Err(ObjectError::NotAnObject(char::from(*other))),
            }
        }
        while let Some(byte) = self.buffer.get(self.scanned).copied() {
            self.scanned += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.open += 1,
                // Which bracket closes which, the codec will tell.
                b'}' | b']' => self.open -= 1,
                _ => {}
            }
            if self.open == 0 {
                let object = self.buffer.split_to(self.scanned).freeze();
                self.scanned = 0;
                self.held.truncate(self.buffer.len().saturating_sub(FREE_BYTES).div_ceil(BUDGET_STEP_BYTES));
                return self.checked(object.len()).map(|()| Some(object));
            }
        }
        self.checked(self.scanned)?;
        Ok(None)
    }

    /// Of what has not been handed out.
    pub fn held_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// When the body has ended: an object that has not, if there is one.
    pub fn rest(&mut self) -> Option<Bytes> {
        (self.open > 0).then(|| {
            self.open = 0;
            self.buffer.split().freeze()
        })
    }

    fn checked(&self, bytes: usize) -> Result<(), ObjectError> {
        let limit = self.object_bytes_max;
        if bytes > limit { Err(ObjectError::TooLarge { limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Objects {
        Objects::new(1 << 20, Budget::new(1 << 20))
    }

    /// All objects of a body that comes in chunks of `size` bytes.
    fn split(body: &str, size: usize) -> Result<Vec<String>, ObjectError> {
        let mut objects = objects();
        let mut found = Vec::new();
        for chunk in body.as_bytes().chunks(size) {
            objects.push(chunk)?;
            while let Some(object) = objects.next()? {
                found.push(String::from_utf8(object.to_vec()).unwrap());
            }
        }
        found.extend(objects.rest().map(|rest| format!("rest: {}", rest.escape_ascii())));
        Ok(found)
    }

    #[test]
    fn objects_are_the_same_however_the_body_is_cut() {
        let body = " {\"a\":\"}\\\"{\\\\\"}\n{\"b\":[{},[1]]}{}\r\n\t";
        for size in 1..=body.len() {
            assert_eq!(split(body, size).unwrap(), [r#"{"a":"}\"{\\"}"#, r#"{"b":[{},[1]]}"#, "{}"], "{size}");
        }
    }

    #[test]
    fn what_is_no_object_is_named() {
        assert_eq!(split(" []", 1), Err(ObjectError::NotAnObject('[')));
        assert_eq!(split("{} null", 2), Err(ObjectError::NotAnObject('n')));
        assert_eq!(split("  ", 1), Ok(Vec::new()));
    }

    #[test]
    fn an_object_that_does_not_end_is_the_rest() {
        assert_eq!(split("{}{[", 2), Ok(vec!["{}".to_owned(), "rest: {[".to_owned()]));
        assert_eq!(split("{}", 2), Ok(vec!["{}".to_owned()]));
    }

    #[test]
    fn an_object_is_as_large_as_allowed_and_no_larger() {
        let object = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - 2));
        let mut objects = Objects::new(1_000, Budget::new(0));
        objects.push(object(1_000).as_bytes()).unwrap();
        assert!(objects.next().unwrap().is_some());
        objects.push(object(1_001).as_bytes()).unwrap();
        assert_eq!(objects.next(), Err(ObjectError::TooLarge { limit: 1_000 }));
        // Also one that never ends.
        let mut objects = Objects::new(1_000, Budget::new(0));
        objects.push(&object(2_000).as_bytes()[..1_500]).unwrap();
        assert_eq!(objects.next(), Err(ObjectError::TooLarge { limit: 1_000 }));
    }

    #[test]
    fn unfinished_objects_share_a_budget_which_finished_ones_give_back() {
        let budget = Budget::new(4 * BUDGET_STEP_BYTES);
        let chunk = vec![b' '; FREE_BYTES];
        let begin = |steps: usize| {
            let mut objects = Objects::new(1 << 30, budget.clone());
            objects.push(b"{").unwrap();
            (0..steps).try_for_each(|_| objects.push(&chunk)).map(|()| objects)
        };
        // Each of these two holds two steps: the first chunk is nearly free.
        let mut first = begin(2).unwrap();
        let second = begin(2).unwrap();
        assert_eq!(begin(1).unwrap_err(), ObjectError::Exhausted);
        first.push(b"}").unwrap();
        assert!(first.next().unwrap().is_some());
        drop(begin(1).unwrap());
        drop(second);
        assert!(begin(4).is_ok());
    }

    #[test]
    fn brackets_are_counted_and_not_stacked() {
        let deep = "{\"a\":".to_owned() + &"[".repeat(500_000) + &"]".repeat(500_000) + "}";
        let mut objects = Objects::new(8 << 20, Budget::new(8 << 20));
        objects.push(deep.as_bytes()).unwrap();
        assert_eq!(objects.next().unwrap().map(|object| object.len()), Some(deep.len()));
    }
}
