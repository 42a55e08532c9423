//! Debian's etcdctl and what it prints.
