//! A profile held against a host: what is wanted, what was found, what to do.
//!
//! Promises: pure; every row that is not ok carries a fix that can be typed or pasted. `Fail` means that the node would not
//! start or would soon stop, `Warn` that it works, but not as the profile means it.
//! Does not: fix anything.

use qmesh_storage::io::glommio::MEMLOCK_BYTES_MIN;
use serde::Serialize;

use super::host::{DataFolder, Host, KernelVersion};
use super::knob::{Backend, Fallback, Logs};
use super::resolve::{cache_bytes, core_count, ring_obstacle};
use super::tuning::Profile;

/// How a row came out, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As wanted.
    Ok,
    /// It works, but not as the profile means it.
    Warn,
    /// The node would not start, or would soon stop.
    Fail,
}

impl Verdict {
    /// The word that stands for it in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The thing.
    pub what: &'static str,
    /// What is wanted of it.
    pub wanted: String,
    /// What was found.
    pub found: String,
    /// How that compares.
    pub verdict: Verdict,
    /// What to do, where something is to be done.
    pub fix: Option<String>,
}

impl Row {
    /// A row that is as wanted.
    pub fn ok(what: &'static str, wanted: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what, wanted: wanted.into(), found: found.into(), verdict: Verdict::Ok, fix: None }
    }

    /// The same row with a worse verdict and what to do about it. `Verdict::Ok` leaves it as it is.
    pub fn but(self, verdict: Verdict, fix: impl Into<String>) -> Self {
        match verdict {
            Verdict::Ok => self,
            Verdict::Warn | Verdict::Fail => Self { verdict, fix: Some(fix.into()), ..self },
        }
    }
}

/// Exit code of a command that checked these rows: 0 without a failed one, 1 otherwise.
pub fn exit_code(rows: &[Row]) -> u8 {
    u8::from(rows.iter().any(|row| row.verdict == Verdict::Fail))
}

/// The oldest kernel whose io_uring has what the log needs without charging rings to RLIMIT_MEMLOCK.
pub const KERNEL_MIN: KernelVersion = KernelVersion { major: 5, minor: 12 };
/// Hard limit on open files below which a node with a handful of segments and clients soon stops.
pub const NOFILE_MIN: u64 = 512;
/// Share of the memory, in percent, that cache and backlog may take together before a row warns.
const MEMORY_PERCENT_WARN: u64 = 85;
/// Segments of room below which the free space warns: a node that started, but will not go far.
const SEGMENTS_FREE_WARN: u64 = 16;

/// Every row of `tune check`.
pub fn check(profile: &Profile, host: &Host) -> Vec<Row> {
    let mut rows = vec![
        ring(profile, host),
        kernel(profile, host),
        cores(profile, host),
        governor(profile, host),
        memory(profile, host),
    ];
    rows.extend([memlock(profile, host), nofile(profile, host)]);
    rows.extend(buffers(profile, host));
    if let Some(data) = &host.data {
        rows.extend(data_rows(profile, host, data));
    }
    rows
}

/// Whether the backend's way to the disk is open.
pub fn ring(profile: &Profile, host: &Host) -> Row {
    let storage = &profile.storage;
    let wanted = match storage.backend {
        Backend::Threads => return Row::ok("io_uring", "not needed", "not tried"),
        Backend::TokioUring | Backend::Glommio => format!("permitted, for {}", storage.backend.word()),
    };
    match ring_obstacle(&host.ring) {
        None => Row::ok("io_uring", wanted, "permitted"),
        Some((found, fix)) => {
            let verdict = match storage.fallback {
                Fallback::Refuse => Verdict::Fail,
                Fallback::Threads => Verdict::Warn,
            };
            Row::ok("io_uring", wanted, found).but(verdict, fix)
        }
    }
}

