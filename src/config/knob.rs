//! The kinds of value a tuning key may have.
//!
//! Promises: a value of each kind is read from one TOML value or refused; nothing is guessed, no text is taken for a number.
//! Does not: know the keys. Ranges belong to the key and are checked where keys are read.

use std::fmt;

use serde::Serialize;

/// Share of the memory, in percent, that a key of kind [`Kind::NumberOrPercent`] may ask for. The rest is for the skeleton,
/// the index, buffers in flight and the kernel.
pub const PERCENT_MAX: u64 = 80;

/// What a key accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number in the key's range.
    Number,
    /// A whole number in the key's range, or `"auto"`.
    NumberOrAuto,
    /// A whole number in the key's range, or a share of the host's memory such as `"25%"`.
    NumberOrPercent,
}

/// A typed value that a key may hold.
pub trait Knob: Sized {
    /// What the key accepts.
    const KIND: Kind;

    /// The value, if the TOML value has the right form. Ranges of plain numbers are checked by the key.
    fn read(value: &toml::Value) -> Option<Self>;

    /// The plain number to hold against the key's range; `None` where the value is none.
    fn number(&self) -> Option<u64>;
}

impl Knob for bool {
    const KIND: Kind = Kind::Flag;

    fn read(value: &toml::Value) -> Option<Self> {
        value.as_bool()
    }

    fn number(&self) -> Option<u64> {
        None
    }
}

impl Knob for u64 {
    const KIND: Kind = Kind::Number;

    fn read(value: &toml::Value) -> Option<Self> {
        value.as_integer().and_then(|number| Self::try_from(number).ok())
    }

    fn number(&self) -> Option<u64> {
        Some(*self)
    }
}

/// How many cores the node uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// As many as this process may run on.
    Auto,
    /// This many.
    Number(u64),
}

impl Knob for Cores {
    const KIND: Kind = Kind::NumberOrAuto;

    fn read(value: &toml::Value) -> Option<Self> {
        match value.as_str() {
            Some("auto") => Some(Self::Auto),
            Some(_) => None,
            None => u64::read(value).map(Self::Number),
        }
    }

    fn number(&self) -> Option<u64> {
        match *self {
            Self::Auto => None,
            Self::Number(number) => Some(number),
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Number(number) => write!(formatter, "{number}"),
        }
    }
}

impl Serialize for Cores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Number(number) => serializer.serialize_u64(number),
        }
    }
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// This many MiB.
    Mebibytes(u64),
    /// This many percent of the host's memory, 1 to [`PERCENT_MAX`].
    Percent(u64),
}

impl Knob for Share {
    const KIND: Kind = Kind::NumberOrPercent;

    fn read(value: &toml::Value) -> Option<Self> {
        let Some(text) = value.as_str() else { return u64::read(value).map(Self::Mebibytes) };
        let digits = text.strip_suffix('%')?;
        // `parse` would take a leading plus sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok().filter(|percent| (1..=PERCENT_MAX).contains(percent)).map(Self::Percent)
    }

    fn number(&self) -> Option<u64> {
        match *self {
            Self::Mebibytes(number) => Some(number),
            Self::Percent(_) => None,
        }
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Mebibytes(number) => serializer.serialize_u64(number),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

/// An enum whose variants are the words of a key.
macro_rules! choice {
    ($(#[doc = $doc:literal] $Name:ident { $(#[doc = $variant_doc:literal] $Variant:ident = $word:literal,)+ })+) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $Name { $(#[doc = $variant_doc] #[serde(rename = $word)] $Variant,)+ }

        impl $Name {
            /// The word that stands for it in a profile.
            pub fn word(self) -> &'static str {
                match self { $(Self::$Variant => $word,)+ }
            }
        }

        impl Knob for $Name {
            const KIND: Kind = Kind::Choice(&[$($word),+]);

            fn read(value: &toml::Value) -> Option<Self> {
                match value.as_str()? { $($word => Some(Self::$Variant),)+ _ => None }
            }

            fn number(&self) -> Option<u64> {
                None
            }
        }
    )+};
}

choice! {
    /// What writes the log to the disk.
    Backend {
        /// io_uring on the core's own loop.
        TokioUring = "tokio-uring",
        /// glommio on a storage thread beside each core.
        Glommio = "glommio",
        /// Blocking calls on a small thread pool; needs no io_uring.
        Threads = "threads",
    }
    /// What to do where io_uring is not permitted.
    Fallback {
        /// Do not start, and say how to permit it.
        Refuse = "refuse",
        /// Start with blocking calls on a thread pool, and say so.
        Threads = "threads",
    }
    /// How many logs a core keeps.
    Logs {
        /// One log for all shards of the core.
        PerCore = "per-core",
        /// One log a shard; the syncs of a round run in parallel.
        PerShard = "per-shard",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    fn check<T: Knob + PartialEq + fmt::Debug>(text: &str, expected: Option<T>) {
        let table: toml::Table = format!("value = {text}").parse().unwrap();
        assert_eq!(T::read(&table["value"]), expected, "{text}");
    }

    #[test]
    fn s8_4_values_are_read_in_their_own_form_only() {
        check("true", Some(true));
        check::<bool>("1", None);
        check::<bool>("\"true\"", None);
        check("7", Some(7_u64));
        check::<u64>("-1", None);
        check::<u64>("7.0", None);
        check::<u64>("\"7\"", None);
        check("\"auto\"", Some(Cores::Auto));
        check("3", Some(Cores::Number(3)));
        check::<Cores>("\"3\"", None);
        check::<Cores>("\"Auto\"", None);
        check("512", Some(Share::Mebibytes(512)));
        check("\"25%\"", Some(Share::Percent(25)));
        check("\"80%\"", Some(Share::Percent(80)));
        for refused in
            ["\"81%\"", "\"0%\"", "\"25\"", "\"%\"", "\"+5%\"", "\" 5%\"", "\"99999999999999999999%\"", "0.25"]
        {
            check::<Share>(refused, None);
        }
        check("\"tokio-uring\"", Some(Backend::TokioUring));
        check("\"glommio\"", Some(Backend::Glommio));
        check::<Backend>("\"uring\"", None);
        check::<Logs>("[]", None);
    }

    #[test]
    fn s8_4_values_are_shown_as_they_are_written() {
        assert_eq!(serde_json::to_string(&Share::Percent(25)).unwrap(), "\"25%\"");
        assert_eq!(serde_json::to_string(&Share::Mebibytes(25)).unwrap(), "25");
        assert_eq!(serde_json::to_string(&Cores::Auto).unwrap(), "\"auto\"");
        assert_eq!(serde_json::to_string(&Backend::TokioUring).unwrap(), "\"tokio-uring\"");
        assert_eq!(Logs::PerShard.word(), "per-shard");
    }
}
