//! A qmesh node: one binary that is any node of a distributed, content-addressed DAG.

pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod dag;
pub mod error;
pub mod feed;
pub mod gateway;
pub mod ids;
pub mod limits;
pub mod membership;
pub mod node;
pub mod router;
pub mod runtime;
pub mod security;
pub mod shard;
pub mod telemetry;

// How fuzz targets are driven, for those that stand beside what they try.
#[cfg(test)]
#[path = "../tests/fuzz"]
mod fuzz {
    pub(crate) mod drive;
    pub(crate) mod mutate;
}
