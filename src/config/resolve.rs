//! A profile on a host: every "auto" and every share becomes a number, every wish a choice.
//!
//! Promises: pure; the same profile and host give the same answer. Units are spelled out in bytes and durations, so the rooms
//! that take them convert nothing.
//! Does not: change the host, or hide that the profile's first choice was not possible: see [`Resolved::remarks`].

use std::time::Duration;

use super::host::{Host, RingPermission};
use super::knob::{Backend, Cores, Fallback, Logs, Share};
use super::tuning::Profile;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What the node does on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The CPU that each core's thread is bound to, or `None` where it is not; one entry a core, at least one.
    pub cpu_of_core: Vec<Option<usize>>,
    /// The CPU that each core's storage thread is bound to, or `None` where it is not; as many as cores.
    pub storage_cpu_of_core: Vec<Option<usize>>,
    /// How long an idle core polls its inbox before it sleeps.
    pub busy_poll: Duration,
    /// The log and the memory above it.
    pub storage: ResolvedStorage,
    /// How soon a silent primary is replaced, in milliseconds: heartbeat, and the two ends of an election's wait.
    pub consensus_ms: (u64, u64, u64),
    /// Sockets and connections.
    pub net: ResolvedNet,
    /// Locked memory wanted, in bytes.
    pub memlock_bytes: u64,
    /// Open files wanted.
    pub nofile: u64,
    /// Sentences for the operator, one where the host made a difference to what the profile asked for.
    pub remarks: Vec<String>,
}

impl Resolved {
    /// How many cores serve.
    pub fn core_count(&self) -> usize {
        self.cpu_of_core.len()
    }
}

/// The log and the memory above it, as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedStorage {
    /// What writes the log.
    pub backend: Backend,
    /// Open log files with O_DIRECT.
    pub direct: bool,
    /// How many logs a core keeps.
    pub logs: Logs,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Segments prepared before they are needed.
    pub segments_ahead: usize,
    /// Commit rounds on their way to the disk at once.
    pub rounds_in_flight_max: usize,
    /// Waiting bytes from which a further round starts.
    pub round_bytes_eager: usize,
    /// Most bytes of one round.
    pub round_bytes_max: usize,
    /// Bytes accepted and not yet durable, a core.
    pub backlog_bytes_max: usize,
    /// Read cache of one core.
    pub cache_bytes_per_core: u64,
    /// Speed of the background scrub of one core; `None` is off.
    pub scrub_bytes_per_second: Option<u64>,
    /// Time between two background scrubs.
    pub scrub_interval: Duration,
    /// Memory for vertices whose parents are not here, over all cores.
    pub staged_bytes_max: u64,
}

/// Sockets and connections, as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedNet {
    /// Receive buffer to ask for, a socket.
    pub udp_recv_buffer_bytes: usize,
    /// Send buffer to ask for, a socket.
    pub udp_send_buffer_bytes: usize,
    /// Largest UDP payload that discovery tries.
    pub mtu_bytes_max: u16,
    /// QUIC streams of one client at once.
    pub streams_per_client: u32,
    /// Silence after which a QUIC connection is closed.
    pub idle_timeout: Duration,
    /// Silence after which a QUIC connection is kept open by a small packet.
    pub keep_alive: Duration,
    /// HTTP connections of one core at once.
    pub http_connections_per_core: usize,
    /// Time of a request that named no deadline.
    pub request_timeout: Duration,
}

/// The profile cannot be had on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// The profile wants io_uring and does not allow the fallback.
    #[error("io_uring is not usable: {found}; {fix}; or set storage.fallback = \"threads\" in the tuning profile")]
    Ring {
        /// What was found out.
        found: String,
        /// What the operator can do.
        fix: String,
    },
}

/// The numbers of this profile on this host.
pub fn resolve(profile: &Profile, host: &Host) -> Result<Resolved, Unmet> {
    let mut remarks = Vec::new();
    let backend = backend(profile, host, &mut remarks)?;
    let cpu_of_core = cpu_of_core(profile, host, &mut remarks);
    let storage_cpu_of_core = storage_cpu_of_core(backend, &cpu_of_core, host);
    let storage = &profile.storage;
    let net = &profile.net;
    Ok(Resolved {
        busy_poll: Duration::from_micros(profile.cpu.busy_poll_us),
        storage: ResolvedStorage {
            backend,
            direct: storage.direct,
            logs: storage.logs,
            segment_bytes: storage.segment_mib * MIB,
            segments_ahead: size(storage.segments_ahead),
            rounds_in_flight_max: size(storage.rounds_in_flight),
            round_bytes_eager: size(storage.round_eager_kib * KIB),
            round_bytes_max: size(storage.round_mib_max * MIB),
            backlog_bytes_max: size(storage.backlog_mib_max * MIB),
            cache_bytes_per_core: cache_bytes(storage.cache_mib, host.memory_bytes) / cpu_of_core.len() as u64,
            scrub_bytes_per_second: (storage.scrub_mib_s != 0).then_some(storage.scrub_mib_s * MIB),
            scrub_interval: Duration::from_secs(storage.scrub_interval_s),
            staged_bytes_max: storage.staged_mib_max * MIB,
        },
        consensus_ms: (
            profile.consensus.heartbeat_ms,
            profile.consensus.election_ms_min,
            profile.consensus.election_ms_max,
        ),
        net: ResolvedNet {
            udp_recv_buffer_bytes: size(net.udp_recv_buffer_kib * KIB),
            udp_send_buffer_bytes: size(net.udp_send_buffer_kib * KIB),
            mtu_bytes_max: u16::try_from(net.mtu_max_bytes).unwrap_or(u16::MAX),
            streams_per_client: u32::try_from(net.streams_per_client).unwrap_or(u32::MAX),
            idle_timeout: Duration::from_secs(net.idle_timeout_s),
            keep_alive: Duration::from_secs(net.keep_alive_s),
            http_connections_per_core: size(net.http_connections_per_core),
            request_timeout: Duration::from_millis(net.request_timeout_ms),
        },
        memlock_bytes: profile.limits.memlock_mib * MIB,
        nofile: profile.limits.nofile,
        cpu_of_core,
        storage_cpu_of_core,
        remarks,
    })
}

