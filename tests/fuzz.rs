//! Seeded fuzzing of everything that reads a stranger's bytes.
//!
//! Each target starts from valid input, changes it, and hands it to the real parser or to a real node over a real socket. What
//! is tried for a second here is tried for long by hand:
//!
//! ```sh
//! QMESH_FUZZ_SECONDS=600 cargo test --profile fuzz --test fuzz -- --nocapture TARGET
//! ```
//!
//! Targets that no other crate can reach stand beside what they try, in `src/gateway/mcp`, `src/cli/transfer` and
//! `net/src/assembly.rs`, and obey the same variables (`fuzz/drive.rs`).
//!
//! Promises: a failure names the seed that repeats it. Does not: look at coverage.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is what a test reports")]

#[path = "fuzz/answers.rs"]
mod answers;
#[path = "fuzz/canonical.rs"]
mod canonical;
#[path = "fuzz/codings.rs"]
mod codings;
#[path = "fuzz/corpus.rs"]
mod corpus;
#[path = "fuzz/drive.rs"]
mod drive;
mod house;
#[path = "fuzz/http.rs"]
mod http;
#[path = "fuzz/json_tree.rs"]
mod json_tree;
#[path = "fuzz/log_directory.rs"]
mod log_directory;
#[path = "fuzz/log_frames.rs"]
mod log_frames;
#[path = "fuzz/mcp.rs"]
mod mcp;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/quic.rs"]
mod quic;
#[path = "fuzz/records.rs"]
mod records;
#[path = "fuzz/rest.rs"]
mod rest;
#[path = "../storage/tests/scene/mod.rs"]
mod scene;
#[path = "fuzz/sockets.rs"]
mod sockets;
#[path = "fuzz/stand.rs"]
mod stand;
#[path = "fuzz/words.rs"]
mod words;
