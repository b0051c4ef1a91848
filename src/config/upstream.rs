//! MCP servers behind the gateway, as `upstreams.d/*.toml` declares them: one file a server, its name the file's.
//!
//! Promises: unknown keys, values out of range and secrets that cannot be read are refused with the file's name; one wrong file
//! costs the other servers nothing. Does not: connect to anything.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::pool::{Balance, BreakerRule, ENDPOINTS_MAX, Health, Pooling, Retries};

/// Servers behind one gateway.
pub const UPSTREAMS_MAX: usize = 256;
/// Length of a server's name, in bytes.
pub const NAME_BYTES_MAX: usize = 32;
/// Bytes of one declaration.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Calls that the node may have open at one server, unless the file says otherwise (S5.1: 100).
const CONCURRENCY_DEFAULT: usize = 100;
/// The most that the file may say.
const CONCURRENCY_MAX: usize = 10_000;
/// Time for one call (S3.2-5: 30 s).
const TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// The most that a call may take, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 600_000;
/// Time between two readings of a server's lists where it does not say how long they hold.
const REFRESH_S_DEFAULT: u64 = 60;
/// What stands between a server's prefix and the name it gave (two of what names themselves use one of).
pub const SEPARATOR: &str = "__";

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Streamable HTTP.
    Http {
        /// The MCP endpoints of the same server's replicas, `http://` or `https://`.
        urls: Vec<String>,
        /// Headers of every request, secrets read.
        headers: Vec<(String, String)>,
        /// A PEM file with the authority of its certificate, instead of the public ones.
        authority: Option<PathBuf>,
    },
    /// A process that is started here and spoken to over its standard input and output.
    Stdio {
        /// The program and its arguments.
        command: Vec<String>,
        /// Variables beside those of the node.
        environment: BTreeMap<String, String>,
        /// Where it runs.
        directory: Option<PathBuf>,
    },
}

/// Which revisions of the protocol are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Era {
    /// The newest that the server answers to.
    #[default]
    Auto,
    /// 2026-07-28: without sessions.
    Modern,
    /// 2025-11-25 and before: with `initialize` and a session.
    Legacy,
}

/// What is said of one of the server's tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolRule {
    /// The name under which clients see it, instead of prefix and name.
    pub alias: Option<String>,
    /// Whether clients see it.
    #[serde(default)]
    pub hidden: bool,
    /// Time for a call of it, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// One server behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name: lower-case letters, digits and hyphens.
    pub name: String,
    /// How it is reached.
    pub reach: Reach,
    /// Which revisions are tried.
    pub era: Era,
    /// What its tools' and prompts' names begin with for clients; empty for nothing.
    pub prefix: String,
    /// Time for one call.
    pub timeout: Duration,
    /// Calls that the node may have open there.
    pub concurrency_max: usize,
    /// Time between two readings of its lists.
    pub refresh: Duration,
    /// Whether it takes no new calls.
    pub drained: bool,
    /// By the names that the server gave them.
    pub tools: BTreeMap<String, ToolRule>,
    /// How calls are spread over its endpoints.
    pub pooling: Pooling,
}

/// Why a declaration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {detail}")]
pub struct UpstreamError {
    /// The file.
    pub file: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    url: Option<String>,
    urls: Option<Vec<String>>,
    command: Option<Vec<String>>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    authority: Option<PathBuf>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    directory: Option<PathBuf>,
    #[serde(default)]
    era: Era,
    prefix: Option<String>,
    timeout_ms: Option<u64>,
    concurrency_max: Option<usize>,
    refresh_s: Option<u64>,
    #[serde(default)]
    drained: bool,
    #[serde(default)]
    tools: BTreeMap<String, ToolRule>,
    #[serde(default)]
    balance: Balance,
    hash_argument: Option<String>,
    #[serde(default)]
    health: Health,
    #[serde(default)]
    breaker: BreakerRule,
    #[serde(default)]
    retries: Retries,
}

