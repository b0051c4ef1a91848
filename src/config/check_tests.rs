//! Scenes of hosts held against profiles, each verdict at its edge.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
use super::*;
use crate::config::host::{ProcessLimit, RingPermission};

/// A host on which nothing is amiss: four CPUs with gaps in their numbers, 16 GiB, ext4.
pub(crate) fn host() -> Host {
    Host {
        cpus: vec![0, 2, 4, 6],
        memory_bytes: 16 << 30,
        kernel: KernelVersion { major: 6, minor: 8 },
        memlock: ProcessLimit { soft: 8 << 20, hard: u64::MAX },
        nofile: ProcessLimit { soft: 1024, hard: 1 << 20 },
        receive_buffer_bytes_max: Some(32 << 20),
        send_buffer_bytes_max: Some(32 << 20),
        governor: Some("performance".to_owned()),
        ring: RingPermission::Permitted,
        data: Some(DataFolder {
            path: "data".into(),
            filesystem: "ext4".to_owned(),
            free_bytes: 1 << 40,
            writable: true,
            direct: Some(true),
        }),
    }
}

/// Checks that a profile on a host gives exactly these rows which are not ok.
fn expect(text: &str, host: &Host, expected: &[(&str, Verdict)]) {
    let profile = Profile::named_or_file(text).or_else(|_| Profile::parse("own.toml", text)).unwrap();
    let rows = check(&profile, host);
    let found: Vec<_> =
        rows.iter().filter(|row| row.verdict != Verdict::Ok).map(|row| (row.what, row.verdict)).collect();
    assert_eq!(found, expected, "{text} {rows:#?}");
    for row in &rows {
        assert_eq!(row.fix.is_some(), row.verdict != Verdict::Ok, "{row:?}");
    }
    assert_eq!(exit_code(&rows) == 1, expected.iter().any(|(_, verdict)| *verdict == Verdict::Fail));
}

#[test]
fn s9_1_14_a_host_with_all_that_is_wanted_gets_no_remark() {
    for profile in crate::config::SHIPPED {
        expect(profile.name, &host(), &[]);
    }
}

#[test]
fn s9_1_14_a_refused_ring_is_as_bad_as_the_profile_says() {
    let denied = Host { ring: RingPermission::Filtered, ..host() };
    expect("default", &denied, &[("io_uring", Verdict::Warn)]);
    expect("latency", &denied, &[("io_uring", Verdict::Fail)]);
    expect("[storage]\nbackend = \"threads\"", &denied, &[]);
    let old = Host { kernel: KernelVersion { major: 5, minor: 11 }, ..host() };
    expect("default", &old, &[("kernel", Verdict::Warn)]);
    expect("[storage]\nbackend = \"threads\"", &old, &[]);
    let just = Host { kernel: KERNEL_MIN, ..host() };
    expect("default", &just, &[]);
}

#[test]
fn s9_1_14_limits_are_judged_by_what_they_can_be_raised_to() {
    let limits = |memlock, nofile| Host {
        memlock: ProcessLimit { soft: 0, hard: memlock },
        nofile: ProcessLimit { soft: 0, hard: nofile },
        ..host()
    };
    expect("default", &limits(8 << 20, 16_384), &[]);
    expect("default", &limits((8 << 20) - 1, 16_383), &[("memlock", Verdict::Warn), ("open files", Verdict::Warn)]);
    expect("default", &limits(0, 511), &[("memlock", Verdict::Warn), ("open files", Verdict::Fail)]);
    expect("nvme-dedicated", &limits(512 << 10, 1 << 20), &[("memlock", Verdict::Warn)]);
    expect("nvme-dedicated", &limits((512 << 10) - 1, 1 << 20), &[("memlock", Verdict::Fail)]);
}

#[test]
fn s9_1_14_socket_buffers_below_the_wish_warn_with_the_sysctl() {
    let small = Host { receive_buffer_bytes_max: Some(212_992), send_buffer_bytes_max: None, ..host() };
    expect("default", &small, &[("udp receive buffer", Verdict::Warn)]);
    let profile = Profile::named("default").unwrap();
    assert_eq!(buffers(&profile, &small)[0].fix.as_deref(), Some("sysctl -w net.core.rmem_max=2097152"));
    // The kernel's own default is enough for the profiles that ask for no sysctl.
    expect("laptop", &small, &[]);
    expect("low-memory", &small, &[]);
}

#[test]
fn s9_1_14_processors_and_memory_are_held_against_the_profile() {
    expect("[cpu]\ncores = 4", &host(), &[]);
    expect("[cpu]\ncores = 5", &host(), &[("cpus", Verdict::Warn)]);
    let saving = Host { governor: Some("powersave".to_owned()), ..host() };
    expect("default", &saving, &[("cpu governor", Verdict::Warn)]);
    expect("laptop", &saving, &[]);
    expect("default", &Host { governor: None, ..host() }, &[]);
    // Four cores with 64 MiB of backlog each.
    let memory = |bytes| Host { memory_bytes: bytes, ..host() };
    expect("[storage]\ncache_mib = 768", &memory(2 << 30), &[]);
    expect("[storage]\ncache_mib = 768", &memory(1 << 30), &[("memory", Verdict::Warn)]);
    expect("[storage]\ncache_mib = 768", &memory((1 << 30) - 1), &[("memory", Verdict::Fail)]);
}

#[test]
fn s9_1_14_the_data_folder_must_hold_a_log() {
    let data = |change: &dyn Fn(&mut DataFolder)| {
        let mut found = host();
        change(found.data.as_mut().unwrap());
        found
    };
    expect("default", &data(&|data| data.writable = false), &[("data folder", Verdict::Fail)]);
    for kind in ["tmpfs", "nfs4", "overlay", "9p"] {
        expect("default", &data(&|data| data.filesystem = kind.to_owned()), &[("file system", Verdict::Warn)]);
    }
    let buffered = data(&|data| data.direct = Some(false));
    expect("default", &buffered, &[("direct I/O", Verdict::Fail)]);
    expect("laptop", &buffered, &[]);
    expect("default", &data(&|data| data.direct = None), &[]);
    // Four cores, one log each, one segment of 64 MiB in use and two ahead: 768 MiB to start.
    for (free_mib, expected) in [
        (768 + 16 * 64, vec![]),
        (768 + 16 * 64 - 1, vec![("free space", Verdict::Warn)]),
        (768, vec![("free space", Verdict::Warn)]),
        (767, vec![("free space", Verdict::Fail)]),
    ] {
        expect("default", &data(&|data| data.free_bytes = free_mib << 20), &expected);
    }
    assert_eq!(check(&Profile::named("default").unwrap(), &Host { data: None, ..host() }).len(), 9);
}

#[test]
fn s9_1_14_bytes_are_shown_in_the_unit_a_person_would_take() {
    for (count, expected) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (8 << 20, "8 MiB"),
        (25_276_502_016, "23.5 GiB"),
        (3 << 40, "3 TiB"),
        (1 << 62, "4194304 TiB"),
    ] {
        assert_eq!(bytes(count), expected);
    }
}
