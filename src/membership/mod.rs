//! Who is in the cluster: ids, URL sets and the table of members. Pure: no network, no disk, no clock.

mod go_url;
pub mod ids;
pub mod members;
pub mod urls;
