//! A qmesh node: one binary that is any node of a distributed, content-addressed DAG.

pub mod cli;
pub mod config;
pub mod dag;
pub mod error;
pub mod ids;
pub mod limits;
