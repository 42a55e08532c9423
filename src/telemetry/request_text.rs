//! Requests as log lines show them: in etcd's words, without values, passwords or tokens.
//!
//! ```text
//!   put:<key:"lamp" value_size:2 >
//!   txn:<compare:<target:MOD key:"lamp" mod_revision:3 > success:<request_put:<key:"lamp" value_size:3 >> failure:<>>
//! ```
//! A value is told by its size. Of a request that is not listed here only the name is shown, so that a new one with a
//! secret in it is safe. Texts are cut off: a key may be a megabyte long.

use castd_proto::castdpb::raft_request::Op;
use castd_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::TargetUnion, request_op::Request,
};
use std::fmt::{self, Display, Write};

/// Longer texts end in `…`.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// Writes in protobuf's text format until there is no more room.
struct Text {
    out: String,
    is_full: bool,
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = TEXT_BYTES_MAX.saturating_sub(self.out.len());
        if self.is_full || part.len() > room {
            self.out.push_str(if self.is_full { "" } else { &part[..part.floor_char_boundary(room)] });
            self.out.push_str(if self.is_full { "" } else { "…" });
            self.is_full = true;
            return Err(fmt::Error);
        }
        self.out.push_str(part);
        Ok(())
    }
}

/// The text of whatever `write` writes, as far as there is room.
fn text(write: impl FnOnce(&mut Text) -> fmt::Result) -> String {
    let mut text = Text { out: String::new(), is_full: false };
    // The only error is that it is full, and the text says so.
    let _ = write(&mut text);
    text.out
}

/// Bytes between quotes, as Go's protobuf writes them.
fn quoted(text: &mut Text, bytes: &[u8]) -> fmt::Result {
    text.write_char('"')?;
    for byte in bytes {
        match byte {
            b'\n' => text.write_str("\\n")?,
            b'\r' => text.write_str("\\r")?,
            b'\t' => text.write_str("\\t")?,
            b'"' => text.write_str("\\\"")?,
            b'\\' => text.write_str("\\\\")?,
            b' '..=b'~' => text.write_char(char::from(*byte))?,
            _ => write!(text, "\\{byte:03o}")?,
        }
    }
    text.write_char('"')
}

fn bytes(text: &mut Text, name: &str, value: &[u8]) -> fmt::Result {
    if value.is_empty() {
        return Ok(());
    }
    write!(text, "{name}:")?;
    quoted(text, value)?;
    text.write_char(' ')
}

/// Fields at their default do not show.
fn number(text: &mut Text, name: &str, value: i64) -> fmt::Result {
    if value == 0 { Ok(()) } else { write!(text, "{name}:{value} ") }
}

fn switch(text: &mut Text, name: &str, value: bool) -> fmt::Result {
    if value { write!(text, "{name}:true ") } else { Ok(()) }
}

fn word(text: &mut Text, name: &str, value: i32, word: &str) -> fmt::Result {
    if value == 0 { Ok(()) } else { write!(text, "{name}:{word} ") }
}

fn write_range(text: &mut Text, range: &RangeRequest) -> fmt::Result {
    bytes(text, "key", &range.key)?;
    bytes(text, "range_end", &range.range_end)?;
    number(text, "limit", range.limit)?;
    number(text, "revision", range.revision)?;
    word(text, "sort_order", range.sort_order, range.sort_order().as_str_name())?;
    word(text, "sort_target", range.sort_target, range.sort_target().as_str_name())?;
    switch(text, "serializable", range.serializable)?;
    switch(text, "keys_only", range.keys_only)?;
    switch(text, "count_only", range.count_only)?;
    number(text, "min_mod_revision", range.min_mod_revision)?;
    number(text, "max_mod_revision", range.max_mod_revision)?;
    number(text, "min_create_revision", range.min_create_revision)?;
    number(text, "max_create_revision", range.max_create_revision)
}

