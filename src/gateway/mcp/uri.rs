//! The URIs of resources: `dag://…` read into what it names.
//!
//! Promises: a URI is one of the forms listed in `templates.json`, or it is refused with the reason; percent signs are read once.
//! Does not: look anything up.

use percent::decode;

/// What a URI names. Ids are still texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// `dag://state`
    State,
    /// `dag://tips/{namespace}`
    Tips { namespace: String },
    /// `dag://ref/{+name}`
    Ref { name: String },
    /// `dag://vertex/{id}` and what hangs on it.
    Vertex { id: String, part: Part },
    /// `dag://walk{?root,direction,depth,limit}`
    Walk { root: String, direction: String, depth: Option<u32>, limit: Option<u32> },
}

/// A part of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Payload,
    Parents,
    Children,
    Status,
}

impl Named {
    /// Reads a URI.
    ///
    /// # Errors
    /// One sentence on what is wrong with it.
    pub(super) fn parse(uri: &str) -> Result<Self, String> {
        let rest = uri.strip_prefix("dag://").ok_or("resources here begin with dag://")?;
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let (head, tail) = path.split_once('/').map_or((path, None), |(head, tail)| (head, Some(tail)));
        let named = match (head, tail) {
            ("state", None) => Self::State,
            ("tips", Some(namespace)) => Self::Tips { namespace: decode(namespace)? },
            ("ref", Some(name)) => Self::Ref { name: decode(name)? },
            ("vertex", Some(tail)) => {
                let (id, part) = tail.split_once('/').map_or((tail, None), |(id, part)| (id, Some(part)));
                let part = match part {
                    None => Part::Whole,
                    Some("payload") => Part::Payload,
                    Some("parents") => Part::Parents,
                    Some("children") => Part::Children,
                    Some("status") => Part::Status,
                    Some(_) => return Err("a vertex has payload, parents, children and status".to_owned()),
                };
                Self::Vertex { id: decode(id)?, part }
            }
            ("walk", None) => return walk(query.unwrap_or_default()),
            _ => return Err("there are dag://state, tips, ref, vertex and walk".to_owned()),
        };
        if query.is_some() { Err("only dag://walk has a query".to_owned()) } else { Ok(named) }
    }
}

fn walk(query: &str) -> Result<Named, String> {
    let (mut root, mut direction, mut depth, mut limit) = (None, None, None, None);
    for piece in query.split('&').filter(|piece| !piece.is_empty()) {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        let value = decode(value)?;
        let number = || value.parse::<u32>().map_err(|_| format!("{name}={value} is not a number"));
        let twice = match name {
            "root" => root.replace(value).is_some(),
            "direction" => direction.replace(value).is_some(),
            "depth" => depth.replace(number()?).is_some(),
            "limit" => limit.replace(number()?).is_some(),
            _ => return Err(format!("dag://walk takes root, direction, depth and limit, not {name:?}")),
        };
        if twice {
            return Err(format!("{name} is given twice"));
        }
    }
    let direction = direction.unwrap_or_else(|| "ancestors".to_owned());
    if !matches!(&direction[..], "ancestors" | "descendants") {
        return Err(format!("direction {direction:?}; there are ancestors and descendants"));
    }
    Ok(Named::Walk { root: root.ok_or("dag://walk takes a root")?, direction, depth, limit })
}

/// The form of a vertex's URI.
pub(super) fn vertex(id: &str, part: Part) -> String {
    let part = match part {
        Part::Whole => "",
        Part::Payload => "/payload",
        Part::Parents => "/parents",
        Part::Children => "/children",
        Part::Status => "/status",
    };
    format!("dag://vertex/{}{part}", percent::encode(id, ""))
}

/// A value in a URI.
pub(super) fn encoded(value: &str) -> String {
    percent::encode(value, "")
}

/// The form of a ref's URI.
pub(super) fn reference(name: &str) -> String {
    format!("dag://ref/{}", percent::encode(name, "/:@!$&'()*+,;="))
}

mod percent {
    /// The text that percent-encoded `text` stands for.
    pub(super) fn decode(text: &str) -> Result<String, String> {
        let wrong = || format!("{text:?} is not percent-encoded UTF-8");
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, behind @ ..] = rest {
            rest = behind;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let [high, low, behind @ ..] = rest else { return Err(wrong()) };
            let digit = |digit: u8| (digit as char).to_digit(16).map(|digit| digit as u8).ok_or_else(wrong);
            bytes.push(digit(*high)? << 4 | digit(*low)?);
            rest = behind;
        }
        String::from_utf8(bytes).map_err(|_| wrong())
    }

    /// `text` with everything encoded but unreserved characters and those in `kept`.
    pub(super) fn encode(text: &str, kept: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
            if plain {
                out.push(byte as char);
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_2_10_uris_name_what_the_templates_say() {
        let check = |uri: &str, expected: Named| assert_eq!(Named::parse(uri), Ok(expected), "{uri}");
        let vertex = |id: &str, part| Named::Vertex { id: id.to_owned(), part };
        check("dag://state", Named::State);
        check("dag://tips/default", Named::Tips { namespace: "default".to_owned() });
        check("dag://tips/a%2Fb", Named::Tips { namespace: "a/b".to_owned() });
        check("dag://ref/heads/main", Named::Ref { name: "heads/main".to_owned() });
        check("dag://ref/heads%2Fgr%C3%B6%C3%9Fe", Named::Ref { name: "heads/größe".to_owned() });
        check("dag://vertex/bafy", vertex("bafy", Part::Whole));
        check("dag://vertex/git%3Aabc/payload", vertex("git:abc", Part::Payload));
        check("dag://vertex/git:abc/parents", vertex("git:abc", Part::Parents));
        check("dag://vertex/ref%3Aheads%2Fmain/children", vertex("ref:heads/main", Part::Children));
        check("dag://vertex/x/status", vertex("x", Part::Status));
        let walk =
            |direction: &str, depth, limit| Named::Walk { root: "x".into(), direction: direction.into(), depth, limit };
        check("dag://walk?root=x", walk("ancestors", None, None));
        check("dag://walk?limit=5&root=x&direction=descendants&depth=2", walk("descendants", Some(2), Some(5)));
    }

    #[test]
    fn s3_2_10_other_uris_are_refused() {
        for uri in [
            "",
            "dag://",
            "dag:state",
            "file:///etc/passwd",
            "dag://state/x",
            "dag://state?x=1",
            "dag://tips",
            "dag://vertex",
            "dag://vertex/x/y",
            "dag://vertex/x/payload/y",
            "dag://vertex/%",
            "dag://vertex/%zz",
            "dag://vertex/%ff",
            "dag://walk",
            "dag://walk?root=x&root=y",
            "dag://walk?root=x&depth=-1",
            "dag://walk?root=x&direction=up",
            "dag://walk?root=x&colour=red",
            "dag://nothing/x",
        ] {
            assert!(Named::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn s3_2_10_uris_we_write_are_uris_we_read() {
        for name in ["heads/main", "größe", "a b", "100%", "x?y#z"] {
            assert_eq!(Named::parse(&reference(name)), Ok(Named::Ref { name: name.to_owned() }));
            let expected = Named::Vertex { id: format!("ref:{name}"), part: Part::Status };
            assert_eq!(Named::parse(&vertex(&format!("ref:{name}"), Part::Status)), Ok(expected));
        }
    }
}
