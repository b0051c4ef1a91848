//! The gateway's file: who may ask, under which names, and how often.
//!
//! Promises: parsed once, into types; an unknown key is refused with the nearest known one, a value of the wrong form with what
//! would be accepted, and two values that cannot both hold by both names. Does not: reach an issuer, or say what the cluster is.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::Authority;

use super::nearest::nearest;
use crate::limits::{RATE_BURST_DEFAULT, RATE_PER_SECOND_DEFAULT};

/// Size of the file, in bytes.
pub const GATEWAY_BYTES_MAX: usize = 64 << 10;
/// Issuers, hosts, origins and tools of one file, each.
const ROWS_MAX: usize = 64;
/// The largest rate and the largest burst that can be asked for.
const RATE_MAX: u64 = 10_000_000;
/// The path of the MCP endpoint: the only one that a resource may have.
const MCP_PATH: &str = "/mcp";

/// Sections and their keys. `limits.tool` is a list of sections.
const KEYS: [(&str, &[&str]); 5] = [
    ("ingress", &["hosts", "origins"]),
    ("auth", &["resource", "issuers", "required", "clock_skew_s", "jwks_stale_s", "jwks_refetch_s", "ca", "scopes"]),
    ("auth.scopes", &["read", "write", "call", "admin"]),
    ("limits", &["requests_per_second", "burst", "tool"]),
    ("limits.tool", &["name", "requests_per_second", "burst"]),
];

/// What the gateway's file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// By which names the HTTP door is reached beyond loopback.
    pub ingress: Ingress,
    /// Whose tokens are taken; `None` takes everyone as anonymous.
    pub auth: Option<Auth>,
    /// How often one caller may ask.
    pub limits: RateLimits,
}

/// Names of the HTTP door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingress {
    /// Hosts that a request may be for, in lower case; with a port, that port only.
    pub hosts: Vec<String>,
    /// Origins whose pages may ask, as browsers send them.
    pub origins: Vec<String>,
}

impl Ingress {
    /// The hosts without their ports, as a certificate has them: names, and addresses.
    pub fn subjects(&self) -> (Vec<String>, Vec<IpAddr>) {
        let hosts = self.hosts.iter().filter_map(|host| host.parse::<Authority>().ok());
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        for authority in hosts {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            match host.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(host.to_owned()),
            }
        }
        (names, addresses)
    }
}

/// The node as an OAuth 2.1 resource server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The canonical URI of this node: what a token's audience must be (RFC 8707).
    pub resource: String,
    /// Whose tokens are taken.
    pub issuers: Vec<String>,
    /// Whether a request without a token is refused.
    pub required: bool,
    /// How far clocks may differ.
    pub clock_skew: Duration,
    /// How long keys are still believed when the issuer does not answer their refresh.
    pub jwks_stale: Duration,
    /// The shortest time between two fetches that an unknown key asks for.
    pub jwks_refetch: Duration,
    /// A certificate that issuers may be vouched for by, beside the host's own authorities.
    pub ca: Option<PathBuf>,
    /// What the classes of operation are called in tokens.
    pub scopes: ScopeNames,
}

/// What each class of operation is called in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeNames {
    /// Reading.
    pub read: String,
    /// Writing.
    pub write: String,
    /// Calling tools of other servers.
    pub call: String,
    /// The node's figures.
    pub admin: String,
}

impl Default for ScopeNames {
    fn default() -> Self {
        let [read, write, call, admin] = ["dag:read", "dag:write", "mcp:call", "admin"].map(str::to_owned);
        Self { read, write, call, admin }
    }
}

/// How often one caller may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// All requests together, but those of the tools below.
    pub requests: Rate,
    /// Calls of single tools, which are counted by themselves.
    pub tools: Vec<(String, Rate)>,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { requests: Rate { per_second: RATE_PER_SECOND_DEFAULT, burst: RATE_BURST_DEFAULT }, tools: Vec::new() }
    }
}

/// A rate, and how much may come at once after a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

