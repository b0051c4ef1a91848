//! The system calls that tell what std does not: affinity, limits, free space, a ring.
//!
//! Promises: each call is tried once and undone; the only lasting change is [`raise_soft_limits`], for this process.
//! Does not: interpret what it finds.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::host::ProcessLimit;

/// Numbers of the CPUs this process may run on, in ascending order. Empty if the kernel would not say.
pub fn cpus() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size into a set that is that large and lives through the call.
    let answer = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if answer != 0 {
        return (0..std::thread::available_parallelism().map_or(0, usize::from)).collect();
    }
    // SAFETY: every number asked for is below the set's capacity.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Locked memory, in bytes.
pub fn memlock() -> ProcessLimit {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Open files.
pub fn nofile() -> ProcessLimit {
    limit(libc::RLIMIT_NOFILE)
}

/// Limits after an attempt to raise them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Locked memory, in bytes.
    pub memlock: ProcessLimit,
    /// Open files.
    pub nofile: ProcessLimit,
}

/// Raises the soft limits of this process to what a profile wants, as far as the hard limits allow; never lowers one.
/// Answers what holds afterwards, which [`super::check()`] can judge.
pub fn raise_soft_limits(memlock_bytes: u64, nofile: u64) -> Raised {
    Raised { memlock: raise(libc::RLIMIT_MEMLOCK, memlock_bytes), nofile: raise(libc::RLIMIT_NOFILE, nofile) }
}

fn raise(resource: libc::__rlimit_resource_t, wanted: u64) -> ProcessLimit {
    let found = limit(resource);
    let soft = wanted.min(found.hard);
    if found.soft < soft {
        let raised = libc::rlimit { rlim_cur: soft, rlim_max: found.hard };
        // SAFETY: the structure lives through the call. A refusal changes nothing and is seen by reading the limit again.
        unsafe { libc::setrlimit(resource, &raw const raised) };
    }
    limit(resource)
}

fn limit(resource: libc::__rlimit_resource_t) -> ProcessLimit {
    let mut found = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes into a structure that lives through the call; on failure the zeros stay.
    unsafe { libc::getrlimit(resource, &raw mut found) };
    ProcessLimit { soft: found.rlim_cur, hard: found.rlim_max }
}

/// Creates a ring of two entries and closes it.
pub fn create_ring() -> Result<(), io::Error> {
    /// `struct io_uring_params`: 120 bytes since the first kernel that had it, all zero for a plain ring.
    #[repr(C, align(8))]
    struct Parameters([u32; 30]);
    const ENTRIES: libc::c_uint = 2;
    let mut parameters = Parameters([0; 30]);
    // SAFETY: the kernel reads and writes the 120 bytes of the parameters, which live through the call.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &raw mut parameters) };
    match i32::try_from(answer) {
        Ok(descriptor) if 0 <= descriptor => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes an unprivileged process may still write on the file system of this folder; 0 if the kernel would not say.
pub fn free_bytes(folder: &Path) -> u64 {
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return 0 };
    // SAFETY: all zeros are a valid value of this structure of numbers.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte, the structure lives through the call.
    match unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } {
        0 => found.f_bavail.saturating_mul(found.f_frsize),
        _ => 0,
    }
}

/// What can be done with files in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesAttempt {
    /// A file can be created.
    pub writable: bool,
    /// A file can be opened with O_DIRECT; `None` where it could not be tried.
    pub direct: Option<bool>,
}

/// Opens nameless temporary files in the folder, plain and direct: they vanish when they are closed. Where the file system
/// has no such files, answers what the permissions say and leaves `direct` open.
pub fn try_files(folder: &Path) -> FilesAttempt {
    match nameless_file(folder, 0) {
        Ok(()) => FilesAttempt { writable: true, direct: Some(nameless_file(folder, libc::O_DIRECT).is_ok()) },
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) => {
            FilesAttempt { writable: may_write(folder), direct: None }
        }
        Err(_) => FilesAttempt { writable: false, direct: None },
    }
}

fn nameless_file(folder: &Path, flags: libc::c_int) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_TMPFILE | flags).mode(0o600);
    options.open(folder).map(drop)
}

fn may_write(folder: &Path) -> bool {
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path ends in a zero byte and lives through the call.
    unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

/// Whether the kernel's clock is disciplined by a time service; `None` where it does not say.
pub fn clock_synchronised() -> Option<bool> {
    // SAFETY: all zeros are a valid value: no mode bit is set, so that the call only reads.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives through the call.
    match unsafe { libc::adjtimex(&raw mut clock) } {
        -1 => None,
        _ => Some(clock.status & libc::STA_UNSYNC == 0),
    }
}

/// Width of the terminal that stdout is, in columns; `None` where it is none.
pub fn terminal_columns() -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes into a structure that lives through the call.
    let answer = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && 0 < size.ws_col).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;

    #[test]
    fn s9_1_14_soft_limits_are_raised_and_never_lowered() {
        let before = nofile();
        let same = raise_soft_limits(0, 1);
        assert_eq!(same.nofile, before, "a smaller wish must not lower the limit");
        let most = raise_soft_limits(0, u64::MAX);
        assert_eq!(most.nofile.soft, before.hard);
        assert_eq!(most.nofile.hard, before.hard);
    }

    #[test]
    fn s9_1_14_a_folder_that_does_not_exist_has_no_room_and_takes_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        assert_eq!(free_bytes(&absent), 0);
        assert!(!try_files(&absent).writable);
        assert!(try_files(folder.path()).writable);
        assert!(0 < free_bytes(folder.path()));
        assert_eq!(free_bytes(Path::new("a\0b")), 0);
    }
}
