//! Tuning profiles: how a node drives the machine it runs on.
//!
//! Promises: [`KEYS`] and the fields of [`Profile`] come from one list, so a key cannot exist, be documented or be read
//! without the other two. An unknown key, a value out of range and a contradiction between two values are refused by name.
//! Does not: say what the cluster is. Nothing here changes an answer, only how fast and with how much memory it is given.

use std::path::Path;

use serde::Serialize;

use super::knob::{Backend, Cores, Fallback, Kind, Knob, Logs, PERCENT_MAX, Share};
use super::nearest::nearest;

/// One key of a profile: what `tune explain` prints and what a value is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name, such as `storage.segment_mib`.
    pub path: &'static str,
    /// Unit of a number; empty where there is none.
    pub unit: &'static str,
    /// What the key accepts.
    pub kind: Kind,
    /// Smallest and largest number; (0, 0) where the key takes none.
    pub range: (u64, u64),
    /// Value in the default profile, as TOML.
    pub default: &'static str,
    /// What it does.
    pub effect: &'static str,
}

impl Key {
    /// The key with this path.
    pub fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The known path nearest to a mistyped one; compares the name alone where the section is missing or wrong.
    pub fn nearest(path: &str) -> Option<&'static str> {
        let name = |path: &'static str| path.split_once('.').map_or(path, |(_, name)| name);
        let typed = path.rsplit_once('.').map_or(path, |(_, name)| name);
        KEYS.iter()
            .map(|key| key.path)
            .find(|known| name(known) == typed)
            .or_else(|| nearest(path, KEYS.iter().map(|key| key.path)))
            .or_else(|| {
                let near = nearest(typed, KEYS.iter().map(|key| name(key.path)))?;
                KEYS.iter().map(|key| key.path).find(|known| name(known) == near)
            })
    }

    /// What the key accepts, for a person.
    pub fn allowed(&self) -> String {
        let (least, most) = self.range;
        match self.kind {
            Kind::Flag => "true or false".to_owned(),
            Kind::Choice(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Kind::Number => format!("{least} to {most}"),
            Kind::NumberOrAuto => format!("\"auto\" or {least} to {most}"),
            Kind::NumberOrPercent => format!("{least} to {most}, or \"1%\" to \"{PERCENT_MAX}%\" of the memory"),
        }
    }
}

/// Why a profile was refused.
#[derive(Debug, thiserror::Error)]
pub enum TuningError {
    /// There is no built-in profile of that name and no file at that path.
    #[error("no tuning profile or file {name:?}{}; built in are: {}", suggestion(*.nearest), SHIPPED.map(|shipped| shipped.name).join(", "))]
    UnknownProfile {
        /// What was asked for.
        name: String,
        /// The built-in name that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The file cannot be read.
    #[error("{name}: {source}")]
    Unreadable {
        /// The file.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any profile.
    #[error("{name}: larger than {PROFILE_BYTES_MAX} bytes, which no tuning profile is")]
    TooLarge {
        /// The file.
        name: String,
    },
    /// The file is not TOML.
    #[error("{name}: {detail}")]
    Syntax {
        /// The file or profile.
        name: String,
        /// Line, column and what was expected there.
        detail: String,
    },
    /// A key that does not exist.
    #[error("{name}: unknown key {key:?}{}", suggestion(*.nearest))]
    UnknownKey {
        /// The file or profile.
        name: String,
        /// The key as written, with its section.
        key: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value of the wrong form or out of range.
    #[error("{name}: {key} = {value}: must be {allowed}{}", in_unit(.unit))]
    Value {
        /// The file or profile.
        name: String,
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What would be accepted.
        allowed: String,
        /// The unit of the number.
        unit: &'static str,
    },
    /// Two values that cannot both hold.
    #[error("{name}: {rule}")]
    Contradiction {
        /// The file or profile.
        name: String,
        /// Both keys, both values and the rule between them.
        rule: String,
    },
}

fn suggestion(nearest: Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(" (did you mean {nearest:?}?)"))
}

fn in_unit(unit: &str) -> String {
    if unit.is_empty() { String::new() } else { format!(" ({unit})") }
}

/// A profile that comes with the binary.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    /// Whom it is for, in one line.
    pub purpose: &'static str,
    /// The commented TOML, a good start for a profile of one's own.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal: $purpose:literal,)+) => {
        [$(Shipped {
            name: $name,
            purpose: $purpose,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/", $name, ".toml")),
        }),+]
    };
}