fn write_put(text: &mut Text, put: &PutRequest) -> fmt::Result {
    bytes(text, "key", &put.key)?;
    number(text, "value_size", put.value.len() as i64)?;
    number(text, "lease", put.lease)?;
    switch(text, "prev_kv", put.prev_kv)?;
    switch(text, "ignore_value", put.ignore_value)?;
    switch(text, "ignore_lease", put.ignore_lease)
}

fn write_delete_range(text: &mut Text, delete: &DeleteRangeRequest) -> fmt::Result {
    bytes(text, "key", &delete.key)?;
    bytes(text, "range_end", &delete.range_end)?;
    switch(text, "prev_kv", delete.prev_kv)
}

fn write_compare(text: &mut Text, compare: &Compare) -> fmt::Result {
    word(text, "result", compare.result, compare.result().as_str_name())?;
    word(text, "target", compare.target, compare.target().as_str_name())?;
    bytes(text, "key", &compare.key)?;
    match &compare.target_union {
        Some(TargetUnion::Version(version)) => write!(text, "version:{version} ")?,
        Some(TargetUnion::CreateRevision(revision)) => write!(text, "create_revision:{revision} ")?,
        Some(TargetUnion::ModRevision(revision)) => write!(text, "mod_revision:{revision} ")?,
        Some(TargetUnion::Value(value)) => write!(text, "value_size:{} ", value.len())?,
        Some(TargetUnion::Lease(lease)) => write!(text, "lease:{lease} ")?,
        None => {}
    }
    bytes(text, "range_end", &compare.range_end)
}

fn write_operation(text: &mut Text, operation: &RequestOp) -> fmt::Result {
    match &operation.request {
        Some(Request::RequestRange(range)) => within(text, "request_range", |text| write_range(text, range)),
        Some(Request::RequestPut(put)) => within(text, "request_put", |text| write_put(text, put)),
        Some(Request::RequestDeleteRange(delete)) => {
            within(text, "request_delete_range", |text| write_delete_range(text, delete))
        }
        Some(Request::RequestTxn(txn)) => within(text, "request_txn", |text| write_txn(text, txn)),
        None => Ok(()),
    }
}

fn within(text: &mut Text, name: &str, write: impl FnOnce(&mut Text) -> fmt::Result) -> fmt::Result {
    write!(text, "{name}:<")?;
    write(text)?;
    text.write_char('>')
}

fn each<T>(text: &mut Text, items: &[T], mut write: impl FnMut(&mut Text, &T) -> fmt::Result) -> fmt::Result {
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            text.write_char(' ')?;
        }
        write(text, item)?;
    }
    Ok(())
}

fn write_txn(text: &mut Text, txn: &TxnRequest) -> fmt::Result {
    within(text, "compare", |text| each(text, &txn.compare, write_compare))?;
    text.write_char(' ')?;
    within(text, "success", |text| each(text, &txn.success, write_operation))?;
    text.write_char(' ')?;
    within(text, "failure", |text| each(text, &txn.failure, write_operation))
}

fn write_compaction(text: &mut Text, compact: &CompactionRequest) -> fmt::Result {
    number(text, "revision", compact.revision)?;
    switch(text, "physical", compact.physical)
}

#[must_use]
pub fn range(range: &RangeRequest) -> String {
    text(|text| write_range(text, range))
}

#[must_use]
pub fn put(put: &PutRequest) -> String {
    text(|text| write_put(text, put))
}

#[must_use]
pub fn delete_range(delete: &DeleteRangeRequest) -> String {
    text(|text| write_delete_range(text, delete))
}

#[must_use]
pub fn txn(txn: &TxnRequest) -> String {
    text(|text| write_txn(text, txn))
}

