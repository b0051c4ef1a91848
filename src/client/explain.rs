//! What a node's pipeline would say of a request, asked over HTTP: it is that door's pipeline.
//!
//! Does not: make the request.

use super::connect::{Question, get};
use super::{Address, ClientError, ConnectOptions};
use crate::error::{Reason, Refusal};

/// What the pipeline of the HTTP door at `address` would say of a request: method and path, or an MCP tool, with the access
/// token in `access_token`. The answer is the door's document.
///
/// # Errors
/// What kept the question from being answered.
pub async fn explain_route(
    address: &str,
    options: &ConnectOptions,
    query: &[(&str, &str)],
    access_token: Option<&str>,
) -> Result<serde_json::Value, ClientError> {
    let address = Address::parse(address)?;
    let encoded = |text: &str| {
        let letter = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(letter).collect::<String>()
    };
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let path = format!("/api/v1/route/explain?{}", query.join("&"));
    let question = Question { path: &path, access_token };
    let (status, body) = get(&address, options, &question).await?;
    let document: serde_json::Value =
        serde_json::from_slice(&body).map_err(|_| ClientError::Broken(format!("{status}, and not JSON")))?;
    if status.is_success() {
        return Ok(document);
    }
    let reason = Reason::ALL.into_iter().find(|reason| document["reason"] == reason.code()).unwrap_or(Reason::Internal);
    let detail = document["detail"].as_str().unwrap_or("the door refused to explain");
    Err(ClientError::Refused(Refusal::new(reason, detail)))
}