/// The profiles that come with the binary, the default first.
pub const SHIPPED: [Shipped; 6] = shipped! {
    "default": "Any Linux host that is mostly for this node: every CPU, direct I/O, a quarter of the memory as cache.",
    "laptop": "A machine that does other things too: two cores, no pinning, little memory, page cache instead of direct I/O.",
    "latency": "The shortest answers: cores poll before they sleep, rounds stay small.",
    "throughput": "The most records a second: large rounds, three of them in flight, large socket buffers.",
    "nvme-dedicated": "Many cores and fast disks: a glommio storage thread beside each core, pinned, large rounds, cores poll before they sleep.",
    "low-memory": "Hosts with a GiB or less: one core, small segments, small buffers.",
};

/// Size of a profile's file, in bytes.
pub const PROFILE_BYTES_MAX: usize = 64 << 10;

/// One list makes the sections, the profile, its reader and [`KEYS`].
macro_rules! sections {
    ($($(#[doc = $section_doc:literal])+ $section:ident: $Section:ident {
        $($field:ident: $Type:ty = $default:literal, $unit:literal, ($least:expr, $most:expr), $effect:literal;)+
    })+) => {
        $($(#[doc = $section_doc])+
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct $Section {
            $(#[doc = $effect] #[doc = concat!("\n\nUnit: ", $unit, ". Default: `", $default, "`.")] pub $field: $Type,)+
        })+

        /// How a node drives the machine it runs on.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct Profile {
            /// Name of the built-in profile, or the file it was read from.
            #[serde(skip)]
            pub name: String,
            $($(#[doc = $section_doc])+ pub $section: $Section,)+
        }

        /// Every key there is, in the order of the files.
        pub const KEYS: &[Key] = &[$($(Key {
            path: concat!(stringify!($section), ".", stringify!($field)),
            unit: $unit,
            kind: <$Type as Knob>::KIND,
            range: ($least, $most),
            default: $default,
            effect: $effect,
        },)+)+];

        /// Names of the sections.
        const SECTIONS: &[&str] = &[$(stringify!($section)),+];

        impl Profile {
            fn from_values(name: &str, values: &toml::Table) -> Result<Self, TuningError> {
                let mut keys = KEYS.iter();
                Ok(Self {
                    name: name.to_owned(),
                    // Fields are read in the order of KEYS, since both are written by the same list.
                    $($section: $Section { $($field: read::<$Type>(name, values, keys.next())?,)+ },)+
                })
            }
        }
    };
}

sections! {
    /// Cores and how they wait.
    cpu: Cpu {
        cores: Cores = "\"auto\"", "cores", (1, 1024),
            "How many cores serve. Each runs one event loop with its own sockets and shards. \"auto\" takes every CPU this process may run on, but leaves one to others where there are three or fewer, and half of them to storage threads with glommio.";
        pin: bool = "true", "", (0, 0),
            "Bind each core's thread to one CPU. Keeps caches warm; harmful where other programs need the same CPUs.";
        busy_poll_us: u64 = "0", "microseconds", (0, 10_000),
            "How long an idle core polls its inbox before it sleeps. Saves the wake-up between cores and costs that much CPU each time a core runs out of work. 0 sleeps at once.";
    }
    /// The log and the memory above it.
    storage: Storage {
        backend: Backend = "\"tokio-uring\"", "", (0, 0),
            "What writes the log: \"tokio-uring\" on the core's own loop, \"glommio\" on a storage thread beside each core, \"threads\" with blocking calls and no io_uring.";
        fallback: Fallback = "\"threads\"", "", (0, 0),
            "Where io_uring is not permitted: \"refuse\" to start and say how to permit it, or go on with \"threads\" and say so.";
        direct: bool = "true", "", (0, 0),
            "Open log files with O_DIRECT: past the page cache, so a read cache is not kept twice and write-back cannot stall a sync.";
        logs: Logs = "\"per-core\"", "", (0, 0),
            "\"per-core\" gathers all shards of a core in one log and one sync; \"per-shard\" keeps one log a shard and syncs them in parallel.";
        segment_mib: u64 = "64", "MiB", (8, 4096),
            "Size of one log segment. Larger: fewer rotations and files. Smaller: less to scan after a crash and less space held ahead.";
        segments_ahead: u64 = "2", "segments", (1, 16),
            "Segments written with zeros before they are needed, so that a write never extends a file. Each holds segment_mib of disk.";
        rounds_in_flight: u64 = "2", "rounds", (1, 8),
            "Commit rounds that may be on their way to the disk at once. The next fills while these are written and synced.";
        round_eager_kib: u64 = "32", "KiB", (4, 65_536),
            "Waiting bytes from which a further round starts although one is in flight. Smaller: shorter waits and more syncs.";
        round_mib_max: u64 = "8", "MiB", (2, 64),
            "Most bytes of one commit round. Bounds how long one sync may take.";
        backlog_mib_max: u64 = "64", "MiB", (2, 4096),
            "Bytes accepted and not yet durable, a core. Above it puts are answered Overloaded with a time to return.";
        cache_mib: Share = "\"25%\"", "MiB", (1, 4_194_304),
            "Memory for vertices read lately, shared evenly by the cores: a number, or a share of the memory such as \"25%\".";
        scrub_mib_s: u64 = "32", "MiB/s", (0, 10_000),
            "How fast sealed segments are read again and checked in the background, a core. 0 turns the background scrub off.";
        scrub_interval_s: u64 = "86400", "seconds", (1, 31_536_000),
            "Time between the end of a background scrub and the beginning of the next. Shorter: rot is found sooner, and the disk reads more.";
        staged_mib_max: u64 = "256", "MiB", (1, 65_536),
            "Memory for vertices whose parents are not here (put with allow_missing_parents). Each takes about 1 KiB; above it they are refused until parents come.";
    }
    /// Sockets and connections.
    net: Net {
        udp_recv_buffer_kib: u64 = "2048", "KiB", (64, 1_048_576),
            "Receive buffer of each core's QUIC socket. Packets that arrive while the core is busy wait here; what does not fit is lost and sent again. The kernel caps it at net.core.rmem_max.";
        udp_send_buffer_kib: u64 = "2048", "KiB", (64, 1_048_576),
            "Send buffer of each core's QUIC socket. The kernel caps it at net.core.wmem_max.";
        mtu_max_bytes: u64 = "1452", "bytes", (1200, 65_527),
            "Largest UDP payload that path MTU discovery tries. 1452 suits the internet, 8952 a network with jumbo frames.";
        streams_per_client: u64 = "100", "streams", (1, 4096),
            "QUIC streams one client may have open at once.";
        idle_timeout_s: u64 = "300", "seconds", (1, 86_400),
            "A QUIC connection on which nothing was heard for so long is closed.";
        keep_alive_s: u64 = "60", "seconds", (1, 3600),
            "A QUIC connection on which nothing was sent for so long is kept open by a small packet. Must be shorter than idle_timeout_s.";
        http_connections_per_core: u64 = "4096", "connections", (1, 1_000_000),
            "HTTP connections a core keeps open. Further ones are refused until one closes.";
        request_timeout_ms: u64 = "30000", "milliseconds", (10, 600_000),
            "A request that named no deadline of its own is given up after this time.";
    }
    /// How soon a silent primary is replaced. All nodes of a cluster should say the same.
    consensus: Consensus {
        heartbeat_ms: u64 = "50", "milliseconds", (5, 10_000),
            "How often the primary of a shard tells its followers that it lives. Shorter: more packets and CPU while idle.";
        election_ms_min: u64 = "200", "milliseconds", (20, 60_000),
            "A follower that hears nothing for a random time from here to election_ms_max stands for election. Shorter: writes resume sooner after a primary dies, and a node that was only busy loses its offices.";
        election_ms_max: u64 = "400", "milliseconds", (40, 120_000),
            "The other end of the time that a follower waits before it stands for election.";
    }
    /// What the process may use of the host. `up` raises the soft limits as far as the hard ones.
    limits: Limits {
        memlock_mib: u64 = "8", "MiB", (0, 1_048_576),
            "Locked memory (RLIMIT_MEMLOCK) for rings and registered buffers.";
        nofile: u64 = "16384", "files", (256, 1_073_741_816),
            "Open files and sockets (RLIMIT_NOFILE).";
    }
}

impl Profile {
    /// The built-in profile of that name.
    pub fn named(name: &str) -> Result<Self, TuningError> {
        match SHIPPED.iter().find(|shipped| shipped.name == name) {
            Some(shipped) => Self::parse(shipped.name, shipped.text),
            None => Err(TuningError::UnknownProfile {
                name: name.to_owned(),
                nearest: nearest(name, SHIPPED.iter().map(|shipped| shipped.name)),
            }),
        }
    }

    /// The profile in a TOML file. Keys it does not name keep the value of the default profile.
    pub fn load(path: &Path) -> Result<Self, TuningError> {
        let name = path.display().to_string();
        let unreadable = |source| TuningError::Unreadable { name: name.clone(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, PROFILE_BYTES_MAX as u64 + 1), &mut text)
            .map_err(unreadable)?;
        Self::parse(&name, &text)
    }

    /// A built-in profile, or else a file at that path.
    pub fn named_or_file(text: &str) -> Result<Self, TuningError> {
        match Self::named(text) {
            Err(TuningError::UnknownProfile { .. }) if Path::new(text).is_file() => Self::load(Path::new(text)),
            answer => answer,
        }
    }

    /// The profile in a TOML text; `name` stands in errors.
    pub fn parse(name: &str, text: &str) -> Result<Self, TuningError> {
        if PROFILE_BYTES_MAX < text.len() {
            return Err(TuningError::TooLarge { name: name.to_owned() });
        }
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| TuningError::Syntax {
            name: name.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        refuse_unknown(name, &table)?;
        let profile = Self::from_values(name, &table)?;
        profile.refuse_contradictions()?;
        Ok(profile)
    }

    fn refuse_contradictions(&self) -> Result<(), TuningError> {
        let storage = &self.storage;
        let net = &self.net;
        let consensus = &self.consensus;
        // Smaller side, larger side, in one unit; equal is fine unless `strict`.
        let rules = [
            (
                ("storage.round_eager_kib", storage.round_eager_kib),
                ("storage.round_mib_max", storage.round_mib_max),
                1024,
                false,
            ),
            (
                ("storage.round_mib_max", storage.round_mib_max),
                ("storage.backlog_mib_max", storage.backlog_mib_max),
                1,
                false,
            ),
            (("storage.round_mib_max", storage.round_mib_max), ("storage.segment_mib", storage.segment_mib), 1, true),
            (
                ("consensus.heartbeat_ms", consensus.heartbeat_ms),
                ("consensus.election_ms_min", consensus.election_ms_min),
                1,
                true,
            ),
            (
                ("consensus.election_ms_min", consensus.election_ms_min),
                ("consensus.election_ms_max", consensus.election_ms_max),
                1,
                true,
            ),
            (("net.keep_alive_s", net.keep_alive_s), ("net.idle_timeout_s", net.idle_timeout_s), 1, true),
        ];
        if storage.backend == Backend::Glommio && !storage.direct {
            let rule = "storage.backend = \"glommio\" needs storage.direct = true: it knows no page cache".to_owned();
            return Err(TuningError::Contradiction { name: self.name.clone(), rule });
        }
        for ((small_key, small), (large_key, large), scale, strict) in rules {
            let large_scaled = large * scale;
            if large_scaled < small || (strict && large_scaled == small) {
                let relation = if strict { "must be less than" } else { "must be at most" };
                let rule = format!("{small_key} = {small} {relation} {large_key} = {large}");
                return Err(TuningError::Contradiction { name: self.name.clone(), rule });
            }
        }
        Ok(())
    }
}

fn refuse_unknown(name: &str, table: &toml::Table) -> Result<(), TuningError> {
    let unknown = |key: String| {
        let nearest = Key::nearest(&key);
        Err(TuningError::UnknownKey { name: name.to_owned(), key, nearest })
    };
    for (section, values) in table {
        let Some(values) = values.as_table() else { return unknown(section.clone()) };
        if !SECTIONS.contains(&section.as_str()) {
            let nearest = nearest(section, SECTIONS.iter().copied());
            return Err(TuningError::UnknownKey { name: name.to_owned(), key: format!("[{section}]"), nearest });
        }
        for field in values.keys() {
            let path = format!("{section}.{field}");
            if Key::find(&path).is_none() {
                return unknown(path);
            }
        }
    }
    Ok(())
}

/// The value of a key in the table, or the default where the table does not name it.
fn read<T: Knob>(name: &str, table: &toml::Table, key: Option<&'static Key>) -> Result<T, TuningError> {
    let key = key.unwrap_or_else(|| unreachable!("the list that wrote the field wrote the key"));
    let (section, field) = key.path.split_once('.').unwrap_or_else(|| unreachable!("{} has a section", key.path));
    let given = table.get(section).and_then(|values| values.get(field));
    let value = given.cloned().unwrap_or_else(|| default_value(key));
    let refuse = || TuningError::Value {
        name: name.to_owned(),
        key: key.path,
        value: value.to_string(),
        allowed: key.allowed(),
        unit: key.unit,
    };
    let read = T::read(&value).ok_or_else(refuse)?;
    match read.number() {
        Some(number) if !(key.range.0..=key.range.1).contains(&number) => Err(refuse()),
        _ => Ok(read),
    }
}

fn default_value(key: &Key) -> toml::Value {
    let table: Result<toml::Table, _> = format!("value = {}", key.default).parse();
    match table.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => unreachable!("default of {} is TOML: {}", key.path, key.default),
    }
}

#[cfg(test)]
#[path = "tuning_tests.rs"]
mod tests;
