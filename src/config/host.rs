//! What this machine offers: processors, memory, kernel, limits, file system.
//!
//! Promises: what the host does not tell is `None`, never a guess; the parsers take text and can be fed any.
//! Does not: judge. [`super::check`] holds these facts against a profile.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::probe;

/// A kernel's version, as far as features depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KernelVersion {
    /// The first number of `uname -r`.
    pub major: u32,
    /// The second number of `uname -r`.
    pub minor: u32,
}

/// A limit of the process, in the unit of the limit; `u64::MAX` is "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessLimit {
    /// What holds now.
    pub soft: u64,
    /// What the process may raise it to by itself.
    pub hard: u64,
}

/// Whether this process may use io_uring, found out by creating a ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RingPermission {
    /// A ring was created.
    Permitted,
    /// `kernel.io_uring_disabled` is 1 or 2.
    DisabledBySysctl,
    /// The sysctl would allow it, the kernel answered EPERM or EACCES: a seccomp filter or security module, as in most
    /// containers.
    Filtered,
    /// The kernel has no such call.
    Absent,
    /// Any other refusal.
    Failed(String),
}

/// The folder that holds the log, or will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataFolder {
    /// The folder asked about.
    pub path: PathBuf,
    /// Type of the file system it is or will be on, such as "ext4".
    pub filesystem: String,
    /// Bytes an unprivileged process may still write there.
    pub free_bytes: u64,
    /// Whether this process may create files there.
    pub writable: bool,
    /// Whether a file there can be opened with O_DIRECT; `None` where it could not be tried.
    pub direct: Option<bool>,
}

/// The facts of one host that a profile can be held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Numbers of the CPUs this process may run on.
    pub cpus: Vec<usize>,
    /// Memory this process may use, in bytes: the machine's or its control group's, whichever is less.
    pub memory_bytes: u64,
    /// The kernel's version.
    pub kernel: KernelVersion,
    /// Locked memory, in bytes.
    pub memlock: ProcessLimit,
    /// Open files.
    pub nofile: ProcessLimit,
    /// `net.core.rmem_max`, in bytes.
    pub receive_buffer_bytes_max: Option<u64>,
    /// `net.core.wmem_max`, in bytes.
    pub send_buffer_bytes_max: Option<u64>,
    /// Frequency governor of the first CPU; `None` where the host does not expose one, as in virtual machines.
    pub governor: Option<String>,
    /// Whether io_uring may be used.
    pub ring: RingPermission,
    /// The data folder, where one was named.
    pub data: Option<DataFolder>,
}

impl Host {
    /// Reads the host this process runs on. With `data`, looks at that folder too, or at the nearest folder above it that
    /// exists; nothing is created.
    pub fn read(data: Option<&Path>) -> Self {
        let machine = text("/proc/meminfo").and_then(|text| parse_meminfo(&text));
        Self {
            cpus: probe::cpus(),
            memory_bytes: machine.unwrap_or(u64::MAX).min(control_group_memory().unwrap_or(u64::MAX)),
            kernel: text("/proc/sys/kernel/osrelease").and_then(|text| parse_kernel(&text)).unwrap_or_default(),
            memlock: probe::memlock(),
            nofile: probe::nofile(),
            receive_buffer_bytes_max: number("/proc/sys/net/core/rmem_max"),
            send_buffer_bytes_max: number("/proc/sys/net/core/wmem_max"),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").map(|text| text.trim().to_owned()),
            ring: ring_permission(probe::create_ring(), number("/proc/sys/kernel/io_uring_disabled")),
            data: data.map(data_folder),
        }
    }
}

/// Total memory from `/proc/meminfo`, in bytes.
pub fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Version from `uname -r`, such as `6.18.44-generic`.
pub fn parse_kernel(text: &str) -> Option<KernelVersion> {
    let mut numbers = text.trim().split(['.', '-', '+']);
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(KernelVersion { major, minor })
}

/// Memory limit of a control group, in bytes: `memory.max` of version 2 or `memory.limit_in_bytes` of version 1. `None`
/// where there is no limit.
pub fn parse_control_group_limit(text: &str) -> Option<u64> {
    // Version 1 says "none" as a number near 2^63.
    const NONE_V1: u64 = 1 << 62;
    text.trim().parse().ok().filter(|&bytes| bytes < NONE_V1)
}

/// Path of this process's control group of version 2, from `/proc/self/cgroup`.
pub fn parse_control_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// Type of the file system a path is on, from `/proc/self/mountinfo`: the mount with the longest matching mount point, the
/// last one where several lie on top of each other.
pub fn parse_filesystem(mountinfo: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next()) else { continue };
        let point = unescape_octal(point);
        let depth = Path::new(&point).components().count();
        if path.starts_with(&point) && best.is_none_or(|(deepest, _)| deepest <= depth) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// The kernel writes space, tab, newline and backslash in mount points as `\ooo`.
fn unescape_octal(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What an attempt to create a ring and the sysctl together mean.
pub fn ring_permission(attempt: Result<(), std::io::Error>, disabled: Option<u64>) -> RingPermission {
    let Err(error) = attempt else { return RingPermission::Permitted };
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if matches!(disabled, Some(1 | 2)) => RingPermission::DisabledBySysctl,
        Some(libc::EPERM | libc::EACCES) => RingPermission::Filtered,
        Some(libc::ENOSYS) => RingPermission::Absent,
        _ => RingPermission::Failed(error.to_string()),
    }
}