impl Upstream {
    /// Reads one declaration. `name` is the file's without its ending.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        check_name(name)?;
        let declared: Declared = toml::from_str(text).map_err(|error| error.to_string())?;
        let Declared { url, urls, command, headers, authority, environment, directory, .. } = declared;
        let urls = match (url, urls) {
            (Some(_), Some(_)) => return Err("one of url and urls, not both".to_owned()),
            (Some(url), None) => Some(vec![url]),
            (None, urls) => urls,
        };
        let reach = match (urls, command) {
            (Some(urls), None) => {
                if !environment.is_empty() || directory.is_some() {
                    return Err("environment and directory belong to a command, not to a url".to_owned());
                }
                within("the number of urls", urls.len() as u64, 1, ENDPOINTS_MAX as u64)?;
                for (at, url) in urls.iter().enumerate() {
                    let known = url.starts_with("http://") || url.starts_with("https://");
                    if !known || url.parse::<hyper::Uri>().is_err() {
                        return Err(format!("url = {url:?} must be http:// or https://"));
                    }
                    if urls[..at].contains(url) {
                        return Err(format!("urls has {url:?} twice"));
                    }
                }
                let read = |(name, value): (String, String)| Ok((name, secret(&value)?));
                let headers = headers.into_iter().map(read).collect::<Result<_, String>>()?;
                Reach::Http { urls, headers, authority }
            }
            (None, Some(command)) => {
                if !headers.is_empty() || authority.is_some() {
                    return Err("headers and authority belong to a url, not to a command".to_owned());
                }
                if command.first().is_none_or(String::is_empty) {
                    return Err("command must name a program: command = [\"program\", \"argument\"]".to_owned());
                }
                let read = |(name, value): (String, String)| Ok((name, secret(&value)?));
                let environment = environment.into_iter().map(read).collect::<Result<_, String>>()?;
                Reach::Stdio { command, environment, directory }
            }
            _ => return Err(
                "one of url = \"http://…\", urls = [\"http://…\"] and command = [\"…\"] must be there, and only one"
                    .to_owned(),
            ),
        };
        let pooling = Pooling {
            balance: declared.balance,
            hash_argument: declared.hash_argument,
            health: declared.health,
            breaker: declared.breaker,
            retries: declared.retries,
        };
        pooling.check()?;
        let prefix = match declared.prefix {
            None => format!("{name}{SEPARATOR}"),
            Some(prefix) if prefix.is_empty() => prefix,
            Some(prefix) => {
                check_name(&prefix)?;
                format!("{prefix}{SEPARATOR}")
            }
        };
        let timeout_ms = within("timeout_ms", declared.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT), 1, TIMEOUT_MS_MAX)?;
        for (tool, rule) in &declared.tools {
            if let Some(alias) = &rule.alias {
                check_name(alias).map_err(|error| format!("tools.{tool}.alias: {error}"))?;
            }
            within("timeout_ms", rule.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT), 1, TIMEOUT_MS_MAX)?;
        }
        let concurrency = declared.concurrency_max.unwrap_or(CONCURRENCY_DEFAULT) as u64;
        Ok(Self {
            name: name.to_owned(),
            reach,
            era: declared.era,
            prefix,
            timeout: Duration::from_millis(timeout_ms),
            concurrency_max: within("concurrency_max", concurrency, 1, CONCURRENCY_MAX as u64)? as usize,
            refresh: Duration::from_secs(within(
                "refresh_s",
                declared.refresh_s.unwrap_or(REFRESH_S_DEFAULT),
                1,
                86_400,
            )?),
            drained: declared.drained,
            tools: declared.tools,
            pooling,
        })
    }

    /// Time for a call of the tool that the server calls `tool`.
    pub fn timeout_of(&self, tool: &str) -> Duration {
        let own = self.tools.get(tool).and_then(|rule| rule.timeout_ms);
        own.map_or(self.timeout, Duration::from_millis)
    }
}

/// All declarations of a folder, by name; a folder that is not there has none.
///
/// # Errors
/// The folder's, when it cannot be read. A wrong file is an error of its own in the list.
pub fn read_folder(folder: &Path) -> std::io::Result<Vec<Result<Upstream, UpstreamError>>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    let beyond = files.split_off(files.len().min(UPSTREAMS_MAX));
    let mut found: Vec<_> = files.iter().map(|path| read_file(path)).collect();
    found.extend(beyond.iter().map(|path| refused(path, format!("more than {UPSTREAMS_MAX} upstreams"))));
    Ok(found)
}

