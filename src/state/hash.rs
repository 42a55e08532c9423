//! One number for everything a member holds, as far as it is the same on every member and after a restart: etcd's `Hash`.
//!
//! CRC-32C over the tables in the order of their names, each its prefix byte, then key and value of every row in order. Left
//! out is how far the log was applied: it is another moment's, not other data. A means to test members, not to keep: another
//! release may compute it in another way.

use crate::mvcc::StoreError;
use crate::state::{View, rows};
use castd_backend_api::{Op, Table};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Reads every row that `view` stands for.
///
/// # Errors
/// When the backend fails or a row is damaged.
pub fn hash(view: &View) -> Result<u32, StoreError> {
    let mut small = BTreeMap::new();
    for op in rows::snapshot_rows(view) {
        if let Op::Put { table, key, value } = op
            && !rows::is_position(table, &key)
        {
            small.insert((table, key), value);
        }
    }
    let mut hash = 0;
    let mut add = |bytes: &[u8]| hash = crc32c::crc32c_append(hash, bytes);
    for table in Table::ALL {
        add(&[table as u8]);
        if table == Table::Kv {
            view.mvcc.scan_rows(&mut |key, value| {
                add(key);
                add(value);
                ControlFlow::Continue(())
            })?;
        }
        for ((_, key), value) in small.iter().filter(|((of, _), _)| *of == table) {
            add(key);
            add(value);
        }
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;
    use crate::state::Machine;
    use castd_backend_memory::Memory;
    use castd_proto::castdpb::{RaftRequest, raft_request::Op as RaftOp};
    use castd_proto::etcdserverpb as pb;
    use prost::Message as _;
    use raft::eraftpb::Entry;
    use std::sync::Arc;

    fn apply(machine: &mut Machine, op: Option<RaftOp>) {
        let data = RaftRequest { op, ..Default::default() }.encode_to_vec().into();
        let entry = Entry { index: machine.applied().0 + 1, term: Term(2).0, data, ..Default::default() };
        machine.apply(&[entry]).expect("applied");
    }

    #[test]
    fn the_hash_follows_the_data_of_every_table_and_not_the_log() {
        let mut machine = Machine::open(Arc::new(Memory::new())).expect("opened");
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let downgrade = pb::DowngradeInfo { enabled: true, target_version: "3.6.0".to_owned() };
        let changes = [
            RaftOp::ClusterVersion(castd_proto::castdpb::ClusterVersion { version: "3.7.0".to_owned() }),
            RaftOp::Put(put.clone()),
            RaftOp::Put(put),
            RaftOp::LeaseGrant(pb::LeaseGrantRequest { id: 5, ttl: 60 }),
            RaftOp::Compact(pb::CompactionRequest { revision: 2, physical: false }),
            RaftOp::Downgrade(downgrade),
        ];
        let mut seen = vec![hash(&machine.view()).expect("hashed")];
        for op in changes {
            apply(&mut machine, Some(op));
            seen.push(hash(&machine.view()).expect("hashed"));
            apply(&mut machine, None);
            assert_eq!(hash(&machine.view()).expect("hashed"), seen[seen.len() - 1], "an entry that does nothing");
        }
        let last = seen[seen.len() - 1];
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 7, "each change is seen");

        while machine.has_compacted_rows() {
            machine.delete_compacted(10).expect("deleted");
        }
        assert_eq!(hash(&machine.view()).expect("hashed"), last, "whether doomed rows are gone is nobody's business");
        apply(&mut machine, Some(RaftOp::Downgrade(pb::DowngradeInfo::default())));
        assert_ne!(hash(&machine.view()).expect("hashed"), last);
    }
}