/// Why the file was refused.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// It cannot be read.
    #[error("{name}: {source}")]
    Unreadable {
        /// The file.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is larger than it may be.
    #[error("{name}: larger than {GATEWAY_BYTES_MAX} bytes, which no gateway file is")]
    TooLarge {
        /// The file.
        name: String,
    },
    /// It is not TOML.
    #[error("{name}: {detail}")]
    Syntax {
        /// The file.
        name: String,
        /// Line, column and what was expected there.
        detail: String,
    },
    /// A key that does not exist.
    #[error("{name}: unknown key {key:?}{}", nearest.as_ref().map_or_else(String::new, |nearest| format!(" (did you mean {nearest:?}?)")))]
    UnknownKey {
        /// The file.
        name: String,
        /// The key as written, with its section.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// A value of the wrong form, out of range, or missing.
    #[error("{name}: {key} = {value}: must be {allowed}")]
    Value {
        /// The file.
        name: String,
        /// The key with its section.
        key: String,
        /// The value as written.
        value: String,
        /// What would be accepted.
        allowed: &'static str,
    },
}

impl Gateway {
    /// Reads the file.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn load(path: &Path) -> Result<Self, GatewayError> {
        let name = path.display().to_string();
        let unreadable = |source| GatewayError::Unreadable { name: name.clone(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, GATEWAY_BYTES_MAX as u64 + 1), &mut text)
            .map_err(unreadable)?;
        Self::parse(&name, &text)
    }

    /// Reads a text; `name` stands in errors.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn parse(name: &str, text: &str) -> Result<Self, GatewayError> {
        if GATEWAY_BYTES_MAX < text.len() {
            return Err(GatewayError::TooLarge { name: name.to_owned() });
        }
        let root: toml::Table = text.parse().map_err(|error: toml::de::Error| GatewayError::Syntax {
            name: name.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        refuse_unknown(name, "", &root)?;
        let ingress = Section::of(name, "ingress", root.get("ingress"))?;
        let limits = Section::of(name, "limits", root.get("limits"))?;
        Ok(Self {
            ingress: Ingress {
                hosts: ingress.texts("hosts", is_host, "a list of host names or addresses, with or without a port")?,
                origins: ingress.texts(
                    "origins",
                    is_origin,
                    "a list of origins such as \"https://app.example.org\"",
                )?,
            },
            auth: root.get("auth").map(|auth| Auth::read(&Section::of(name, "auth", Some(auth))?)).transpose()?,
            limits: RateLimits::read(&limits)?,
        })
    }
}

impl Auth {
    fn read(section: &Section<'_>) -> Result<Self, GatewayError> {
        const RESOURCE: &str =
            "the https:// URI under which clients know this node, without a path or with the path /mcp";
        const ISSUERS: &str =
            "a list of one or more issuers: https:// URIs, or http:// on a loopback address, without ? and #";
        let resource = section.text("resource")?.filter(|text| is_resource(text));
        let resource = resource.ok_or_else(|| section.wrong("resource", RESOURCE))?.to_owned();
        let issuers = section.texts("issuers", is_issuer, ISSUERS)?;
        if issuers.is_empty() {
            return Err(section.wrong("issuers", ISSUERS));
        }
        let scopes = Section::of(section.name, "auth.scopes", section.get("scopes"))?;
        let default = ScopeNames::default();
        let scope = |key: &'static str, default: String| match scopes.text(key)? {
            None => Ok(default),
            Some(text) if is_scope(text) => Ok(text.to_owned()),
            Some(_) => Err(scopes.wrong(key, "one scope: visible ASCII without spaces, quotes and backslashes")),
        };
        let seconds = |key, range, default, allowed| section.number(key, range, default, allowed);
        Ok(Self {
            resource,
            issuers,
            required: section.flag("required")?.unwrap_or(true),
            clock_skew: Duration::from_secs(seconds("clock_skew_s", (0, 300), 30, "0 to 300 (seconds)")?),
            jwks_stale: Duration::from_secs(seconds("jwks_stale_s", (0, 604_800), 3600, "0 to 604800 (seconds)")?),
            jwks_refetch: Duration::from_secs(seconds("jwks_refetch_s", (1, 3600), 10, "1 to 3600 (seconds)")?),
            ca: section.text("ca")?.map(PathBuf::from),
            scopes: ScopeNames {
                read: scope("read", default.read)?,
                write: scope("write", default.write)?,
                call: scope("call", default.call)?,
                admin: scope("admin", default.admin)?,
            },
        })
    }
}

impl RateLimits {
    fn read(section: &Section<'_>) -> Result<Self, GatewayError> {
        let default = Self::default().requests;
        let requests = rate(section, default)?;
        let tools = match section.get("tool") {
            None => &[],
            Some(toml::Value::Array(tools)) if tools.len() <= ROWS_MAX => tools.as_slice(),
            Some(_) => return Err(section.wrong("tool", "at most 64 sections [[limits.tool]]")),
        };
        let tools = tools.iter().map(|tool| {
            let tool = Section::of(section.name, "limits.tool", Some(tool))?;
            let name = tool.text("name")?.filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| tool.wrong("name", "the name of a tool"))?;
            Ok((name.to_owned(), rate(&tool, requests)?))
        });
        Ok(Self { requests, tools: tools.collect::<Result<_, _>>()? })
    }
}

