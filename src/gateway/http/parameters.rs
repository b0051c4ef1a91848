//! The parameters of a request: what stands in its path and behind its question mark.
//!
//! Promises: a parameter that the route does not know is refused by name, and so is one that is given twice and may not be;
//! text is UTF-8 once its percent signs are read. Does not: know what a parameter means.

use super::route::Parameter;
use crate::error::Refusal;
use crate::router::consistency::Consistency;

/// Parameters of one request, at most.
const PARAMETERS_MAX: usize = 1024;

/// The query parameters of one request.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    /// The parameters in `query`, all of which must be among `known`.
    ///
    /// # Errors
    /// BadRequest, naming what is wrong.
    pub(super) fn parse(query: Option<&str>, known: &'static [&'static [Parameter]]) -> Result<Self, Refusal> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        let pieces = query.unwrap_or_default().split('&').filter(|piece| !piece.is_empty());
        for piece in pieces {
            if PARAMETERS_MAX <= found.len() {
                return Err(Refusal::limit("query parameters", found.len() + 1, PARAMETERS_MAX, "parameters"));
            }
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let name = decode(&name.replace('+', " "))?;
            let Some(parameter) = known.iter().copied().flatten().find(|parameter| parameter.name == name) else {
                let names: Vec<&str> = known.iter().copied().flatten().map(|parameter| parameter.name).collect();
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(Refusal::bad_request(format!(
                    "unknown query parameter {name:?}; this route knows {known}"
                )));
            };
            if !parameter.repeats && found.iter().any(|(name, _)| *name == parameter.name) {
                return Err(Refusal::bad_request(format!("query parameter {name:?} is given twice")));
            }
            // A form writes a space as a plus sign.
            found.push((parameter.name, decode(&value.replace('+', " "))?));
        }
        Ok(Self(found))
    }

    /// The value of a parameter; `None` when it is absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The value of a parameter, or the empty text.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// Every value of a parameter that may be repeated.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that must be there.
    ///
    /// # Errors
    /// BadRequest.
    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        let missing = || Refusal::bad_request(format!("query parameter {name:?} is missing"));
        self.get(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    }

    /// The value of a parameter as a number.
    ///
    /// # Errors
    /// BadRequest.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let wrong = |value| Refusal::bad_request(format!("query parameter {name:?}: {value:?} is no number in range"));
        self.get(name).map(|value| value.parse().map_err(|_| wrong(value))).transpose()
    }

    /// The value of a parameter as a switch: present without a value is on.
    ///
    /// # Errors
    /// BadRequest.
    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some("" | "1" | "true") => Ok(Some(true)),
            Some("0" | "false") => Ok(Some(false)),
            Some(value) => {
                Err(Refusal::bad_request(format!("query parameter {name:?}: {value:?} is not true or false")))
            }
        }
    }
}

/// How new an answer must be.
///
/// # Errors
/// BadRequest.
pub(super) fn consistency(parameters: &Parameters) -> Result<Consistency, Refusal> {
    parameters.get("consistency").unwrap_or_default().parse()
}

/// The text that percent-encoded `text` spells.
///
/// # Errors
/// BadRequest when a percent sign is not followed by two hexadecimal digits, or the bytes are not UTF-8.
pub(super) fn decode(text: &str) -> Result<String, Refusal> {
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let wrong = || Refusal::bad_request(format!("{text:?} is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2).ok_or_else(wrong)?;
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(wrong);
        bytes.push((digit(digits[0])? << 4 | digit(digits[1])?) as u8);
        rest = behind;
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
mod tests {
    use super::super::route::Kind;
    use super::*;
    use crate::error::Reason;

    const KNOWN: &[&[Parameter]] = &[&[ONCE], &[MANY]];
    const ONCE: Parameter = Parameter { name: "limit", kind: Kind::Number, repeats: false, about: "" };
    const MANY: Parameter = Parameter { name: "label", kind: Kind::Text, repeats: true, about: "" };

    #[test]
    fn s3_2_10_parameters_are_decoded_and_repeat_where_they_may() {
        let parsed = Parameters::parse(Some("limit=7&label=a%3Db&&label=c+d%2B"), KNOWN).unwrap();
        assert_eq!(parsed.number("limit"), Ok(Some(7u32)));
        assert_eq!(parsed.all("label").collect::<Vec<_>>(), ["a=b", "c d+"]);
        assert_eq!(parsed.get("nothing"), None);
        assert!(Parameters::parse(None, &[]).unwrap().0.is_empty());
    }

    #[test]
    fn s3_2_10_wrong_parameters_are_refused_by_name() {
        let check = |query: &str, part: &str| {
            let refusal = Parameters::parse(Some(query), KNOWN).unwrap_err();
            assert_eq!(refusal.reason, Reason::BadRequest, "{query}");
            assert!(refusal.detail.contains(part), "{query}: {}", refusal.detail);
        };
        check("depht=3", "unknown query parameter \"depht\"; this route knows limit, label");
        check("limit=1&limit=2", "given twice");
        check("label=%zz", "percent-encoded");
        check("label=%f", "percent-encoded");
        check("label=%ff", "UTF-8");
        let many = "label=a&".repeat(PARAMETERS_MAX + 1);
        assert_eq!(Parameters::parse(Some(&many), KNOWN).unwrap_err().reason, Reason::LimitExceeded);
        let parsed = Parameters::parse(Some("limit=-1"), &[&[ONCE]]).unwrap();
        assert!(parsed.number::<u32>("limit").unwrap_err().detail.contains("\"limit\""));
        assert!(parsed.switch("limit").is_err());
        assert!(parsed.required("label").is_err());
    }
}
