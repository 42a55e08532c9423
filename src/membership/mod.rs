//! Who is in the cluster: ids, URL sets and the table of members. Pure: no network, no disk, no clock.

pub mod downgrade;
mod go_url;
pub mod ids;
pub mod members;
pub mod urls;
