//! What a caller without the right token is told: where to get one, and for what.
//!
//! Promises: a challenge names the metadata of this node (RFC 9728) and all scopes that the request needs at once, so that one
//! round of consent is enough. Does not: issue tokens.

use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use hyper::{StatusCode, Uri};
use serde_json::{Value, json};

use crate::config::gateway::Auth;
use crate::error::Reason;
use crate::gateway::http::Problem;

/// The path of the metadata; the path of the resource is appended.
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// What is said in every challenge.
pub struct Challenge {
    /// Where the metadata is.
    metadata_uri: String,
    metadata: Value,
}

impl Challenge {
    /// The challenges of this configuration.
    pub fn new(auth: &Auth) -> Self {
        let uri: Uri = auth.resource.parse().unwrap_or_default();
        let origin =
            format!("{}://{}", uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |a| a.as_str()));
        let path = uri.path().trim_end_matches('/');
        let scopes = &auth.scopes;
        let metadata = json!({
            "resource": auth.resource,
            "authorization_servers": auth.issuers,
            "scopes_supported": [scopes.read, scopes.write, scopes.call, scopes.admin],
            "bearer_methods_supported": ["header"],
            "resource_name": "qmesh",
        });
        Self { metadata_uri: format!("{origin}{METADATA_PATH}{path}"), metadata }
    }

    /// The metadata of this node as a protected resource.
    pub fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// There is no token, or it does not count: `error` says which.
    pub fn unauthenticated(&self, scope: &str, detail: &str, token_given: bool) -> Problem {
        let error = if token_given {
            format!("error=\"invalid_token\", error_description=\"{}\", ", quoted(detail))
        } else {
            String::new()
        };
        self.refuse(StatusCode::UNAUTHORIZED, Reason::Unauthenticated, &error, scope, detail)
    }

    /// The token counts, and does not reach this far.
    pub fn insufficient(&self, scope: &str) -> Problem {
        let detail = format!("this needs a token with the scopes: {scope}");
        self.refuse(StatusCode::FORBIDDEN, Reason::Denied, "error=\"insufficient_scope\", ", scope, &detail)
    }

    /// The request shows a token in a way that is not taken.
    pub fn malformed(&self, scope: &str, detail: &str) -> Problem {
        self.refuse(StatusCode::BAD_REQUEST, Reason::BadRequest, "error=\"invalid_request\", ", scope, detail)
    }

    fn refuse(&self, status: StatusCode, reason: Reason, error: &str, scope: &str, detail: &str) -> Problem {
        let problem = Problem::with_status(status, reason, detail);
        let scope = if scope.is_empty() { String::new() } else { format!(", scope=\"{scope}\"") };
        let challenge = format!("Bearer {error}resource_metadata=\"{}\"{scope}", self.metadata_uri);
        match HeaderValue::from_str(&challenge) {
            Ok(value) => problem.with_header(WWW_AUTHENTICATE, value),
            Err(_) => problem,
        }
    }
}

/// Text as it may stand between quotes.
fn quoted(text: &str) -> String {
    text.replace(['"', '\\'], "'")
}