fn data_folder(path: &Path) -> DataFolder {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // A folder that does not exist yet will be made on the file system of the nearest one above it that does.
    let existing = absolute.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or_else(|| "/".into());
    let mounts = text("/proc/self/mountinfo").unwrap_or_default();
    let attempt = probe::try_files(&existing);
    DataFolder {
        path: path.to_owned(),
        filesystem: parse_filesystem(&mounts, &existing).unwrap_or_else(|| "unknown".to_owned()),
        free_bytes: probe::free_bytes(&existing),
        writable: attempt.writable && existing.is_dir(),
        direct: attempt.direct,
    }
}

fn control_group_memory() -> Option<u64> {
    let membership = text("/proc/self/cgroup")?;
    let group = Path::new("/sys/fs/cgroup").join(parse_control_group(&membership)?);
    // The limit of a group above holds for all below it.
    let limits = group.ancestors().take_while(|above| above.starts_with("/sys/fs/cgroup"));
    let unified = limits.filter_map(|above| parse_control_group_limit(&text(above.join("memory.max"))?)).min();
    let version_1 = || parse_control_group_limit(&text("/sys/fs/cgroup/memory/memory.limit_in_bytes")?);
    unified.or_else(version_1)
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number(path: &str) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn s9_1_14_memory_is_read_from_meminfo() {
        for (text, expected) in [
            ("MemTotal:       24684084 kB\nMemFree: 1 kB\n", Some(24_684_084 * 1024)),
            ("MemFree: 1 kB\nMemTotal: 1 kB", Some(1024)),
            ("MemTotal: x kB", None),
            ("MemTotal: 1 MB", None),
            ("MemTotal: 18446744073709551615 kB", None),
            ("", None),
        ] {
            assert_eq!(parse_meminfo(text), expected, "{text:?}");
        }
    }

    #[test]
    fn s9_1_14_kernel_versions_are_ordered_by_number() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        for (text, expected) in [
            ("6.18.44-fc-v669\n", version(6, 18)),
            ("5.4", version(5, 4)),
            ("6.9-rc1", version(6, 9)),
            ("6", None),
            ("linux", None),
            ("", None),
        ] {
            assert_eq!(parse_kernel(text), expected, "{text:?}");
        }
        assert!(parse_kernel("5.9.0") < parse_kernel("5.10.0"));
    }

    #[test]
    fn s9_1_14_control_group_limits_are_read_in_both_versions() {
        for (text, expected) in [
            ("max\n", None),
            ("1073741824\n", Some(1 << 30)),
            ("9223372036854771712\n", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(parse_control_group_limit(text), expected, "{text:?}");
        }
        assert_eq!(parse_control_group("4:memory:/a\n0::/user.slice/b\n"), Some("user.slice/b"));
        assert_eq!(parse_control_group("4:memory:/a\n"), None);
    }

    #[test]
    fn s9_1_14_the_deepest_and_latest_mount_names_the_file_system() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      23 22 0:20 / /data rw - xfs /dev/vdb rw\n\
                      24 23 0:21 / /data/tmp rw - tmpfs tmpfs rw\n\
                      25 23 0:22 / /data/tmp rw master:2 - btrfs /dev/vdc rw\n\
                      26 22 0:23 / /with\\040space rw - nfs4 host:/x rw\n\
                      a torn line\n";
        for (path, expected) in [
            ("/", "ext4"),
            ("/database", "ext4"),
            ("/data", "xfs"),
            ("/data/a/b", "xfs"),
            ("/data/tmp/a", "btrfs"),
            ("/with space/a", "nfs4"),
        ] {
            assert_eq!(parse_filesystem(mounts, Path::new(path)).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(parse_filesystem("", Path::new("/")), None);
        assert_eq!(unescape_octal("a\\134b\\9\\"), "a\\b\\9\\");
    }

    #[test]
    fn s9_1_14_a_refused_ring_says_who_refused() {
        let refused = |number| Err(std::io::Error::from_raw_os_error(number));
        for (attempt, disabled, expected) in [
            (Ok(()), Some(2), RingPermission::Permitted),
            (refused(libc::EPERM), Some(2), RingPermission::DisabledBySysctl),
            (refused(libc::EPERM), Some(1), RingPermission::DisabledBySysctl),
            (refused(libc::EPERM), Some(0), RingPermission::Filtered),
            (refused(libc::EACCES), None, RingPermission::Filtered),
            (refused(libc::ENOSYS), None, RingPermission::Absent),
        ] {
            let shown = format!("{attempt:?} {disabled:?}");
            assert_eq!(ring_permission(attempt, disabled), expected, "{shown}");
        }
        assert!(matches!(ring_permission(refused(libc::ENOMEM), Some(0)), RingPermission::Failed(_)));
    }

    #[test]
    fn s9_1_14_this_host_can_be_read_and_a_folder_to_come_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("not/yet");
        let host = Host::read(Some(&data));
        assert!(!host.cpus.is_empty());
        assert!((1 << 20) < host.memory_bytes);
        assert!(KernelVersion { major: 3, minor: 0 } < host.kernel);
        assert!(host.nofile.soft <= host.nofile.hard);
        let found = host.data.unwrap();
        assert!(found.writable, "{found:?}");
        assert_ne!(found.filesystem, "unknown");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "reading the host left something behind");
    }
}
