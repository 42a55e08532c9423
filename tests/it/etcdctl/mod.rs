//! Debian's etcdctl 3.4 and what it prints.

mod cluster;
mod kv;
mod lease;
mod watch;
