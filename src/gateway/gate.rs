//! What the pipeline works with on one core, and what one core does for all of them.
//!
//! Promises: made once from the gateway's file; what cores share are messages and references, never a table.
//! Does not: decide (see `pipeline`).

use std::sync::Arc;

use qmesh_net::tls::TlsError;

use super::auth::Authentication;
use super::auth::challenge::Challenge;
use super::auth::issuers::{self, Issuers, issuers};
use super::decisions::Decisions;
use super::rate::{self, Limits, Table};
use crate::config::Gateway;

/// The gate on one core.
pub struct Gate {
    /// What the file says.
    pub gateway: Arc<Gateway>,
    /// Who asks, and what those are told whose token does not count; `None` when everyone is anonymous.
    pub identity: Option<Identity>,
    /// How often one caller may ask.
    pub limits: Limits,
    /// What was decided.
    pub decisions: Arc<Decisions>,
}

/// How callers are known.
pub struct Identity {
    /// From token to principal.
    pub authentication: Authentication,
    /// From no token to where to get one.
    pub challenge: Challenge,
}

/// What every core is given to make its gate.
#[derive(Clone)]
pub struct Blueprint {
    gateway: Arc<Gateway>,
    issuers: Option<Issuers>,
    table: Table,
}

/// What one core runs for all.
pub struct Drivers {
    issuers: Option<issuers::Driver>,
    owner: rate::Owner,
}

/// Reads a gateway's file into what cores are given.
///
/// # Errors
/// TLS, when no authority could vouch for an issuer.
pub fn prepare(gateway: Gateway) -> Result<(Blueprint, Drivers), TlsError> {
    let (table, owner) = rate::table(&gateway.limits);
    let (issuers, driver) = match gateway.auth.as_ref().map(issuers).transpose()? {
        Some((issuers, driver)) => (Some(issuers), Some(driver)),
        None => (None, None),
    };
    Ok((Blueprint { gateway: Arc::new(gateway), issuers, table }, Drivers { issuers: driver, owner }))
}

impl Drivers {
    /// Runs until the cores end.
    pub async fn run(self) {
        let Self { issuers, owner } = self;
        let issuers = async move {
            if let Some(issuers) = issuers {
                issuers.run().await;
            }
        };
        futures_util::join!(issuers, owner.run());
    }
}

impl Gate {
    /// The gate of this core.
    pub fn new(blueprint: Blueprint) -> Self {
        let Blueprint { gateway, issuers, table } = blueprint;
        let identity = gateway.auth.as_ref().zip(issuers).map(|(auth, issuers)| Identity {
            authentication: Authentication::new(auth, issuers),
            challenge: Challenge::new(auth),
        });
        let limits = Limits::new(Arc::new(gateway.limits.clone()), table);
        Self { gateway, identity, limits, decisions: Arc::default() }
    }
}