/// What a log entry asks for.
#[must_use]
pub fn raft_request(op: &Op) -> String {
    text(|text| match op {
        Op::Put(put) => within(text, "put", |text| write_put(text, put)),
        Op::DeleteRange(delete) => within(text, "delete_range", |text| write_delete_range(text, delete)),
        Op::Txn(txn) => within(text, "txn", |text| write_txn(text, txn)),
        Op::Compact(compact) => within(text, "compaction", |text| write_compaction(text, compact)),
        Op::LeaseGrant(grant) => write!(text, "lease_grant:<ttl:{}-second id:{:016x}>", grant.ttl, grant.id),
        Op::LeaseRevoke(revoke) => write!(text, "lease_revoke:<id:{:016x}>", revoke.id),
        other => write!(text, "{}:<>", name(other)),
    })
}

/// The variant's name and nothing of what is in it.
fn name(op: &Op) -> impl Display {
    let debug = text(|text| write!(text, "{op:?}"));
    debug.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use castd_proto::castdpb::LeaseCheckpoints;
    use castd_proto::etcdserverpb as pb;

    fn put_of(key: &'static [u8], value: &'static str) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
    }

    #[test]
    fn texts_are_etcds_and_show_no_value() {
        let op = Op::Put(PutRequest { lease: 7, prev_kv: true, ..put_of(b"a\"\x00\xff", "secret") });
        assert_eq!(raft_request(&op), r#"put:<key:"a\"\000\377" value_size:6 lease:7 prev_kv:true >"#);
        let range_of = RangeRequest {
            key: "a".into(),
            range_end: "b".into(),
            limit: 3,
            sort_order: pb::range_request::SortOrder::Descend.into(),
            keys_only: true,
            ..RangeRequest::default()
        };
        assert_eq!(range(&range_of), r#"key:"a" range_end:"b" limit:3 sort_order:DESCEND keys_only:true "#);
        let compare = |target: pb::compare::CompareTarget, union| Compare {
            result: pb::compare::CompareResult::Greater.into(),
            target: target.into(),
            key: "k".into(),
            target_union: Some(union),
            ..Compare::default()
        };
        let nested = TxnRequest {
            success: vec![RequestOp { request: Some(Request::RequestPut(put_of(b"n", "secret"))) }],
            ..TxnRequest::default()
        };
        let whole = TxnRequest {
            compare: vec![
                compare(pb::compare::CompareTarget::Value, TargetUnion::Value("secret".into())),
                compare(pb::compare::CompareTarget::Mod, TargetUnion::ModRevision(0)),
            ],
            success: vec![
                RequestOp { request: Some(Request::RequestPut(put_of(b"p", "secret"))) },
                RequestOp { request: Some(Request::RequestTxn(nested)) },
            ],
            failure: vec![RequestOp { request: Some(Request::RequestRange(range_of)) }],
        };
        let shown = raft_request(&Op::Txn(whole));
        assert_eq!(
            shown,
            concat!(
                r#"txn:<compare:<result:GREATER target:VALUE key:"k" value_size:6  "#,
                r#"result:GREATER target:MOD key:"k" mod_revision:0 > "#,
                r#"success:<request_put:<key:"p" value_size:6 > "#,
                r#"request_txn:<compare:<> success:<request_put:<key:"n" value_size:6 >> failure:<>>> "#,
                r#"failure:<request_range:<key:"a" range_end:"b" limit:3 sort_order:DESCEND keys_only:true >>>"#
            )
        );
        let revoke = Op::LeaseRevoke(pb::LeaseRevokeRequest { id: 0x1234 });
        assert_eq!(raft_request(&revoke), "lease_revoke:<id:0000000000001234>");
        assert_eq!(raft_request(&Op::LeaseCheckpoint(LeaseCheckpoints::default())), "LeaseCheckpoint:<>");
    }

    #[test]
    fn long_texts_are_cut_off() {
        let put_of = PutRequest { key: vec![0xff; 1 << 20].into(), ..PutRequest::default() };
        let shown = put(&put_of);
        assert!(shown.len() <= TEXT_BYTES_MAX + "…".len() && shown.ends_with('…'), "{}", shown.len());
    }
}
