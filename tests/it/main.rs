//! Castd as its users meet it: real processes, real clients, real signals.
//!
//! ```text
//!   harness/        starts, stops, kills and asks servers; runs a case once for each backend
//!   etcdctl/        Debian's etcdctl 3.4 and what it prints
//!   kv/ watch/      the v3 API through the etcd-client crate and, for what that cannot say, plain gRPC
//!   lease.rs …
//!   cluster/        several members: each serves, leaders go, members come and go
//!   recovery/       what is left goes on alone; a saved snapshot founds a new cluster
//!   runbooks/       docs/operations.md, as it is typed
//!   maintenance/    snapshot, defragment, hashes, leadership, downgrade
//!   quota/          a store that is full, alarms, and space that comes back
//!   restart.rs      what is still there after a stop and after a kill
//!   durability/     the same a hundred times over, under load
//!   fsync.rs        a disk that fails
//!   logs.rs         what is slow, how it starts and stops, files that are full
//!   metrics/        what is counted, and under which names
//!   tracing.rs      what a collector hears of one request
//!   gateway/        the same API as JSON, by curl, by WebSocket, and next to etcd's gateway
//!   process/ http   flags, files, signals, exit codes; the client port spoken to by other than gRPC
//!   listeners.rs    unix sockets, ports for HTTP or metrics alone, descriptors
//!   hostile/        floods, half requests, nonsense: and a bystander who must not notice
//!   differential/   one script for etcd and for Castd, and the list of the differences we want
//! ```
//! `CASTD_TEST_SERVER=/usr/bin/etcd` runs the cases that know no backend against that etcd 3.4 instead, which is how
//! they are known to be right. Where 3.7 answers otherwise a case asks [`harness::Setup::is_etcd`].
#![expect(clippy::disallowed_methods, reason = "processes live in real time, so their tests do")]

mod harness;

mod cluster;
mod compaction;
mod differential;
mod durability;
mod elections;
mod etcdctl;
mod fsync;
mod gateway;
mod hostile;
mod http;
mod kv;
mod lease;
mod listeners;
mod locks;
mod logs;
mod maintenance;
mod members;
mod membership;
mod metrics;
mod process;
mod quota;
mod recovery;
mod restart;
mod runbooks;
mod tracing;
mod watch;
