//! The control plane's deciding part: who belongs to the cluster, where shards live, what is wished next.
//!
//! One deterministic state machine ([`State`]) that its own replication group feeds with committed commands, and pure
//! decisions over it: where copies belong ([`placement`]), the next safe step of a group towards its wish
//! ([`next_membership_step`]), whether a request knows the newest topology ([`redirect`]).
//!
//! Promises: equal commands in equal order give equal states; a command repeated gives the outcome it gave; every table is
//! bounded; no step asked for here passes through a configuration without a majority of live voters.
//! [`driver`] has its hands; nothing else here is asynchronous or looks at a clock.
//! Does not: replicate, read a clock, make certificates or secrets, judge who may propose what, or appoint a primary: a
//! group elects its own, this room only wishes.

mod apply;
pub mod ask;
mod certificate;
mod command;
pub mod driver;
mod member;
mod outcome;
mod placement;
mod preview;
mod state;
mod steps;
mod token;
pub mod wire;

#[cfg(test)]
mod apply_tests;
#[cfg(test)]
mod placement_tests;
#[cfg(test)]
mod properties_tests;
#[cfg(test)]
mod scene_tests;
#[cfg(test)]
mod steps_tests;
#[cfg(test)]
mod wire_tests;

pub use certificate::{CertificateRecord, Serial};
pub use command::{Action, Bootstrap, Command, RequestId};
pub use member::{Address, Addresses, CertificateFact, Domain, Member, MemberState, Name, Role, Roles, TextError};
pub use outcome::{Accepted, Change, Outcome, Refused, Wanted, Warning};
pub use placement::{Group, GroupConfig, Placement, placement};
pub use preview::{Difference, Preview, preview};
pub use state::{Broken, Cluster, Policy, Redirect, Standing, State, redirect};
pub use steps::{Progress, Step, next_membership_step, next_transfer};
pub use token::{JoinToken, TokenId, TokenUse};

/// Members that are not removed. The skeleton of each needs a copy of every shard, so more would only multiply copies.
pub const MEMBERS_MAX: usize = 7;
/// Removed members that are still listed; the oldest are forgotten first.
pub const REMOVED_KEPT_MAX: usize = 32;
/// Join tokens not yet forgotten.
pub const TOKENS_MAX: usize = 64;
/// Longest life of a join token, in milliseconds (7 days).
pub const TOKEN_LIFETIME_MS_MAX: u64 = 7 * DAY_MS;
/// Time for which a used or expired token is remembered, so that a lost answer can be asked again, in milliseconds (1 hour).
pub const TOKEN_ANSWER_MS: u64 = DAY_MS / 24;
/// Certificates not yet forgotten, revoked ones included.
pub const CERTIFICATES_MAX: usize = 512;
/// Longest life of a certificate, in milliseconds: 90 days, and one day for the difference of two clocks.
pub const CERTIFICATE_LIFETIME_MS_MAX: u64 = 91 * DAY_MS;
/// Time for which an expired certificate is remembered, in milliseconds (7 days): a revocation must outlive every clock
/// that still believes the certificate.
pub const CERTIFICATE_KEPT_MS: u64 = 7 * DAY_MS;
/// Requests whose outcome can be asked again.
pub const REQUESTS_KEPT_MAX: usize = 256;
/// Copies with a vote that can be wished for a shard.
pub const REPLICATION_FACTOR_MAX: u8 = 5;
/// Voters of the control group: more would slow every command and survive nothing a cluster of this size sees.
pub const CONTROL_VOTERS_MAX: usize = 5;
/// Slots that a cluster can be formed with (S2.2-1).
pub const SLOTS_MAX: u16 = 16_384;
/// Shards that a cluster can be formed with.
pub const SHARDS_MAX: u16 = 64;

/// A day in milliseconds.
const DAY_MS: u64 = 86_400_000;

const _: () = assert!(REPLICATION_FACTOR_MAX as usize <= MEMBERS_MAX);
const _: () = assert!(CONTROL_VOTERS_MAX <= MEMBERS_MAX && CONTROL_VOTERS_MAX % 2 == 1);
// A renewal overlaps the certificate it replaces; the table holds a year of monthly renewals of every member, and the
// removed ones' last.
const _: () = assert!(MEMBERS_MAX * 12 + REMOVED_KEPT_MAX * 2 <= CERTIFICATES_MAX);
const _: () = assert!(SHARDS_MAX <= SLOTS_MAX);
