//! The memory that the control groups of this process leave it: containers and services are bounded
//! by them, while `/proc/meminfo` tells of the whole machine.
//!
//! Version 2 and version 1 of the interface are read, for the process's own group and every group
//! around it, since each bounds what is in it. A file that is not there bounds nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder under which the system mounts the control groups.
const MOUNT: &str = "/sys/fs/cgroup";
/// The file that lists the control groups of this process.
const GROUPS: &str = "/proc/self/cgroup";

/// The names of files and counters in one version of the control groups' interface.
struct Files {
    most: &'static str,
    used: &'static str,
    /// Lines of `memory.stat` that count pages of files, which the kernel gives up when it needs
    /// memory.
    file_pages: [&'static str; 2],
}

const VERSION_2: Files = Files {
    most: "memory.max",
    used: "memory.current",
    file_pages: ["inactive_file", "active_file"],
};
const VERSION_1: Files = Files {
    most: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    file_pages: ["total_inactive_file", "total_active_file"],
};

/// Returns the number of bytes of memory that this process may still take before a group that it is
/// in is full; `None` if no group bounds it.
#[must_use]
pub fn memory_left() -> Option<u64> {
    let groups = fs::read_to_string(GROUPS).ok()?;
    left_in(&groups, Path::new(MOUNT))
}

/// Returns the bytes of memory that a process may still take which is in the control groups
/// `groups` (the text of `/proc/self/cgroup`), with their file systems mounted at `mount`.
fn left_in(groups: &str, mount: &Path) -> Option<u64> {
    let of_line = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if controllers.is_empty() {
            // Version 2, alone or beside version 1.
            let alone = left_around(mount, path, &VERSION_2);
            return alone
                .into_iter()
                .chain(left_around(&mount.join("unified"), path, &VERSION_2))
                .min();
        }
        let has_memory = controllers.split(',').any(|name| name == "memory");
        has_memory.then(|| left_around(&mount.join("memory"), path, &VERSION_1)).flatten()
    };
    groups.lines().filter_map(of_line).min()
}

/// Returns the bytes of memory that the group at `path`, and those around it, leave. In a container
/// the path may be the one that the host knows; then only the outermost group is found here, which
/// is the container's own.
fn left_around(mount: &Path, path: &str, files: &Files) -> Option<u64> {
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
    let depths = 0..=parts.len();
    let group = |depth: usize| {
        parts.iter().take(depth).fold(mount.to_owned(), |group: PathBuf, part| group.join(part))
    };
    depths.filter_map(|depth| left(&group(depth), files)).min()
}

/// Returns the bytes of memory that one group leaves, or `None` if it sets no limit.
fn left(group: &Path, files: &Files) -> Option<u64> {
    let text = |name: &str| fs::read_to_string(group.join(name)).ok();
    // "max" is no number: the group has no bound.
    let most: u64 = text(files.most)?.trim().parse().ok()?;
    let used: u64 = text(files.used)?.trim().parse().ok()?;
    let stat = text("memory.stat").unwrap_or_default();
    let pages = |name: &&str| -> Option<u64> {
        let value = |line: &str| line.strip_prefix(*name)?.strip_prefix(' ')?.trim().parse().ok();
        stat.lines().find_map(value)
    };
    let given_up: u64 = files.file_pages.iter().filter_map(pages).fold(0, u64::saturating_add);
    Some(most.saturating_sub(used.saturating_sub(given_up)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    /// Writes the files of one group.
    fn group(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).expect("a directory");
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("written");
        }
    }

    #[test]
    fn the_tightest_group_around_the_process_bounds_it() {
        let dir = TestDir::new("cgroup-2");
        let root = dir.path();
        group(&root.join("a"), &[("memory.max", "1000\n"), ("memory.current", "300\n")]);
        group(
            &root.join("a/b"),
            &[
                ("memory.max", "800\n"),
                ("memory.current", "700\n"),
                ("memory.stat", "anon 100\ninactive_file 400\nactive_file 150\nfile 9\n"),
            ],
        );
        group(&root.join("a/b/c"), &[("memory.max", "max\n"), ("memory.current", "1\n")]);
        assert_eq!(left_in("0::/a/b/c\n", root), Some(650), "800 - (700 - 400 - 150)");
        assert_eq!(left_in("0::/a\n", root), Some(700));
        assert_eq!(left_in("0::/\n", root), None, "the whole machine has no bound here");
        assert_eq!(left_in("", root), None);
    }

    #[test]
    fn groups_of_version_1_are_read_too_and_a_full_one_leaves_nothing() {
        let dir = TestDir::new("cgroup-1");
        let root = dir.path();
        let files = |most, used| [("memory.limit_in_bytes", most), ("memory.usage_in_bytes", used)];
        group(&root.join("memory/x"), &files("500\n", "600\n"));
        let groups = "12:cpu,cpuacct:/x\n7:memory:/x\n0::/\n";
        assert_eq!(left_in(groups, root), Some(0));
        // A container: the path is the host's, the files are the container's own at the top.
        group(&root.join("memory"), &files("9000\n", "1000\n"));
        assert_eq!(left_in("7:memory:/docker/0123\n", root), Some(8000));
    }
}