/// Memory of the read cache of all cores together, in bytes.
pub(super) fn cache_bytes(share: Share, memory_bytes: u64) -> u64 {
    match share {
        Share::Mebibytes(mebibytes) => mebibytes * MIB,
        Share::Percent(percent) => memory_bytes / 100 * percent,
    }
}

/// CPUs up to which "auto" leaves one to others. Measured with two: 107,000 durable puts a second with one core, 72,000 with two.
const SMALL_HOST_CPUS: usize = 3;

/// How many cores the profile means on this host.
pub(super) fn core_count(profile: &Profile, host: &Host) -> usize {
    match profile.cpu.cores {
        // The other half is for the storage threads.
        Cores::Auto if profile.storage.backend == Backend::Glommio => (host.cpus.len() / 2).max(1),
        // The disk's kernel threads and whoever asks need a CPU too; on a small host a core less serves more.
        Cores::Auto if host.cpus.len() <= SMALL_HOST_CPUS => host.cpus.len().saturating_sub(1).max(1),
        Cores::Auto => host.cpus.len(),
        Cores::Number(number) => size(number),
    }
}

/// What stands in the way of io_uring, and what to do; `None` where nothing does.
pub(super) fn ring_obstacle(ring: &RingPermission) -> Option<(String, String)> {
    let (found, fix) = match ring {
        RingPermission::Permitted => return None,
        RingPermission::DisabledBySysctl => {
            ("kernel.io_uring_disabled forbids it".to_owned(), "run `sysctl -w kernel.io_uring_disabled=0`")
        }
        RingPermission::Filtered => (
            "a seccomp filter or security module forbids it".to_owned(),
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
        ),
        RingPermission::Absent => {
            ("this kernel does not have it".to_owned(), "use Linux 5.11 or later with CONFIG_IO_URING")
        }
        RingPermission::Failed(error) => {
            (format!("creating a ring failed: {error}"), "raise the limit that the error names, memlock first")
        }
    };
    Some((found, fix.to_owned()))
}

fn backend(profile: &Profile, host: &Host, remarks: &mut Vec<String>) -> Result<Backend, Unmet> {
    let wanted = profile.storage.backend;
    let obstacle = match wanted {
        Backend::Threads => None,
        Backend::TokioUring | Backend::Glommio => ring_obstacle(&host.ring),
    };
    match (obstacle, profile.storage.fallback) {
        (None, _) => Ok(wanted),
        (Some((found, fix)), Fallback::Refuse) => Err(Unmet::Ring { found, fix }),
        (Some((found, fix)), Fallback::Threads) => {
            remarks.push(format!(
                "io_uring is not usable: {found}; writing the log with blocking calls on threads; to change it, {fix}"
            ));
            Ok(Backend::Threads)
        }
    }
}

fn cpu_of_core(profile: &Profile, host: &Host, remarks: &mut Vec<String>) -> Vec<Option<usize>> {
    let cores = core_count(profile, host);
    if !profile.cpu.pin || host.cpus.is_empty() {
        return vec![None; cores];
    }
    if host.cpus.len() < cores {
        // Two threads bound to one CPU would wait for each other while a third CPU might be idle.
        remarks.push(format!("{cores} cores on {} CPUs: threads are not pinned", host.cpus.len()));
        return vec![None; cores];
    }
    host.cpus.iter().take(cores).copied().map(Some).collect()
}

/// The CPUs behind those of the cores, where there is one for each storage thread.
fn storage_cpu_of_core(backend: Backend, cpu_of_core: &[Option<usize>], host: &Host) -> Vec<Option<usize>> {
    let cores = cpu_of_core.len();
    if backend != Backend::Glommio || cpu_of_core.contains(&None) || host.cpus.len() < 2 * cores {
        return vec![None; cores];
    }
    host.cpus[cores..2 * cores].iter().copied().map(Some).collect()
}

