//! The commands: parse, call, print.
//!
//! Promises: what a command prints is its answer in the form that was asked for; progress and complaints go to stderr.
//! Does not: decide anything that a room could decide.

pub mod doctor;
pub mod output;
pub mod tune;
