//! Where a node is, as a person writes it.
//!
//! Promises: any text becomes an address or an error that shows the forms; a host that is an IP never needs a name service.
//! Does not: open sockets.

use std::fmt;
use std::net::IpAddr;

/// Where a node listens when nobody says otherwise.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:7420";
/// The port of an address that names none.
pub const PORT_DEFAULT: u16 = 7420;
const PORT_HTTP: u16 = 80;
const PORT_HTTPS: u16 = 443;

/// Which door an address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `HOST:PORT`: QUIC or HTTP, whichever answers there.
    Any,
    /// `quic://`: the native door.
    Quic,
    /// `http://`: asked for the node's QUIC address.
    Http,
    /// `https://`: the same over TLS.
    Https,
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The door.
    pub door: Door,
    /// A name or an IP without brackets.
    pub host: String,
    /// The port, TCP or UDP.
    pub port: u16,
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of a node; write HOST:PORT, quic://HOST:PORT, http://HOST:PORT or https://HOST:PORT")]
pub struct AddressError {
    /// The text.
    pub text: String,
}

impl Address {
    /// Parses one of the four forms; a port may be left out.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError { text: text.to_owned() };
        let (door, rest) = match text.split_once("://") {
            None => (Door::Any, text),
            Some(("quic", rest)) => (Door::Quic, rest),
            Some(("http", rest)) => (Door::Http, rest),
            Some(("https", rest)) => (Door::Https, rest),
            Some(_) => return Err(error()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let port_default = match door {
            Door::Any | Door::Quic => PORT_DEFAULT,
            Door::Http => PORT_HTTP,
            Door::Https => PORT_HTTPS,
        };
        let (host, port) = split(rest).ok_or_else(error)?;
        let port = match port {
            None => port_default,
            Some(port) => port.parse().ok().filter(|&port| port != 0).ok_or_else(error)?,
        };
        let is_name =
            |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if host.is_empty() || !(host.parse::<IpAddr>().is_ok() || is_name(host)) {
            return Err(error());
        }
        Ok(Self { door, host: host.to_owned(), port })
    }

    /// The host as an IP, when it is written as one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Host without brackets, and the port's text when there is one.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        // An IPv6 address without brackets has no port.
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port))),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.door {
            Door::Any => "",
            Door::Quic => "quic://",
            Door::Http => "http://",
            Door::Https => "https://",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_2_addresses_of_every_form_are_read() {
        let check = |text: &str, door, host: &str, port| {
            assert_eq!(Address::parse(text), Ok(Address { door, host: host.to_owned(), port }), "input {text:?}");
        };
        check("127.0.0.1:7420", Door::Any, "127.0.0.1", 7420);
        check("localhost", Door::Any, "localhost", 7420);
        check("quic://node-1.example:9", Door::Quic, "node-1.example", 9);
        check("http://127.0.0.1", Door::Http, "127.0.0.1", 80);
        check("https://node.example/", Door::Https, "node.example", 443);
        check("[::1]:7420", Door::Any, "::1", 7420);
        check("quic://[::1]", Door::Quic, "::1", 7420);
        check("::1", Door::Any, "::1", 7420);
    }

    #[test]
    fn s0_2_what_is_no_address_is_refused_with_the_forms() {
        for text in ["", ":1", "a:0", "a:70000", "a:b", "ftp://a", "[::1", "[::1]7", "http://a/b", "a b:1", "x://"] {
            let error = Address::parse(text).expect_err(text);
            assert!(error.to_string().contains("quic://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn s0_2_an_address_prints_as_it_is_read() {
        for text in ["127.0.0.1:7420", "quic://[::1]:7", "http://a.b:80", "https://c:443"] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()), Ok(text.to_owned()));
        }
    }
}