fn kernel(profile: &Profile, host: &Host) -> Row {
    let KernelVersion { major, minor } = KERNEL_MIN;
    let found = format!("{}.{}", host.kernel.major, host.kernel.minor);
    if profile.storage.backend == Backend::Threads {
        return Row::ok("kernel", "any", found);
    }
    let verdict = if KERNEL_MIN <= host.kernel { Verdict::Ok } else { Verdict::Warn };
    Row::ok("kernel", format!("{major}.{minor} or later"), found)
        .but(verdict, format!("install a kernel {major}.{minor} or later"))
}

fn cores(profile: &Profile, host: &Host) -> Row {
    let count = core_count(profile, host);
    let row = Row::ok("cpus", format!("{count} cores, {}", pinning(profile)), format!("{} CPUs", host.cpus.len()));
    let verdict = if host.cpus.len() < count { Verdict::Warn } else { Verdict::Ok };
    row.but(verdict, format!("set cpu.cores = {} or allow more CPUs", host.cpus.len().max(1)))
}

fn pinning(profile: &Profile) -> &'static str {
    if profile.cpu.pin { "pinned" } else { "not pinned" }
}

fn governor(profile: &Profile, host: &Host) -> Row {
    let Some(found) = &host.governor else { return Row::ok("cpu governor", "performance", "not exposed") };
    // A profile that shares its machine leaves the clock to the owner.
    if !profile.cpu.pin {
        return Row::ok("cpu governor", "any", found);
    }
    let verdict = if found == "performance" { Verdict::Ok } else { Verdict::Warn };
    Row::ok("cpu governor", "performance", found).but(verdict, "cpupower frequency-set -g performance")
}

