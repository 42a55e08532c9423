//! Castd as its users meet it: real processes, real clients, real signals.
//!
//! ```text
//!   harness/        starts, stops, kills and asks servers; runs a case once for each backend
//!   etcdctl/        Debian's etcdctl 3.4 and what it prints
//!   kv/ watch/      the v3 API through the etcd-client crate and, for what that cannot say, plain gRPC
//!   lease.rs …
//!   maintenance/    snapshot, defragment, hashes, leadership, downgrade
//!   restart.rs      what is still there after a stop and after a kill
//!   durability/     the same a hundred times over, under load
//!   fsync.rs        a disk that fails
//!   tracing.rs      what a collector hears of one request
//!   gateway/        the same API as JSON, by curl, by WebSocket, and next to etcd's gateway
//!   process/ http   flags, files, signals, exit codes; the client port spoken to by other than gRPC
//!   differential/   one script for etcd and for Castd, and the list of the differences we want
//! ```
//! `CASTD_TEST_SERVER=/usr/bin/etcd` runs the cases that know no backend against that etcd 3.4 instead, which is how
//! they are known to be right. Where 3.7 answers otherwise a case asks [`harness::Setup::is_etcd`].
#![expect(clippy::disallowed_methods, reason = "processes live in real time, so their tests do")]

mod harness;

mod differential;
mod durability;
mod etcdctl;
mod fsync;
mod gateway;
mod http;
mod kv;
mod lease;
mod maintenance;
mod members;
mod process;
mod restart;
mod tracing;
mod watch;