/// A checked key's number as a size in memory. Every range of a key lies far below what 64 bits hold.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::super::check::tests::host;
    use super::*;

    fn profile(text: &str) -> Profile {
        Profile::parse("own.toml", text).unwrap()
    }

    #[test]
    fn s8_4_every_auto_and_share_becomes_a_number() {
        let resolved = resolve(&profile(""), &host()).unwrap();
        assert_eq!(resolved.cpu_of_core, [Some(0), Some(2), Some(4), Some(6)]);
        assert_eq!(resolved.core_count(), 4);
        // A quarter of 16 GiB over four cores.
        assert_eq!(resolved.storage.cache_bytes_per_core, (16 << 30) / 100 * 25 / 4);
        assert_eq!(resolved.storage.segment_bytes, 64 << 20);
        assert_eq!(resolved.storage.round_bytes_eager, 32 << 10);
        assert_eq!(resolved.storage.scrub_bytes_per_second, Some(32 << 20));
        assert_eq!(resolved.storage.scrub_interval, Duration::from_secs(24 * 3600));
        assert_eq!(resolved.storage.staged_bytes_max, 256 << 20);
        assert_eq!(resolved.net.udp_recv_buffer_bytes, 2 << 20);
        assert_eq!(resolved.net.request_timeout, Duration::from_secs(30));
        assert_eq!(resolved.memlock_bytes, 8 << 20);
        assert_eq!(resolved.remarks, Vec::<String>::new());
    }

    #[test]
    fn s8_4_cores_are_pinned_only_where_each_has_a_cpu() {
        for (text, expected, remarks) in [
            ("[cpu]\ncores = 2", vec![Some(0), Some(2)], 0),
            ("[cpu]\ncores = 2\npin = false", vec![None, None], 0),
            ("[cpu]\ncores = 5", vec![None; 5], 1),
            ("[cpu]\ncores = 5\npin = false", vec![None; 5], 0),
        ] {
            let resolved = resolve(&profile(text), &host()).unwrap();
            assert_eq!(resolved.cpu_of_core, expected, "{text}");
            assert_eq!(resolved.remarks.len(), remarks, "{text}");
        }
        let unknown = Host { cpus: Vec::new(), ..host() };
        assert_eq!(resolve(&profile(""), &unknown).unwrap().cpu_of_core, [None]);
    }

    #[test]
    fn s8_4_storage_threads_have_cpus_of_their_own_where_there_are_enough() {
        for (text, cores, storage) in [
            ("", vec![Some(0), Some(2), Some(4), Some(6)], vec![None; 4]),
            ("[storage]\nbackend = \"glommio\"", vec![Some(0), Some(2)], vec![Some(4), Some(6)]),
            ("[storage]\nbackend = \"glommio\"\n[cpu]\ncores = 1", vec![Some(0)], vec![Some(2)]),
            ("[storage]\nbackend = \"glommio\"\n[cpu]\ncores = 3", vec![Some(0), Some(2), Some(4)], vec![None; 3]),
            ("[storage]\nbackend = \"glommio\"\n[cpu]\npin = false", vec![None; 2], vec![None; 2]),
        ] {
            let resolved = resolve(&profile(text), &host()).unwrap();
            assert_eq!((resolved.cpu_of_core, resolved.storage_cpu_of_core), (cores, storage), "{text}");
        }
        let one = Host { cpus: vec![3], ..host() };
        let resolved = resolve(&profile("[storage]\nbackend = \"glommio\""), &one).unwrap();
        assert_eq!((resolved.cpu_of_core, resolved.storage_cpu_of_core), (vec![Some(3)], vec![None]));
    }

    #[test]
    fn s8_4_without_a_ring_the_profile_decides() {
        for ring in [
            RingPermission::DisabledBySysctl,
            RingPermission::Filtered,
            RingPermission::Absent,
            RingPermission::Failed("no memory".to_owned()),
        ] {
            let denied = Host { ring, ..host() };
            let refused = resolve(&profile("[storage]\nfallback = \"refuse\""), &denied).unwrap_err().to_string();
            assert!(refused.contains("storage.fallback"), "{refused}");
            let fallback = resolve(&profile(""), &denied).unwrap();
            assert_eq!(fallback.storage.backend, Backend::Threads);
            assert_eq!(fallback.remarks.len(), 1);
            let glommio = profile("[storage]\nbackend = \"glommio\"\nfallback = \"refuse\"");
            assert!(resolve(&glommio, &denied).is_err());
            let threads = profile("[storage]\nbackend = \"threads\"\nfallback = \"refuse\"");
            assert_eq!(resolve(&threads, &denied).unwrap().remarks.len(), 0);
        }
    }

    #[test]
    fn s8_4_zero_turns_scrub_and_polling_off() {
        let resolved = resolve(&profile("[storage]\nscrub_mib_s = 0\n[cpu]\nbusy_poll_us = 0"), &host()).unwrap();
        assert_eq!(resolved.storage.scrub_bytes_per_second, None);
        assert_eq!(resolved.busy_poll, Duration::ZERO);
    }
}