fn memory(profile: &Profile, host: &Host) -> Row {
    let storage = &profile.storage;
    let cores = core_count(profile, host) as u64;
    let backlog = (storage.backlog_mib_max << 20).saturating_mul(cores);
    let wanted = cache_bytes(storage.cache_mib, host.memory_bytes).saturating_add(backlog);
    let row = Row::ok("memory", format!("{} for cache and backlog", bytes(wanted)), bytes(host.memory_bytes));
    let verdict = if host.memory_bytes < wanted {
        Verdict::Fail
    } else if host.memory_bytes / 100 * MEMORY_PERCENT_WARN < wanted {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    row.but(verdict, "lower storage.cache_mib or storage.backlog_mib_max, or take the profile low-memory")
}

/// Whether locked memory suffices. The soft limit does not count: `up` raises it.
pub fn memlock(profile: &Profile, host: &Host) -> Row {
    let wanted = profile.limits.memlock_mib << 20;
    let hard = host.memlock.hard;
    let needed = if profile.storage.backend == Backend::Glommio { MEMLOCK_BYTES_MIN } else { 0 };
    let verdict = if hard < needed {
        Verdict::Fail
    } else if hard < wanted {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let fix = format!("ulimit -H -l {}, or LimitMEMLOCK={wanted} in the systemd unit", wanted >> 10);
    Row::ok("memlock", bytes(wanted), limit(hard, bytes)).but(verdict, fix)
}

/// Whether enough files can be opened. The soft limit does not count: `up` raises it.
pub fn nofile(profile: &Profile, host: &Host) -> Row {
    let wanted = profile.limits.nofile;
    let hard = host.nofile.hard;
    let verdict = if hard < NOFILE_MIN {
        Verdict::Fail
    } else if hard < wanted {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let fix = format!("ulimit -H -n {wanted}, or LimitNOFILE={wanted} in the systemd unit");
    Row::ok("open files", wanted.to_string(), limit(hard, |count| count.to_string())).but(verdict, fix)
}

/// Whether the kernel grants the socket buffers.
pub fn buffers(profile: &Profile, host: &Host) -> [Row; 2] {
    let net = &profile.net;
    let row = |what, sysctl: &str, wanted_kib: u64, found: Option<u64>| {
        let wanted = wanted_kib << 10;
        let shown = found.map_or_else(|| "not exposed".to_owned(), |found| format!("{sysctl} = {found}"));
        let verdict = if found.is_some_and(|found| found < wanted) { Verdict::Warn } else { Verdict::Ok };
        Row::ok(what, bytes(wanted), shown).but(verdict, format!("sysctl -w {sysctl}={wanted}"))
    };
    [
        row("udp receive buffer", "net.core.rmem_max", net.udp_recv_buffer_kib, host.receive_buffer_bytes_max),
        row("udp send buffer", "net.core.wmem_max", net.udp_send_buffer_kib, host.send_buffer_bytes_max),
    ]
}

/// Whether the data folder can hold a log, and how well.
pub fn data_rows(profile: &Profile, host: &Host, data: &DataFolder) -> [Row; 4] {
    let path = data.path.display();
    let writable = Row::ok("data folder", "writable", if data.writable { "writable" } else { "not writable" });
    let writable = match data.writable {
        true => writable,
        false => writable
            .but(Verdict::Fail, format!("chown or chmod {path} for this user, or name another folder with --data")),
    };
    [writable, filesystem(data), direct(profile, data), space(profile, host, data)]
}

fn filesystem(data: &DataFolder) -> Row {
    let row = Row::ok("file system", "local, on a disk", data.filesystem.as_str());
    match data.filesystem.as_str() {
        "tmpfs" | "ramfs" => {
            row.but(Verdict::Warn, "name a folder on a disk with --data: nothing here survives a restart")
        }
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "fuse.sshfs" | "ceph" => row.but(
            Verdict::Warn,
            "name a folder on a local disk with --data: a sync here is a promise of another machine",
        ),
        "overlay" => {
            row.but(Verdict::Warn, "mount a volume at the data folder: this layer vanishes with its container")
        }
        _ => row,
    }
}

fn direct(profile: &Profile, data: &DataFolder) -> Row {
    let found = match data.direct {
        Some(true) => "possible",
        Some(false) => "refused by the file system",
        None => "could not be tried",
    };
    if !profile.storage.direct {
        return Row::ok("direct I/O", "not needed", found);
    }
    let verdict = if data.direct == Some(false) { Verdict::Fail } else { Verdict::Ok };
    Row::ok("direct I/O", "possible", found)
        .but(verdict, "set storage.direct = false in the tuning profile, or use ext4 or xfs")
}

fn space(profile: &Profile, host: &Host, data: &DataFolder) -> Row {
    let storage = &profile.storage;
    // One segment in use and those ahead, for each log.
    let logs = match storage.logs {
        Logs::PerCore => core_count(profile, host) as u64,
        Logs::PerShard => u64::from(crate::limits::SHARDS_DEFAULT).max(core_count(profile, host) as u64),
    };
    let segment = storage.segment_mib << 20;
    let needed = segment.saturating_mul((1 + storage.segments_ahead) * logs);
    let verdict = if data.free_bytes < needed {
        Verdict::Fail
    } else if data.free_bytes < needed.saturating_add(segment * SEGMENTS_FREE_WARN) {
        Verdict::Warn
    } else {
        Verdict::Ok
    };
    let row = Row::ok("free space", format!("{} to start", bytes(needed)), bytes(data.free_bytes));
    row.but(
        verdict,
        "make room, lower storage.segment_mib or storage.segments_ahead, or name another folder with --data",
    )
}

/// A number of bytes for a person: the largest unit that leaves at least one, with one digit below it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1).ilog2() / 10).min(4);
    let scaled = count as f64 / f64::from(1_u32 << (10 * power.min(3))) / if power == 4 { 1024.0 } else { 1.0 };
    let unit = UNITS[power as usize];
    if scaled.fract() < 0.05 { format!("{scaled:.0} {unit}") } else { format!("{scaled:.1} {unit}") }
}

fn limit(value: u64, show: impl Fn(u64) -> String) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { show(value) }
}

#[cfg(test)]
#[path = "check_tests.rs"]
pub(crate) mod tests;
