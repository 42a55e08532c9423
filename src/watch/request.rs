//! A create request as the hub wants it: checked, and with its special values resolved.

use super::EventKind;
use crate::ids::Revision;
use bytes::Bytes;
use castd_proto::etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType};

/// All keys from `start` on, up to but without `end`; `None` is the end of the key space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

/// Which keys a watcher wants to hear about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    Key(Bytes),
    Range(KeyRange),
}

/// Which kinds of events a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub no_put: bool,
    pub no_delete: bool,
}

impl Filters {
    pub fn drop_event(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => self.no_put,
            EventKind::Delete => self.no_delete,
        }
    }
}

/// A watcher to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWatch {
    /// 0 lets the hub choose.
    pub watch_id: i64,
    pub selector: Selector,
    /// `None`: whatever happens after the watcher was created.
    pub start_revision: Option<Revision>,
    pub filters: Filters,
    pub prev_kv: bool,
    pub fragment: bool,
    pub progress_notify: bool,
}

/// Why no watcher was created. [`Refusal::reason`] is what the client reads, and compares.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("etcdserver: mvcc: required revision has been compacted")]
    NegativeRevision,
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    #[error("etcdserver: too many requests")]
    TooManyWatchers,
    /// The edge did not let it through; the text is the whole of what the client gets.
    #[error("{0}")]
    Denied(String),
}

impl Refusal {
    pub fn reason(&self) -> String {
        self.to_string()
    }
}

impl NewWatch {
    /// # Errors
    /// [`Refusal::NegativeRevision`] first, then [`Refusal::EmptyRange`]. etcd checks permission between the two, so the
    /// edge looks at the first before it does, and at the second after.
    pub fn from_request(request: &WatchCreateRequest) -> Result<Self, Refusal> {
        let start_revision = match request.start_revision {
            ..0 => return Err(Refusal::NegativeRevision),
            0 => None,
            revision => Some(Revision(revision)),
        };
        // The smallest key there is stands for "none given".
        let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key.clone() };
        let selector = match request.range_end.as_ref() {
            b"" => Selector::Key(key),
            b"\0" => Selector::Range(KeyRange { start: key, end: None }),
            end if *end <= *key => return Err(Refusal::EmptyRange),
            _ => Selector::Range(KeyRange { start: key, end: Some(request.range_end.clone()) }),
        };
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        Ok(Self {
            watch_id: request.watch_id,
            selector,
            start_revision,
            filters: Filters { no_put: has(FilterType::Noput), no_delete: has(FilterType::Nodelete) },
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(key: &'static str, range_end: &'static str, start_revision: i64) -> Result<NewWatch, Refusal> {
        NewWatch::from_request(&WatchCreateRequest {
            key: Bytes::from_static(key.as_bytes()),
            range_end: Bytes::from_static(range_end.as_bytes()),
            start_revision,
            ..Default::default()
        })
    }

    #[test]
    fn special_range_ends_mean_what_they_mean_in_etcd() {
        let range = |start: &'static str, end: Option<&'static str>| {
            Selector::Range(KeyRange { start: Bytes::from(start), end: end.map(Bytes::from) })
        };
        assert_eq!(create("a", "", 0).unwrap().selector, Selector::Key(Bytes::from("a")));
        assert_eq!(create("", "", 0).unwrap().selector, Selector::Key(Bytes::from("\0")));
        assert_eq!(create("", "\0", 0).unwrap().selector, range("\0", None));
        assert_eq!(create("b", "\0", 0).unwrap().selector, range("b", None));
        assert_eq!(create("a", "b", 0).unwrap().selector, range("a", Some("b")));
        assert_eq!(create("b", "b", 0), Err(Refusal::EmptyRange));
        assert_eq!(create("b", "a", 0), Err(Refusal::EmptyRange));
    }

    #[test]
    fn start_revisions_around_zero() {
        assert_eq!(create("b", "a", -1), Err(Refusal::NegativeRevision), "checked before the range");
        assert_eq!(create("a", "", i64::MIN), Err(Refusal::NegativeRevision));
        assert_eq!(create("a", "", 0).unwrap().start_revision, None);
        assert_eq!(create("a", "", 1).unwrap().start_revision, Some(Revision(1)));
        assert_eq!(create("a", "", i64::MAX).unwrap().start_revision, Some(Revision(i64::MAX)));
    }

    #[test]
    fn both_filters_may_be_given_and_unknown_ones_are_ignored() {
        let request = WatchCreateRequest { key: Bytes::from("a"), filters: vec![1, 0, 7], ..Default::default() };
        assert_eq!(NewWatch::from_request(&request).unwrap().filters, Filters { no_put: true, no_delete: true });
    }
}