fn read_file(path: &Path) -> Result<Upstream, UpstreamError> {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let read = || {
        let bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
        if FILE_BYTES_MAX < bytes {
            return Err(format!("{bytes} bytes, at most {FILE_BYTES_MAX} bytes"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Upstream::parse(name, &text)
    };
    read().or_else(|detail| refused(path, detail))
}

fn refused(path: &Path, detail: impl fmt::Display) -> Result<Upstream, UpstreamError> {
    Err(UpstreamError { file: path.display().to_string(), detail: detail.to_string() })
}

/// Whether `name` can be a server's: it becomes part of tools' names, which some models' interfaces restrict.
///
/// # Errors
/// The rule.
pub fn check_name(name: &str) -> Result<(), String> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(letters);
    if good && !name.contains(SEPARATOR) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name: 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _, without {SEPARATOR:?}, which ends a prefix"
    ))
}

/// `env:NAME`, `file:PATH`, or the value itself.
fn secret(value: &str) -> Result<String, String> {
    if let Some(variable) = value.strip_prefix("env:") {
        return std::env::var(variable)
            .map_err(|_| format!("the variable {variable} is not set in the node's environment"));
    }
    if let Some(path) = value.strip_prefix("file:") {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        return Ok(text.trim_end().to_owned());
    }
    Ok(value.to_owned())
}

pub(super) fn within(key: &str, value: u64, least: u64, most: u64) -> Result<u64, String> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(format!("{key} = {value} must be from {least} to {most}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;

    #[test]
    fn s3_1_1_a_declaration_has_its_defaults() {
        let upstream = Upstream::parse("files", "url = \"http://127.0.0.1:9000/mcp\"").unwrap();
        assert_eq!(upstream.prefix, "files__");
        assert_eq!(upstream.timeout, Duration::from_secs(30));
        assert_eq!(upstream.era, Era::Auto);
        let text =
            "command = [\"server\", \"--stdio\"]\nprefix = \"\"\ntimeout_ms = 5\n[tools.slow]\ntimeout_ms = 9000";
        let upstream = Upstream::parse("local", text).unwrap();
        assert_eq!(upstream.prefix, "");
        assert_eq!(upstream.timeout_of("slow"), Duration::from_secs(9));
        assert_eq!(upstream.timeout_of("quick"), Duration::from_millis(5));
    }

    #[test]
    fn s3_1_1_a_wrong_declaration_says_what_would_be_right() {
        let check = |name: &str, text: &str, told: &str| {
            let error = Upstream::parse(name, text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        };
        let good = "url = \"http://h/mcp\"";
        check("Files", good, "is no name");
        check("a__b", good, "without \"__\"");
        check("a", "", "one of url");
        check("a", "url = \"ftp://h\"", "http:// or https://");
        check("a", "url = \"http://h\"\ncommand = [\"x\"]", "only one");
        check("a", "url = \"http://h\"\nurls = [\"http://h\"]", "not both");
        check("a", "urls = []", "number of urls = 0");
        check("a", "urls = [\"http://h\", \"http://h\"]", "twice");
        check("a", "url = \"http://h\"\n[health]\nerror_percent = 101", "from 0 to 100");
        check("a", "url = \"http://h\"\nhash_argument = \"x\"", "balance = \"hash\"");
        check("a", "command = []", "must name a program");
        check("a", "url = \"http://h\"\nurll = 1", "unknown field `urll`");
        check("a", "url = \"http://h\"\ntimeout_ms = 0", "from 1 to 600000");
        check("a", "url = \"http://h\"\nheaders = { a = \"env:QMESH_NO_SUCH_VARIABLE\" }", "is not set");
        check("a", "url = \"http://h\"\nera = \"new\"", "unknown variant");
        check("a", "url = \"http://h\"\nenvironment = { A = \"b\" }", "belong to a command");
        check("a", "url = \"http://h\"\n[tools.x]\nalias = \"A B\"", "tools.x.alias");
    }

    #[test]
    fn s3_1_1_one_wrong_file_costs_the_others_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_folder(&folder.path().join("none")).unwrap().len(), 0);
        std::fs::write(folder.path().join("b.toml"), "nonsense").unwrap();
        std::fs::write(folder.path().join("a.toml"), "url = \"http://h/mcp\"").unwrap();
        std::fs::write(folder.path().join("readme.txt"), "no declaration").unwrap();
        let found = read_folder(folder.path()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].as_ref().unwrap().name, "a");
        assert!(found[1].as_ref().unwrap_err().file.ends_with("b.toml"));
    }
}