fn rate(section: &Section<'_>, default: Rate) -> Result<Rate, GatewayError> {
    let number = |key, default: u32| {
        let number = section.number(key, (1, RATE_MAX), u64::from(default), "1 to 10000000")?;
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    };
    Ok(Rate { per_second: number("requests_per_second", default.per_second)?, burst: number("burst", default.burst)? })
}

/// Whether a URI may name a server: https, or http where nobody is between.
fn is_server(uri: &Uri) -> bool {
    let local = uri.host().is_some_and(is_loopback_host);
    let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    plain && (uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && local)) && uri.query().is_none()
}

/// Whether a host is this machine by its own words: a loopback address, or `localhost`.
pub fn is_loopback_host(host: &str) -> bool {
    let name = host.trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let named = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    named || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_resource(text: &str) -> bool {
    !text.contains('#') && text.parse().is_ok_and(|uri: Uri| is_server(&uri) && matches!(uri.path(), "/" | MCP_PATH))
}

fn is_issuer(text: &str) -> bool {
    !text.contains('#') && text.parse().is_ok_and(|uri: Uri| is_server(&uri))
}

fn is_host(text: &str) -> bool {
    let plain = !text.contains('@') && text.to_ascii_lowercase() == text;
    plain && text.parse::<Authority>().is_ok()
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(is_host)
}

fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// One section, and how it is read.
struct Section<'t> {
    name: &'t str,
    path: &'static str,
    table: Option<&'t toml::Table>,
}

impl<'t> Section<'t> {
    fn of(name: &'t str, path: &'static str, value: Option<&'t toml::Value>) -> Result<Self, GatewayError> {
        let Some(value) = value else { return Ok(Self { name, path, table: None }) };
        let key = path.to_owned();
        let not_a_section =
            || GatewayError::Value { name: name.to_owned(), key, value: value.to_string(), allowed: "a section" };
        let table = value.as_table().ok_or_else(not_a_section)?;
        refuse_unknown(name, path, table)?;
        Ok(Self { name, path, table: Some(table) })
    }

    fn get(&self, key: &str) -> Option<&'t toml::Value> {
        self.table.and_then(|table| table.get(key))
    }

    fn wrong(&self, key: &str, allowed: &'static str) -> GatewayError {
        let value = self.get(key).map_or_else(|| "(absent)".to_owned(), toml::Value::to_string);
        GatewayError::Value { name: self.name.to_owned(), key: format!("{}.{key}", self.path), value, allowed }
    }

    fn text(&self, key: &str) -> Result<Option<&'t str>, GatewayError> {
        let value = self.get(key);
        value.map(|value| value.as_str().ok_or_else(|| self.wrong(key, "a text"))).transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, GatewayError> {
        let value = self.get(key);
        value.map(|value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))).transpose()
    }

    fn number(
        &self,
        key: &str,
        (least, most): (u64, u64),
        default: u64,
        allowed: &'static str,
    ) -> Result<u64, GatewayError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        number.filter(|number| (least..=most).contains(number)).ok_or_else(|| self.wrong(key, allowed))
    }

    fn texts(&self, key: &str, fits: fn(&str) -> bool, allowed: &'static str) -> Result<Vec<String>, GatewayError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let rows = value.as_array().filter(|rows| rows.len() <= ROWS_MAX);
        let texts = rows.and_then(|rows| {
            let texts = rows.iter().map(|row| row.as_str().filter(|text| fits(text)).map(str::to_owned));
            texts.collect::<Option<Vec<String>>>()
        });
        texts.ok_or_else(|| self.wrong(key, allowed))
    }
}

fn refuse_unknown(name: &str, path: &str, table: &toml::Table) -> Result<(), GatewayError> {
    let within = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let known = |key: &str| match path {
        "" => KEYS.iter().any(|(section, _)| *section == key),
        path => KEYS.iter().any(|(section, keys)| *section == path && keys.contains(&key)),
    };
    let Some(key) = table.keys().find(|key| !known(key)) else { return Ok(()) };
    let key = within(key);
    let all: Vec<String> = KEYS
        .iter()
        .flat_map(|(section, keys)| {
            let keys = keys.iter().map(move |key| format!("{section}.{key}"));
            std::iter::once((*section).to_owned()).chain(keys)
        })
        .collect();
    let nearest = nearest(&key, all.iter().map(String::as_str)).map(str::to_owned);
    Err(GatewayError::UnknownKey { name: name.to_owned(), key, nearest })
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
